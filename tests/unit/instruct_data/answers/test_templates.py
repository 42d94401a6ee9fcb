"""Every answer says only what follows from scores and faults, over thousands of samples."""

import re
from collections import defaultdict
from collections.abc import Sequence

import numpy as np
import pytest

from instruct_data.answers.templates import (
    FAULT_WORDS,
    KINDS,
    NAMED_FROM,
    Box,
    Sample,
    grade_of,
    make_sample,
    place_of,
)
from mint_iqa.language.guard import FIT_WORDS, false_denials
from mint_iqa.vocabulary import (
    DIMENSIONS,
    EXPLAINED_BY,
    FAULTS,
    LEVELS,
    QUESTIONS,
    Dimension,
    FaultName,
    fit_of,
    level_of,
    named_faults,
)
from train.measure.judging import FIT_STEMS, claimed_fits, denies_faults

Scores = dict[Dimension, float | None]
Faults = list[tuple[FaultName, float]]
Case = tuple[Sample, Scores, Faults, str | None]


def draw(rng: np.random.Generator, kind: str) -> Case:
    scores: Scores = {
        name: None if rng.random() < 0.15 else float(rng.uniform(0, 100)) for name in DIMENSIONS
    }
    faults: Faults = [(name, float(rng.random())) for name in FAULTS if rng.random() < 0.35]
    prompt = "a soft dark dog, blurred detail, grainy" if rng.random() < 0.7 else None
    sample = make_sample(kind, scores, faults, prompt, rng)
    if prompt is None:
        scores["correspondence"] = None
    return sample, scores, faults, prompt


@pytest.fixture(scope="module")
def cases() -> list[Case]:
    rng = np.random.default_rng(7)
    return [draw(rng, kind) for _ in range(1200) for kind in KINDS]


def ask(
    kind: str,
    scores: Sequence[float | None],
    faults: Sequence[tuple[FaultName, float]] = (),
    prompt: str | None = "a dog",
) -> set[str]:
    """The answers of 200 seeds."""
    by_name: Scores = dict(zip(DIMENSIONS, scores, strict=True))
    return {make_sample(kind, by_name, faults, prompt, np.random.default_rng(i)).answer for i in range(200)}


@pytest.mark.slow
def test_an_answer_names_the_faults_that_explain_it_and_no_other(cases: list[Case]) -> None:
    for sample, _, faults, _ in cases:
        relevant = EXPLAINED_BY[sample.about] if sample.about else set(FAULTS)
        if sample.kind in ("number_meaning", "unanswerable", "compare"):
            relevant = set()
        visible = [fault for fault in faults if fault[1] >= 0.25 and fault[0] in relevant]
        strongest = sorted(visible, key=lambda fault: fault[1], reverse=True)[:2]
        assert named_faults(sample.answer) == {name for name, _ in strongest}, sample


def test_faults_come_strongest_first_with_their_grade(cases: list[Case]) -> None:
    for sample, _, faults, _ in cases:
        severity = dict(faults)
        graded = re.findall(r"(slightly|clearly|heavily) (\w+)", sample.answer)
        # "marked" and "damaged" come before "by compression".
        words = ["compressed" if word in ("marked", "damaged") else word for _, word in graded]
        named = [name for word in words for name in named_faults(word)]
        assert [grade for grade, _ in graded] == [grade_of(severity[name]) for name in named], sample
        assert [severity[name] for name in named] == sorted((severity[name] for name in named), reverse=True)


def test_every_level_word_is_the_level_of_its_score(cases: list[Case]) -> None:
    for sample, scores, _, _ in cases:
        for name, level in re.findall(rf"({'|'.join(DIMENSIONS)}) is ({'|'.join(LEVELS)})\b", sample.answer):
            score = scores[name]
            assert score is not None and level == level_of(score), sample


def test_what_is_said_of_the_prompt_follows_its_score(cases: list[Case]) -> None:
    told = [(sample, scores["correspondence"], claimed_fits(sample.answer)) for sample, scores, *_ in cases]
    assert {fit for *_, fits in told for fit in fits} == set(FIT_STEMS)
    for sample, score, fits in told:
        assert not fits or (score is not None and fits == {fit_of(score)}), sample


def test_what_may_not_be_said_of_a_prompt_is_in_no_answer_of_another_score(cases: list[Case]) -> None:
    for sample, scores, *_ in cases:
        score = scores["correspondence"]
        fit = None if score is None else fit_of(score)
        barred = [words for words, fits in FIT_WORDS.items() if fit not in fits]
        assert not [words for words in barred if words in sample.answer], sample


