"""A run survives what happens to it: killed it goes on, and what stops it says why in a sentence."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor

from mint_iqa.errors import MintIQAError
from tests.training_world import REPOSITORY, SIZE, TRAINS, World, living_in
from train import prepare, stage1, stage2
from train.engine.checkpoints import COMPLETE_MARK, RUN_AGAIN, checkpoints, writing
from train.engine.recipes import Lora, Stage1, Stage2
from train.engine.trainer import WEIGHTS

SAVE_EVERY = 3


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with living_in(tmp_path_factory.mktemp("survival")) as world:
        prepare.build_all(SIZE)
        yield world


def recipe(world: World, output: Path, **settings: Any) -> Stage1:
    small: dict[str, Any] = {"model": str(world.config), "output": str(output), "batch_size": 4}
    small |= {
        "trains": list(TRAINS),
        "held_out_photographs": 2,
        "test_fold": 0,
        "warmup": 0.0,
        "log_steps": 1,
    }
    small |= {"human_epochs": 2.0, "photograph_epochs": 1.0, "save_steps": SAVE_EVERY, "threads": 1}
    return Stage1(**(small | settings))


def second_recipe(first: Path, output: Path) -> Stage2:
    return Stage2(
        stage1=str(first.parent), output=str(output), examples=40, batch_size=8, lora=Lora(rank=4), threads=1,
        warmup=0.0, save_steps=2, log_steps=1,
    )  # fmt: skip


@pytest.fixture(scope="module")
def whole(world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model of an uninterrupted run of stage 1."""
    return stage1.train(recipe(world, tmp_path_factory.mktemp("whole") / "run"))


def weights(folder: Path) -> dict[str, Tensor]:
    files = [folder / "model.safetensors", folder / "language" / "adapter_model.safetensors"]
    return {f"{f.parent.name}/{k}": v for f in files if f.exists() for k, v in load_file(f).items()}


