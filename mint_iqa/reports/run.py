"""The records of one `mint-iqa score`, read line by line and kept small enough to hold 100,000."""

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from pydantic import TypeAdapter, ValidationError

from mint_iqa.errors import MintIQAError
from mint_iqa.records import Assessment, FailedAssessment
from mint_iqa.tables.reading import Findings, unreadable
from mint_iqa.vocabulary import DIMENSIONS, Dimension

USUAL_COLUMNS = ("generator", "model")
FOLDER = "folder"
NO_GROUP = "(none)"

Floats: TypeAlias = npt.NDArray[np.float64]
_RECORD: TypeAdapter[Assessment | FailedAssessment] = TypeAdapter(Assessment | FailedAssessment)


@dataclass(frozen=True, slots=True)
class Scored:
    """What a report needs of an assessment. faults: (name, severity 0..1); group: generator, folder, ..."""

    image: str
    prompt: str
    sha256: str | None
    group: str
    faults: tuple[tuple[str, float], ...]


@dataclass(frozen=True, slots=True)
class Failed:
    """An image without scores, and the sentence that says why."""

    image: str
    group: str
    code: str
    message: str


@dataclass
class Run:
    """One file of records.

    `by` is what groups are: a metadata column, or "folder". scores: float[N, 3] of `items`, 0..100 with two
    decimals, nan where there is none; columns as in `DIMENSIONS`. intervals: float[N, 3, 2], low and high end
    of the 90 % interval of each score, likewise. warnings: how often each was given.
    """

    path: Path
    by: str
    items: list[Scored] = field(default_factory=list)
    failures: list[Failed] = field(default_factory=list)
    scores: Floats = field(default_factory=lambda: np.empty((0, len(DIMENSIONS))))
    intervals: Floats = field(default_factory=lambda: np.empty((0, len(DIMENSIONS), 2)))
    models: Counter[str] = field(default_factory=Counter)
    warnings: Counter[str] = field(default_factory=Counter)

    def of(self, dimension: Dimension) -> Floats:
        """float[N], nan where an image has no such score."""
        return self.scores[:, DIMENSIONS.index(dimension)]

    def intervals_of(self, dimension: Dimension) -> Floats:
        """float[N, 2], nan where a score has no interval."""
        return self.intervals[:, DIMENSIONS.index(dimension)]


def read_run(path: Path, by: str | None = None) -> Run:
    """The records of a JSON Lines file.

    Images are grouped by the metadata column `by`, or by their folder with "folder"; if `by` is left out, by
    the first of `USUAL_COLUMNS` that the first record has, else by folder. Raises MintIQAError
    (`unreadable_file`, `unusable_lines`, `no_records`, `missing_column`).
    """
    run = Run(path, by or "")
    rows: list[tuple[float, ...]] = []
    ends: list[tuple[float, ...]] = []
    columns: set[str] = set()
    for record in _records(path):
        known = record.metadata or {}
        columns.update(known)
        run.by = run.by or next((name for name in USUAL_COLUMNS if name in known), FOLDER)
        run.models[f"{record.model.name} {record.model.revision:.12}"] += 1
        group = _group(record.image, known, run.by)
        if isinstance(record, FailedAssessment):
            run.failures.append(Failed(record.image, group, record.error.code, record.error.message))
        else:
            run.items.append(_scored(record, group))
            rows.append(_row(record))
            ends.append(_ends(record))
            run.warnings.update(record.warnings)
    _check(run, by, columns)
    run.scores = np.array(rows).reshape(-1, len(DIMENSIONS))
    run.intervals = np.array(ends).reshape(-1, len(DIMENSIONS), 2)
    return run


def _records(path: Path) -> Iterator[Assessment | FailedAssessment]:
    findings = Findings(path)
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, 1):
                try:
                    if line.strip():
                        yield _RECORD.validate_json(line)
                except ValidationError:
                    findings.add(number, "it is not a record of mint-iqa score of this version")
    except OSError as error:
        unreadable(path, f"it can't be read ({error.strerror}), so check the path")
    findings.check("Write them anew with mint-iqa score --format jsonl")


def _check(run: Run, by: str | None, columns: set[str]) -> None:
    if not run.items and not run.failures:
        raise MintIQAError(
            "no_records", f"{run.path} holds no records: write them with mint-iqa score --format jsonl."
        )
    if by is not None and by != FOLDER and by not in columns:
        known = ", ".join([*sorted(columns), FOLDER])
        raise MintIQAError(
            "missing_column", f"{run.path} has no metadata {by!r:.100}: group by one of {known:.300}."
        )


def _group(image: str, metadata: dict[str, str], by: str) -> str:
    if by == FOLDER and FOLDER not in metadata:
        return str(PurePosixPath(image.replace("\\", "/")).parent)
    return metadata.get(by) or NO_GROUP


def _scored(record: Assessment, group: str) -> Scored:
    faults = tuple((fault.name, fault.severity) for fault in record.faults)
    return Scored(record.image, (record.prompt or "").strip(), record.image_sha256, group, faults)


def _row(record: Assessment) -> tuple[float, ...]:
    scores = (getattr(record.scores, name) for name in DIMENSIONS)
    return tuple(math.nan if score is None else round(score, 2) for score in scores)


def _ends(record: Assessment) -> tuple[float, ...]:
    """Low and high end by turns, in the order of `DIMENSIONS`."""
    return tuple(end for name in DIMENSIONS for end in record.interval(name) or (math.nan, math.nan))