@pytest.mark.slow
def test_what_would_deny_a_fault_is_in_no_answer_about_a_picture_that_has_it(cases: list[Case]) -> None:
    for sample, scores, faults, _ in cases:
        levels = {name: level_of(score) for name, score in scores.items() if score is not None}
        found = [name for name, severity in faults if severity >= NAMED_FROM]
        barred = [rf"{re.escape(words)}\b" for words in false_denials(levels, found)]
        assert not [words for words in barred if re.search(words, sample.answer)], sample


def test_every_denial_of_a_fault_is_barred_where_the_score_has_one_that_explains_it(
    cases: list[Case],
) -> None:
    told = [s for s, scores, faults, _ in cases if not faults and denies_faults(s.answer)]
    kinds = {"quality", "authenticity", "overall", "why_low", "what_faults", "how_bad"}
    assert {sample.kind for sample in told} >= kinds
    for sample, scores, *_ in cases:
        levels = {name: level_of(score) for name, score in scores.items() if score is not None}
        if denies_faults(sample.answer) and sample.kind != "where":
            for fault in sorted(EXPLAINED_BY[sample.about] if sample.about else FAULTS):
                barred = [rf"{re.escape(words)}\b" for words in false_denials(levels, [fault])]
                assert [words for words in barred if re.search(words, sample.answer)], sample


def test_level_words_are_used_for_levels_only(cases: list[Case]) -> None:
    for sample, *_ in cases:
        levels = re.findall(rf"\b({'|'.join(LEVELS)})\b", sample.answer)
        claims = re.findall(rf"(?:{'|'.join(DIMENSIONS)}) is ({'|'.join(LEVELS)})\b", sample.answer)
        assert levels == claims, sample


def test_answers_are_short_and_whole(cases: list[Case]) -> None:
    for sample, *_ in cases:
        assert 10 <= len(sample.answer.split()) <= 45, sample
        assert (
            sample.answer[0].isupper()
            and sample.answer[-1] == "."
            and "{" not in sample.answer + sample.question
        )
        assert "  " not in sample.answer and sample.question[-1] in "?."


def test_the_prompt_is_never_quoted(cases: list[Case]) -> None:
    assert not any("dog" in sample.answer or "dog" in sample.question for sample, *_ in cases)


def test_no_number_is_claimed_but_the_one_asked_for(cases: list[Case]) -> None:
    for sample, *_ in cases:
        told = set(re.findall(r"\d+", sample.answer)) - {"0", "20", "40", "60", "80", "100"}
        assert told <= set(re.findall(r"\d+", sample.question)), sample


def test_there_are_many_wordings(cases: list[Case]) -> None:
    questions, answers = defaultdict(set), defaultdict(set)
    for sample, *_ in cases:
        questions[sample.kind].add(re.sub(r"\d+", "N", sample.question))
        answers[sample.kind].add(sample.answer)
    assert len(questions["why_low"]) >= 10
    assert min(map(len, questions.values())) >= 5
    assert min(map(len, answers.values())) >= 4


@pytest.mark.parametrize("kind", QUESTIONS)
def test_about_half_the_samples_ask_in_the_published_words(cases: list[Case], kind: str) -> None:
    asked = [sample.question == QUESTIONS[kind] for sample, *_ in cases if sample.kind == kind]
    assert np.mean(asked) == pytest.approx(0.5, abs=0.07)


@pytest.mark.parametrize(("faults", "words"), FAULT_WORDS.items())
def test_every_fault_word_names_its_fault_alone(faults: FaultName, words: tuple[str, ...]) -> None:
    assert {named_faults(word) for word in words} == {frozenset({faults})}


def test_a_low_score_without_a_known_fault_is_admitted() -> None:
    for answer in ask("quality", (12, 80, 80)) | ask("overall", (12, 80, 80)):
        assert re.search("[Nn]one of the faults I can detect|no fault that explains", answer), answer


def test_a_fault_too_weak_to_see_is_not_named() -> None:
    assert not any(map(named_faults, ask("quality", (50, 50, 50), [("blur", NAMED_FROM - 0.01)])))
    assert all(map(named_faults, ask("quality", (50, 50, 50), [("blur", NAMED_FROM)])))


