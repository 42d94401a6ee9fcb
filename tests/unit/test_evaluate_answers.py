"""How answers are judged, on answers that are right and wrong on purpose."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from mint_iqa.assessor import Assessor
from train import evaluate_answers
from train.evaluate_answers import Case, ask, empty, no_other, report, right, words_agree


def case(fault: Any = None, **scores: float | None) -> Case:
    given = SimpleNamespace(**{"quality": 30.0, "authenticity": 50.0, "correspondence": None, **scores})
    return Case(SimpleNamespace(scores=given), fault, 5 if fault else 0, "a prompt")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("fault", "answer", "is_right", "nothing_else"),
    [
        ("blur", "The picture is heavily blurred.", True, True),
        ("blur", "The picture is clearly soft and noisy.", True, False),
        ("blur", "The picture is grainy.", False, False),
        ("compression", "It is blocky all over.", True, True),
        ("pixelation", "The picture is compressed.", True, True),
        ("darkness", "No fault stands out.", False, True),
        (None, "No fault stands out.", True, True),
        (None, "The picture is dark.", False, False),
    ],
)
def test_a_fault_is_named_by_its_own_words_or_by_those_of_its_family(fault, answer, is_right, nothing_else):
    assert right(case(fault), answer) == is_right
    assert no_other(case(fault), answer) == nothing_else


@pytest.mark.parametrize(
    ("answer", "agrees"),
    [
        ("The quality is poor and the authenticity is fair.", True),
        ("The quality is bad.", False),
        ("The correspondence is not rated without a prompt.", True),
        ("The correspondence is good.", False),
        ("The quality is not rated here.", False),
        ("Nothing to say.", True),
    ],
)
def test_level_words_agree_with_the_scores_and_no_score_is_denied(answer, agrees):
    assert words_agree(case(), answer) == agrees


def test_a_graded_nothing_is_an_empty_reason():
    assert empty("The picture is slightly uneven.")
    assert not empty("The picture is slightly blurred.") and not empty("The quality is poor.")


@pytest.fixture(scope="module")
def assessor(tiny_checkpoint: Path) -> Assessor:
    return Assessor.from_pretrained(tiny_checkpoint, device="cpu")


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, str]]:
    folder = tmp_path_factory.mktemp("pictures")
    found = []
    for i in range(3):
        pixels = np.random.default_rng(i).integers(0, 256, (40, 40, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{i}.png")
        found.append({"path": str(folder / f"{i}.png"), "prompt": f"a fox {i}", "mos_quality": f"{2.4 + i}"})
    return found


def test_asked_with_zeros_the_soft_tokens_are_zero_and_with_anothers_they_are_its(
    assessor, rows, monkeypatch
):
    cases = [
        Case(assessor.rate([(assessor.read(r["path"]), r["prompt"])])[0], None, 0, r["prompt"]) for r in rows
    ]
    own = [assessor.soft_prompt(c.rated, "Why?") for c in cases]
    seen: list[torch.Tensor] = []
    prefix = type(assessor).prefix
    monkeypatch.setattr(type(assessor), "prefix", lambda *args: seen.append(args[-1]) or prefix(*args))
    ask(assessor, cases, "Why?")
    ask(assessor, cases, "Why?", [None] * 3)
    ask(assessor, cases, "Why?", [1, 2, 0])
    assert all(torch.equal(a, b) for a, b in zip(seen[:3], own, strict=True))
    assert all(not soft.any() for soft in seen[3:6])
    assert all(torch.equal(seen[6 + i], own[(i + 1) % 3]) for i in range(3))


def test_the_report_covers_every_fault_and_control(assessor, rows, monkeypatch):
    monkeypatch.setattr(evaluate_answers, "CLEAN_MOS", 2.0)
    text = "\n".join(report(assessor, rows, per_fault=1))
    for part in ("names the fault", "blur", "pixelation", "zeroed", "another picture's", "clean pictures"):
        assert part in text
    assert "of 5" in text and "grades a fault without naming one" in text
