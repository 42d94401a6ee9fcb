"""Stage 2's examples: an answer says what the scores in front of it say, and faults only where known."""

from collections import Counter
from collections.abc import Iterator

import numpy as np
import pytest

from mint_iqa.language.chat import scores_in_words
from mint_iqa.vocabulary import DIMENSIONS, LEVELS, NAMED_FROM, level_of, named_faults
from tests.training_world import PROMPTS, SIZE, living_in
from train import prepare
from train.data.looks import CLEAN_FROM
from train.data.questions import KIND_SHARES, PICTURE_SHARES, Found, Instruction, detected, draw_instructions
from train.data.sources import Sources, read_sources

COUNT = 3000


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sources]:
    with living_in(tmp_path_factory.mktemp("instructions")):
        prepare.build_all(SIZE)
        yield read_sources(SIZE)


@pytest.fixture(scope="module")
def rows() -> list[int]:
    return list(range(14))


@pytest.fixture(scope="module")
def found(sources: Sources) -> Found:
    """As if stage 1 had seen noise in every clean picture of low quality, and blur in the good ones."""
    clean = {i: row for i, row in enumerate(sources.rows["agiqa3k"]) if row.variant == "clean"}
    return {i: [("blur" if sure(sources, row.source) else "noise", 0.7)] for i, row in clean.items()}


@pytest.fixture(scope="module")
def examples(sources: Sources, rows: list[int], found: Found) -> list[Instruction]:
    return draw_instructions(sources, rows, range(4), found, COUNT, seed=5)


def sure(sources: Sources, source: int) -> bool:
    return float(sources.human[source]["mos_quality"]) / 5 >= CLEAN_FROM


def fault_of(sources: Sources, example: Instruction) -> str | None:
    return sources.rows[example.pixels[0]][example.pixels[1]].fault


def test_the_same_seed_draws_the_same_examples(
    sources: Sources, rows: list[int], found: Found, examples: list[Instruction]
) -> None:
    assert draw_instructions(sources, rows, range(4), found, COUNT, seed=5) == examples
    assert draw_instructions(sources, rows, range(4), found, COUNT, seed=6) != examples


def test_only_the_given_rows_are_drawn_from(
    sources: Sources, rows: list[int], examples: list[Instruction]
) -> None:
    used: dict[str, set[int]] = {"agiqa3k": set(), "flickr8k": set()}
    for name, i in (e.pixels for e in examples):
        used[name].add(sources.rows[name][i].source)
    assert used == {"agiqa3k": set(rows), "flickr8k": set(range(4))}
    own = {sources.human[i]["prompt"] for i in rows} | {c for p in sources.photographs for c in p["captions"]}
    assert {e.prompt for e in examples} - {""} <= own
    assert set(PROMPTS) - own  # else the line above could not fail


def test_pictures_come_in_their_shares_a_rare_fault_as_often_as_a_common_one(
    sources: Sources, examples: list[Instruction]
) -> None:
    named = Counter()
    for example in examples:
        row = sources.rows[example.pixels[0]][example.pixels[1]]
        if row.fault and row.severity >= NAMED_FROM:
            named[row.fault] += 1
    assert len(named) >= 4  # the toy set may lack a strong one of some kind
    weights = {name: PICTURE_SHARES[name] for name in named}
    for name, count in named.items():
        expected = weights[name] / sum(weights.values())
        assert count / sum(named.values()) == pytest.approx(expected, abs=0.04)


def test_kinds_of_questions_come_in_their_shares(examples: list[Instruction]) -> None:
    shares = Counter(e.kind for e in examples)
    assert shares.keys() == KIND_SHARES.keys()
    for kind, share in KIND_SHARES.items():
        assert shares[kind] / COUNT == pytest.approx(share, abs=0.03)


# --- scores in words and answers agree ---


def levels_in(text: str) -> dict[str, str]:
    """ "the quality is poor" -> {"quality": "poor"}, also where the score is not the sentence's subject."""
    words = text.lower().replace(",", " ").replace(".", " ").replace(":", " ").replace(";", " ")
    return {
        name: level for name in DIMENSIONS for level in LEVELS if f"the {name} is {level} " in words + " "
    }


def test_scores_in_words_say_level_and_number() -> None:
    text = scores_in_words({"quality": 34.9, "authenticity": 40.0, "correspondence": None})
    assert text == "Scores: quality poor (34), authenticity fair (40), correspondence not rated."


def test_levels_in_answers_are_those_of_the_scores_in_words(examples: list[Instruction]) -> None:
    said = 0
    for example in examples:
        shown = scores_in_words(example.scores)
        for text in (example.answer, *(answer for _, answer in example.history)):
            for name, level in levels_in(text).items():
                assert f"{name} {level} (" in shown, (shown, text)
                said += 1
    assert said > COUNT / 2


