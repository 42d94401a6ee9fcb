"""The answers of AIGCIQA2023+: parsed, written, and predicted from scores."""

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from instruct_data.answers.grammar import (
    CUTS,
    SLOTS,
    answer_for,
    answer_of,
    fit_cuts,
    levels_in,
    slot_accuracy,
)


@pytest.mark.parametrize("dimension", ["quality", "authenticity", "correspondence"])
def test_what_is_put_together_comes_apart_the_same(dimension) -> None:
    slots = [s for s in SLOTS if s.dimension == dimension]
    for levels in itertools.product(*(range(len(s.words)) for s in slots)):
        chosen = {s.name: level for s, level in zip(slots, levels, strict=True)}
        assert levels_in(answer_of(chosen, dimension)) == chosen


def test_an_answer_is_put_together_in_the_words_of_the_data() -> None:
    best = {"clarity": 3, "outline": 3, "detail": 3, "authenticity": 2, "correspondence": 2}
    assert answer_of(best, "quality") == (
        "The image quality is very clear, the image outline and content are clearly distinguishable, "
        "the image details are very rich."
    )
    assert answer_of(best, "authenticity") == "The image is essentially distortion-free."
    assert answer_of(best, "correspondence") == "The image and its prompt are essentially consistent."


def test_other_sentences_choose_nothing() -> None:
    assert levels_in("A corgi on a lawn.") == {}


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 2)), min_size=1, max_size=9))
def test_no_other_cuts_give_more_levels_right(pairs) -> None:
    scores, levels = (np.array(part) for part in zip(*pairs, strict=True))

    def right(cuts):
        return int((np.searchsorted(cuts, scores, "right") == levels).sum())

    places = [-np.inf, *np.arange(0.5, 6), np.inf]
    cuts = fit_cuts(scores, levels, 3)
    assert cuts == sorted(cuts)
    assert right(cuts) == max(right(c) for c in itertools.combinations_with_replacement(places, 2))


def test_a_score_is_answered_by_its_cuts():
    assert answer_for(80, "quality") == answer_of({"clarity": 3, "outline": 3, "detail": 3}, "quality")
    assert answer_for(45, "authenticity") == "The image is partially distorted."
    assert answer_for(10, "correspondence") == "The image and its prompt are highly inconsistent."


def test_slot_accuracy_is_measured_on_unseen_prompts() -> None:
    # The word follows from the score alone; a prompt's own most common word would be wrong for all others.
    answers = [
        (f"prompt {i}", float(score), answer_of({"authenticity": int(score > 50)}, "authenticity"))
        for i, score in enumerate(np.linspace(0, 100, 40))
    ]
    (found,) = slot_accuracy(answers)
    assert (found.slot, found.answers) == ("authenticity", 40)
    assert found.thresholds > 0.9 > 0.65 > found.commonest
    assert 48 < found.cuts[0] < 52


def test_every_answer_of_the_published_labels_fills_its_slots_and_scores_predict_them(
    data_root: Path,
) -> None:
    answers, expected = [], {"quality": 3, "authenticity": 1, "correspondence": 1}
    for row in json.loads((data_root / "labels" / "AIGIQA2023.json").read_text(encoding="utf-8")):
        about = [k for k in expected if f"the {k} of" in row["q1"]]
        for k, name in enumerate(expected, 1):
            if about == [name]:
                answers.append((row["prompt"], 100 * row[f"moz{k}"], row["a1"]))
                assert len(levels_in(row["a1"])) == expected[name]
        assert about or len(levels_in(row["a1"])) == len(SLOTS)
    found = {s.slot: s for s in slot_accuracy(answers)}
    assert list(found) == [s.name for s in SLOTS]
    assert all(s.answers == 2400 and s.thresholds > s.commonest + 0.1 for s in found.values())
    assert all(s.cuts == pytest.approx(CUTS[name], abs=0.01) for name, s in found.items())
