"""What a run is said to be worth: figures from ladders and predictions small enough to count by hand."""

import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests import tiny
from train.data.pictures import KADID_FAULTS
from train.measure.scores import Rater, monotone_share, summary

FALLING = [90.0, 80.0, 70.0, 60.0, 50.0, 40.0]


def ladder(**rungs: list[float]) -> dict[str, Any]:
    """Quality on levels 0..5 of each fault, falling where nothing else is said; blur is found, at level 5."""
    faults = np.zeros((5, 5, 6))
    faults[0, 4, 0] = 0.25
    return {"quality": [rungs.get(fault, FALLING) for fault in KADID_FAULTS], "faults": faults.tolist()}


def test_a_quality_that_only_falls_is_monotone() -> None:
    assert monotone_share([ladder()]) == {"all": 1.0, **dict.fromkeys(KADID_FAULTS, 1.0)}


def test_a_rise_of_one_point_is_forgiven_and_a_larger_one_is_not() -> None:
    level = ladder(blur=[50.0, 51.0, 51.0, 50.0, 51.0, 50.0])
    rising = ladder(noise=[90.0, 80.0, 81.1, 60.0, 50.0, 40.0])
    shares = monotone_share([level, rising])
    assert (shares["blur"], shares["noise"]) == (1.0, 0.5)
    assert shares["all"] == pytest.approx(9 / 10)


def test_one_rise_between_any_two_levels_counts_from_the_clean_picture_on() -> None:
    for place in range(1, 6):
        rungs = list(FALLING)
        rungs[place] = rungs[place - 1] + 2
        assert monotone_share([ladder(darkness=rungs)])["darkness"] == 0.0


def test_several_small_rises_are_judged_one_by_one() -> None:
    assert monotone_share([ladder(pixelation=[50.0, 50.9, 51.8, 52.7, 53.6, 54.5])])["pixelation"] == 1.0


def test_the_tolerance_is_the_callers() -> None:
    rising = ladder(compression=[90.0, 92.0, 70.0, 60.0, 50.0, 40.0])
    assert monotone_share([rising], tolerance=2.0)["compression"] == 1.0
    assert monotone_share([rising], tolerance=1.9)["compression"] == 0.0


def test_a_model_without_a_fault_head_is_rated_without_faults(tmp_path: Path, tiny_language: Path) -> None:
    folder = tiny.save(tmp_path, tiny_language, faults=[])
    images = [Image.new("RGB", (40, 40), color) for color in ("red", "white")]
    ((scores, faults),) = Rater(folder)(images, ["a fox", "snow"])
    assert (scores.shape, faults.shape) == ((2, 3), (2, 0))


# --- summary ---


def run(folder: Path, quality: list[float], name: str = "fold0", **more: Any) -> Path:
    """Four pictures of human quality 1..4, whose alignment follows their predicted correspondence."""
    predictions = [
        {
            "image": f"{i}.png", "prompt": f"prompt {i}", "generator": "alpha", "mos_quality": i + 1.0,
            "mos_align": i + 1.0, "quality": q, "authenticity": 100.0 - q, "correspondence": 10.0 * i + 5,
            "wrong_prompt": "other", "wrong_correspondence": 12.0, "faults": [0.0] * 6,
        }
        for i, q in enumerate(quality)
    ]  # fmt: skip
    (folder / name).mkdir()
    text = json.dumps({"run": name, "predictions": predictions, **more})
    (folder / name / "evaluation.json").write_text(text)
    return folder / name


def line(lines: list[str], start: str) -> str:
    (found,) = [text for text in lines if text.startswith(start)]
    return found


def test_a_perfect_order_correlates_perfectly(tmp_path: Path) -> None:
    lines = list(summary([run(tmp_path, [10.0, 20.0, 40.0, 80.0])]))
    assert line(lines, "quality SRCC").startswith("quality SRCC: 1.0000")
    assert line(lines, "quality KRCC").startswith("quality KRCC: 1.0000")
    assert line(lines, "quality PLCC").startswith("quality PLCC: 0.9592")  # 115 / sqrt(2875 * 5)
    assert line(lines, "correspondence PLCC").startswith("correspondence PLCC: 1.0000")


def test_one_swapped_pair_costs_what_it_should(tmp_path: Path) -> None:
    lines = list(summary([run(tmp_path, [20.0, 10.0, 40.0, 80.0])]))
    assert line(lines, "quality SRCC").startswith("quality SRCC: 0.8000")  # 1 - 6 * 2 / (4 * 15)
    assert line(lines, "quality KRCC").startswith("quality KRCC: 0.6667")  # five pairs of six


def test_folds_are_averaged_with_their_t_interval_and_listed(tmp_path: Path) -> None:
    runs = [
        run(tmp_path, [10.0, 20.0, 40.0, 80.0], "fold0"),
        run(tmp_path, [20.0, 10.0, 40.0, 80.0], "fold1"),
    ]
    # Mean of 1 and .8; t(.975, 1) = 12.706 times a standard error of .1.
    assert line(list(summary(runs)), "quality SRCC") == (
        "quality SRCC: 0.9000 +- 1.2706 (95 % over runs) [1.000 0.800]"
    )


