"""How answers are judged, on answers that are right and wrong on purpose."""

import json
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from mint_iqa.assessor import Assessor
from mint_iqa.evaluation.results import finite
from mint_iqa.vocabulary import DIMENSIONS, FAULTS, QUESTIONS
from train.measure import answers
from train.measure.answers import ask, measure_answers, report
from train.measure.judging import (
    FITTING,
    Case,
    Sensitivity,
    claims_hold,
    denies_faults,
    denies_prompt,
    fits_faults,
    grade_without_fault,
    no_other_fault,
    precision,
    recall,
    right_fault,
    sensitivity,
    share,
    words_agree,
)


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
    assert right_fault(case(fault), answer) == is_right
    assert no_other_fault(case(fault), answer) == nothing_else


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


@pytest.mark.parametrize(
    ("score", "answer", "holds"),
    [
        (39.0, "It does not show what the prompt asks for.", True),
        (40.0, "It does not show what the prompt asks for.", False),
        (59.99, "The picture shows only part of what the prompt asks for.", True),
        (59.99, "The picture shows what the prompt asks for, so the correspondence is fair.", False),
        (60.0, "What the prompt asks for can be seen in the picture.", True),
        (60.0, "Part of what the prompt asks for is missing.", False),
        (None, "The picture shows what the prompt asks for.", False),
        (None, "The quality is poor.", True),
    ],
)
def test_what_is_said_of_the_prompt_holds_at_its_score(score, answer, holds):
    assert claims_hold(case(correspondence=score), answer) == holds


@pytest.mark.parametrize(
    ("answer", "denied"),
    [
        ("The quality is fair, but none of the faults I can detect explains it.", True),
        ("The quality is good, and no fault that would lower it stands out.", True),
        ("The quality is good: I can detect nothing that would lower it.", True),
        ("No technical fault stands out in it.", True),
        ("The quality is fair because the picture is slightly noisy.", False),
        ("It is not low: the quality is good.", False),
    ],
)
def test_a_fault_is_denied_by_saying_that_none_explains_the_score(answer, denied):
    assert denies_faults(answer) == denied


def test_a_graded_nothing_is_an_empty_reason():
    assert grade_without_fault("The picture is slightly uneven.")
    assert not grade_without_fault("The picture is slightly blurred.") and not grade_without_fault(
        "The quality is poor."
    )


def test_a_fault_has_precision_over_answers_and_recall_over_pictures():
    cases = [case("blur"), case("blur"), case("noise"), case(None), case("blur")]
    answers = ["blurry", "grainy", "noisy", "blurred", "soft and grainy"]
    # The 1st, 4th and 5th answer name blur; the 1st, 2nd and 5th picture have it.
    assert precision(cases, answers, "blur").value == pytest.approx(2 / 3)
    assert recall(cases, answers, "blur").value == pytest.approx(2 / 3)
    assert precision(cases, answers, "noise").value == pytest.approx(1 / 3)
    assert recall(cases, answers, "noise").value == 1
    assert precision(cases, answers, "darkness").of == 0


def test_a_look_alike_counts_for_precision_too():
    cases, answers = [case("compression")] * 3, ["The picture is pixelated."] * 3
    assert precision(cases, answers, "pixelation").value == 1
    assert recall(cases, answers, "compression").value == 1


def test_a_share_has_an_interval_over_groups_and_none_without_three_answers():
    found = share(["a"] * 10 + ["b"] * 10, [True] * 10 + [False] * 10)
    assert (found.value, found.low, found.high, found.of) == (0.5, 0.0, 1.0, 20)
    assert np.isnan(share(["a", "b"], [True, False]).low) and np.isnan(share([], []).value)


@pytest.mark.parametrize(
    ("answer", "denied"),
    [
        ("The correspondence is bad: the picture does not show it.", True),
        ("The correspondence is fair.", False),
        ("The quality is bad.", False),
        ("The image and its prompt are Highly inconsistent.", True),
        ("The image and its prompt are partially inconsistent.", False),
    ],
)
def test_a_prompt_is_denied_by_a_low_word_for_correspondence(answer, denied):
    assert denies_prompt(answer) == denied


