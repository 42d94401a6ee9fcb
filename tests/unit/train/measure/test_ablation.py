"""The table of what each part brings: every row from the model or the answers, none measured twice."""

import json
import re
import shlex
import subprocess
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import pytest
import torch

from mint_iqa.assessor import Assessor
from mint_iqa.model.fresh import load_model
from mint_iqa.model.modeling import MintIQAModel
from mint_iqa.vocabulary import level_of
from tests.training_world import CAPTIONS, NANO, REPOSITORY, SIZE, TRAINS, World, living_in
from train import align, prepare, stage1
from train.data import pictures, sets
from train.data.features import load_features
from train.data.sets import folds_of
from train.engine.commands import command, step
from train.engine.recipes import Align, HeldOut, Stage1, Tower, Tune
from train.heads.readout import Readout
from train.heads.tuned import TunedReadout
from train.measure import ablation, generators
from train.measure.ablation import FOLD, Ablation, answered, clean_only, constant, markdown


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with living_in(tmp_path_factory.mktemp("ablation")) as world:
        prepare.build_all(SIZE)
        yield world


@pytest.fixture
def run(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    load_model(str(world.config))[0].save_pretrained(tmp_path / "model")
    (tmp_path / "recipe.json").write_text(json.dumps(asdict(HeldOut(held_out_photographs=0))))
    monkeypatch.setattr(ablation, "SIZES", (28, 42))
    return tmp_path


def recipe_of(run: Path) -> Tune:
    return Tune(start=str(run), photographs=len(CAPTIONS), tower=Tower(batch_size=4))


def test_heads_and_towers_are_compared_row_by_row_and_a_row_is_measured_once(run, monkeypatch):
    table = Ablation(recipe_of(run), "nano")
    learned_from = []
    for kind, method in ((Readout, "fit"), (TunedReadout, "tune")):
        plain = getattr(kind, method)
        monkeypatch.setattr(kind, method, spied(plain, learned_from))
    table.heads()
    table.tower()
    rows = table.rows
    assert len(rows) == 6 + 2 + 1 + 4
    folds = folds_of(table.human)
    for row in rows.values():
        assert set(folds[row["pictures"]]) == {FOLD} and len(row["quality"]) == len(row["pictures"])
    assert len(learned_from) == len(rows) and not any((looks == FOLD).any() for looks in learned_from)
    without = [name for name in rows if name.startswith("heads: without")]
    assert len(without) == 5 and all(rows[name] != rows["heads: all"] for name in without)
    assert not list(run.glob("*.pt"))
    monkeypatch.setattr(Ablation, "_fitted", lambda *_: pytest.fail("measured again"))
    monkeypatch.setattr(Ablation, "_tuned", lambda *_: pytest.fail("measured again"))
    again = Ablation(recipe_of(run), "nano")
    again.heads()
    again.tower()
    assert again.rows == rows


def spied(method, learned_from):
    """The same method, which notes the folds of the looks that it learns from."""

    def spying(readout, rows, *rest):
        learned_from.append(readout.features["fold"][rows])
        return method(readout, rows, *rest)

    return spying


def test_answers_are_those_of_the_model_that_is_named_now(run, tiny_checkpoint):
    nano, other = Ablation(recipe_of(run), "nano"), Ablation(recipe_of(run), str(tiny_checkpoint))
    nano.row("answers: all", lambda: {"names the fault": "1"})
    assert other.rows == {}
    other.row("answers: all", lambda: {"names the fault": "0"})
    assert nano.rows == {"answers: all": {"names the fault": "1"}}


def test_sizes_are_compared_on_the_tower_as_it_was_before_it_learned_anything_here(run):
    """Whatever the run's own tower has become; what it has become is a row beside them."""
    model = MintIQAModel.from_pretrained(run / "model", dtype=torch.float32)
    before = Ablation(recipe_of(run), "nano")
    before.heads()
    for block in model.vision.blocks():
        for weight in block.parameters():
            weight.data.add_(torch.randn_like(weight) * 0.1)
    model.save_pretrained(run / "model")
    after = Ablation(recipe_of(run), "nano")
    assert after.rows == {}  # nothing of another model
    after.heads()
    assert after.rows["sizes: 28 px"] == before.rows["sizes: 28 px"]
    learned = "sizes: 28 px, after captions and faults"
    assert after.rows[learned] != before.rows[learned]


def test_rows_that_two_processes_measure_are_both_kept(run):
    first, second = Ablation(recipe_of(run), "nano"), Ablation(recipe_of(run), "nano")

    def measure():
        second.row("tower: frozen", lambda: {"quality": "1"})
        return {"quality": "2"}

    first.row("heads: all", measure)
    assert first.rows == {"tower: frozen": {"quality": "1"}, "heads: all": {"quality": "2"}}


def test_what_is_taken_away_is_gone_and_nothing_else(run):
    found = load_features(run, len(CAPTIONS))
    clean = clean_only(found)
    assert clean["human"].all() and len(clean["fold"]) == int(found["human"].sum())
    without = constant(found, slice(3))
    assert not without["statistics"][:, :3].any()
    assert torch.equal(without["statistics"][:, 3:], found["statistics"][:, 3:])
    assert found["statistics"][:, :3].any()


def test_answers_are_judged_by_the_pictures_own_scores_whatever_the_llm_was_told(
    world, tiny_checkpoint, monkeypatch
):
    monkeypatch.setattr(ablation, "PER_FAULT", 2)
    rows = [r for r in sets.agiqa3k(sets.data_root()) if float(r["mos_quality"]) > 3]
    asked = []

    def parrot(assessor, cases, question, soft_of):
        """Says the levels that it was told, and that every picture is blurred."""
        asked.append((cases, soft_of))
        levels = [level_of(round(case.rated.scores.quality, 2)) for case in cases]
        return [f"The quality is {level}, and the picture is blurred." for level in levels]

    monkeypatch.setattr(ablation, "ask", parrot)
    assessor = Assessor.from_pretrained(tiny_checkpoint, device="cpu")
    shares = [answered(assessor, rows), answered(assessor, rows, told=False, soft=False)]
    assert all(share["names the fault"].startswith("0.200 ") for share in shares)  # blur is one of five
    assert shares[0]["level words agree"].startswith("1.000 ")
    (own, soft), (others, zeros) = asked
    assert soft is None and zeros == [None] * len(own)
    assert [c.rated.scores for c in own] != [c.rated.scores for c in others]
    assert sorted(c.rated.scores.quality for c in own) == sorted(c.rated.scores.quality for c in others)


def test_there_is_one_table_a_group_and_each_row_is_held_against_the_first(world):
    human = sets.agiqa3k(sets.data_root())
    labels = [float(row["mos_quality"]) for row in human]
    right = {
        "pictures": list(range(len(human))), "quality": labels, "correspondence": labels,
        "second": [0.0] * len(human), "unrelated": [True] * len(human),
    }  # fmt: skip
    wrong = right | {"quality": [-label for label in labels], "second": [9.0] * len(human)}
    table = list(markdown({"heads: all": right, "heads: none": wrong, "answers: all": {"named": "1"}}, human))
    assert table[0].startswith("| heads | right prompt above an unrelated one | quality SRCC |")
    assert table[2].startswith("| all | 1.000 | 1.000 [1.000, 1.000] | - |")
    assert table[3].startswith("| none | 0.000 | -1.000 [-1.000, -1.000] | -2.000 [-2.000, -2.000] |")
    assert table[4:] == ["", "| answers | named |", "|---|---|", "| all | 1 |", ""]


def test_a_projection_needs_photographs_that_are_not_kept_apart(run, monkeypatch, capsys):
    (run / "recipe.json").write_text(json.dumps(asdict(HeldOut(held_out_photographs=6))))
    settings = [f"start={run}", f"output={run / 'align'}"]
    monkeypatch.setattr("sys.argv", ["align", str(NANO / "align.yaml"), "--set", *settings])
    assert step(Align, align.align, "") == 2
    assert "6 of 6 photographs are kept apart" in capsys.readouterr().err


def test_the_commands_of_the_documentation_run_in_their_order(world, tmp_path, monkeypatch, capsys):
    """On the toy model, and without the answers, for which nano itself is asked."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs").symlink_to(REPOSITORY / "configs")
    monkeypatch.setattr(ablation, "SIZES", (28, 42))
    monkeypatch.setattr(generators, "PRINCIPAL_AXES", 4)  # of few pictures
    toy = [f"model={world.config}", f"trains={TRAINS}", "stop_after=2", "batch_size=4", "threads=1"]
    tune = ["tower.batch_size=4", f"photographs={len(CAPTIONS)}"]
    commands = {
        "train.stage1": (lambda: command(Stage1, stage1.train, ""), [*toy, "held_out_photographs=2"]),
        "train.align": (lambda: step(Align, align.align, ""), ["batch_size=4"]),
        "train.measure.generators": (generators.main, tune),
        "train.measure.ablation": (ablation.main, [*tune, "--only", "heads", "tower"]),
    }
    text = (REPOSITORY / "docs" / "ablation.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```\n(.*?)```", text, re.DOTALL)
    ran = []
    for line in block.splitlines():
        match shlex.split(line):
            case ["python", "-m", "train.prepare", *size]:
                assert size == ["--image-size", "224"]  # the toy's are there
            case ["python", "-m", name, *rest]:
                run, settings = commands[name]
                monkeypatch.setattr("sys.argv", [name, *rest, "--set", *settings])
                assert run() == 0
                ran.append(name)
            case _:
                subprocess.run(line, shell=True, check=True)
    assert ran == list(commands)
    seen = json.loads(Path("runs/model224.json").read_text())["processor"]
    assert (seen["image_size"], seen["fitted_size"]) == (224, pictures.stored_side(224))
    tables = capsys.readouterr().out
    assert "| quality SRCC, generator left out |" in tables and "| tower |" in tables
