"""train.examine on a toy: what ships besides the start's own files, and how scores follow from the parts."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from instruct_data.recipes import read_settings
from mint_iqa.assessor import Assessor
from mint_iqa.errors import MintIQAError
from mint_iqa.model.fresh import load_model
from tests.training_world import REPOSITORY, TOY_EXAMINER, World, living_in
from train import examine
from train.engine.recipes import Examine
from train.examine import class_vectors, spread_of


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    with living_in(tmp_path_factory.mktemp("examine")) as world:
        yield world


def recipe(start: Path, output: Path) -> Examine:
    settings = [*TOY_EXAMINER, f"start={start}", f"output={output}"]
    return read_settings(Examine, REPOSITORY / "configs/nano/examine.yaml", settings)


def save_start(world: World, folder: Path, **changes: object) -> Path:
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(world.settings | changes))
    model, _ = load_model(str(folder / "config.json"))
    model.save_pretrained(folder, max_shard_size="100KB")
    return folder


@pytest.fixture(scope="module")
def examined(world, tmp_path_factory):
    """The folders of a start and of what became of it."""
    root = tmp_path_factory.mktemp("runs")
    start = save_start(world, root / "start")
    examine.examine(recipe(start, root / "examine"))
    return start, root / "examine"


def test_a_model_with_an_examiner_gives_scores_with_intervals(examined):
    assessor = Assessor.from_pretrained(examined[1] / "model", device="cpu")
    record = assessor.assess(REPOSITORY / "examples" / "coffee.jpg", "a cup of coffee", explain=False)
    low, high = record.intervals.quality
    assert low < record.scores.quality < high
    assert record.intervals.correspondence is not None


def test_all_other_weights_keep_their_bytes(examined):
    start, run = examined
    before = sorted(start.glob("*.safetensors"))
    assert len(before) > 1
    for file in before:
        assert (run / "model" / file.name).read_bytes() == file.read_bytes()
    added = {p.name for p in (run / "model").iterdir()} - {p.name for p in start.iterdir()}
    assert added == {"examiner.safetensors"}


def test_an_examined_model_can_be_examined_again(world, examined, tmp_path):
    _, run = examined
    examine.examine(recipe(run / "model", tmp_path / "again"))
    for name in ("examiner.safetensors", "model.safetensors.index.json", "config.json"):
        again = (tmp_path / "again" / "model" / name).read_bytes()
        assert again == (run / "model" / name).read_bytes(), name


def test_figures_are_of_folds_with_their_intervals_and_nothing_else_is_left(examined):
    run = examined[1]
    assert {p.name for p in run.iterdir()} == {"model", "evaluation.json", "recipe.json"}
    told = json.loads((run / "evaluation.json").read_text())
    mean, half = told["quality SRCC"]
    assert -1 <= mean <= 1 and half >= 0
    assert set(told["left-out generators"]) == {"alpha", "beta", "mean"}
    assert json.loads((run / "recipe.json").read_text())["test_fold"] is None


def test_what_ships_need_not_learn_from_a_fold_and_its_recipe_says_so(world, examined, tmp_path):
    settings = recipe(examined[0], tmp_path / "run")
    settings.test_fold = 0
    examine.examine(settings)
    assert json.loads((tmp_path / "run" / "recipe.json").read_text())["test_fold"] == 0
    kept = {
        folder: json.loads((folder / "model" / "config.json").read_text())["examiner"]["pictures"]
        for folder in (examined[1], tmp_path / "run")
    }
    assert kept[tmp_path / "run"] < kept[examined[1]]
    # The figures are of the same folds.
    told = [json.loads((folder / "evaluation.json").read_text())["quality SRCC"] for folder in kept]
    assert told[0] == pytest.approx(told[1], abs=1e-6)


def test_a_fold_that_does_not_exist_is_refused(examined, tmp_path):
    settings = recipe(examined[0], tmp_path / "run")
    settings.test_fold = 5
    with pytest.raises(MintIQAError, match="test_fold is 5 of 5 folds"):
        examine.examine(settings)


def test_a_finished_run_is_not_overwritten(examined):
    with pytest.raises(MintIQAError, match="name another --set output=") as caught:
        examine.examine(recipe(examined[0], examined[1]))
    assert caught.value.code == "output_exists"


def test_a_run_that_was_interrupted_does_not_fit_its_folds_again(world, tmp_path, monkeypatch):
    start = save_start(world, tmp_path / "start")
    settings = recipe(start, tmp_path / "run")
    with monkeypatch.context() as patch:
        patch.setattr(examine, "_fitted", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            examine.examine(settings)
    monkeypatch.setattr(examine, "out_of_fold", lambda *_: pytest.fail("fitted again"))
    examine.examine(settings)
    assert (tmp_path / "run" / "model" / "examiner.safetensors").is_file()


def test_a_start_without_a_sentence_encoder_is_refused(world, tmp_path):
    start = save_start(world, tmp_path / "start", alignment=None)
    with pytest.raises(MintIQAError, match="has no sentence encoder or no fault head") as caught:
        examine.examine(recipe(start, tmp_path / "run"))
    assert caught.value.code == "bad_config"


def test_nine_in_ten_errors_lie_within_an_interval_that_grows_with_novelty():
    rng = np.random.default_rng(0)

    def draw(count):
        novelty = rng.uniform(0, 1, count) ** 3
        return novelty, np.abs(rng.normal(0, 0.01 + 0.5 * novelty))

    start, slope = spread_of(*draw(4000))
    novelty, errors = draw(20000)
    inside = errors <= start + slope * novelty
    assert start > 0 and slope > 0
    assert inside.mean() == pytest.approx(0.9, abs=0.015)
    for part in (novelty < 0.1, novelty > 0.6):
        assert 0.8 < inside[part].mean() < 0.98


def test_an_interval_grows_with_novelty_even_where_errors_do_not():
    novelty = np.linspace(0, 1, 100)
    start, slope = spread_of(novelty, 0.2 - 0.1 * novelty)
    assert 0 < start < slope


def test_a_class_is_the_mean_of_its_names_and_descriptions():
    asked = []

    def encode(texts):
        asked.extend(texts)
        return torch.nn.functional.normalize(torch.randn(len(texts), 4), dim=-1)

    vectors = class_vectors(encode)
    assert vectors.shape == (1000, 4)
    assert asked[0] == "tench" and any(text.startswith("tench: ") for text in asked)
    assert "a photo of a tench" in asked
