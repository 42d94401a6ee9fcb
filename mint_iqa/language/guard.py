"""What an answer must not say, because its picture's scores and faults contradict it."""

from collections.abc import Collection, Mapping, Sequence

from mint_iqa.language.llm import LanguageModel
from mint_iqa.vocabulary import (
    EXPLAINED_BY,
    FAULT_WORDS,
    GRADES,
    Dimension,
    FaultName,
    Fit,
    Level,
    fit_of,
    grade_of,
    level_of,
)

# What nano is taught to say about picture and prompt, each up to the word that decides its meaning, and where
# it is true (None: without a prompt). With a leading blank: only inside an answer, because one may begin with
# "The picture does not say".
FIT_WORDS: dict[str, tuple[Fit | None, ...]] = {
    "It does not show": ("missed",),
    "It does": ("missed", "shown", None),  # "It does not score low" would be false where something is missing
    " The picture does": ("missed",),
    "the picture does": ("missed",),
    "picture does not show": ("missed",),
    "because what the prompt": ("missed",),
    "misses what": ("missed",),
    "shows only part": ("part",),
    "shows part of": ("part",),
    "In part:": ("part",),
    "prompt in part": ("part",),
    "Part of what": ("part",),
    "shows what": ("shown",),
    "asks for can": ("shown",),
    "prompt well": ("shown",),
}


# What nano is taught to say where no fault explains a score ("the quality is fair"), each up to the word that
# decides its meaning; then the same about several scores.
UNEXPLAINED_SCORE = (", but", ". I can", "; none", ", yet", ", and no", ": I can", ". None")
UNEXPLAINED_SCORES = (". None", ". I can", ". No")
FAULTLESS = (
    "None of the faults I",
    "can detect no fault",
    "No technical",
    "faults I look",
    "fault that I know",
)


def false_denials(levels: Mapping[Dimension, Level], found: Collection[FaultName]) -> list[str]:
    """Beginnings of what nano is taught to deny a fault with, where `found` makes the denial false.

    levels: of the scores that are there.
    """
    if not found:
        return []
    explained = {name for name, faults in EXPLAINED_BY.items() if faults & set(found)}
    one = [
        f"{n} is {level}{words}"
        for n, level in levels.items()
        for words in UNEXPLAINED_SCORE
        if n in explained
    ]
    lists = [f"and the {name} is {level}" for name, level in levels.items()]
    if "correspondence" in levels:  # the only score of which no fault is ever denied by itself
        lists.append(f"correspondence is {levels['correspondence']}")
    several = [f"{clause}{words}" for clause in lists for words in UNEXPLAINED_SCORES]
    counts = [f"stands out to me, and the {name}" for name in levels if name in explained]
    return [*one, *several, *counts, *FAULTLESS]


def banned_sequences(
    language: LanguageModel,
    known: Sequence[FaultName],
    found: Mapping[FaultName, float],
    scores: Mapping[Dimension, float | None],
) -> list[tuple[int, ...]]:
    """Token sequences that must not be in an answer about a picture, because they claim too much.

    These are the first tokens of words for faults that were not detected, and for strengths that no detected
    fault has; what is said about the prompt at other scores than this one; and that no fault explains a
    score, where one does.
    known: faults that the model can detect; none if it was taught in other words than ours. found: severities
    0..1 of what it detected. scores: 0..100, None where it does not rate.
    """
    if not known:
        return []
    allowed = language.first_tokens([w for n in found for w in FAULT_WORDS[n]])
    other = [w.split()[0] for n in known if n not in found for w in FAULT_WORDS[n]]
    grades = GRADES.keys() - {grade_of(severity) for severity in found.values()}
    faults = {(token,) for token in language.first_tokens([*other, *grades]) - allowed}
    levels = {name: level_of(score) for name, score in scores.items() if score is not None}
    correspondence = scores["correspondence"]
    fit = None if correspondence is None else fit_of(correspondence)
    claims = [words for words, fits in FIT_WORDS.items() if fit not in fits]
    return sorted(faults | language.sequences([*claims, *false_denials(levels, found)]))
