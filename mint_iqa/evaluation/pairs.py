"""Which record of `mint-iqa score` belongs to which label."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TypeVar

from pydantic import TypeAdapter, ValidationError

from mint_iqa.errors import MintIQAError
from mint_iqa.evaluation.labels import Column, Label, read_labels
from mint_iqa.records import Answer, Assessment, Record
from mint_iqa.tables.reading import Findings, read_text
from mint_iqa.text import counted
from mint_iqa.vocabulary import Dimension

Scored = Assessment | Answer


@dataclass(frozen=True)
class Pair:
    """One image with a record and a label."""

    record: Scored
    label: Label

    @property
    def prompt(self) -> str:
        """The prompt that the label names, else the one it was scored with; "" for neither."""
        return self.label.prompt or self.record.prompt or ""

    @property
    def group(self) -> str:
        """What images share that aren't independent: the prompt, else the pristine image, else the image."""
        return self.prompt or self.label.reference or self.label.image


@dataclass(frozen=True)
class Joined:
    """Pairs in the order of the labels. columns: of each dimension's labels; notes: what was left out."""

    pairs: list[Pair]
    columns: dict[Dimension, Column]
    notes: list[str]


def join(scores: Path, labels: Path, named: Mapping[str, str]) -> Joined:
    """Every image that has a record and a label. named: columns, as in `read_labels`.

    Images are the same if their names are; where no two names are, if the names of their files are, whatever
    the folder. Raises MintIQAError as `read_scores` and `read_labels` do, `duplicate_image`, and `no_match`.
    """
    records, failed = read_scores(scores)
    read = read_labels(labels, named)
    whole_names = (_by_name(scores, records, str), _by_name(labels, read.rows, str))
    pairs = _matched(*whole_names)
    if not pairs:
        pairs = _matched(_by_name(scores, records, _file_name), _by_name(labels, read.rows, _file_name))
    if not pairs:
        raise MintIQAError(
            "no_match",
            f"No image of {scores} is in {labels} (their first ones are {records[0].image!r:.100} and "
            f"{read.rows[0].image!r:.100}): score the images that the labels name.",
        )
    return Joined(pairs, read.columns, list(_notes(len(pairs), len(records), len(read.rows), failed)))


def read_scores(path: Path) -> tuple[list[Scored], int]:
    """The records of a JSON Lines file that have scores, in order, and how many are failures instead.

    Raises MintIQAError (`file_missing`, `unreadable_file`, `unusable_lines`, `no_records`).
    """
    adapter: TypeAdapter[Record] = TypeAdapter(Record)
    findings = Findings(path)
    records: list[Record] = []
    for line, text in enumerate(read_text(path).split("\n"), 1):  # splitlines would split at U+2028 too
        try:
            records += [adapter.validate_json(text)] if text.strip() else []
        except ValidationError:
            findings.add(line, "it is not a record of this version")
    findings.check("Write them anew with mint-iqa score --format jsonl")
    scored = [record for record in records if isinstance(record, Assessment | Answer)]
    if not scored:
        raise MintIQAError(
            "no_records", f"{path} holds no scores: write them with mint-iqa score --format jsonl."
        )
    return scored, len(records) - len(scored)


Named = TypeVar("Named", Scored, Label)


def _by_name(path: Path, items: Sequence[Named], name_of: Callable[[str], str]) -> dict[str, Named]:
    found: dict[str, Named] = {}
    for item in items:
        name = name_of(item.image)
        if name in found:
            raise MintIQAError(
                "duplicate_image", f"{path} has {name!r:.200} more than once: keep one line per image."
            )
        found[name] = item
    return found


def _matched(records: Mapping[str, Scored], labels: Mapping[str, Label]) -> list[Pair]:
    return [Pair(records[name], label) for name, label in labels.items() if name in records]


def _file_name(image: str) -> str:
    return PurePosixPath(image.replace("\\", "/")).name


def _notes(matched: int, scored: int, labeled: int, failed: int) -> Iterator[str]:
    if failed:
        yield f"{counted(failed, 'image')} could not be scored."
    if scored > matched:
        yield f"{scored - matched:,} of {counted(scored, 'scored image')} have no label."
    if labeled > matched:
        yield f"{labeled - matched:,} of {counted(labeled, 'labeled image')} have no score."
