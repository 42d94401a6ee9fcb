"""The table of what each part brings: every row from the model or the answers, none measured twice."""

import importlib
import json
import re
import shlex
import subprocess
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
import torch

from mint_iqa.assessor import Assessor
from mint_iqa.vocabulary import level_of
from tests.unit.training_fixtures import REPOSITORY, SIZE, TRAINS, World, living_in
from train import ablation, alignment, cross_validate, features, pictures, stage1
from train.ablation import Ablation, answered, clean_only, constant, markdown
from train.features import load_features
from train.run import command
from train.settings import Stage1
from train.stage1 import load_model
from train.tuning import Tuning


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with living_in(tmp_path_factory.mktemp("ablation")) as world:
        pictures.build_all(SIZE)
        yield world


@pytest.fixture
def run(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    load_model(str(world.config))[0].save_pretrained(tmp_path / "model")
    monkeypatch.setattr("sys.argv", ["features", str(tmp_path)])
    features.main()
    monkeypatch.setattr(ablation, "SIZES", (28, 42))
    monkeypatch.setattr(ablation, "Tuning", partial(Tuning, batch_size=4))
    return tmp_path


def test_heads_and_towers_are_compared_row_by_row_and_a_row_is_measured_once(run, monkeypatch):
    table = Ablation(run)
    table.heads()
    table.tower()
    assert len(table.table) == 6 + 2 + 1 + 4
    for figures in table.table.values():
        assert set(figures) == {"quality", "correspondence", "right above wrong"}
    without = [name for name in table.table if name.startswith("heads: without")]
    assert len(without) == 5 and all(table.table[name] != table.table["heads: all"] for name in without)
    assert not (run / "ablation.pt").exists()
    monkeypatch.setattr(Ablation, "_fitted", lambda *_: pytest.fail("measured again"))
    monkeypatch.setattr(Ablation, "_tuned", lambda *_: pytest.fail("measured again"))
    again = Ablation(run)
    again.heads()
    again.tower()
    assert again.table == table.table


def test_what_is_taken_away_is_gone_and_nothing_else(run):
    found = load_features(run)
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
    rows = [r for r in pictures.agiqa3k(pictures.data_root()) if float(r["mos_quality"]) > 3]
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


def test_the_table_has_one_part_a_group():
    table = {
        "heads: all": {"quality": "0.8"},
        "heads: none": {"quality": "0.1"},
        "answers: all": {"named": "1"},
    }
    assert list(markdown(table)) == [
        "| heads | quality |", "|---|---|", "| all | 0.8 |", "| none | 0.1 |", "",
        "| answers | named |", "|---|---|", "| all | 1 |", "",
    ]  # fmt: skip


def test_the_commands_of_the_documentation_run_in_their_order(world, tmp_path, monkeypatch, capsys):
    """On the toy model, and without the answers, for which nano itself is asked."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs").symlink_to(REPOSITORY / "configs")
    monkeypatch.setattr(alignment, "HELD_OUT", 2)
    monkeypatch.setattr(ablation, "SIZES", (28, 42))
    monkeypatch.setattr(cross_validate, "AXES", 4)  # of few pictures
    for module in (ablation, cross_validate):
        monkeypatch.setattr(module, "Tuning", partial(Tuning, batch_size=4))
    toy = [f"model={world.config}", f"trains={TRAINS}", "stop_after=2", "batch_size=4", "threads=1"]
    more = {
        "train.stage1": ["--set", *toy, "held_out_photographs=2"],
        "train.ablation": ["--only", "heads", "tower"],
    }
    text = (REPOSITORY / "docs" / "ablation.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```\n(.*?)```", text, re.DOTALL)
    ran = []
    for line in block.splitlines():
        match shlex.split(line):
            case ["python", "-m", "train.pictures", *size]:
                assert size == ["--image-size", "224"]  # the toy's are there
            case ["python", "-m", name, *rest]:
                monkeypatch.setattr("sys.argv", [name, *rest, *more.get(name, [])])
                if name == "train.stage1":
                    assert command(Stage1, stage1.train, "") == 0
                else:
                    importlib.import_module(name).main()
                ran.append(name)
            case _:
                subprocess.run(line, shell=True, check=True)
    assert ran == [f"train.{n}" for n in ("stage1", "alignment", "features", "cross_validate", "ablation")]
    seen = json.loads(Path("runs/model224.json").read_text())["processor"]
    assert (seen["image_size"], seen["fitted_size"]) == (224, pictures.stored_side(224))
    tables = capsys.readouterr().out
    assert "| generator left out, quality SRCC |" in tables and "| tower |" in tables
