"""JSON Lines that grow by whole batches, so that a run that was cut off continues where it ended."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from pydantic import TypeAdapter, ValidationError

from mint_iqa.errors import MintIQAError
from mint_iqa.records import FailedAssessment, ModelInfo, encodable
from mint_iqa.scoring.batches import Scored
from mint_iqa.scoring.manifest import Item

SCORED: TypeAdapter[Scored] = TypeAdapter(Scored)


@dataclass(frozen=True)
class Done:
    """What a journal holds: the first `items` items, `failed` of them without scores, in `size` bytes."""

    items: int = 0
    failed: int = 0
    size: int = 0


def append(journal: BinaryIO, records: Sequence[Scored]) -> None:
    """Write a batch and hand it to the system, where no kill can undo it. Raises OSError."""
    journal.write(b"".join(record.model_dump_json().encode() + b"\n" for record in records))
    journal.flush()


def done_so_far(path: Path, items: Sequence[Item], batch_size: int, model: ModelInfo, explain: bool) -> Done:
    """How much of `items` the journal holds, in whole batches; a half-written last line is not counted.

    Counting whole batches only, the rest is scored in the same batches as without the interruption, and comes
    out the same to the last digit. Raises MintIQAError (`resume_mismatch`) where the journal is of another
    list, model or `explain`.
    """
    if not path.exists():
        return Done()
    count = failed = size = 0
    whole = Done()
    with path.open("rb") as lines:
        for line in lines:
            if not line.endswith(b"\n"):
                break
            record = _record(path, count + 1, line)
            _check_same(path, record, count, items, model, explain)
            count, size = count + 1, size + len(line)
            failed += isinstance(record, FailedAssessment)
            if count % batch_size == 0 or count == len(items):
                whole = Done(count, failed, size)
    return whole


@contextmanager
def open_after(path: Path, done: Done) -> Iterator[BinaryIO]:
    """The journal, opened to be appended to, with nothing in it but what is done. Raises OSError."""
    with path.open("r+b" if done.size else "wb") as journal:
        journal.truncate(done.size)
        journal.seek(0, os.SEEK_END)
        yield journal


def _record(path: Path, number: int, line: bytes) -> Scored:
    try:
        return SCORED.validate_json(line)
    except ValidationError:
        raise MintIQAError(
            "resume_mismatch",
            f"{path} can't be resumed: line {number} is not a record. Give another --output.",
        ) from None


def _check_same(
    path: Path, record: Scored, index: int, items: Sequence[Item], model: ModelInfo, explain: bool
) -> None:
    if index >= len(items):
        what = f"more than the {len(items)} images of this run"
    elif not _is_of(record, items[index]):
        what = f"{record.image!r} where this run has {items[index].image!r}"
    elif record.model != model:
        what = f"scores by {record.model.name} {record.model.revision}, not {model.name} {model.revision}"
    elif not isinstance(record, FailedAssessment) and (record.explanation is not None) != explain:
        what = f"records with{'out' * explain} explanations, other than this run"
    else:
        return
    raise MintIQAError(
        "resume_mismatch",
        f"{path} can't be resumed: line {index + 1} has {what}. Run as before, or give another --output.",
    )


def _is_of(record: Scored, item: Item) -> bool:
    prompt = encodable(item.prompt or "").strip()  # scored without the blanks around it
    return record == record.with_origin(item.image, item.metadata) and (record.prompt or "").strip() == prompt
