"""What all score files share: contradictions, and pictures that are not there."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from instruct_data.records import R, Record
from mint_iqa.tables.reading import Findings


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
