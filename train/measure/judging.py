"""Judges answers: the fault they name, their level words, and whether they address the question."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from instruct_data.answers.grammar import levels_in
from mint_iqa.assessor import Rated
from mint_iqa.metrics import bootstrap_interval
from mint_iqa.vocabulary import (
    DIMENSIONS,
    GRADES,
    LEVELS,
    QUESTIONS,
    Dimension,
    FaultName,
    Fit,
    Level,
    fit_of,
    level_of,
    named_faults,
)

# Compression and pixelation both look blocky: either word is right for either.
LOOK_ALIKES: dict[str, frozenset[str]] = {
    "compression": frozenset({"compression", "pixelation"}),
    "pixelation": frozenset({"compression", "pixelation"}),
}
UNRATED = "not rated"
LOW_LEVELS: tuple[Level, ...] = LEVELS[:2]


@dataclass(frozen=True)
class Case:
    """One picture to ask about. fault: None for a clean one."""

    rated: Rated
    fault: FaultName | None
    level: int
    group: str  # prompt, for the bootstrap


@dataclass(frozen=True)
class Share:
    """How often something holds, 0..1, with its 95 % bootstrap interval over groups; nan of 0."""

    value: float
    low: float
    high: float
    of: int

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}] of {self.of}"


def share(groups: Sequence[str], hits: Sequence[bool]) -> Share:
    """groups: what answers share that aren't independent, one a hit. Fewer than 3 have no interval."""
    values = np.array(hits, float)
    if len(values) < 3:
        return Share(float(values.mean()) if len(values) else float("nan"), np.nan, np.nan, len(values))
    low, high = bootstrap_interval(_mean, values, values, groups=groups, samples=500)
    return Share(float(values.mean()), low, high, len(values))


def _mean(values: npt.ArrayLike, _: npt.ArrayLike) -> float:
    return float(np.asarray(values).mean())


# --- faults ---


def look_alikes(fault: FaultName | None) -> frozenset[str]:
    """The faults whose words are right for `fault`."""
    return LOOK_ALIKES.get(fault or "", frozenset({fault} if fault else ()))


def right_fault(case: Case, answer: str) -> bool:
    """Whether the picture's fault is named, or none where there is none."""
    named = named_faults(answer)
    return bool(named & look_alikes(case.fault)) if case.fault else not named


def no_other_fault(case: Case, answer: str) -> bool:
    """Whether no fault is named that isn't there."""
    return named_faults(answer) <= look_alikes(case.fault)


def grade_without_fault(answer: str) -> bool:
    """Whether it says how strong something is without naming a fault ("the picture is slightly uneven")."""
    return any(grade in answer.lower() for grade in GRADES) and not named_faults(answer)


def precision(cases: Sequence[Case], answers: Sequence[str], fault: FaultName) -> Share:
    """Of the answers that name `fault`, how many are about a picture with it or one that looks like it."""
    naming = [case for case, answer in zip(cases, answers, strict=True) if fault in named_faults(answer)]
    return share([case.group for case in naming], [fault in look_alikes(case.fault) for case in naming])


def recall(cases: Sequence[Case], answers: Sequence[str], fault: FaultName) -> Share:
    """Of the pictures with `fault`, how many have it named."""
    own = [(case, answer) for case, answer in zip(cases, answers, strict=True) if case.fault == fault]
    return share([case.group for case, _ in own], [right_fault(*pair) for pair in own])


# --- level words ---


def said_levels(answer: str) -> dict[Dimension, set[str]]:
    """Every level word about a score ("the quality is poor"), or that it is not rated."""
    words = "|".join((*LEVELS, UNRATED))
    found = {name: set(re.findall(rf"\b{name} is ({words})\b", answer.lower())) for name in DIMENSIONS}
    return {name: said for name, said in found.items() if said}


def words_agree(case: Case, answer: str) -> bool:
    """Every level word about a score is the level of that score, and a score that is there is not called
    unrated."""
    for name, said in said_levels(answer).items():
        score = getattr(case.rated.scores, name)
        if said != {UNRATED if score is None else level_of(round(score, 2))}:
            return False
    return True


