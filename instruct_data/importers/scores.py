"""Checks that all score files share: contradictory scores and missing pictures."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from instruct_data.records import R, Record
from mint_iqa.tables.reading import Findings


def drop_conflicts(lined: Sequence[tuple[int, R]], findings: Findings) -> list[R]:
    """The records without those that contradict an earlier line on the scores of a picture and prompt."""
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
    """The number of the records' pictures that are missing below `folder`, and the number of all pictures."""
    names = {record.image for record in records}
    return sum(not (folder / name).is_file() for name in names), len(names)
