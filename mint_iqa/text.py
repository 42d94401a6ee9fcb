"""Counts in words, intervals in whole points, and strangers' texts on one line."""

import math


def counted(number: int, what: str) -> str:
    """1 line, 2,000 lines."""
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def whole_points(low: float, high: float) -> tuple[int, int]:
    """An interval of points rounded outwards, so that its score stays within it: 51.2, 73.1 -> 51, 74."""
    return math.floor(low), math.ceil(high)


def plain(text: str) -> str:
    """`text` on one line and without control characters, which could steer the terminal."""
    return " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())
