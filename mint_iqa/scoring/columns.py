"""Assessments as rows of flat columns: CSV for spreadsheets, Parquet for data frames."""

import csv
import os
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, TextIO

from mint_iqa.errors import MintIQAError
from mint_iqa.records import Assessment, Explanation, FailedAssessment
from mint_iqa.vocabulary import DIMENSIONS, FAULTS

BOUNDS = tuple(f"{name}_{end}" for name in DIMENSIONS for end in ("low", "high"))
NUMBERS = (*DIMENSIONS, *BOUNDS, *(f"fault_{name}" for name in FAULTS))
COLUMNS = (
    "image", "prompt", *DIMENSIONS, *BOUNDS, *(f"{name}_level" for name in DIMENSIONS),
    *(f"fault_{name}" for name in FAULTS), "warnings",
    *(f"{name}_explanation" for name in Explanation.model_fields),
    "error_code", "error", "image_sha256", "model", "revision",
)  # fmt: skip
# Spreadsheets run cells that begin like this as formulas, and file names come from strangers.
FORMULA = ("=", "+", "-", "@", "\t", "\r")
ROW_GROUP = 8192


def row_of(record: Assessment | FailedAssessment) -> dict[str, Any]:
    """Column -> value, by the names in `COLUMNS` and `metadata_...`; what does not apply is left out.

    Scores and ends of intervals are 0..100, faults severities 0..1 with two decimals as in the JSON, and
    absent if not found.
    """
    row: dict[str, Any] = {
        "image": record.image, "prompt": record.prompt, "image_sha256": record.image_sha256,
        "model": record.model.name, "revision": record.model.revision,
        **{f"metadata_{name}": text for name, text in (record.metadata or {}).items()},
    }  # fmt: skip
    if isinstance(record, FailedAssessment):
        return {**row, "error_code": record.error.code, "error": record.error.message}
    written = record.model_dump(mode="json")
    return {
        **row,
        **written["scores"],
        **_bounds(written["intervals"]),
        **{f"{name}_level": level for name, level in written["levels"].items()},
        **{f"fault_{fault['name']}": fault["severity"] for fault in written["faults"]},
        **{f"{name}_explanation": text for name, text in (written["explanation"] or {}).items()},
        "warnings": " ".join(record.warnings),
    }


def _bounds(intervals: dict[str, list[float] | None] | None) -> dict[str, float]:
    known = {name: interval for name, interval in (intervals or {}).items() if interval}
    return {
        f"{name}_{end}": value
        for name, interval in known.items()
        for end, value in zip(("low", "high"), interval, strict=True)
    }


def write_rows(
    records: Iterable[Assessment | FailedAssessment], file: TextIO, metadata: Sequence[str] = ()
) -> None:
    """CSV with a header and one row per record; the columns image and prompt can be read as a manifest again.

    A text that a spreadsheet would take for a formula gets a ' in front.
    """
    writer = csv.DictWriter(file, _columns(metadata))
    writer.writeheader()
    for record in records:
        writer.writerow({name: _cell(value) for name, value in row_of(record).items()})


def write_table(
    records: Iterable[Assessment | FailedAssessment], path: Path, metadata: Sequence[str] = ()
) -> None:
    """Write all of `records` to `path`, as Parquet if its name ends so and else as CSV.

    If that fails, `path` stays as it was.

    metadata: the metadata's names. Raises OSError, and MintIQAError (`extra_missing`) without pyarrow.
    """
    unfinished = path.with_name(f".{path.name}.unfinished")
    try:
        if path.suffix.lower() == ".parquet":
            _write_parquet(records, unfinished, metadata)
        else:
            with unfinished.open("w", encoding="utf-8", newline="") as file:
                write_rows(records, file, metadata)
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)


def need_pyarrow() -> None:
    """Raises MintIQAError where it is missing: better before the run than after."""
    try:
        import pyarrow  # noqa: F401
    except ImportError:
        raise MintIQAError(
            "extra_missing", "Parquet needs pyarrow: pip install 'mint-iqa[parquet]', or write .csv."
        ) from None


def _write_parquet(
    records: Iterable[Assessment | FailedAssessment], path: Path, metadata: Sequence[str]
) -> None:
    need_pyarrow()
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = _columns(metadata)
    schema = pa.schema([(name, pa.float64() if name in NUMBERS else pa.string()) for name in columns])
    with pq.ParquetWriter(path, schema) as writer:
        for group in _groups(map(row_of, records), ROW_GROUP):
            writer.write_table(pa.Table.from_pylist(group, schema))


def _groups(rows: Iterator[dict[str, Any]], size: int) -> Iterator[list[dict[str, Any]]]:
    while group := list(islice(rows, size)):
        yield group


def _columns(metadata: Sequence[str]) -> list[str]:
    return [*COLUMNS, *(f"metadata_{name}" for name in metadata)]


def _cell(value: object) -> object:
    return f"'{value}" if isinstance(value, str) and value.startswith(FORMULA) else value
