"""Ratings of one's own: a CSV file whose columns speak for themselves, ranges found where none is stated."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from instruct_data.importers.table import Columns, read_table
from instruct_data.records import RatedImage
from mint_iqa.errors import MintIQAError
from mint_iqa.tables.reading import Findings, csv_rows, unreadable
from mint_iqa.tables.scales import ScoreColumn
from mint_iqa.vocabulary import DIMENSIONS

TEXTS = ("image", "prompt", "generator", "reference")
# Scales people rate on; the first that holds all values is taken for the one meant.
USUAL_RANGES = ((0.0, 1.0), (1.0, 5.0), (0.0, 5.0), (1.0, 10.0), (0.0, 10.0), (0.0, 100.0))


def read_own(path: Path, named: Mapping[str, str], findings: Findings) -> tuple[list[RatedImage], Columns]:
    """The ratings of a CSV file, and which columns on which ranges they were read from.

    A column `image`, and one at least of quality, authenticity, correspondence; taken as well if they are
    there: prompt, generator, reference, and the raters' spread in e.g. `quality_std`.
    named: other names for them, {"image": "file"}; for a score also with its ends, {"quality": "mos:1:5"}
    (COLUMN:WORST:BEST), else they are guessed by `guess_range`.
    Raises MintIQAError (`bad_argument`, `file_missing`, `unreadable_file`).
    """
    if unknown := sorted(named.keys() - {*TEXTS, *DIMENSIONS}):
        raise MintIQAError(
            "bad_argument",
            f"There is no column for {unknown[0]!r}: name {', '.join((*TEXTS, *DIMENSIONS))}.",
        )
    # Whatever is wrong with single rows is found by `read_table`.
    rows = [row for _, row in csv_rows(path, (), Findings(path))]
    if not rows:
        unreadable(path, "it has a header but no rows, so add one a picture")
    texts = {name: named.get(name, name if name in rows[0] else None) for name in TEXTS}
    scores = {
        dimension: _column(path, named.get(dimension, dimension), rows)
        for dimension in DIMENSIONS
        if dimension in named or dimension in rows[0]
    }
    if not scores:
        raise MintIQAError(
            "bad_argument",
            f"{path} has no column {', '.join(DIMENSIONS)} (it has: {', '.join(rows[0]):.200}): say which is "
            "which, such as \"columns={quality: 'mos:1:5'}\".",
        )
    spreads = {d: f"{c.name}_std" for d, c in scores.items() if f"{c.name}_std" in rows[0]}
    texts["image"] = texts["image"] or "image"  # and if it is missing, read_table says so
    columns = Columns(scores=scores, spreads=spreads, **texts)  # type: ignore[arg-type]
    return read_table(path, columns, findings), columns


def guess_range(path: Path, name: str, cells: Sequence[str]) -> tuple[float, float]:
    """The first of `USUAL_RANGES` that holds every number of a column; higher counts as better.

    MintIQAError (`bad_argument`) where none does, or the column has no number.
    """
    values = sorted(value for cell in cells if (value := _number(cell)) is not None)
    found = [ends for ends in USUAL_RANGES if values and ends[0] <= values[0] and values[-1] <= ends[1]]
    if not found:
        trouble = f"runs from {values[0]:g} to {values[-1]:g}, no usual scale" if values else "has no number"
        raise MintIQAError(
            "bad_argument",
            f"Column {name!r} of {path} {trouble}: "
            f"state its ends, as in \"columns={{quality: '{name}:1:7'}}\".",
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
