"""Questions and answers for instruction tuning, in which every claim follows from scores and known faults.

The answers keep four promises, so that a model trained on them keeps them, too:
1. A level word is `level_of` its score. 2. A fault is named only if it was detected; the strongest comes
first, and at most two are named. 3. If no fault was detected, no fault word appears, not even in a denial. 4.
Of the prompt, only a word that is known to be exchanged is quoted, since other words ("soft lighting") would
   read as faults.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from instruct_data.answers.wordings import (
    ANSWERS,
    CLEAN,
    HALF_MISSED,
    LEAVE_IT,
    MISSED,
    NOT_LOW,
    NOT_THE_PROMPT,
    QUESTION_WORDINGS,
    REMEDIES,
    REWORD,
    SEEN,
    SHOWS_IT,
    STRENGTH,
    THE_PROMPT,
    TRY_AGAIN,
    UNEXPLAINED,
    WEIGHTS,
    WHY_LOW_ABOUT,
)
from mint_iqa.vocabulary import (
    DIMENSIONS,
    EXPLAINED_BY,
    FAULT_WORDS,
    LEVEL_CUTS,
    NAMED_FROM,
    QUESTIONS,
    Dimension,
    FaultName,
    fit_of,
    grade_of,
    level_of,
)

MAX_NAMED_FAULTS = 2
LOW_BELOW = 60.0  # a score below "good" needs a reason

KINDS = (
    *QUESTIONS, "why_low", "what_faults", "how_bad", "what_to_change", "is_it_the_prompt", "number_meaning",
    "unanswerable", "compare", "where", "what_is_missing",
)  # fmt: skip
Box = tuple[float, float, float, float]  # left, top, right, bottom as shares of width and height
_NAMELESS = frozenset({"number_meaning", "unanswerable", "compare"})


@dataclass(frozen=True)
class Sample:
    """One question and its answer. `about`: the score in question, None for several scores or none."""

    question: str
    answer: str
    kind: str
    about: Dimension | None = None


def make_sample(
    kind: str,
    scores: Mapping[Dimension, float | None],
    faults: Sequence[tuple[FaultName, float]],
    prompt: str | None,
    rng: np.random.Generator,
    region: Box | None = None,
    exchanged: tuple[str, str] | None = None,
) -> Sample:
    """A question of one of `KINDS`, and the answer that follows from the picture's scores and faults.

    `scores`: 0..100, higher is better, None if unknown; `faults`: the detected faults with their severity on
    0..1; `prompt`: None if unknown, and then correspondence counts as not rated; `region`: the place of the
    faults, None for everywhere; `exchanged`: a word of the prompt that the picture doesn't show, and the word
    for what it shows instead, if known. The answer has 10 to 45 words.
    Raises ValueError for an unknown kind.
    """
    if kind not in KINDS:
        raise ValueError(f"{kind!r} is not a kind of question: known are {', '.join(KINDS)}")
    rated = {name: scores.get(name) for name in DIMENSIONS}
    if prompt is None:
        rated["correspondence"] = None
    return _Writer(rated, faults, prompt is not None, rng, region, exchanged).sample(kind)


def nameable_faults(
    faults: Sequence[tuple[FaultName, float]], kind: str, about: Dimension | None = None
) -> list[tuple[FaultName, float]]:
    """The faults that the answer to a question names: severe and relevant ones, strongest first."""
    if kind in _NAMELESS:
        return []
    relevant = faults if about is None else [fault for fault in faults if fault[0] in EXPLAINED_BY[about]]
    severe = [fault for fault in relevant if fault[1] >= NAMED_FROM]
    return sorted(severe, key=lambda fault: -fault[1])[:MAX_NAMED_FAULTS]


def place_of(region: Box) -> str:
    """ "the upper left", "the middle", ...: the ninth of the picture that contains the center of a box."""
    left, top, right, bottom = region
    row = ("upper", "", "lower")[min(2, int(1.5 * (top + bottom)))]
    column = ("left", "", "right")[min(2, int(1.5 * (left + right)))]
    return f"the {' '.join(filter(None, (row, column))) or 'middle'}{'' if column or not row else ' part'}"


class _Writer:
    """Writes one sample. Scores on 0..100 or None."""

    def __init__(
        self,
        scores: Mapping[Dimension, float | None],
        faults: Sequence[tuple[FaultName, float]],
        has_prompt: bool,
        rng: np.random.Generator,
        region: Box | None,
        exchanged: tuple[str, str] | None,
    ) -> None:
        self.scores, self.faults, self.has_prompt, self.rng = scores, faults, has_prompt, rng
        self.region, self.exchanged = region, exchanged
        self.named: list[tuple[FaultName, float]] = []
        self.rated = {name: score for name, score in scores.items() if score is not None}

    def sample(self, kind: str) -> Sample:
        about: Dimension | None = None
        wordings = QUESTION_WORDINGS.get(kind, ())
        if kind in DIMENSIONS:
            about = kind
        elif kind == "what_is_missing":
            about = "correspondence"
        elif kind == "why_low" and self.rng.random() < 0.4:
            about, wordings = DIMENSIONS[self.rng.integers(3)], WHY_LOW_ABOUT
        elif kind == "is_it_the_prompt" and self.rng.random() < 0.5:
            about, wordings = "correspondence", SHOWS_IT
        elif kind == "compare":
            return self._compare()
        elif kind == "number_meaning":
            return self._number()
        question = self._one_of(wordings).format(name=about)
        if kind in QUESTIONS and self.rng.random() < 0.5:
            question = QUESTIONS[kind]
        return Sample(question, self._answer(kind, about), kind, about)

    def _answer(self, kind: str, about: Dimension | None) -> str:
        self.named = nameable_faults(self.faults, kind, about)
        if kind == "unanswerable":
            return self._one_of(ANSWERS[kind])
        if kind == "where":
            return self._where()
        if kind == "what_is_missing" and self.exchanged:
            return self._exchanged(*self.exchanged)
        if about is not None:
            return self._about(about, asked_why=kind == "why_low")
        if not self.rated:
            return " ".join([*self._seen(), self._one_of(ANSWERS["nothing_rated"])])
        answer = {
            "overall": self._overall, "why_low": self._why_low, "what_faults": self._what_faults,
            "how_bad": self._how_bad, "what_to_change": self._what_to_change,
            "is_it_the_prompt": self._is_it_the_prompt,
        }  # fmt: skip
        return " ".join(answer[kind]())

    # --- places and words ---

    def _where(self) -> str:
        if not self.named:
            return self._one_of(ANSWERS["nowhere"])
        wording = self._one_of(ANSWERS["somewhere" if self.region else "everywhere"])
        return wording.format(place=place_of(self.region) if self.region else "", faults=self._fault_words())

    def _exchanged(self, asked: str, shown: str) -> str:
        score = self.scores["correspondence"]
        if score is None:
            return self._one_of(ANSWERS["exchanged_unrated"]).format(asked=asked, shown=shown)
        return self._fill("exchanged", "correspondence", asked=asked, shown=shown)

    # --- one score ---

    def _about(self, name: Dimension, asked_why: bool) -> str:
        score = self.scores[name]
        if score is None:
            return " ".join([self._fill("unrated", name), *self._seen()])
        if name == "correspondence":
            fit = fit_of(score)
            return self._fill("not_low" if asked_why and fit == "shown" else f"prompt_{fit}", name)
        if asked_why and score >= LOW_BELOW and not self.named:
            return self._fill("not_low", name)
        found = "fault" if self.named else "clean"
        return self._fill(f"{found}_{'low' if score < LOW_BELOW else 'high'}", name)

    def _fill(self, situation: str, name: Dimension, **more: object) -> str:
        score = self.scores[name]
        level = "" if score is None else level_of(score)
        wording = self._one_of(ANSWERS[situation])
        words = {"name": name, "level": level, "unrated": self._unrated(name), "faults": self._fault_words()}
        return wording.format(**words, **more)

    def _unrated(self, name: Dimension) -> str:
        without = name == "correspondence" and not self.has_prompt
        return "not rated without a prompt" if without else "not rated here"

    # --- all scores: each method returns sentences ---

    def _overall(self) -> list[str]:
        return [self._levels(DIMENSIONS), *self._reasons()]

    def _why_low(self) -> list[str]:
        low = [name for name in sorted(self.rated, key=lambda name: self.rated[name]) if self._is_low(name)]
        if not low:
            return [self._one_of(NOT_LOW), self._levels(tuple(self.rated)), *self._seen()]
        return [self._levels(tuple(low)), *self._reasons(always=True)]

    def _what_faults(self) -> list[str]:
        levels = self._levels(tuple(self.rated))
        return [*self._seen(), levels] if self.named else [levels, self._no_fault()]

    def _how_bad(self) -> list[str]:
        if not self.named:
            return [self._levels(tuple(self.rated)), self._no_fault()]
        strength = self._one_of(STRENGTH).format(weight=WEIGHTS[grade_of(self.named[0][1])])
        return [*self._seen(), strength, self._levels(tuple(self.rated))]

    def _what_to_change(self) -> list[str]:
        advice = [self._one_of(REMEDIES[name]) for name, _ in self.named]
        sentences = [*self._seen(), *(f"My advice: {' and '.join(advice)}." for _ in advice[:1])]
        if self._is_low("correspondence"):
            sentences += [self._one_of(REWORD)]
        if not sentences and any(map(self._is_low, self.rated)):
            sentences = [self._one_of(UNEXPLAINED), self._one_of(TRY_AGAIN)]
        shown = [self._levels((min(self.rated, key=lambda name: self.rated[name]),))]
        return shown + (sentences or [self._one_of(LEAVE_IT), self._one_of(CLEAN)])

    def _is_it_the_prompt(self) -> list[str]:
        if "correspondence" not in self.rated:
            return [self._about("correspondence", asked_why=False)]
        opening = self._one_of(THE_PROMPT if self._is_low("correspondence") else NOT_THE_PROMPT)
        return [opening, self._levels(tuple(self.rated)), *self._reasons()]

    def _reasons(self, always: bool = False) -> list[str]:
        """What explains the levels: the faults, the prompt, or the statement that nothing does."""
        picture_low = self._is_low("quality") or self._is_low("authenticity")
        sentences = self._seen() or ([self._one_of(UNEXPLAINED)] if picture_low else [])
        if self._is_low("correspondence"):
            missed = MISSED if fit_of(self.rated["correspondence"]) == "missed" else HALF_MISSED
            reason = [self._one_of(missed)]
            # The reason for the low score comes first, other faults second.
            sentences = sentences + reason if picture_low else reason + sentences
        return sentences or ([] if always else [self._one_of(CLEAN)])

    def _no_fault(self) -> str:
        return self._one_of(UNEXPLAINED if self._is_low("quality") or self._is_low("authenticity") else CLEAN)

    def _seen(self) -> list[str]:
        return [self._one_of(SEEN).format(faults=self._fault_words())] if self.named else []

    def _is_low(self, name: Dimension) -> bool:
        return self.rated.get(name, 100.0) < LOW_BELOW

    # --- words ---

    def _levels(self, names: Sequence[Dimension]) -> str:
        """ "The quality is poor, the authenticity is fair and the correspondence is ..."."""
        clauses = [
            f"the {name} is {level_of(self.rated[name]) if name in self.rated else self._unrated(name)}"
            for name in names
        ]
        text = ", ".join(clauses[:-1]) + " and " + clauses[-1] if len(clauses) > 1 else clauses[0]
        return text[0].upper() + text[1:] + "."

    def _fault_words(self) -> str:
        return " and ".join(f"{grade_of(s)} {self._one_of(FAULT_WORDS[name])}" for name, s in self.named)

    def _one_of(self, wordings: Sequence[str]) -> str:
        return wordings[int(self.rng.integers(len(wordings)))]

    # --- numbers and comparisons ---

    def _number(self) -> Sample:
        if not self.rated:
            return Sample(
                "What do the numbers mean?", self._one_of(ANSWERS["nothing_rated"]), "number_meaning"
            )
        name = list(self.rated)[self.rng.integers(len(self.rated))]
        # Rounded down: no cut lies between a score and the whole number below it, so its level is the same.
        number = int(self.rated[name])
        low = max((cut for cut in LEVEL_CUTS if cut <= number), default=0.0)
        question = self._one_of(QUESTION_WORDINGS["number_meaning"]).format(name=name, number=number)
        answer = self._fill("number", name, number=number, low=int(low), high=int(low) + 20)
        return Sample(question, answer, "number_meaning", name)

    def _compare(self) -> Sample:
        end = ("lowest", "highest")[self.rng.integers(2)]
        question = self._one_of(QUESTION_WORDINGS[f"compare_{end}"])
        if not self.rated:
            return Sample(question, self._one_of(ANSWERS["nothing_rated"]), "compare")
        pick = min if end == "lowest" else max
        name = pick(self.rated, key=lambda name: self.rated[name])
        return Sample(question, self._fill(end, name), "compare", name)
