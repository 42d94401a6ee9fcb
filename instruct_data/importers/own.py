"""Your own ratings in a CSV file. Score ranges that you do not state are guessed."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from instruct_data.importers.table import TableColumns, read_table
from instruct_data.records import RatedImage
from mint_iqa.errors import MintIQAError
from mint_iqa.tables.reading import Findings, csv_rows, unreadable
from mint_iqa.tables.scales import ScoreColumn
from mint_iqa.vocabulary import DIMENSIONS

TEXT_COLUMNS = ("image", "prompt", "generator", "reference")
# Common rating scales. The first one that contains all values of a column is used.
USUAL_RANGES = ((0.0, 1.0), (1.0, 5.0), (0.0, 5.0), (1.0, 10.0), (0.0, 10.0), (0.0, 100.0))


def read_own(
    path: Path, named: Mapping[str, str], findings: Findings
) -> tuple[list[RatedImage], TableColumns]:
    """The ratings of a CSV file, and the columns and ranges they were read from.

    The file needs a column `image` and at least one of quality, authenticity and correspondence. Optional
    columns: prompt, generator, reference, and the raters' spread, e.g. `quality_std`.
    named: other names for these columns, {"image": "file"}. A score column can have its ends,
    {"quality": "mos:1:5"} (COLUMN:WORST:BEST); otherwise `guess_range` finds them.
    Raises MintIQAError (`bad_argument`, `file_missing`, `unreadable_file`).
    """
    if unknown := sorted(named.keys() - {*TEXT_COLUMNS, *DIMENSIONS}):
        raise MintIQAError(
            "bad_argument",
            f"{unknown[0]!r} is not a column of ratings: name {', '.join((*TEXT_COLUMNS, *DIMENSIONS))}.",
        )
    # `read_table` finds the problems of single rows.
    rows = [row for _, row in csv_rows(path, (), Findings(path))]
    if not rows:
        unreadable(path, "it has a header but no rows, so add one row per picture")
    texts = {name: named.get(name, name if name in rows[0] else None) for name in TEXT_COLUMNS}
    scores = {
        dimension: _column(path, named.get(dimension, dimension), rows)
        for dimension in DIMENSIONS
        if dimension in named or dimension in rows[0]
    }
    if not scores:
        raise MintIQAError(
            "bad_argument",
            f"{path} has no column {', '.join(DIMENSIONS)} (it has: {', '.join(rows[0]):.200}): name the "
            "column of a score, such as \"columns={quality: 'mos:1:5'}\".",
        )
    spreads = {d: f"{c.name}_std" for d, c in scores.items() if f"{c.name}_std" in rows[0]}
    texts["image"] = texts["image"] or "image"  # read_table reports a missing column
    columns = TableColumns(scores=scores, spreads=spreads, **texts)  # type: ignore[arg-type]
    return read_table(path, columns, findings), columns


def guess_range(path: Path, name: str, cells: Sequence[str]) -> tuple[float, float]:
    """The first of `USUAL_RANGES` that contains every number of a column; higher is better.

    Raises MintIQAError (`bad_argument`) if no range does, or if the column has no number.
    """
    values = sorted(value for cell in cells if (value := _number(cell)) is not None)
    found = [ends for ends in USUAL_RANGES if values and ends[0] <= values[0] and values[-1] <= ends[1]]
    if not found:
        trouble = f"runs from {values[0]:g} to {values[-1]:g}, no usual scale" if values else "has no number"
        raise MintIQAError(
            "bad_argument",
            f"Column {name!r} of {path} {trouble}: "
            f"state its ends, such as \"columns={{quality: '{name}:1:7'}}\".",
        )
    return found[0]


def _column(path: Path, text: str, rows: Sequence[Mapping[str, str]]) -> ScoreColumn:
    if text not in rows[0]:
        return ScoreColumn.parse(text)
    return ScoreColumn(text, *guess_range(path, text, [row[text] for row in rows]))


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if abs(value) < float("inf") else None
