"""Recipes: every one in the repository loads, and what is wrong with one is said by name."""

import re
from argparse import ArgumentParser
from dataclasses import asdict, fields
from pathlib import Path

import pytest
import yaml

from instruct_data.build import Build
from instruct_data.recipes import add_recipe, read_settings
from mint_iqa.errors import MintIQAError
from train.clip_agiqa import ClipAgiqaRecipe
from train.engine.recipes import (
    Align,
    Examine,
    FrozenFit,
    HeadLoss,
    Kernel,
    Match,
    Optimization,
    OwnUnitsFit,
    Regions,
    Stage1,
    Stage2,
    Tower,
    Tune,
    Words,
)
from train.finetune import Finetune

CONFIGS = Path(__file__).resolve().parents[3] / "configs"
RECIPES = sorted(path.relative_to(CONFIGS).as_posix() for path in CONFIGS.rglob("*.yaml"))


def recipe(folder: Path, text: str) -> Path:
    path = folder / "recipe.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def problem(path: Path, overrides: list[str] | None = None) -> MintIQAError:
    with pytest.raises(MintIQAError) as caught:
        read_settings(Stage1, path, overrides)
    return caught.value


COMMANDS = {
    Stage1: "train.stage1", Stage2: "train.stage2", Align: "train.align", Tune: "train.tune",
    Match: "train.match", Finetune: "train.finetune", Build: "instruct_data build",
    ClipAgiqaRecipe: "train.clip_agiqa", Examine: "train.examine",
}  # fmt: skip


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_loads_as_what_its_own_command_runs(name: str) -> None:
    text = (CONFIGS / name).read_text(encoding="utf-8")
    (kind,) = [k for k, command in COMMANDS.items() if f"python -m {command} configs/{name}" in text]
    settings = read_settings(kind, CONFIGS / name)
    assert settings.output.startswith("runs/")
    if kind is not Build:
        assert "# Time: " in text and "Figures: " in text
    if kind in (Stage1, Stage2):
        assert settings.trains


@pytest.mark.parametrize(
    ("name", "kind"), [("align", Align), ("tune", Tune), ("match", Match), ("examine", Examine)]
)
def test_the_shipped_recipes_name_every_setting_and_their_values_are_the_defaults(
    name: str, kind: type
) -> None:
    path = CONFIGS / "nano" / f"{name}.yaml"
    written = yaml.safe_load(path.read_text(encoding="utf-8"))
    defaults = asdict(kind())
    assert set(written) == set(defaults) - {"leave_out"}
    groups = [key for key, value in written.items() if isinstance(value, dict)]
    assert all(set(written[key]) == set(defaults[key]) for key in groups)
    assert asdict(read_settings(kind, path)) == defaults | ({"test_fold": 0} if kind is Tune else {})


def test_every_setting_is_read_by_some_command() -> None:
    code = "".join(path.read_text(encoding="utf-8") for path in (CONFIGS.parent / "train").rglob("*.py"))
    kinds = (Stage1, Stage2, ClipAgiqaRecipe, Align, Tune, Match, Tower, HeadLoss, FrozenFit, OwnUnitsFit,
             Examine, Kernel, Words, Regions)  # fmt: skip
    names = {f.name for kind in kinds for f in fields(kind)}
    assert [
        name for name in names if not re.search(rf"(?:recipe|settings|wanted|kept|lora|s)\.{name}\b", code)
    ] == []


def test_an_empty_recipe_is_the_default(tmp_path: Path) -> None:
    assert read_settings(Stage1, recipe(tmp_path, "# nothing\n")) == Stage1()


def test_only_what_a_recipe_names_differs_from_the_default(tmp_path: Path) -> None:
    read = read_settings(Stage1, recipe(tmp_path, "folds: 3\nleave_out: alpha\nbf16: false\n"))
    assert asdict(read) == asdict(Stage1()) | {"folds": 3, "leave_out": "alpha", "bf16": False}


def test_unknown_keys_are_refused_by_name_and_the_known_ones_listed(tmp_path: Path) -> None:
    error = problem(recipe(tmp_path, "learning_rat: 1\nfolds: 3\n7: x\n"))
    assert error.code == "bad_config"
    assert "unknown keys 7, learning_rat:" in str(error)
    assert "learning_rate" in str(error) and "test_fold" in str(error)


def test_a_key_of_another_stage_is_unknown(tmp_path: Path) -> None:
    assert "lora_rank" in str(problem(recipe(tmp_path, "lora_rank: 4\n")))


def test_an_unknown_override_is_refused_as_well(tmp_path: Path) -> None:
    assert "epochs" in str(problem(recipe(tmp_path, ""), ["epochs=2"]))


