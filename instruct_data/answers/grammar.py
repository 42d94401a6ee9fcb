"""Parses and writes the answers of AIGCIQA2023+: five slots of level words, and free clauses.

    python -m instruct_data grammar AIGIQA2023.json

A quality answer has three slots (clarity, outline, detail). Authenticity and correspondence have one each,
followed by a free clause. Cuts on the mean opinion score, fitted on the labels for each slot, choose the
words. Their accuracy against the annotators' words is the baseline for any explainer of this data.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import inf

import numpy as np
from numpy.typing import ArrayLike

from mint_iqa.vocabulary import Dimension

FOLDS = 5
# Cuts on scores of 0..100, by slot, fitted on all 2,400 pictures (see `fit_cuts`).
CUTS = {
    "clarity": (35.07, 48.29, 54.47), "outline": (-inf, 42.81, 53.44), "detail": (32.26, 50.1, 51.92),
    "authenticity": (40.84, 48.71), "correspondence": (40.67, 49.72),
}  # fmt: skip


@dataclass(frozen=True)
class Slot:
    """One choice of level words. words: worst first, with enough context to differ from a free clause."""

    name: str
    dimension: Dimension
    words: tuple[str, ...]


SLOTS = (
    Slot(
        "clarity", "quality",
        ("quality is very blurry", "quality is partially blurry", "quality is essentially clear",
         "quality is very clear"),
    ),
    Slot(
        "outline", "quality",
        ("content cannot be distinguished", "content are vaguely distinguishable",
         "content are essentially distinguishable", "content are clearly distinguishable"),
    ),
    Slot(
        "detail", "quality",
        ("details are severely lacking", "details are partially missing",
         "quality details are essentially sufficient", "details are very rich"),
    ),
    Slot(
        "authenticity", "authenticity",
        ("is highly distorted", "is partially distorted", "is essentially distortion-free"),
    ),
    Slot(
        "correspondence", "correspondence",
        ("highly inconsistent", "partially inconsistent", "essentially consistent"),
    ),
)  # fmt: skip
SENTENCES: dict[Dimension, str] = {
    "quality": "The image {clarity}, the image outline and {outline}, the image {detail}.",
    "authenticity": "The image {authenticity}.",
    "correspondence": "The image and its prompt are {correspondence}.",
}


def levels_in(answer: str) -> dict[str, int]:
    """slot -> the level that an answer chooses, 0 is the worst. Unmentioned slots are left out."""
    text = answer.lower()
    said = {slot.name: [i for i, words in enumerate(slot.words) if words in text] for slot in SLOTS}
    return {name: levels[0] for name, levels in said.items() if levels}


def answer_of(levels: Mapping[str, int], dimension: Dimension) -> str:
    """The answer about one dimension in the grammar of the data, without a free clause.

    Raises KeyError if a slot of the dimension has no level.
    """
    own = [slot for slot in SLOTS if slot.dimension == dimension]
    return SENTENCES[dimension].format(**{slot.name: slot.words[levels[slot.name]] for slot in own})


def answer_for(score: float, dimension: Dimension) -> str:
    """The most likely answer of the annotators to a score on 0..100, in the grammar of the data."""
    own = [slot.name for slot in SLOTS if slot.dimension == dimension]
    return answer_of({name: int(np.searchsorted(CUTS[name], score, "right")) for name in own}, dimension)


def fit_cuts(scores: ArrayLike, levels: ArrayLike, count: int) -> list[float]:
    """The count - 1 ascending cuts on `scores` that predict `levels` (0..count-1) with the highest accuracy.

    A score at a cut belongs to the level above it. The result is exact (dynamic programming over the sorted
    scores).
    """
    order = np.argsort(scores, kind="stable")
    x, wanted = np.asarray(scores, float)[order], np.asarray(levels)[order]
    # A cut lies between two different scores, since it cannot separate equal ones.
    places = np.concatenate([[0], np.flatnonzero(np.diff(x)) + 1, [len(x)]])
    hits = np.array([np.concatenate([[0], np.cumsum(wanted == k)])[places] for k in range(count)])
    best, taken = hits[0], []  # best[i]: hits among the scores below place i with the levels up to k
    for k in range(1, count):
        gain = best - hits[k]
        start = np.array([int(np.argmax(gain[: i + 1])) for i in range(len(places))])
        taken.append(start)
        best = gain[start] + hits[k]
    at, cuts = len(places) - 1, []
    for start in reversed(taken):
        at = int(start[at])
        cuts.append(_between(x, int(places[at])))
    return cuts[::-1]


def _between(x: np.ndarray, place: int) -> float:
    """A number above x[place - 1] and at most x[place]; infinite beyond either end."""
    if place in (0, len(x)):
        return -np.inf if place == 0 else np.inf
    return float((x[place - 1] + x[place]) / 2)


@dataclass(frozen=True)
class SlotAccuracy:
    """Shares of held-out answers with the right level word. cuts: fitted on all data, in points."""

    slot: str
    answers: int
    commonest: float
    thresholds: float
    cuts: tuple[float, ...]


def slot_accuracy(answers: Sequence[tuple[str, float, str]], seed: int = 0) -> Iterator[SlotAccuracy]:
    """For each slot, the accuracy of its word on unseen prompts: of the most common word, and of cuts.

    answers: (prompt, the MOS that the answer is about, text). There are five folds by prompt; both
    predictions are fitted on the other four.
    """
    from mint_iqa.folds import prompt_folds  # here, since it imports SciPy and the importers need this module

    for slot in SLOTS:
        rows = [(p, s, found[slot.name]) for p, s, a in answers if slot.name in (found := levels_in(a))]
        if not rows:
            continue
        prompts, scores, levels = zip(*rows, strict=True)
        x, y, count = np.array(scores), np.array(levels), len(slot.words)
        fold = prompt_folds(prompts, None, min(FOLDS, len(set(prompts))), seed=seed)
        right = np.zeros((2, len(y)), bool)
        for k in np.unique(fold):
            rest, own = fold != k, fold == k
            right[0, own] = y[own] == np.bincount(y[rest]).argmax()
            right[1, own] = y[own] == np.searchsorted(fit_cuts(x[rest], y[rest], count), x[own], "right")
        commonest, thresholds = right.mean(axis=1).tolist()
        yield SlotAccuracy(slot.name, len(y), commonest, thresholds, tuple(fit_cuts(x, y, count)))
