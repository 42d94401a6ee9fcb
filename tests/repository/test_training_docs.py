"""docs/training.md and own_ratings.md: the commands run as they stand there on a toy; recipes are named."""

import json
import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from instruct_data.recipes import read_settings
from tests import tiny
from tests.training_world import REPOSITORY, SIZE, TRAINS, World, living_in, write_pictures
from train import finetune, prepare, stage1, stage2
from train.data import sets
from train.engine.commands import command
from train.engine.recipes import Stage1, Stage2

TEXT = (REPOSITORY / "docs" / "training.md").read_text(encoding="utf-8")
OWN = (REPOSITORY / "docs" / "own_ratings.md").read_text(encoding="utf-8")


def blocks(text: str) -> list[tuple[str, str]]:
    """Language and text of each fenced block."""
    return re.findall(r"```(\w*)\n(.*?)```", text, re.DOTALL)


def lines(text: str) -> list[str]:
    return [line for language, block in blocks(text) if not language for line in block.splitlines()]


LINES = lines(TEXT)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with living_in(tmp_path_factory.mktemp("docs")) as world:
        yield world


def test_every_command_runs_in_this_order(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs").symlink_to(REPOSITORY / "configs")
    short = ["stop_after=2", "batch_size=4", "threads=1"]
    toy = [f"model={world.config}", f"trains={TRAINS}", "held_out_photographs=2"]
    rated = sets.agiqa3k(world.data / "data")
    rows = [f'{row["image"]},"{row["prompt"]}",{row["mos_quality"]}' for row in rated]
    (tmp_path / "images").symlink_to(world.data / "data" / "agiqa3k" / "images")
    (tmp_path / "ratings.csv").write_text("\n".join(["image,prompt,quality", *rows]))
    ran = []
    for line in LINES:
        match shlex.split(line):
            case ["python", "-m", "train.prepare"]:
                prepare.build_all(SIZE)
            case ["python", "-m", "train.stage1", *rest]:
                monkeypatch.setattr("sys.argv", ["train.stage1", *rest, "--set", *short, *toy])
                ran.append(command(Stage1, stage1.train, ""))
            case ["python", "-m", "train.stage2", *rest]:
                monkeypatch.setattr("sys.argv", ["train.stage2", *rest, "--set", *short, "examples=8"])
                ran.append(command(Stage2, stage2.train, ""))
    assert ran == [0, 0, 0, 0, 0]
    assert {path.name for path in (tmp_path / "runs").iterdir()} == {"end_to_end", "fold1", "rank8", "own"}
    assert (tmp_path / "runs" / "own" / "test.csv").is_file()
    assert read_settings(Stage2, tmp_path / "runs" / "rank8" / "recipe.json").lora.rank == 8


def test_the_figures_of_forty_ratings_come_from_what_stands_there(
    tmp_path: Path, tiny_language: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MINT_IQA_DATA", str(tmp_path))
    monkeypatch.setenv("MINT_IQA_CACHE", str(tmp_path / "cache"))
    (tmp_path / "configs").symlink_to(REPOSITORY / "configs")
    write_pictures(tmp_path / "data", [f"thing {number}" for number in range(120)])
    (block,) = (block for language, block in blocks(OWN) if language == "python")
    exec(block, {})
    (line,) = (line for line in lines(OWN) if line.startswith("python -m train.finetune"))
    start = tiny.save(tmp_path / "start", tiny_language, shortcut=True)
    spoken = subprocess.run(["bash", "-c", f"echo {line}"], capture_output=True, text=True, check=True)
    monkeypatch.setattr("sys.argv", [*shlex.split(spoken.stdout)[2:], f"model={start}"])
    assert finetune.main() == 0
    found = json.loads((tmp_path / "runs" / "sterner" / "finetune.json").read_text())["figures"]["quality"]
    assert found["own_test"]
    assert found["pictures"] == 8  # of 24 prompts in the fold, 20 were learned from


def test_launchers_are_given_what_the_commands_take() -> None:
    """The launchers themselves run in tests/e2e/test_processes.py."""
    launched = [shlex.split(line) for line in LINES if line.startswith(("torchrun", "deepspeed"))]
    assert [words[0] for words in launched] == ["torchrun", "deepspeed"]
    for words in launched:
        files = [REPOSITORY / word for word in words if word.startswith("configs/")]
        assert files and all(file.is_file() for file in files)
        read_settings(Stage1, files[0])


def test_the_table_names_every_training_recipe() -> None:
    named = set()
    for cell in re.findall(r"^\| (`configs/.*?) \|", TEXT, re.MULTILINE):
        first, *others = re.findall(r"`(.+?)`", cell)
        named |= {first, *(f"{Path(first).parent}/{name}" for name in others)}
    recipes = (path.relative_to(REPOSITORY).as_posix() for path in (REPOSITORY / "configs").rglob("*.yaml"))
    assert named == {path for path in recipes if "/instructions/" not in path}
