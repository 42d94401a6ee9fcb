"""What the README tells people to type works as it stands there."""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from mint_iqa.records import Assessment, Levels, ModelInfo, Scores

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def block(heading: str) -> str:
    """The first fenced block under a heading."""
    section = README.split(f"\n## {heading}\n", 1)[1].split("\n## ", 1)[0]
    return re.search(r"```\w*\n(.*?)```", section, re.DOTALL).group(1)


@pytest.fixture
def folder(tmp_path):
    for name in ("picture.png", "a.png", "b.png"):
        Image.open(ROOT / "examples" / "coffee.jpg").save(tmp_path / name)
    (tmp_path / "pictures" / "below").mkdir(parents=True)
    Image.open(ROOT / "examples" / "rocket.jpg").save(tmp_path / "pictures" / "below" / "rocket.png")
    (tmp_path / "pictures.csv").write_text("image,prompt\npicture.png,a cup of coffee\n")
    scores = Scores(quality=70, authenticity=60, correspondence=None)
    model = ModelInfo(name="nano", revision="1")
    record = Assessment(image="picture.png", model=model, scores=scores, levels=Levels.of(scores))
    (tmp_path / "scores.jsonl").write_text(record.model_dump_json() + "\n")
    return tmp_path


def run(command, folder):
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        command,
        cwd=folder,
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
        shell=isinstance(command, str),
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_python_example_runs(folder):
    assert "quality=" in run([sys.executable, "-c", block("From Python")], folder)


@pytest.mark.parametrize(
    "line", [line.split("  #")[0] for line in block("From the command line").splitlines()]
)
def test_each_command_runs(folder, line):
    run(line, folder)


def test_the_commands_for_many_pictures_run_in_their_order(folder):
    commands = [line.split("  #")[0].rstrip() for line in block("Many pictures").splitlines()]
    for command in commands:
        if ".parquet" not in command or importlib.util.find_spec("pyarrow"):
            run(command, folder)
            assert (folder / re.search(r"--output (\S+)", command)[1]).stat().st_size > 0
    assert any("--resume" in command for command in commands)


@pytest.mark.parametrize("rule", re.findall(r"make (\w+)", block("Quick start")))
def test_each_make_rule_exists(rule):
    assert re.search(rf"^{rule}:", (ROOT / "Makefile").read_text(), re.MULTILINE)
