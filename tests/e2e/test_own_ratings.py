"""The README's commands for your own ratings, run as shown there, with the shipped model."""

import json
import re
import shlex
import sys
from collections.abc import Callable
from contextlib import redirect_stdout
from io import BytesIO, TextIOWrapper
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageEnhance

from mint_iqa import cli
from train import finetune

ROOT = Path(__file__).resolve().parents[2]
SECTION = (
    (ROOT / "README.md")
    .read_text(encoding="utf-8")
    .split("\n## Your own ratings\n", 1)[1]
    .split("\n## ", 1)[0]
)
TABLE, COMMANDS = re.findall(r"```\w+\n(.*?)```", SECTION, re.DOTALL)
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """40 pictures, rated by how colorful they are, which nano's quality ignores."""
    folder = tmp_path_factory.mktemp("mine")
    photographs = sorted((ROOT / "examples").glob("*.jpg"))
    rng = np.random.default_rng(0)
    rows = [TABLE.splitlines()[0]]
    for number, name in enumerate(["fox1.png", "harbour.png", *(f"{i}.png" for i in range(38))]):
        image = Image.open(photographs[number % len(photographs)]).convert("RGB").resize((256, 256))
        box = rng.uniform(0, 64, 2)
        image = image.resize((224, 224), box=(*box, *(box + 192)))
        color = rng.uniform()
        ImageEnhance.Color(image).enhance(2 * color).save(folder / name)
        rows.append(f"{name},picture {number},{1 + 4 * color:.1f}")
    (folder / "ratings.csv").write_text("\n".join(rows) + "\n")
    (folder / "configs").symlink_to(ROOT / "configs")
    return folder


@pytest.fixture(scope="module")
def outputs(folder: Path) -> list[str]:
    """The output of each command; both run in this process, where torch is already loaded."""
    learn, score = (shlex.split(line) for line in COMMANDS.splitlines())
    assert learn[:3] == ["python", "-m", "train.finetune"] and score[0] == "mint-iqa"
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(sys, "argv", learn[2:])
        return [printed(finetune.main), printed(lambda: cli.main(score[1:]))]


def printed(command: Callable[[], int]) -> str:
    with redirect_stdout(TextIOWrapper(BytesIO(), encoding="utf-8", write_through=True)) as out:
        assert command() == 0
        out.seek(0)
        return out.read()


def test_the_table_in_the_readme_has_the_columns_that_the_command_reads() -> None:
    header, *lines = TABLE.splitlines()
    assert header == "image,prompt,quality"
    assert all(line.count(",") == 2 for line in lines)


def test_forty_ratings_bring_the_scores_nearer_to_them(folder: Path, outputs: list[str]) -> None:
    assert "quality 1 (worst) .. 5 (best)" in outputs[0]
    figures = json.loads((folder / "runs" / "mine" / "finetune.json").read_text())["figures"]["quality"]
    assert figures["pictures"] == 40
    assert figures["error_less_by"][1] > 0  # the whole interval
    assert figures["srcc_after"][0] > figures["srcc_before"][0] + 0.2


def test_the_model_scores_at_once(outputs: list[str]) -> None:
    assert "quality" in outputs[1].lower() and "fox1.png" in outputs[1]
