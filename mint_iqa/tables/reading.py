"""Reads CSV and JSON files of other people; reports all problems at once, with line numbers."""

import csv
import io
import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

from pydantic import ValidationError

from mint_iqa.errors import MintIQAError
from mint_iqa.text import counted

MOST_SHOWN = 5
_GAP = re.compile(r"[ \t\r\n]*")


class Findings:
    """What is wrong with the lines of one file, and what was left out of it on purpose.

    problems: (line, what is wrong), in the order they were found; ignored: fields that no record takes, with
    the number of lines that have them.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.problems: list[tuple[int, str]] = []
        self.ignored: Counter[str] = Counter()

    def add(self, line: int, problem: str) -> None:
        """Note that `line` (from 1) can't be used."""
        self.problems.append((line, problem))

    @contextmanager
    def at(self, line: int) -> Iterator[None]:
        """Turns a ValueError of the body, pydantic's included, into a problem of `line`."""
        try:
            yield
        except ValidationError as error:
            self.add(line, "; ".join(map(_reason, error.errors(include_url=False))))
        except ValueError as error:
            self.add(line, str(error))

    def summary(self) -> str:
        """The file, the number of its problems, and the first few with their lines."""
        shown = "; ".join(f"line {line}: {what:.300}" for line, what in sorted(self.problems)[:MOST_SHOWN])
        rest = len(self.problems) - MOST_SHOWN
        more = f"; and {rest} more" if rest > 0 else ""
        return f"{self.path} has {counted(len(self.problems), 'problem')}: {shown}{more}"

    def check(self, remedy: str = "Correct these lines and try again") -> None:
        """Raises MintIQAError (`unusable_lines`) that counts all problems and names the first, if any."""
        if self.problems:
            raise MintIQAError("unusable_lines", f"{self.summary()}. {remedy}.")


def _reason(error: Any) -> str:
    """One of pydantic's errors in one line: where in the record, and what."""
    place = ".".join(str(part) for part in error["loc"])
    message = " ".join(error["msg"].removeprefix("Value error, ").split())
    return f"{place}: {message}" if place else message


def unreadable(path: Path, reason: str, line: int | None = None) -> NoReturn:
    """Raises MintIQAError (`unreadable_file`): nothing of `path` can be used."""
    where = path if line is None else f"{path}, line {line}"
    raise MintIQAError("unreadable_file", f"{where}: {reason}.") from None


def read_bytes(path: Path) -> bytes:
    """The bytes of a file. Raises MintIQAError (`file_missing`, `unreadable_file`)."""
    try:
        return path.read_bytes()
    except (FileNotFoundError, ValueError):  # ValueError: a null character in the name
        raise MintIQAError("file_missing", f"{path} does not exist: check the path.") from None
    except OSError as error:
        unreadable(path, f"it can't be read ({error.strerror or 'unknown error'})")


def read_text(path: Path, encoding: str = "utf-8-sig") -> str:
    """The text of a file. Raises MintIQAError (`file_missing`, `unreadable_file`)."""
    try:
        return read_bytes(path).decode(encoding)
    except UnicodeDecodeError:
        unreadable(path, f"it is not {encoding.removesuffix('-sig').upper()} text, so save it as such")


def csv_lines(path: Path, encoding: str = "utf-8-sig") -> list[tuple[int, list[str]]]:
    """(line, cells) of each row of a CSV file that is not blank; the line is where the row ends."""
    csv.field_size_limit(MAX_CELL)
    # strict: a quote left open would otherwise silently swallow the rest of the file
    reader = csv.reader(io.StringIO(read_text(path, encoding), newline=""), strict=True)
    try:
        return [(reader.line_num, row) for row in reader if row]
    except csv.Error as error:
        unreadable(path, f"it is not a CSV file ({error}), so check quotes and commas", reader.line_num)


def csv_rows(path: Path, needed: Sequence[str], findings: Findings) -> list[tuple[int, dict[str, str]]]:
    """(line, {column: cell}) of a CSV file with a header; rows of another length become problems.

    `needed` columns must be there; all others are counted as ignored.
    """
    lines = csv_lines(path)
    if not lines:
        unreadable(path, "it is empty, so give it a header and rows")
    header = [name.strip() for name in lines[0][1]]
    missing = [name for name in needed if name not in header]
    if missing or len(set(header)) < len(header):
        trouble = f"it has no column {missing[0]!r}" if missing else "two of its columns have one name"
        unreadable(path, f"{trouble} (it has: {', '.join(header):.200})", lines[0][0])
    findings.ignored.update({name: len(lines) - 1 for name in header if name not in needed})
    rows = []
    for line, cells in lines[1:]:
        if len(cells) == len(header):
            rows.append((line, dict(zip(header, cells, strict=True))))
        else:
            findings.add(line, f"{len(cells)} cells under {len(header)} columns")
    return rows


def json_records(path: Path) -> list[tuple[int, Any]]:
    """(line, value) of each element of a JSON file that holds one array; the line is where it begins."""
    text = read_text(path)
    try:
        return list(_elements(text))
    except json.JSONDecodeError as error:
        unreadable(path, f"it is not JSON ({error.msg})", error.lineno)
    except (ValueError, RecursionError) as error:  # a number too long, brackets too deep
        unreadable(path, f"it is not JSON that can be read ({error})")


def _elements(text: str) -> Iterator[tuple[int, Any]]:
    # json.loads would lose where each record stands.
    decoder = json.JSONDecoder()
    position, line, counted = _expect("[", text, 0), 1, 0
    mark = "," if text[position : position + 1] != "]" else "]"
    while mark == ",":
        line, counted = line + text.count("\n", counted, position), position
        value, end = decoder.raw_decode(text, position)
        yield line, value
        position = _skip(text, end)
        mark = text[position : position + 1]
        if mark == ",":
            position = _skip(text, position + 1)
    end = _expect("]", text, position)
    if end != len(text):
        raise json.JSONDecodeError("more text after the array", text, end)


def _expect(sign: str, text: str, position: int) -> int:
    position = _skip(text, position)
    if text[position : position + 1] != sign:
        raise json.JSONDecodeError(f"no {sign!r} where one is needed", text, position)
    return _skip(text, position + 1)


def _skip(text: str, position: int) -> int:
    gap = _GAP.match(text, position)
    return gap.end() if gap else position


# Characters. Python's own limit of 131,072 would make the whole file unreadable for one long prompt.
MAX_CELL = 2**30
