"""The contact sheet, and the command that draws it."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from instruct_data.__main__ import main
from instruct_data.damage import sheet
from instruct_data.damage.artifacts import ARTIFACTS
from instruct_data.damage.distortions import DISTORTIONS
from tests.textures import hills


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    hills().save(tmp_path / "hills.png")
    return tmp_path / "hills.png"


@pytest.mark.slow
def test_the_command_draws_every_distortion_and_artifact_at_every_level(
    picture: Path, tmp_path: Path
) -> None:
    arguments = ["sheet", str(picture), "--output", str(tmp_path / "sheet.png")]
    done = subprocess.run([sys.executable, "-m", "instruct_data", *arguments], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    rows = len(DISTORTIONS) + len(ARTIFACTS)
    with Image.open(tmp_path / "sheet.png") as drawn:
        assert drawn.size == (5 * (160 + 4), rows * (128 + 2 * sheet.LABEL_HEIGHT))


def test_a_region_leaves_most_of_the_picture_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sheet, "DISTORTIONS", ("darken",))
    monkeypatch.setattr(sheet, "ARTIFACTS", ())
    whole, part = (np.asarray(sheet.contact_sheet(hills(), in_region), float) for in_region in (False, True))
    last = np.s_[sheet.LABEL_HEIGHT : sheet.LABEL_HEIGHT + 128, -164:-4]  # level 5
    before = np.asarray(hills(), float)
    assert (whole[last] != before).any(-1).mean() > 0.9
    assert 0.1 < (part[last] != before).any(-1).mean() < 0.4


@pytest.mark.parametrize(("image", "output"), [("nowhere.png", "o.png"), ("hills.png", "nowhere/o.png")])
def test_what_a_user_can_get_wrong_ends_in_one_sentence(
    picture: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    image: str,
    output: str,
) -> None:
    monkeypatch.chdir(picture.parent)
    monkeypatch.setattr(sheet, "contact_sheet", lambda image, in_region: image)
    assert main(["sheet", image, "--output", output]) == 2
    error = capsys.readouterr().err
    assert "nowhere" in error and len(error.splitlines()) == 1
