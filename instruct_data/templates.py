"""Questions and answers for instruction tuning, every claim of which follows from scores and known faults.

The answers keep four promises, so that a model trained on them learns to keep them too:
a level word is `level_of` its score; a fault is named only where it was detected, strongest first, two at
most; where none was detected no fault word appears at all, not even in a denial; and the prompt is never
quoted, since its own words ("soft lighting") would read as faults.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from mint_iqa.vocabulary import (
    DIMENSIONS,
    FAULT_WORDS,
    GRADES,
    LEVEL_CUTS,
    NAMED_FROM,
    QUESTIONS,
    Dimension,
    FaultName,
    level_of,
)

MOST_NAMED = 2
LOW_BELOW = 60.0  # below "good", a score asks for a reason

QUALITY_FAULTS: frozenset[FaultName] = frozenset({"blur", "noise", "compression", "darkness", "pixelation"})
# Which faults explain which score; a wrong prompt is no fault of the picture.
EXPLAINED_BY: dict[Dimension, frozenset[FaultName]] = {
    "quality": QUALITY_FAULTS,
    "authenticity": frozenset({"malformation"}),
    "correspondence": frozenset(),
}

REMEDIES: dict[FaultName, tuple[str, ...]] = {
    "blur": ("generate it again with crisper edges", "ask for sharp focus", "sharpen it"),
    "noise": ("use more sampling steps", "clean it with a denoiser"),
    "compression": ("save the original with less loss", "export a lossless file"),
    "darkness": ("ask for more light", "raise the exposure", "brighten it"),
    "pixelation": ("generate it at a higher resolution", "use a larger size"),
    "malformation": ("try another seed", "repaint the affected parts"),
}

QUESTION_WORDINGS: dict[str, tuple[str, ...]] = {
    "quality": (
        "How good is the quality?", "What do you think of the image quality?",
        "Rate the quality of this picture.", "Is the quality all right?", "Tell me about the quality.",
        "Does it look technically clean?",
    ),
    "authenticity": (
        "How authentic does it look?", "Does this picture look real?",
        "Rate the authenticity of this picture.", "Could this pass for real?",
        "Tell me about the authenticity.", "Does anything look artificial?",
    ),
    "correspondence": (
        "How well does it match the prompt?", "Does the picture fit its prompt?",
        "Rate the correspondence.", "Tell me about the correspondence.",
        "How close is it to what I asked for?", "Did it follow my prompt?",
    ),
    "overall": (
        "Explain the scores.", "Why these scores?", "Can you explain the three scores?",
        "Sum up your assessment.", "What is your overall verdict?", "How did you arrive at these scores?",
        "Describe the picture's scores.",
    ),
    "why_low": (
        "Why does this image score low?", "What is wrong with it?", "Why is the score so low?",
        "Why did my picture get a low score?", "What went wrong here?", "What drags the score down?",
        "Why is it rated like that?", "Why isn't the score higher?",
        "What is the problem with this picture?", "Why the bad marks?",
        "What keeps it from scoring higher?", "Explain the low score.",
    ),
    "what_faults": (
        "What faults does it have?", "Which technical faults do you see?", "Are there any faults?",
        "List the faults.", "Do you see anything wrong in the picture?", "Which defects can you detect?",
    ),
    "how_bad": (
        "How bad is it?", "How serious is that?", "Is it a big problem?", "How strong is the fault?",
        "Is it really that bad?", "How much does it matter?",
    ),
    "what_to_change": (
        "What should I change?", "How can I improve it?", "How do I get a higher score?",
        "What would help?", "How do I fix this?", "What should I do differently next time?", "Any advice?",
    ),
    "is_it_the_prompt": (
        "Is the low score because of the prompt?", "Is it the prompt?", "Is my prompt to blame?",
        "Is the picture the problem, or the prompt?", "Does the score have to do with the prompt?",
        "Should I blame the prompt?",
    ),
    "number_meaning": (
        "What does a {name} of {number} mean?", "Is a {name} of {number} a lot?",
        "What is {number} for {name}?", "How should I read a {name} of {number}?",
        "The {name} is {number}. What does that tell me?", "{number} for {name}: is that high or low?",
    ),
    "unanswerable": (
        "Who made this picture?", "Which camera took this?", "Which model generated it?",
        "When was this made?", "Where was this taken?", "How much is it worth?",
        "Who owns the rights to it?", "Who is the person in it?", "What was the seed?",
        "Will people like it on social media?",
    ),
    "compare_lowest": (
        "Which of the three scores is the lowest?", "What is its weakest side?", "Which score is worst?",
        "Where does it do worst?", "Which score should I work on first?",
    ),
    "compare_highest": (
        "Which of the three scores is the highest?", "What is its strongest side?", "Which score is best?",
        "Where does it do best?", "What does it do well?",
    ),
}  # fmt: skip
WHY_LOW_ABOUT = (
    "Why is the {name} low?", "Why is the {name} not higher?", "What lowers the {name}?",
    "Explain the low {name}.",
    "Why did the {name} come out like that?", "What is wrong with the {name}?",
)  # fmt: skip
SHOWS_IT = (
    "Does it show what the prompt says?", "Does the picture show what I asked for?",
    "Did it leave anything out?",
    "Is everything from the prompt there?", "Is this what the prompt asks for?",
)  # fmt: skip

ANSWERS: dict[str, tuple[str, ...]] = {
    "fault_low": (
        "The {name} is {level} because the picture is {faults}.",
        "The {name} is {level}: look closely and you can see that the picture is {faults}.",
        "The picture is {faults}, and that is why the {name} is {level}.",
        "I rate it low here: the {name} is {level}, since the picture is {faults}.",
        "The {name} is {level}. The reason you can check by eye: the picture is {faults}.",
    ),
    "fault_high": (
        "The {name} is {level}, although the picture is {faults}.",
        "The {name} is {level} on the whole, even if the picture is {faults}.",
        "The picture is {faults}, yet it takes little away: the {name} is {level}.",
        "The {name} is {level}. The one thing to mention: the picture is {faults}.",
    ),
    "clean_low": (
        "The {name} is {level}, but none of the faults I can detect explains it.",
        "The {name} is {level}. I can't name the cause: none of the faults I can detect explains it.",
        "The {name} is {level}; none of the faults I can detect explains why it is not higher.",
        "I see that the {name} is {level}, yet none of the faults I can detect explains it.",
    ),
    "clean_high": (
        "The {name} is {level}, and no fault that would lower it stands out.",
        "The {name} is {level}: I can detect nothing that would lower it.",
        "The {name} is {level}. None of the faults that could lower it stands out.",
        "No fault that counts here stands out to me, and the {name} is {level}.",
    ),
    "not_low": (
        "It is not low: the {name} is {level}, which is the upper part of the scale.",
        "I would not call it low. The {name} is {level}, so there is little to explain.",
        "The {name} is not low at all; in fact the {name} is {level}.",
        "There is no low score to explain here, because the {name} is {level}.",
    ),
    "prompt_low": (
        "The correspondence is {level}: the picture does not show what the prompt asks for.",
        "The picture does not show what the prompt asks for, so the correspondence is {level}.",
        "The correspondence is {level} because what the prompt asks for is not what the picture shows.",
        "It misses what was asked for: the correspondence is {level}, and the picture and its prompt differ.",
    ),
    "prompt_part": (
        "The correspondence is {level}: the picture shows only part of what the prompt asks for.",
        "The picture shows part of what the prompt asks for and misses part; the correspondence is {level}.",
        "In part: the correspondence is {level}, since some of what the prompt asks for is missing.",
        "It follows the prompt in part only, which is why the correspondence is {level}.",
    ),
    "prompt_high": (
        "The correspondence is {level}: the picture shows what the prompt asks for.",
        "The picture shows what the prompt asks for, so the correspondence is {level}.",
        "It follows the prompt well, and that is why the correspondence is {level}.",
        "What the prompt asks for can be seen in the picture; the correspondence is {level}.",
    ),
    "unrated": (
        "I have no value for this one: the {name} is {unrated}.",
        "The {name} is {unrated}, so I can't say anything reliable about it.",
        "There is nothing to report on that, because the {name} is {unrated}.",
        "That question can't be answered at the moment; the {name} is {unrated}.",
    ),
    "number": (
        "Scores run from 0 to 100, higher is better. The {name} is {level}, as from {low} to {high}.",
        "At {number} out of 100 the {name} is {level}, which covers {low} to {high}. Higher is better.",
        "It means that the {name} is {level}. That word stands for {low} to {high} out of 100.",
        "On a scale from 0 to 100, where higher is better, {number} says that the {name} is {level}.",
    ),
    "unanswerable": (
        "I can't tell that from the picture. I can rate its quality, authenticity and fit to its prompt.",
        "The picture does not say. Ask me about its quality, its authenticity or its prompt instead.",
        "That is not something I can see. I can explain its quality, authenticity and correspondence.",
        "I don't know, and won't guess. I only judge quality, authenticity and correspondence.",
        "Nothing in the picture tells me that. I can say what lowers its scores and what you could change.",
    ),
    "lowest": (
        "The lowest of the rated scores is the {name}: the {name} is {level}.",
        "It is weakest in one place: the {name} is {level}, and nothing else is lower.",
        "The {name} comes out lowest. In words, the {name} is {level}.",
        "Of the scores I can give, the {name} is the lowest; the {name} is {level}.",
    ),
    "highest": (
        "The highest of the rated scores is the {name}: the {name} is {level}.",
        "It is strongest in one place: the {name} is {level}, and nothing else is higher.",
        "The {name} comes out highest. In words, the {name} is {level}.",
        "Of the scores I can give, the {name} is the highest; the {name} is {level}.",
    ),
    "nothing_rated": (
        "None of the three scores is rated for this picture, so there is nothing to compare.",
        "I have no rated score for this picture, and so I can't say more about it.",
        "There is no score for this picture yet, so that question has to wait.",
        "Without a single rated score there is nothing that I could tell you here.",
    ),
}  # fmt: skip

# Sentences that several kinds of answer are put together from.
SEEN = (
    "Look closely: the picture is {faults}.", "By eye, the picture is {faults}.",
    "Visibly, the picture is {faults}.", "As seen, the picture is {faults}.",
)  # fmt: skip
UNEXPLAINED = ("None of the faults I can detect explains it.", "I can detect no fault that explains it.")
CLEAN = (
    "No technical fault stands out in it.", "None of the faults I look for stands out.",
    "I can detect no fault in it.", "No fault that I know of stands out.",
)  # fmt: skip
MISSED = ("The picture does not show what the prompt asks for.", "It does not show what the prompt asks for.")
HALF_MISSED = (
    "It shows only part of what the prompt asks for.",
    "Part of what the prompt asks for is missing.",
)
NOT_LOW = (
    "It does not score low at all.",
    "I would not call this a low score.",
    "There is no low score here.",
)
STRENGTH = (
    "I would call that a {weight} flaw.", "That is a {weight} flaw.",
    "The strongest fault is a {weight} one.",
    "All in all, a {weight} flaw.",
)  # fmt: skip
WEIGHTS = {"slightly": "small", "clearly": "plain", "heavily": "serious"}
REWORD = (
    "Put the prompt in simpler, more concrete words.", "Shorten the prompt and name the main subject first.",
    "Try the prompt again with another seed, or reword it.",
    "Reword the prompt so that it asks for one thing.",
)  # fmt: skip
TRY_AGAIN = (
    "I would try another seed and compare the scores.",
    "Generating it again with other settings is worth a try.",
    "Try again with another seed or model and compare.", "All I can suggest is another seed or more steps.",
)  # fmt: skip
LEAVE_IT = (
    "There is nothing I would change.", "I would leave it as it is.", "No change is needed.",
    "I see no reason to change anything.",
)  # fmt: skip
NOT_THE_PROMPT = ("No, not the prompt.", "The prompt is not the reason.", "No, I would not blame the prompt.")
THE_PROMPT = ("Yes, in part at least.", "Yes, the prompt plays a part.", "In part, yes.")

KINDS = (
    *QUESTIONS, "why_low", "what_faults", "how_bad", "what_to_change", "is_it_the_prompt", "number_meaning",
    "unanswerable", "compare",
)  # fmt: skip
_NAMELESS = frozenset({"number_meaning", "unanswerable", "compare"})


@dataclass(frozen=True)
class Sample:
    """One question and its answer. `about`: the one score it asks for, None for several or none."""

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
) -> Sample:
    """A question of one of `KINDS` and the answer that the picture's scores and faults give it.

    `scores`: 0..100, higher is better, None where there is none; `faults`: what was detected, each with its
    severity on 0..1; `prompt`: None if there was none, and then correspondence counts as not rated. The
    answer has 10 to 45 words. Raises ValueError for an unknown kind.
    """
    if kind not in KINDS:
        raise ValueError(f"there is no kind of question called {kind!r}, only {', '.join(KINDS)}")
    rated = {name: scores.get(name) for name in DIMENSIONS}
    if prompt is None:
        rated["correspondence"] = None
    return _Writer(rated, faults, prompt is not None, rng).sample(kind)


def nameable_faults(
    faults: Sequence[tuple[FaultName, float]], kind: str, about: Dimension | None = None
) -> list[tuple[FaultName, float]]:
    """Which faults the answer to a question names: severe enough, to the point, strongest first."""
    if kind in _NAMELESS:
        return []
    to_the_point = faults if about is None else [fault for fault in faults if fault[0] in EXPLAINED_BY[about]]
    severe = [fault for fault in to_the_point if fault[1] >= NAMED_FROM]
    return sorted(severe, key=lambda fault: -fault[1])[:MOST_NAMED]


def grade_of(severity: float) -> str:
    """ "slightly", "clearly" or "heavily" for a severity on 0..1."""
    return [grade for grade, least in GRADES.items() if severity >= least][-1]


class _Writer:
    """Writes one sample. Scores on 0..100 or None."""

    def __init__(
        self,
        scores: Mapping[Dimension, float | None],
        faults: Sequence[tuple[FaultName, float]],
        has_prompt: bool,
        rng: np.random.Generator,
    ) -> None:
        self.scores, self.faults, self.has_prompt, self.rng = scores, faults, has_prompt, rng
        self.named: list[tuple[FaultName, float]] = []
        self.rated = {name: score for name, score in scores.items() if score is not None}

    def sample(self, kind: str) -> Sample:
        about: Dimension | None = None
        wordings = QUESTION_WORDINGS.get(kind, ())
        if kind in DIMENSIONS:
            about = kind
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

    # --- one score ---

    def _about(self, name: Dimension, asked_why: bool) -> str:
        score = self.scores[name]
        if score is None:
            return " ".join([self._fill("unrated", name), *self._seen()])
        if name == "correspondence":
            level = "low" if score < LEVEL_CUTS[1] else "part" if score < LOW_BELOW else "high"
            return self._fill("not_low" if asked_why and level == "high" else f"prompt_{level}", name)
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

    # --- all scores: each returns sentences ---

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
        """What explains the levels: the faults, the prompt, or an honest nothing."""
        picture_low = self._is_low("quality") or self._is_low("authenticity")
        sentences = self._seen() or ([self._one_of(UNEXPLAINED)] if picture_low else [])
        if self._is_low("correspondence"):
            missed = MISSED if self.rated["correspondence"] < LEVEL_CUTS[1] else HALF_MISSED
            reason = [self._one_of(missed)]
            # The reason for the low score comes first, and what merely is there second.
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
        # Rounded down: no cut lies between a score and the whole number below it, so the level stays.
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
