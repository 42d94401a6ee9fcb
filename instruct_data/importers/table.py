"""Scores from any CSV file (UTF-8, commas, a header) whose columns and ranges are given."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from instruct_data.importers.scores import drop_conflicts
from instruct_data.records import RatedImage
from mint_iqa.errors import MintIQAError
from mint_iqa.tables.reading import Findings, csv_rows
from mint_iqa.tables.scales import ScoreColumn, number, percent
from mint_iqa.vocabulary import Dimension


@dataclass(frozen=True)
class TableColumns:
    """The columns of a CSV file; other columns are ignored and counted.

    spreads: columns of the raters' standard deviations, in the unit of the score column.
    """

    scores: Mapping[Dimension, ScoreColumn]
    image: str = "image"
    prompt: str | None = None
    generator: str | None = None
    reference: str | None = None
    spreads: Mapping[Dimension, str] = field(default_factory=dict)


def read_table(path: Path, columns: TableColumns, findings: Findings) -> list[RatedImage]:
    """Ratings of a CSV file, each score mapped from worst..best to 0..100; the source is the file's stem.

    Raises MintIQAError (`bad_argument`) if no column of scores is named.
    """
    if not columns.scores:
        raise MintIQAError("bad_argument", "No column of scores is named: add e.g. --quality mos:1:5.")
    texts = (columns.image, columns.prompt, columns.generator, columns.reference)
    scores = [column.name for column in columns.scores.values()]
    needed = [*filter(None, texts), *scores, *columns.spreads.values()]
    ratings = []
    for line, row in csv_rows(path, needed, findings):
        with findings.at(line):
            rating = RatedImage(
                image=row[columns.image],
                prompt=row[columns.prompt] if columns.prompt else None,
                source=path.stem,
                generator=row[columns.generator] if columns.generator else None,
                reference=row[columns.reference] or None if columns.reference else None,
                mos={dimension: _score(row, column) for dimension, column in columns.scores.items()},
                mos_std={d: _spread(row, columns.scores[d], name) for d, name in columns.spreads.items()},
            )
            ratings.append((line, rating))
    return drop_conflicts(ratings, findings)


def _score(row: Mapping[str, str], column: ScoreColumn) -> float:
    return percent(column.name, number(column.name, row[column.name]), column.worst, column.best)


def _spread(row: Mapping[str, str], column: ScoreColumn, name: str) -> float:
    return number(name, row[name]) / abs(column.best - column.worst) * 100