def test_scores_lie_on_the_scale_and_vary_around_the_truth(
    sources: Sources, examples: list[Instruction]
) -> None:
    deviations = []
    for example in examples:
        rated = [v for v in example.scores.values() if v is not None]
        assert all(0 <= v <= 100 for v in rated)
        row = sources.rows[example.pixels[0]][example.pixels[1]]
        if example.pixels[0] == "agiqa3k" and row.variant == "clean":
            truth = 20 * float(sources.human[row.source]["mos_quality"])
            deviations.append(example.scores["quality"] - truth)  # type: ignore[operator]
    assert abs(np.mean(deviations)) < 0.7 and np.std(deviations) == pytest.approx(4.0, abs=0.6)


def test_without_a_prompt_correspondence_is_not_rated(examples: list[Instruction]) -> None:
    without = [e for e in examples if not e.prompt]
    assert all((e.scores["correspondence"] is None) == (not e.prompt) for e in examples)
    assert len(without) / COUNT == pytest.approx(0.2, abs=0.03)


def test_a_wrong_prompt_scores_low(sources: Sources, examples: list[Instruction]) -> None:
    wrong = []
    for example in examples:
        name, i = example.pixels
        source = sources.rows[name][i].source
        own = (
            [sources.human[source]["prompt"]]
            if name == "agiqa3k"
            else sources.photographs[source]["captions"]
        )
        if example.prompt and example.prompt not in own:
            wrong.append(example.scores["correspondence"])
    assert len(wrong) / COUNT == pytest.approx(0.25, abs=0.03)
    assert all(level_of(score) in ("bad", "poor") for score in wrong)  # type: ignore[arg-type]
    assert np.mean(wrong) == pytest.approx(11, abs=2)  # type: ignore[arg-type]


def test_a_malformed_picture_scores_lower_in_authenticity(
    sources: Sources, examples: list[Instruction]
) -> None:
    photographs = [e for e in examples if e.pixels[0] == "flickr8k"]
    means = {
        fault: np.mean([e.scores["authenticity"] for e in photographs if fault_of(sources, e) == fault])
        for fault in (None, "malformation")
    }
    assert means["malformation"] < means[None] - 15


# --- faults are named only where known ---


def test_without_a_visible_fault_the_soft_tokens_are_zero_as_they_will_be_in_use(
    sources: Sources, examples: list[Instruction]
) -> None:
    faulted = [e for e in examples if fault_of(sources, e)]
    visible = [e for e in faulted if sources.rows[e.pixels[0]][e.pixels[1]].severity >= NAMED_FROM]
    assert all(e.blind for e in faulted if e not in visible)
    assert np.mean([e.blind for e in visible]) == pytest.approx(0.08, abs=0.02)


def test_a_blind_example_names_no_fault(examples: list[Instruction]) -> None:
    blind = [e for e in examples if e.blind]
    assert any(e.history for e in blind)
    for example in blind:
        texts = [example.answer, *(answer for _, answer in example.history)]
        assert [named_faults(t) for t in texts] == [frozenset()] * len(texts)


def test_the_fault_that_soft_tokens_have_to_show_is_the_strongest_and_none_for_a_blind_example(
    sources: Sources, examples: list[Instruction]
) -> None:
    for example in examples:
        assert (example.fault is None) == example.blind
        row = sources.rows[example.pixels[0]][example.pixels[1]]
        assert example.fault in (None, row.fault) or row.fault is None


def test_only_known_faults_are_named(sources: Sources, found: Found, examples: list[Instruction]) -> None:
    named = Counter()
    for example in examples:
        row = sources.rows[example.pixels[0]][example.pixels[1]]
        allowed = {row.fault} if row.fault else set()
        if not row.fault and example.pixels[0] == "agiqa3k" and not sure(sources, row.source):
            allowed = {name for name, _ in found[example.pixels[1]]}
        for text in (example.answer, *(answer for _, answer in example.history)):
            assert named_faults(text) <= allowed, text
            named.update(named_faults(text))
    assert {"noise", "malformation"} <= named.keys() and len(named) > 3


def test_doubtful_pictures_are_shown_clean_only(sources: Sources, examples: list[Instruction]) -> None:
    """Of a poor picture, the twin's fault is known but its own are not."""
    for example in (e for e in examples if e.pixels[0] == "agiqa3k"):
        row = sources.rows["agiqa3k"][example.pixels[1]]
        assert row.variant != "small"
        assert sure(sources, row.source) or row.variant == "clean"


def test_a_faulted_picture_is_explained_by_its_fault(sources: Sources, examples: list[Instruction]) -> None:
    severe = [e for e in examples if e.kind == "what_faults" and not e.blind and fault_of(sources, e)]
    severe = [e for e in severe if sources.rows[e.pixels[0]][e.pixels[1]].severity >= 0.25]
    assert severe
    assert all(named_faults(e.answer) == {fault_of(sources, e)} for e in severe)


def test_detected_faults_are_those_severe_enough_to_name() -> None:
    assert detected([0.24, 0.25, 0.9], ["blur", "noise", "darkness"]) == [("noise", 0.25), ("darkness", 0.9)]
