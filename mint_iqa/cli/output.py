"""How records leave: to stdout or a file, as lines, together or as a table; complaints go to stderr."""

import json
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, TextIO

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TimeRemainingColumn
from rich.text import Text

from mint_iqa.cli.panel import panel
from mint_iqa.errors import MintIQAError
from mint_iqa.records import Answer, Assessment, Record
from mint_iqa.text import plain

Format = Literal["table", "json", "jsonl", "csv", "parquet"]


def unwritable(output: Path) -> MintIQAError:
    return MintIQAError("output_unwritable", f"--output {output} can't be written: choose another place.")


def export(records: Iterator[Record], total: int | None, format: Format, output: Path | None) -> None:
    """Write every record and complain about the failed ones; `total` is None for one image by itself."""
    failed = 0

    def watched() -> Iterator[Record]:
        nonlocal failed
        for record in progress.track(records, total=total or 1):
            if not isinstance(record, Assessment | Answer):
                failed += 1
                complain(record.error.message, progress.console)
            yield record

    with _opened(output) as stream:
        with progress_bar(torn=format == "jsonl" and stream.isatty()) as progress:
            if format == "jsonl":
                _write_lines(watched(), stream)
            else:
                kept = list(watched())
        if format != "jsonl":  # not before the bar is gone: both may share a terminal
            write_together(kept, total is None, format, stream)
    if format == "table" and output is not None:
        _write_table(kept, sys.stdout)
    if failed:
        raise typer.Exit(2 if total is None else 1)


@contextmanager
def _opened(output: Path | None) -> Iterator[TextIO]:
    if output is None:
        yield sys.stdout
        return
    try:
        stream = output.open("w", encoding="utf-8", newline="\n")
    except OSError:
        raise unwritable(output) from None
    with stream:
        yield stream


class Rate(ProgressColumn):
    """How many items a second."""

    def render(self, task: Task) -> Text:
        return Text(f"{task.speed:.1f}/s" if task.speed else "", style="progress.data.speed")


def progress_bar(torn: bool = False) -> Progress:
    """A bar on stderr if that is a terminal, unless it would be `torn` by lines on the same terminal."""
    console = Console(stderr=True)
    return Progress(
        BarColumn(),
        MofNCompleteColumn(),
        Rate(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=torn or not console.is_terminal,
        redirect_stdout=False,  # rich would send the results to stderr
        redirect_stderr=False,
    )


def _write_lines(records: Iterable[Record], stream: TextIO) -> None:
    for record in records:
        put(record.model_dump_json() + "\n", stream)


def write_together(records: Iterable[Record], single: bool, format: Format, stream: TextIO) -> None:
    """JSON; a table is for people, so a file gets the same records as JSON."""
    if format == "table" and stream is sys.stdout:
        _write_table(records, stream)
        return
    values = [record.model_dump(mode="json") for record in records]
    put(json.dumps(values[0] if single else values, indent=2, ensure_ascii=False) + "\n", stream)


def _write_table(records: Iterable[Record], stream: TextIO) -> None:
    panels = [panel(record) for record in records if isinstance(record, Assessment)]
    console = Console(file=stream, highlight=False)
    with console.capture() as capture:
        console.print(*panels, sep="\n") if panels else None
    put(capture.get(), stream)


def put(text: str, stream: TextIO) -> None:
    try:
        stream.write(text)
        stream.flush()
    except BrokenPipeError:  # the reader, say `head`, has had enough; typer ends quietly on it
        raise
    except OSError as error:
        raise MintIQAError("output_unwritable", f"The output can't be written: {error.strerror}.") from None


def remark(message: str) -> None:
    """Print a sentence on stderr that reports something other than an error."""
    Console(stderr=True).print(Text(plain(message)), soft_wrap=True, highlight=False)


def complain(message: str, console: Console | None = None) -> None:
    text = Text.assemble(("error: ", "bold red"), plain(message))
    (console or Console(stderr=True)).print(text, soft_wrap=True, highlight=False)
