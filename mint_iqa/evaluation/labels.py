"""Human scores of images, from any CSV file with a header, or from ratings as instruct_data writes them.

Columns that are not named are looked for under the names that published sets use.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mint_iqa.errors import MintIQAError
from mint_iqa.tables.reading import Findings, csv_lines, csv_rows, read_text, unreadable
from mint_iqa.tables.scales import ScoreColumn, number, percent
from mint_iqa.vocabulary import DIMENSIONS, Dimension

# In the order of preference: the names of AGIQA-3K, AIGCIQA2023+, and this project's own.
USUAL_NAMES: dict[str, tuple[str, ...]] = {
    "image": ("image", "name", "img", "file"),
    "prompt": ("prompt", "text"),
    "generator": ("generator",),
    "reference": ("reference",),
    "quality": ("mos_quality", "quality", "moz1", "mos"),
    "authenticity": ("mos_authenticity", "authenticity", "moz2"),
    "correspondence": ("mos_correspondence", "correspondence", "mos_align", "alignment", "moz3"),
}


@dataclass(frozen=True)
class Column:
    """A column of a label file. scale: how its scores map to 0..100; None leaves them in their own unit."""

    name: str
    scale: ScoreColumn | None = None

    @classmethod
    def parse(cls, text: str) -> "Column":
        """From COLUMN or COLUMN:WORST:BEST. Raises MintIQAError (`bad_argument`)."""
        if ":" not in text:
            return cls(text)
        scale = ScoreColumn.parse(text)
        return cls(scale.name, scale)

    def score(self, cells: Mapping[str, str]) -> float | None:
        """The score of a row, None for a blank cell. Raises ValueError."""
        text = cells[self.name].strip()
        if not text:
            return None
        value = number(self.name, text)
        return value if self.scale is None else percent(self.name, value, self.scale.worst, self.scale.best)


@dataclass(frozen=True)
class Label:
    """What a label file says of one image; texts are "" where it says nothing."""

    image: str
    prompt: str
    generator: str
    reference: str
    scores: dict[Dimension, float]


@dataclass(frozen=True)
class Labels:
    """A label file. columns: where each dimension's scores were found."""

    rows: list[Label]
    columns: dict[Dimension, Column]


def read_labels(path: Path, named: Mapping[str, str]) -> Labels:
    """Human scores of images.

    named: columns by what they hold (the keys of `USUAL_NAMES`), those of scores as COLUMN or
    COLUMN:WORST:BEST. A blank score means that nobody rated it. Raises MintIQAError: `file_missing`,
    `unreadable_file`, `missing_column`, `unusable_lines`, `no_labels`.
    """
    findings = Findings(path)
    if path.suffix == ".jsonl":
        header, lines = list(USUAL_NAMES), _ratings(path, findings)
        named = {name: f"{name}:0:100" for name in DIMENSIONS} | dict(named)
    else:
        header, lines = _header(path), csv_rows(path, [], findings)
    columns = _columns(path, header, named)
    rows = []
    for line, cells in lines:
        with findings.at(line):
            rows.append(_label(cells, columns))
    findings.check("Correct these lines, or leave a score blank that nobody gave")
    if not rows:
        raise MintIQAError("no_labels", f"{path} has a header but no rows: add one row per image.")
    return Labels(rows, {name: columns[name] for name in DIMENSIONS if name in columns})


def _header(path: Path) -> list[str]:
    lines = csv_lines(path)
    if not lines:
        unreadable(path, "it is empty, so give it a header and rows")
    return [name.strip() for name in lines[0][1]]


def _columns(path: Path, header: Sequence[str], named: Mapping[str, str]) -> dict[str, Column]:
    """The columns that are there, by what they hold."""
    columns = {}
    for key, usual in USUAL_NAMES.items():
        name = named.get(key) or next((name for name in usual if name in header), None)
        if name is not None:
            columns[key] = Column.parse(name) if key in DIMENSIONS else Column(name)
    missing = [column.name for column in columns.values() if column.name not in header]
    lacking = "scores" if not any(key in DIMENSIONS for key in columns) else "images"
    if missing or lacking == "scores" or "image" not in columns:
        what = repr(missing[0]) if missing else f"of {lacking} that is known by its name"
        raise MintIQAError(
            "missing_column",
            f"{path} has no column {what} (it has: {', '.join(header):.200}): name those that are meant, "
            "with --image, --quality, --authenticity or --correspondence.",
        )
    return columns


def _label(cells: Mapping[str, str], columns: Mapping[str, Column]) -> Label:
    about = USUAL_NAMES.keys() - DIMENSIONS
    texts = {key: cells[columns[key].name].strip() if key in columns else "" for key in about}
    if not texts["image"]:
        raise ValueError("the image is empty")
    scores = {name: columns[name].score(cells) for name in DIMENSIONS if name in columns}
    return Label(**texts, scores={name: score for name, score in scores.items() if score is not None})


def _ratings(path: Path, findings: Findings) -> list[tuple[int, dict[str, str]]]:
    """(line, cells by the keys of `USUAL_NAMES`) of JSON Lines with image, mos, and what else is known."""
    lines = []
    for line, text in enumerate(read_text(path).rstrip().split("\n"), 1):
        with findings.at(line):
            rating = json.loads(text)
            if not isinstance(rating, dict) or not isinstance(rating.get("mos"), dict):
                raise ValueError("it is not a rating, which has an image and mos")
            if unknown := rating["mos"].keys() - set(DIMENSIONS):
                raise ValueError(f"{min(unknown)!r:.40} is not one of {', '.join(DIMENSIONS)}")
            known = {key: value for key, value in (rating | rating["mos"]).items() if value is not None}
            lines.append((line, {key: str(known.get(key, "")) for key in USUAL_NAMES}))
    return lines
