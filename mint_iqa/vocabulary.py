"""The words that follow numbers: level words, fault names, and which words name a fault.

Answers, the JSON and the page all take their words from here, so they can't disagree.
"""

import re
from typing import Literal

Dimension = Literal["quality", "authenticity", "correspondence"]
Level = Literal["bad", "poor", "fair", "good", "excellent"]
FaultName = Literal["blur", "noise", "compression", "darkness", "pixelation", "malformation"]
Fit = Literal["missed", "part", "shown"]

DIMENSIONS: tuple[Dimension, ...] = ("quality", "authenticity", "correspondence")
# Columns of tensors of scores and targets, float[..., K].
QUALITY, AUTHENTICITY, CORRESPONDENCE = map(DIMENSIONS.index, ("quality", "authenticity", "correspondence"))
LEVELS: tuple[Level, ...] = ("bad", "poor", "fair", "good", "excellent")
FAULTS: tuple[FaultName, ...] = ("blur", "noise", "compression", "darkness", "pixelation", "malformation")

# The five absolute category rating words of ITU-T P.910, at equal steps of the 0..100 scale.
LEVEL_CUTS = (20.0, 40.0, 60.0, 80.0)

# A weaker fault is neither listed nor named: at a severity of .25 people begin to see it (KADID-10k's means).
NAMED_FROM = 0.25

# Regular expressions that name a fault in an English answer, each matched at the start of a word.
FAULT_STEMS: dict[FaultName, tuple[str, ...]] = {
    "blur": ("blur", "soft(?!ware)", "out of focus", "unsharp"),
    "noise": ("nois", "grain", "speckle"),
    "compression": ("blocky", "blocking", "compress", "jpeg"),
    "darkness": ("dark", "underexpos", r"dim(?:ly|med)?\b"),
    "pixelation": ("pixelat", "blocky", "mosaic"),
    "malformation": ("malform", "warped", "melted", "misshap", "duplicated"),
}

# The words that nano is taught to name a fault with.
FAULT_WORDS: dict[FaultName, tuple[str, ...]] = {
    "blur": ("blurry", "blurred", "unsharp"),
    "noise": ("noisy", "grainy"),
    # "blocky" is left out: it names compression and pixelation alike.
    "compression": ("compressed", "marked by compression", "damaged by compression"),
    "darkness": ("underexposed", "darkened"),
    "pixelation": ("pixelated",),
    "malformation": ("malformed in places", "warped in places", "misshapen in places"),
}

# Which faults explain which score; a wrong prompt is not a fault of the picture.
EXPLAINED_BY: dict[Dimension, frozenset[FaultName]] = {
    "quality": frozenset({"blur", "noise", "compression", "darkness", "pixelation"}),
    "authenticity": frozenset({"malformation"}),
    "correspondence": frozenset(),
}

# How strong a named fault is, and the severity (0..1) from which each word holds.
GRADES: dict[str, float] = {"slightly": 0.0, "clearly": 0.5, "heavily": 0.8}


# The four questions behind `Assessment.explanation`, in the wording of the published instruction data.
QUESTIONS: dict[str, str] = {
    "quality": "How is the quality of the image?",
    "authenticity": "How is the authenticity of the image?",
    "correspondence": "How is the correspondence of the image?",
    "overall": "Why does the image get these scores?",
}


def level_of(score: float) -> Level:
    """The word for a score on 0..100 (higher is better); a cut belongs to the level above it."""
    return LEVELS[sum(score >= cut for cut in LEVEL_CUTS)]


def fit_of(correspondence: float) -> Fit:
    """How much of its prompt a picture may be said to show at a score on 0..100."""
    fits: dict[Level, Fit] = {"bad": "missed", "poor": "missed", "fair": "part"}
    return fits.get(level_of(correspondence), "shown")


def grade_of(severity: float) -> str:
    """The word of `GRADES` for a severity on 0..1."""
    return [grade for grade, least in GRADES.items() if severity >= least][-1]


def named_faults(answer: str) -> frozenset[FaultName]:
    """Every fault that `answer` names. "blocky" names both compression and pixelation: they look alike."""
    text = answer.lower()
    return frozenset(
        name for name, stems in FAULT_STEMS.items() if any(re.search(rf"\b{stem}", text) for stem in stems)
    )