def test_an_answer_about_faults_fits_what_was_detected():
    detected = SimpleNamespace(faults=[SimpleNamespace(name="noise")])
    noisy = Case(detected, None, 0, "p")  # type: ignore[arg-type]
    nothing = Case(SimpleNamespace(faults=[]), None, 0, "p")  # type: ignore[arg-type]
    assert fits_faults(noisy, "It is grainy.") and not fits_faults(noisy, "It is blurry.")
    assert fits_faults(nothing, "Nothing stands out.") and not fits_faults(nothing, "It is grainy.")


def asked(answer_to: dict[str, str]) -> Sensitivity:
    nothing = [Case(SimpleNamespace(faults=[]), None, 0, f"p{i}") for i in range(3)]  # type: ignore[arg-type]
    return sensitivity(nothing, {question: [answer_to[question]] * 3 for question in FITTING})


def test_answers_that_follow_their_question_are_told_from_one_for_all():
    one = {name: f"The {name} is fair." for name in DIMENSIONS}
    fitting = {QUESTIONS[name]: answer for name, answer in one.items()}
    fitting |= {QUESTIONS["overall"]: " ".join(one.values())}
    fitting = dict.fromkeys(FITTING, "I can't see that.") | fitting
    follows = asked(fitting)
    assert follows.fitting.value == 1 and follows.different.value == pytest.approx(14 / 15)
    assert follows.exchanged.value < 0.5
    repeats = asked(dict.fromkeys(FITTING, "The quality is fair."))
    assert repeats.different.value == 0
    assert repeats.fitting.value == repeats.exchanged.value == pytest.approx(2 / 6)


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
        prompt = ("a fox", "a wooden boat", "two lamps")[i]
        row = {
            "path": str(folder / f"{i}.png"),
            "prompt": prompt,
            "mos_quality": f"{2.4 + i}",
            "mos_align": "4",
        }
        found.append(row)
    return found


def test_asked_with_zeros_the_soft_tokens_are_zero_and_with_anothers_they_are_its(
    assessor, rows, monkeypatch
):
    cases = [
        Case(assessor.rate([(assessor.read(r["path"]), r["prompt"])])[0], None, 0, r["prompt"]) for r in rows
    ]
    own = [assessor.soft_prompt(c.rated, "Why?") for c in cases]
    seen: list[torch.Tensor] = []
    read = type(assessor).llm_input
    monkeypatch.setattr(type(assessor), "llm_input", lambda *args: seen.append(args[-1]) or read(*args))
    ask(assessor, cases, "Why?")
    ask(assessor, cases, "Why?", [None] * 3)
    ask(assessor, cases, "Why?", [1, 2, 0])
    assert all(torch.equal(a, b) for a, b in zip(seen[:3], own, strict=True))
    assert all(not soft.any() for soft in seen[3:6])
    assert all(torch.equal(seen[6 + i], own[(i + 1) % 3]) for i in range(3))


def test_the_report_covers_every_fault_and_control(assessor, rows, monkeypatch):
    monkeypatch.setattr(answers, "CLEAN_MOS", 2.0)
    found = measure_answers(assessor, rows, per_fault=1)
    text = "\n".join(report(found))
    for part in ("names the fault", "blur", "pixelation", "zeroed", "another picture's", "clean pictures"):
        assert part in text
    assert "of 5" in text and "grades a fault without naming one" in text
    assert found.faults.keys() == set(FAULTS[:5])
    assert found.prompts.denied_wrong.of == found.prompts.denied_right.of == 3
    assert found.questions.fitting.of == len(FITTING) * 2  # one faulted case of five, one clean of three
    json.loads(json.dumps(finite(asdict(found)), allow_nan=False))