# Regular expressions that say how much of its prompt a picture shows.
FIT_STEMS: dict[Fit, str] = {
    "missed": (
        r"(?<!one word )(?<!what )does(?: not|n't) (?:show|fit|match|follow)"
        r"|is not what the picture|misses what"
    ),
    "part": r"part of what|in part only|in part:|some of what|misses part",
    "shown": r"(?:shows|contains) what|asks for can be seen|prompt well|(?:fits|matches) the prompt",
}


def claimed_fits(answer: str) -> set[Fit]:
    """All claims about how much of its prompt a picture shows."""
    return {fit for fit, stems in FIT_STEMS.items() if re.search(stems, answer.lower())}


def claims_hold(case: Case, answer: str) -> bool:
    """Whether the claim about the prompt agrees with the score; without a score there may be none."""
    score = case.rated.scores.correspondence
    return claimed_fits(answer) <= (set() if score is None else {fit_of(round(score, 2))})


# Regular expressions that say that no fault is to blame.
DENIAL_STEMS = (
    r"\bno(?:ne)? (?:of the |technical )?faults?\b", r"detect nothing", r"can't name the cause",
)  # fmt: skip


def denies_faults(answer: str) -> bool:
    """Whether it says that no fault, or none that is known, explains what it is about."""
    return any(re.search(stem, answer.lower()) for stem in DENIAL_STEMS)


def denies_prompt(answer: str) -> bool:
    """Whether it says that the picture doesn't show its prompt: by level word, or as AIGCIQA2023+ does."""
    said = said_levels(answer).get("correspondence", set())
    return bool(said & set(LOW_LEVELS)) or levels_in(answer).get("correspondence") == 0


# --- questions ---


def fits_faults(case: Case, answer: str) -> bool:
    """Names a fault that was detected, or none where none was."""
    detected = {other for fault in case.rated.faults for other in look_alikes(fault.name)}
    named = named_faults(answer)
    return bool(named & detected) if detected else not named


def _only(*names: Dimension) -> Callable[[Case, str], bool]:
    return lambda case, answer: said_levels(answer).keys() == set(names)


# What an answer to each question must do, whatever the picture is like.
FITTING: Mapping[str, Callable[[Case, str], bool]] = {
    **{QUESTIONS[name]: _only(name) for name in DIMENSIONS},
    QUESTIONS["overall"]: _only(*DIMENSIONS),
    "What faults does it have?": fits_faults,
    "Which camera took this picture?": _only(),  # cannot be seen: a score does not answer it
}


@dataclass(frozen=True)
class Sensitivity:
    """Whether answers follow the question.

    different: of pairs of questions about one picture, how many get different answers; fitting: of all
    answers, how many are to the point; exchanged: the same if each answer is taken for the next question's,
    which a model that repeats one answer reaches too; by_question: `fitting` of each.
    """

    different: Share
    fitting: Share
    exchanged: Share
    by_question: dict[str, Share]


def sensitivity(cases: Sequence[Case], answers: Mapping[str, Sequence[str]]) -> Sensitivity:
    """answers: to every question of `FITTING`, one a case."""
    groups, questions = [case.group for case in cases], list(FITTING)
    fits = {q: [FITTING[q](*pair) for pair in zip(cases, answers[q], strict=True)] for q in questions}
    previous = dict(zip(questions, [questions[-1], *questions[:-1]], strict=True))
    wrong = [FITTING[q](*pair) for q in questions for pair in zip(cases, answers[previous[q]], strict=True)]
    pairs = [(a, b) for i, a in enumerate(questions) for b in questions[:i]]
    differ = [x != y for a, b in pairs for x, y in zip(answers[a], answers[b], strict=True)]
    return Sensitivity(
        share(groups * len(pairs), differ),
        share(groups * len(questions), [hit for hits in fits.values() for hit in hits]),
        share(groups * len(questions), wrong),
        {q: share(groups, hits) for q, hits in fits.items()},
    )