def test_one_run_has_a_bootstrap_interval_over_its_prompts(tmp_path: Path) -> None:
    text = line(list(summary([run(tmp_path, [20.0, 10.0, 40.0, 80.0])])), "quality SRCC")
    low, high = (float(v) for v in re.search(r"\[(.+), (.+)\] \(95 % over prompts\) of 4$", text).groups())
    assert low < 0.8 < high <= 1


def test_right_prompts_are_counted_against_wrong_ones(tmp_path: Path) -> None:
    # 5, 15, 25 and 35 against 12.
    lines = list(summary([run(tmp_path, FALLING[:4])]))
    assert line(lines, "right prompt") == (
        "right prompt above a wrong one: 0.7500 [0.2500, 1.0000] (95 % over prompts) of 4"
    )


def test_captions_of_photographs_are_counted_against_unrelated_ones(tmp_path: Path) -> None:
    lines = list(summary([run(tmp_path, FALLING[:4], captions=[[50.0, 40.0]] * 3 + [[30.0, 30.0]])]))
    assert line(lines, "a photograph") == (
        "a photograph's caption above an unrelated one: 0.750 [0.250, 1.000] of 4"
    )


def test_authenticity_is_compared_with_quality(tmp_path: Path) -> None:
    lines = list(summary([run(tmp_path, FALLING[:4])]))
    assert line(lines, "authenticity SRCC").startswith("authenticity SRCC with quality: -1.0000 [")


TWINS = {
    "clean": [[50.0, 80.0, 1.0], [50.0, 70.0, 1.0], [50.0, 60.0, 1.0], [50.0, 30.0, 1.0]],
    "malformed": [[60.0, 20.0, 1.0], [60.0, 10.0, 1.0], [40.0, 40.0, 1.0], [40.0, 5.0, 1.0]],
    "malformed_faults": [[0.0] * 6] * 3 + [[0.0] * 5 + [0.9]],
}


def test_malformed_twins_are_told_apart_by_authenticity(tmp_path: Path) -> None:
    lines = list(summary([run(tmp_path, FALLING[:4], ladder=[ladder()], **TWINS)]))
    assert line(lines, "no rise above 1 point between levels, 1 pictures")
    authenticity = line(lines, "malformed twins by authenticity")
    # Of 16 pairs one is wrong: the clean 30 lies below the malformed 40.
    assert "AUC 0.938" in authenticity and authenticity.endswith("twin below its original 1.000")
    quality = line(lines, "malformed twins by quality")
    assert "AUC 0.500" in quality and quality.endswith("twin below its original 0.500")


def test_faults_are_counted_where_they_are_strong_and_where_there_are_none(tmp_path: Path) -> None:
    lines = list(summary([run(tmp_path, FALLING[:4], ladder=[ladder(), ladder()], **TWINS)]))
    assert line(lines, "blur found") == (
        "blur found: at levels 4-5 0.500 of 4, clean with MOS >= 3.0 0.000 of 2"
    )
    assert line(lines, "noise found").startswith("noise found: at levels 4-5 0.000 of 4")
    assert line(lines, "malformation found").startswith("malformation found: at levels 4-5 1.000 of 1")


def test_without_ladders_nothing_is_said_of_faults(tmp_path: Path) -> None:
    lines = list(summary([run(tmp_path, FALLING[:4])]))
    assert not [text for text in lines if "malformed" in text or "rise" in text or "found" in text]


def test_runs_with_and_without_ladders_are_summed_up_together(tmp_path: Path) -> None:
    full = run(tmp_path, FALLING[:4], "fold0", ladder=[ladder()], **TWINS)
    short = run(tmp_path, FALLING[:4], "left_out")
    lines = list(summary([full, short]))
    assert "AUC 0.938" in line(lines, "malformed twins by authenticity")
    assert not math.isnan(float(line(lines, "quality SRCC").split()[2]))


def many(folder: Path, name: str) -> Path:
    """Forty pictures, four a prompt; labels are a logistic curve of scores, which follow the generator."""
    predictions = [
        {
            "image": f"{i}.png", "prompt": f"prompt {i % 10}", "generator": "AB"[i % 2], "mos_align": i % 7,
            "mos_quality": 5 / (1 + math.exp(-(i + 40 * (i % 2)) / 20 + 2)), "quality": i + 40.0 * (i % 2),
            "authenticity": float(i), "correspondence": float(i % 5), "wrong_correspondence": 1.0,
        }
        for i in range(40)
    ]  # fmt: skip
    (folder / name).mkdir()
    (folder / name / "evaluation.json").write_text(json.dumps({"run": name, "predictions": predictions}))
    return folder / name


def test_larger_runs_are_also_mapped_and_set_beside_guesses_without_pixels(tmp_path: Path) -> None:
    lines = list(summary([many(tmp_path, "fold0")]))
    assert line(lines, "quality PLCC after the logistic").startswith(
        "quality PLCC after the logistic: 1.0000"
    )
    assert line(lines, "quality RMSE after the logistic").startswith(
        "quality RMSE after the logistic: 0.0000"
    )
    guess = float(line(lines, "quality SRCC of the generator mean alone").split()[7])
    assert 0.7 < guess < 0.95
    both = list(summary([tmp_path / "fold0", many(tmp_path, "fold1")]))
    assert "(95 % over runs) [1.000 1.000]" in line(both, "quality PLCC after the logistic")