def test_asked_why_a_good_score_is_low_the_premise_is_corrected() -> None:
    for answer in ask("why_low", (90, 85, 70)):
        assert re.search("not low|no low|not call|not score low", answer), answer


def test_a_wrong_prompt_is_the_reason_for_a_low_correspondence() -> None:
    for answer in ask("correspondence", (90, 90, 8)) | ask("why_low", (90, 90, 8)):
        low = "correspondence is bad" in answer
        assert not low or re.search("what the prompt asks for|was asked for", answer), answer
    assert all(re.search("correspondence is bad", answer) for answer in ask("is_it_the_prompt", (90, 90, 8)))


def test_without_a_prompt_the_correspondence_is_not_rated() -> None:
    for kind in ("correspondence", "overall", "is_it_the_prompt"):
        for answer in ask(kind, (50, 50, 50), prompt=None):
            assert "not rated without a prompt" in answer, answer


def test_a_picture_without_any_score_still_gets_an_answer() -> None:
    for kind in KINDS:
        for answer in ask(kind, (None, None, None), [("noise", 0.9)]):
            assert not re.search(rf"\b({'|'.join(LEVELS)})\b", answer), answer


def test_the_lowest_and_the_highest_are_what_they_are_called() -> None:
    for answer in ask("compare", (10, 50, 90)):
        expected = "quality" if re.search("lowest|weakest", answer) else "correspondence"
        assert expected in answer and "authenticity" not in answer, answer


def test_a_number_just_below_a_cut_keeps_its_level() -> None:
    assert all("is poor" in answer for answer in ask("number_meaning", (39.99, None, None)))


def test_the_unanswerable_is_not_answered() -> None:
    assert all(re.search("can't|not|don't|Nothing", answer) for answer in ask("unanswerable", (50, 50, 50)))


def test_advice_fits_the_fault() -> None:
    assert all(
        re.search("sharp|crisp", answer) for answer in ask("what_to_change", (20, 90, 90), [("blur", 0.9)])
    )
    assert all(re.search("prompt", answer, re.I) for answer in ask("what_to_change", (90, 90, 10)))


def test_the_same_seed_asks_and_answers_the_same() -> None:
    first, second = (draw(np.random.default_rng(3), "overall")[0] for _ in range(2))
    assert first == second


def test_an_unknown_kind_is_refused() -> None:
    with pytest.raises(ValueError, match="not a kind of question"):
        make_sample("gossip", {}, [], None, np.random.default_rng(0))


@pytest.mark.parametrize(("box", "place"), [
    ((0.0, 0.0, 0.3, 0.3), "the upper left"), ((0.4, 0.4, 0.6, 0.6), "the middle"),
    ((0.4, 0.7, 0.6, 1.0), "the lower part"), ((0.0, 0.3, 0.2, 0.6), "the left"),
])  # fmt: skip
def test_where_a_fault_is_follows_from_its_box(box: Box, place: str) -> None:
    rng = np.random.default_rng(0)
    scores: Scores = dict.fromkeys(DIMENSIONS, 40.0)
    for _ in range(50):
        answer = make_sample("where", scores, [("blur", 0.9)], "a dog", rng, region=box).answer
        assert place_of(box) == place and place in answer and named_faults(answer) == {"blur"}


def test_a_fault_without_a_box_is_everywhere_and_no_fault_is_nowhere() -> None:
    places = re.compile("upper|lower|left|right|middle")
    assert all(
        re.search("all|whole", answer.lower()) for answer in ask("where", (40, 40, 40), [("noise", 0.9)])
    )
    nowhere = ask("where", (40, 40, 40), [("noise", 0.1)])
    assert len(nowhere) > 1 and not any(places.search(answer) or named_faults(answer) for answer in nowhere)


def test_an_exchanged_word_is_told_with_what_is_there_in_its_place() -> None:
    for score, level in ((30.0, "poor"), (None, None)):
        scores: Scores = {"quality": 70.0, "authenticity": 70.0, "correspondence": score}
        rng = np.random.default_rng(0)
        for _ in range(50):
            answer = make_sample("what_is_missing", scores, [], "a cat", rng, exchanged=("cat", "dog")).answer
            assert '"cat"' in answer and '"dog"' in answer
            assert (level is None) or f"correspondence is {level}" in answer


def test_without_a_known_exchanged_word_none_is_invented() -> None:
    answers = ask("what_is_missing", (70, 70, 10))
    assert all('"' not in answer and "correspondence is bad" in answer for answer in answers)
