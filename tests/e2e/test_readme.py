"""What the README, the notebook and the docs on Python and the command line show works as it stands there.

The first command runs as a process of its own. The others run here, with one nano for all of them: starting
torch takes longer than what most of them do.
"""

import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

from mint_iqa import Assessor, cli
from mint_iqa.records import Assessment, Levels, ModelInfo, Scores
from tests import tiny_clip

ROOT = Path(__file__).resolve().parents[2]
README, COMMANDS, PYTHON = (
    (ROOT / name).read_text(encoding="utf-8")
    for name in ("README.md", "docs/command_line.md", "docs/python.md")
)


def block(text: str, heading: str, language: str = r"\w*") -> str:
    """The first fenced block under a heading."""
    section = text.split(f"\n## {heading}\n", 1)[1].split("\n## ", 1)[0]
    return re.search(rf"```{language}\n(.*?)```", section, re.DOTALL).group(1)


def commands(text: str, heading: str) -> list[str]:
    return [line.split("  #")[0].rstrip() for line in block(text, heading).splitlines()]


FIRST, *OTHERS = dict.fromkeys([*commands(README, "From the command line"), *commands(COMMANDS, "Commands")])


@pytest.fixture
def folder(tmp_path, monkeypatch):
    for name in ("picture.png", "a.png", "b.png"):
        Image.open(ROOT / "examples" / "coffee.jpg").save(tmp_path / name)
    (tmp_path / "pictures" / "below").mkdir(parents=True)
    Image.open(ROOT / "examples" / "rocket.jpg").save(tmp_path / "pictures" / "below" / "rocket.png")
    tiny_clip.save(tmp_path / "converted")
    (tmp_path / "pictures.csv").write_text("image,prompt\npicture.png,a cup of coffee\n")
    scores = Scores(quality=70, authenticity=60, correspondence=None)
    model = ModelInfo(name="nano", revision="1")
    record = Assessment(image="picture.png", model=model, scores=scores, levels=Levels.of(scores))
    (tmp_path / "scores.jsonl").write_text(record.model_dump_json() + "\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def shared(nano, monkeypatch):
    """One nano for every command that asks for it as it comes."""
    load = Assessor.from_pretrained

    def give(model="nano", **settings):
        return load(model, **settings) if model != "nano" or any(settings.values()) else nano

    monkeypatch.setattr(Assessor, "from_pretrained", give)


def run_as_process(command):
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        command,
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
        shell=isinstance(command, str),
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def run_here(line, capsys):
    """The words as the shell makes them of the line, given to the command."""
    words = subprocess.run(
        ["bash", "-c", f"printf '%s\\0' {line}"], capture_output=True, text=True, check=True
    ).stdout.split("\0")[:-1]
    assert words[0] == "mint-iqa"
    assert cli.main(words[1:]) == 0, capsys.readouterr().err


@pytest.mark.usefixtures("folder", "shared")
def test_the_python_example_runs(capsys):
    exec(block(README, "From Python"), {})
    assert "quality=" in capsys.readouterr().out


def test_the_first_command_runs(folder):
    assert "quality" in run_as_process(FIRST)


@pytest.mark.usefixtures("folder", "shared")
@pytest.mark.parametrize("line", OTHERS)
def test_each_command_runs(line, capsys):
    run_here(line, capsys)


@pytest.mark.usefixtures("shared")
def test_the_commands_for_many_pictures_run_in_their_order(folder, capsys):
    lines = commands(COMMANDS, "Many pictures")
    for line in lines:
        if ".parquet" not in line or importlib.util.find_spec("pyarrow"):
            run_here(line, capsys)
            assert (folder / re.search(r"--output (\S+)", line)[1]).stat().st_size > 0
    assert any("--resume" in line for line in lines)


@pytest.mark.usefixtures("folder", "shared")
@pytest.mark.parametrize("code", re.findall(r"```python\n(.*?)```", PYTHON, re.DOTALL))
def test_each_example_of_the_python_page_runs(code):
    exec(code, {})


def test_the_record_in_the_readme_is_the_one_that_the_command_writes(nano):
    """To the last digit that it shows, up to the rounding of other processors."""
    shown = json.loads(block(README, "One record"))
    image, prompt = re.search(r'`mint-iqa score (\S+) --prompt "([^"]*)" --no-explain', README).groups()
    record = nano.assess(ROOT / image, prompt, explain=False).with_origin(image, None)
    written = record.model_dump(mode="json")
    scores = {name: pytest.approx(value, abs=0.02) for name, value in shown.pop("scores").items()}
    assert written.pop("scores") == scores
    ends = {name: pytest.approx(pair, abs=0.02) for name, pair in shown.pop("intervals").items()}
    assert {name: tuple(pair) for name, pair in written.pop("intervals").items()} == ends
    assert written == shown


@pytest.mark.parametrize("rule", re.findall(r"make (\w+)", block(README, "Quick start")))
def test_each_make_rule_exists(rule):
    assert re.search(rf"^{rule}:", (ROOT / "Makefile").read_text(), re.MULTILINE)


@pytest.mark.usefixtures("shared")
def test_the_notebook_prints_what_it_shows(monkeypatch, capsys):
    monkeypatch.chdir(ROOT / "examples")
    cells = json.loads(Path("quickstart.ipynb").read_text(encoding="utf-8"))["cells"]
    names = {}
    for cell in cells:
        if cell["cell_type"] == "code":
            exec("".join(cell["source"]), names)
            shown = "".join(line for output in cell["outputs"] for line in output["text"])
            printed = capsys.readouterr().out
            # Another kind of processor may move the last digit of a score, or a word at the edge of two.
            if torch.cpu._is_amx_tile_supported():
                assert printed == shown
            assert bool(printed) == bool(shown)
