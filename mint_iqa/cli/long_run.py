"""Scores of many images into a file: what is done stays done, and --resume continues from there."""

import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from types import FrameType
from typing import TypeAlias

import typer
from rich.console import Console

from mint_iqa.cli.output import complain, progress_bar
from mint_iqa.errors import MintIQAError
from mint_iqa.records import FailedAssessment, ModelInfo
from mint_iqa.scoring.batches import Batch, Batches, Scored, batches_of
from mint_iqa.scoring.columns import write_table
from mint_iqa.scoring.journal import SCORED, Done, append, done_so_far, open_after
from mint_iqa.scoring.manifest import Item

Engine: TypeAlias = Callable[[Sequence[Batch]], Batches]
INTERRUPTED = 130


def score_into_file(
    items: Sequence[Item],
    output: Path,
    engine: Engine,
    *,
    model: ModelInfo,
    table: bool,
    batch_size: int,
    explain: bool,
    resume: bool,
    note: Callable[[Scored], None] | None = None,
) -> None:
    """Append the records of `items` to a journal by batches; with `table`, make CSV or Parquet of it then.

    note: told of every record in the end, of earlier runs as well.

    The journal is `output`, or with `table` the file beside it with .jsonl added to its name. Ends with
    typer's exit 1 if some items failed (2 if it was the only one), and 130 after Ctrl-C.
    """
    path = output.with_name(f"{output.name}.jsonl") if table else output
    done = done_so_far(path, items, batch_size, model, explain) if resume else Done()
    try:
        done, stopped = _score_the_rest(items, path, engine, done, batch_size)
        if table:
            metadata = dict.fromkeys(name for item in items for name in item.metadata or ())
            write_table(_records(path), output, list(metadata))
        if note is not None:
            for record in _records(path):
                note(record)
    except OSError as error:
        raise MintIQAError(
            "output_unwritable",
            f"{error.filename or path} can't be written ({error.strerror}): --resume continues from there.",
        ) from None
    if stopped:
        left = f"Stopped with {done.items} of {len(items)} done: the same command with --resume continues."
        Console(stderr=True).print(left, soft_wrap=True, highlight=False)
        raise typer.Exit(INTERRUPTED)
    if done.failed:
        raise typer.Exit(2 if len(items) == 1 else 1)


def _score_the_rest(
    items: Sequence[Item], path: Path, engine: Engine, done: Done, batch_size: int
) -> tuple[Done, bool]:
    """What is done in the end, and whether Ctrl-C ended it."""
    with (
        open_after(path, done) as journal,
        closing(engine(batches_of(items[done.items :], batch_size))) as batches,
        progress_bar() as progress,
        _ctrl_c_waits() as interrupted,
    ):
        task = progress.add_task("", total=len(items), completed=done.items)
        for records in batches:
            append(journal, records)
            failed = [record for record in records if isinstance(record, FailedAssessment)]
            for record in failed:
                complain(record.error.message, progress.console)
            done = Done(done.items + len(records), done.failed + len(failed), journal.tell())
            progress.update(task, completed=done.items)
            if interrupted() and done.items < len(items):
                return done, True
    return done, False


@contextmanager
def _ctrl_c_waits() -> Iterator[Callable[[], bool]]:
    """Within it, the first Ctrl-C only makes the yielded function return True; the second interrupts."""
    seen: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        seen.append(number)
        signal.signal(signal.SIGINT, before)

    before = signal.signal(signal.SIGINT, note)
    try:
        yield lambda: bool(seen)
    finally:
        signal.signal(signal.SIGINT, before)


def _records(journal: Path) -> Iterator[Scored]:
    with journal.open("rb") as lines:
        for line in lines:
            yield SCORED.validate_json(line)
