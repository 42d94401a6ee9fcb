"""What all score files share: ranges, contradictions, pictures that are not there."""

import math
from collections.abc import Iterable, Sequence
from pathlib import Path

from instruct_data.reading import Findings
from instruct_data.records import R, Record


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
    """Map `value` from worst..best to 0..100; best < worst turns a difference score round.

    Raises ValueError for a value outside the range.
    """
    low, high = sorted((worst, best))
    if not low <= value <= high:
        raise ValueError(f"{name} {value:g} is outside {low:g}..{high:g}")
    return (value - worst) / (best - worst) * 100


def drop_conflicts(lined: Sequence[tuple[int, R]], findings: Findings) -> list[R]:
    """The records without those that give a picture and prompt other scores than an earlier line did."""
    first: dict[tuple[str, str | None], tuple[int, R]] = {}
    kept: list[R] = []
    for line, record in lined:
        before, earlier = first.setdefault((record.image, record.prompt), (line, record))
        if record.known_scores == earlier.known_scores:
            kept.append(record)
        else:
            findings.add(line, f"{record.image} has other scores here than on line {before}")
    return kept


def missing_images(records: Iterable[Record], folder: Path) -> tuple[int, int]:
    """How many of the records' pictures are no files below `folder`, and how many pictures there are."""
    names = {record.image for record in records}
    return sum(not (folder / name).is_file() for name in names), len(names)
