"""Lists of images to score or ask about: items, how they are read from CSV, and answers in order."""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mint_iqa.errors import MintIQAError
from mint_iqa.records import Failure
from mint_iqa.tables.reading import MAX_CELL


@dataclass(frozen=True, slots=True)
class Item:
    """One image to score, or one question to ask about it.

    `image` is the name the user gave, echoed in the record; `source` is where that file is; `metadata` holds
    the other columns of its row; `problem` says why the item can't be tried at all.
    """

    image: str
    source: str | Path
    prompt: str | None = None
    question: str = ""
    metadata: dict[str, str] | None = None
    problem: Failure | None = None


def read_manifest(path: Path, required: Sequence[str] = ("image",)) -> list[Item]:
    """The items of a CSV file (UTF-8, commas, a header), one per row, in order.

    Images are looked for relative to the file's folder. `prompt` is an optional column, and blank means none;
    columns other than `required` and `prompt` become metadata. A row with a blank required cell, or with more
    cells than the header, becomes an item with a `problem`. Raises MintIQAError (`manifest_missing`,
    `manifest_unreadable`, `manifest_missing_column`, `manifest_empty`) if the file as a whole can't be used.
    """
    try:
        csv.field_size_limit(MAX_CELL)
        # strict: a quote left open would otherwise silently swallow the rest of the file
        rows = [row for row in csv.reader(io.StringIO(_text(path), newline=""), strict=True) if row]
    except csv.Error as error:
        raise MintIQAError(
            "manifest_unreadable",
            f"{path} is not a readable CSV file ({error}): check its quotes and commas.",
        ) from None
    if not rows:
        raise MintIQAError(
            "manifest_empty", f"{path} is empty: give it a header with an image column, and rows."
        )
    columns = [name.strip() for name in rows[0]]
    _check_columns(path, columns, required)
    if not rows[1:]:
        raise MintIQAError("manifest_empty", f"{path} has a header but no rows: add one row per image.")
    return [_item(path, columns, number, row, required) for number, row in enumerate(rows[1:], 1)]


def _text(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        raise MintIQAError("manifest_missing", f"{path} does not exist: check the path.") from None
    except UnicodeDecodeError:
        raise MintIQAError(
            "manifest_unreadable", f"{path} is not UTF-8 text: save it as CSV UTF-8."
        ) from None
    except OSError as error:
        reason = error.strerror or "unknown error"
        raise MintIQAError(
            "manifest_unreadable", f"{path} can't be read ({reason}): give a CSV file."
        ) from None


def _check_columns(path: Path, columns: Sequence[str], required: Sequence[str]) -> None:
    found = ", ".join(columns)
    for name in required:
        if name not in columns:
            raise MintIQAError(
                "manifest_missing_column",
                f"{path} has no column {name!r} (it has: {found:.200}): name one so, separated by commas.",
            )
    for name in columns:
        if columns.count(name) > 1:
            raise MintIQAError("manifest_unreadable", f"{path} has two columns {name!r}: rename one of them.")


def _item(
    path: Path, columns: Sequence[str], number: int, row: Sequence[str], required: Sequence[str]
) -> Item:
    cells = dict(zip(columns, [*row, *[""] * len(columns)], strict=False))
    image = cells["image"].strip()
    return Item(
        image=cells["image"],
        source=image if "://" in image else path.parent / image,
        prompt=(cells.get("prompt", "").strip() and cells["prompt"]) or None,
        question=cells["question"] if "question" in required else "",
        metadata={name: text for name, text in cells.items() if name not in {*required, "prompt"}} or None,
        problem=_problem(f"Row {number} of {path}", cells, len(row) > len(columns), required),
    )


def _problem(where: str, cells: dict[str, str], too_long: bool, required: Sequence[str]) -> Failure | None:
    if too_long:
        message = f"{where} has more cells than the header: put texts with a comma in quotes."
        return Failure(code="manifest_bad_row", message=message)
    for name in required:
        if not cells[name].strip():
            return Failure(code=f"{name}_missing", message=f"{where} has an empty {name}: fill it in.")
    return None