def test_a_missing_recipe_is_named(tmp_path: Path) -> None:
    error = problem(tmp_path / "nowhere.yaml")
    assert error.code == "config_missing" and "nowhere.yaml" in str(error)


@pytest.mark.parametrize(
    "text", ["folds: [1, 2\n", "a: b: c\n", "\tfolds: 1\n", "- folds\n- 3\n", "just words\n"]
)
def test_what_is_no_recipe_is_refused(tmp_path: Path, text: str) -> None:
    error = problem(recipe(tmp_path, text))
    assert error.code == "bad_config" and "recipe.yaml" in str(error)


HEAP = "&a [x, x, x, x, x, x, x, x, x, x]"
LAUGHS = (
    f"output: {HEAP}\nhuman_epochs: &b [{', '.join(['*a'] * 10)}]\nfolds: &c [{', '.join(['*b'] * 10)}]\n"
)


@pytest.mark.parametrize(
    "text",
    ["folds: " + "[" * 5000, "folds: 2020-99-99", "folds: " + "9" * 5000, LAUGHS, "folds: " + "x" * 10**6],
)
def test_a_recipe_made_to_break_the_reader_is_refused_in_a_short_sentence(tmp_path: Path, text: str) -> None:
    error = problem(recipe(tmp_path, text))
    assert error.code == "bad_config" and len(str(error)) < 1000


def test_a_setting_that_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(MintIQAError, match="ratings is missing"):
        read_settings(Build, recipe(tmp_path, "images: a\n"))


def test_a_binary_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "weights.yaml"
    path.write_bytes(b"\xff\xfe\x00\x81")
    assert problem(path).code == "bad_config"


@pytest.mark.parametrize(
    ("text", "key"),
    [("batch_size: many", "batch_size"), ("test_fold: first", "test_fold"), ("output: [1]", "output")],
)
def test_a_value_of_the_wrong_type_is_refused_by_name(tmp_path: Path, text: str, key: str) -> None:
    error = problem(recipe(tmp_path, text))
    assert error.code == "bad_config" and key in str(error)


def test_a_number_with_an_exponent_is_a_number(tmp_path: Path) -> None:
    read = read_settings(Optimization, recipe(tmp_path, "learning_rate: 1e-4\n"), ["weight_decay=2e-2"])
    assert (read.learning_rate, read.weight_decay) == (1e-4, 2e-2)


def test_overrides_win_and_are_read_as_yaml(tmp_path: Path) -> None:
    path = recipe(tmp_path, "test_fold: 2\noutput: runs/a\n")
    read = read_settings(
        Stage1, path, ["test_fold=null", "output=runs/x=y", "human_epochs=1.5", "bf16=false"]
    )
    assert (read.test_fold, read.output, read.human_epochs, read.bf16) == (None, "runs/x=y", 1.5, False)


def test_set_may_be_given_several_times() -> None:
    parser = ArgumentParser()
    add_recipe(parser)
    options = parser.parse_args(["recipe.yaml", "--set", "a=1", "b=2", "--set", "c=3"])
    assert (options.recipe, options.set) == ("recipe.yaml", ["a=1", "b=2", "c=3"])
    assert parser.parse_args(["recipe.yaml"]).set == []


def test_an_override_reaches_into_a_group_and_leaves_the_rest_of_it(tmp_path: Path) -> None:
    path = recipe(tmp_path, "lora:\n  rank: 4\n  alpha: 8\n")
    read = read_settings(Stage2, path, ["lora.rank=2", "language.dtype=bfloat16"])
    assert (read.lora.rank, read.lora.alpha, read.language.dtype) == (2, 8, "bfloat16")


@pytest.mark.parametrize(("text", "override"), [("lora: {rnk: 4}", []), ("", ["lora.rnk=4"])])
def test_an_unknown_key_of_a_group_is_refused_by_its_path(
    tmp_path: Path, text: str, override: list[str]
) -> None:
    with pytest.raises(MintIQAError, match=r"unknown keys lora\.rnk: known are .*lora\.rank"):
        read_settings(Stage2, recipe(tmp_path, text), override)


def test_an_override_inside_a_plain_setting_is_refused(tmp_path: Path) -> None:
    error = problem(recipe(tmp_path, "folds: 3\n"), ["folds.x=1"])
    assert error.code == "bad_argument" and "folds" in str(error)


@pytest.mark.parametrize("text", ["folds", "", "folds=[1"])
def test_an_override_without_a_value_is_refused(tmp_path: Path, text: str) -> None:
    error = problem(recipe(tmp_path, ""), [text])
    assert error.code == "bad_argument" and "key=value" in str(error)