def same(one: Path, other: Path) -> bool:
    a, b = weights(one), weights(other)
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def killed(module: str, settings: Stage1 | Stage2, moment: Path) -> None:
    """Start the run as a user does, and kill it with signal 9 as soon as `moment` exists."""
    written = Path(f"{settings.output}.yaml")
    written.write_text(yaml.safe_dump(asdict(settings)))
    process = subprocess.Popen(
        [sys.executable, "-m", module, str(written)], cwd=REPOSITORY, env={**os.environ, "PYTHONPATH": "."},
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    while not moment.exists():
        assert process.poll() is None, "the run ended before it could be killed"
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL


# --- killed ---


@pytest.mark.slow
def test_stage_1_killed_while_it_saves_ends_with_the_same_weights(
    world: World, whole: Path, tmp_path: Path
) -> None:
    settings = recipe(world, tmp_path / "run")
    # The second checkpoint's folder is there, and not yet whole.
    killed("train.stage1", settings, tmp_path / "run" / f"checkpoint-{2 * SAVE_EVERY}")
    left = checkpoints(tmp_path / "run")
    assert left and not (tmp_path / "run" / "model").exists()
    assert same(stage1.train(settings, resume=True), whole)


@pytest.mark.slow
def test_stage_2_killed_between_checkpoints_ends_with_the_same_weights(whole: Path, tmp_path: Path) -> None:
    uninterrupted = stage2.train(second_recipe(whole, tmp_path / "uninterrupted"))
    settings = second_recipe(whole, tmp_path / "run")
    killed("train.stage2", settings, tmp_path / "run" / "checkpoint-2" / COMPLETE_MARK)
    assert same(stage2.train(settings, resume=True), uninterrupted)


def test_half_a_checkpoint_is_not_gone_on_from(world: World, whole: Path, tmp_path: Path) -> None:
    settings = recipe(world, tmp_path / "run")
    stage1.train(replace(settings, stop_after=SAVE_EVERY))
    shutil.rmtree(tmp_path / "run" / "model")
    half = tmp_path / "run" / f"checkpoint-{2 * SAVE_EVERY}"
    half.mkdir()
    (half / WEIGHTS).write_bytes(b"\0" * 100)
    assert [path.name for path in checkpoints(tmp_path / "run")] == [f"checkpoint-{SAVE_EVERY}"]
    assert same(stage1.train(settings, resume=True), whole)


def test_a_run_killed_after_its_last_step_only_writes_its_model(
    whole: Path, world: World, tmp_path: Path
) -> None:
    run = shutil.copytree(whole.parent, tmp_path / "run")
    shutil.rmtree(run / "model")
    settings = json.loads((run / "recipe.json").read_text()) | {"output": str(run)}
    before = (checkpoints(run)[-1] / WEIGHTS).stat().st_mtime_ns
    assert same(stage1.train(Stage1(**settings), resume=True), whole)
    assert (checkpoints(run)[-1] / WEIGHTS).stat().st_mtime_ns == before


def test_one_whole_checkpoint_is_kept(whole: Path) -> None:
    assert len(checkpoints(whole.parent)) == len(list(whole.parent.glob("checkpoint-*"))) == 1


# --- not overwritten, not continued as something else ---


def test_a_run_is_not_overwritten(world: World, whole: Path) -> None:
    with pytest.raises(MintIQAError, match="--resume") as caught:
        stage1.train(recipe(world, whole.parent))
    assert caught.value.code == "output_exists"


def test_another_recipe_does_not_go_on_with_a_run(world: World, whole: Path) -> None:
    with pytest.raises(MintIQAError, match="learning_rate, seed") as caught:
        stage1.train(recipe(world, whole.parent, seed=3, learning_rate=1.0), resume=True)
    assert caught.value.code == "other_recipe"


def test_another_number_of_processes_does_not_go_on_with_a_run(
    world: World, whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(MintIQAError, match="1 processes but this run has 2"):
        stage1.train(recipe(world, whole.parent), resume=True)


def test_a_batch_must_be_shareable(world: World, tmp_path: Path) -> None:
    with pytest.raises(MintIQAError, match="batch_size 4") as caught:
        stage1.train(recipe(world, tmp_path / "run", accumulation=3))
    assert caught.value.code == "bad_config"


def test_too_few_examples_for_a_batch_are_refused(world: World, tmp_path: Path) -> None:
    with pytest.raises(MintIQAError, match="do not fill one batch of 4000"):
        stage1.train(recipe(world, tmp_path / "run", batch_size=4000))


# --- what stops a run ---


def test_a_loss_that_is_no_number_ends_the_run_and_its_batch_is_kept(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = stage1.Looks.collate

    def collate(self: Any, items: list[dict[str, Any]]) -> dict[str, Tensor]:
        batch = broken(self, items)
        if items[0]["example"] is self.examples[8]:  # the third batch of four
            batch["pixel_values"][1] = float("inf")
        return batch

    monkeypatch.setattr(stage1.Looks, "collate", collate)
    with pytest.raises(MintIQAError, match="no longer a number at step 2") as caught:
        stage1.train(recipe(world, tmp_path / "run"))
    assert caught.value.code == "loss_not_finite"
    folder = tmp_path / "run" / "bad_batch" / "step-2-process-0"
    assert str(folder) in str(caught.value)
    inputs = load_file(folder / "inputs.safetensors")
    assert inputs["pixel_values"][1].isinf().all() and inputs["pixel_values"][0].isfinite().all()
    assert json.loads((folder / "inputs.json").read_text())["examples_of_step"] == [8, 12]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full on this system")
def test_a_full_disk_is_named(world: World, tmp_path: Path) -> None:
    settings = recipe(world, tmp_path / "run")
    full = tmp_path / "run" / f"checkpoint-{SAVE_EVERY}" / "optimizer.pt"
    full.parent.mkdir(parents=True)
    full.symlink_to("/dev/full")
    with pytest.raises(MintIQAError, match="make room") as caught:
        stage1.train(settings)
    assert caught.value.code == "output_unwritable"
    assert f"checkpoint-{SAVE_EVERY} could not be written" in str(caught.value)
    assert checkpoints(tmp_path / "run") == []


def test_what_cannot_be_written_is_named_wherever_it_should_have_gone(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    output, told = tmp_path / "file" / "a" / "b", r"GB are free\): make room and run it again\."
    with pytest.raises(MintIQAError, match=told), writing(output, RUN_AGAIN):
        output.mkdir(parents=True)


def test_pictures_that_were_not_built_are_asked_for(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = tmp_path / "cache"
    shutil.copytree(world.cache, parts, ignore=shutil.ignore_patterns("pictures"))
    monkeypatch.setenv("MINT_IQA_CACHE", str(parts))
    with pytest.raises(MintIQAError, match=r"python -m train\.prepare") as caught:
        stage1.train(recipe(world, tmp_path / "run"))
    assert caught.value.code == "pictures_missing"


def test_a_picture_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with living_in(tmp_path) as world:
        broken = world.data / "data" / "agiqa3k" / "images" / "5.png"
        broken.write_bytes(broken.read_bytes()[:60])
        with pytest.raises(MintIQAError, match=r"images/5\.png"):
            prepare.build_all(SIZE)


# --- what a run leaves to look at ---


def test_the_losses_are_logged_for_tensorboard(whole: Path) -> None:
    events = EventAccumulator(str(whole.parent / "logs"))
    events.Reload()
    assert {"train/loss", "train/first", "train/rank", "train/learning_rate"} <= set(events.Tags()["scalars"])
    steps = [event.step for event in events.Scalars("train/loss")]
    assert steps == list(range(1, len(steps) + 1))


def test_the_bar_of_a_continued_run_reckons_with_its_own_steps(
    world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = recipe(world, tmp_path / "run")
    stage1.train(replace(settings, stop_after=SAVE_EVERY))
    capsys.readouterr()
    stage1.train(settings, resume=True)
    assert f" {SAVE_EVERY}/" in capsys.readouterr().err.split("Training:", 2)[1]
