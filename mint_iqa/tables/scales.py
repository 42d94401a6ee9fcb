"""Scores on other people's scales: reading their numbers, and mapping them to 0..100, higher is better."""

import math
from dataclasses import dataclass
from typing import Self

from mint_iqa.errors import MintIQAError


@dataclass(frozen=True)
class ScoreColumn:
    """A column of scores and the ends of its scale; best < worst for difference scores."""

    name: str
    worst: float
    best: float

    @classmethod
    def parse(cls, text: str) -> Self:
        """From COLUMN:WORST:BEST, e.g. mos:1:5 or dmos:100:0. Raises MintIQAError (`bad_argument`)."""
        name, *ends = text.rsplit(":", 2)
        try:
            worst, best = map(float, ends)
        except ValueError:
            worst = best = math.nan
        if not name or worst == best or not math.isfinite(best - worst):
            raise MintIQAError(
                "bad_argument",
                f"{text!r} is not COLUMN:WORST:BEST with two different numbers: write mos:1:5, or dmos:100:0 "
                "where lower is better.",
            )
        return cls(name, worst, best)


def number(name: str, text: str) -> float:
    """The finite number of a cell. Raises ValueError."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ValueError(f"{name} {text!r:.40} is not a number")
    return value


def percent(name: str, value: float, worst: float = 0.0, best: float = 1.0) -> float:
    """Map `value` from worst..best to 0..100; best < worst reverses a difference score.

    Raises ValueError for a value outside the range.
    """
    low, high = sorted((worst, best))
    if not low <= value <= high:
        raise ValueError(f"{name} {value:g} is outside {low:g}..{high:g}")
    return (value - worst) / (best - worst) * 100
