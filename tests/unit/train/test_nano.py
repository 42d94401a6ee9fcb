"""train.nano: the steps run in order on a toy, what is finished is skipped, and a failed run continues."""

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from mint_iqa.errors import MintIQAError
from tests.training_world import CAPTIONS, REPOSITORY, TOY_EXAMINER, TRAINS, World, living_in
from train import align, examine, nano, prepare, release, stage1, stage2, tune
from train.engine.commands import command, step
from train.engine.recipes import Align, Examine, Stage1, Stage2, Tune
from train.measure import answers
from train.nano import STEPS, Step

COMMANDS: dict[str, Callable[[], int]] = {
    "train.prepare": prepare.main,
    "train.stage1": lambda: command(Stage1, stage1.train, ""),
    "train.align": lambda: step(Align, align.align, ""),
    "train.tune": lambda: step(Tune, tune.tune, ""),
    "train.stage2": lambda: command(Stage2, stage2.train, ""),
    "train.examine": lambda: step(Examine, examine.examine, ""),
    "train.release": release.main,
    "train.measure.answers": answers.main,
}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with living_in(tmp_path_factory.mktemp("nano")) as world:
        yield world


@pytest.fixture
def ran(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the steps that ran, in this process and folder."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs").symlink_to(REPOSITORY / "configs")
    names: list[str] = []

    def follow(words: Sequence[str], current: Step) -> str:
        names.append(current.name)
        assert words[:3] == [sys.executable, "-u", "-m"]
        monkeypatch.setattr(sys, "argv", list(words[3:]))
        if COMMANDS[words[3]]():
            raise MintIQAError("step_failed", f"{current.name} failed.")
        return f"figure of {current.name}"

    monkeypatch.setattr(nano, "follow", follow)
    return names


def toy(world: World) -> list[str]:
    short = {
        "pretrain": [f"model={world.config}", f"trains={TRAINS}", "stop_after=2", "batch_size=4",
                     "held_out_photographs=3", "threads=1"],
        "align": ["batch_size=4", "epochs=2"],
        "tune": ["tower.batch_size=4", "tower.epochs=1", "own_units.epochs=1", f"photographs={len(CAPTIONS)}",
                 "held_out_photographs=3"],
        "explain": ["stop_after=2", "batch_size=4", "examples=8", "threads=1"],
        "examine": TOY_EXAMINER,
    }  # fmt: skip
    return [f"{name}.{setting}" for name, settings in short.items() for setting in settings]


def test_all_steps_run_in_order_then_none_and_after_a_loss_only_those_behind_it(
    world: World, ran: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = [current.name for current in STEPS]
    nano.run(toy(world))
    assert ran == names
    assert all(current.writes is None or current.writes.exists() for current in STEPS)
    assert {path.name for path in (tmp_path / "runs").iterdir() if path.is_dir()} == set(names) - {
        "prepare", "answers"
    }  # fmt: skip
    assert json.loads((tmp_path / "runs/tune/recipe.json").read_text())["own_units"]["epochs"] == 1
    record = json.loads((tmp_path / "runs/nano.json").read_text())
    assert list(record) == names and record["tune"]["figure"] == "figure of tune"
    shown = capsys.readouterr().out
    for number, name in enumerate(names, 1):
        assert f"[{number}/8] {name}: " in shown

    nano.run(toy(world))
    assert ran == names  # nothing again
    assert "[4/8] tune: finished in " in capsys.readouterr().out

    (tmp_path / "runs/release/answers.json").unlink()
    nano.run(toy(world))
    assert ran == [*names, "answers"]


def test_a_failed_step_ends_the_run_and_the_next_run_continues_with_it(
    world: World, ran: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(COMMANDS, "train.align", lambda: 2)
    with pytest.raises(MintIQAError, match="align failed"):
        nano.run(toy(world))
    assert ran[-2:] == ["pretrain", "align"]


@pytest.mark.parametrize("text", ["tune.test_fold", "bake.time=3", "prepare.image_size=28", "test_fold=1"])
def test_settings_that_no_step_reads_are_refused(text: str) -> None:
    with pytest.raises(MintIQAError, match=r"STEP\.KEY=VALUE with a step of pretrain, align") as caught:
        nano.run([text])
    assert caught.value.code == "bad_argument"


def test_a_step_is_shown_as_it_prints_and_its_figure_is_kept(capfd: pytest.CaptureFixture[str]) -> None:
    words = [sys.executable, "-c", "print('one'); print('Figure: SRCC .8'); print('two')"]
    assert nano.follow(words, STEPS[1]) == "SRCC .8"
    assert capfd.readouterr().out == "one\nFigure: SRCC .8\ntwo\n"


def test_a_step_that_fails_is_named_with_its_exit_code() -> None:
    with pytest.raises(MintIQAError, match="Step tune ended with exit code 3") as caught:
        nano.follow([sys.executable, "-c", "raise SystemExit(3)"], STEPS[3])
    assert caught.value.code == "step_failed"
