"""The `mint-iqa` command: score images, ask about them, convert checkpoints, print the JSON Schema.

Results go to stdout or `--output`, everything else to stderr. Exit code 0: all well; 1: some items of several
failed, and have an `error` in the output; 2: the input was of no use, a single image included; 130: Ctrl-C.
"""

import json
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from io import TextIOWrapper
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, TextIO

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn
from rich.text import Text

from mint_iqa.errors import MintIQAError
from mint_iqa.manifest import Item, answers, assessments, read_manifest
from mint_iqa.records import LIBRARY_VERSION, Answer, Assessment, Record
from mint_iqa.records import schema as record_schema
from mint_iqa.table import panel, plain

if TYPE_CHECKING:
    from mint_iqa.assessor import Assessor

Format = Literal["table", "json", "jsonl"]

Prompt = Annotated[str | None, typer.Option(help="The text the images were made from.")]
Manifest = Annotated[Path | None, typer.Option(help="CSV file of items; images relative to its folder.")]
Output = Annotated[
    Path | None, typer.Option(help="File to write to; a table stays on the screen, and the file gets JSON.")
]
Model = Annotated[str, typer.Option(help="Preset (nano), folder, or hub id.")]
Device = Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, ...; chosen by itself if left out.")]
Dtype = Annotated[str | None, typer.Option(help="float32, bfloat16 or float16; chosen if left out.")]

app = typer.Typer(
    name="mint-iqa",
    help="Scores AI-generated images for quality, authenticity and correspondence, and says why.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command with `arguments` (those of the process by default) and return its exit code."""
    _speak_utf8()
    try:
        app(args=arguments, prog_name="mint-iqa")
    except SystemExit as stop:  # how typer ends, with the code
        return stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except MintIQAError as error:
        _complain(error.message)
        return 2
    return 0


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"mint-iqa {LIBRARY_VERSION}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", is_eager=True, callback=_print_version)
    ] = False,
) -> None:
    pass


@app.command()
def score(
    images: Annotated[list[str] | None, typer.Argument(metavar="IMAGE...", help="Image files.")] = None,
    prompt: Prompt = None,
    manifest: Manifest = None,
    output: Output = None,
    format: Annotated[Format | None, typer.Option(help="table for images, jsonl for a manifest.")] = None,
    explain: Annotated[
        bool | None, typer.Option("--explain/--no-explain", help="On for images, off for a manifest.")
    ] = None,
    model: Model = "nano",
    device: Device = None,
    dtype: Dtype = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Images scored at once.")] = 8,
) -> None:
    """Score images on 0..100, higher is better, and say why.

    A manifest has the column image, and may have prompt; other columns become metadata.
    """
    _check_choice(images, manifest, prompt)
    _check_output(output, images, manifest)
    single_items = [Item(name, name, _given(prompt)) for name in images or ()]
    items = read_manifest(manifest) if manifest else single_items
    explain = manifest is None if explain is None else explain
    assessor = _load(model, device, dtype)
    records = assessments(assessor, items, batch_size=batch_size, explain=explain)
    single = manifest is None and len(items) == 1
    _export(records, None if single else len(items), format or ("jsonl" if manifest else "table"), output)


@app.command()
def ask(
    image: Annotated[str | None, typer.Argument(metavar="IMAGE", help="Image file.")] = None,
    question: Annotated[str | None, typer.Argument(metavar="QUESTION", help="What to ask about it.")] = None,
    prompt: Prompt = None,
    manifest: Manifest = None,
    output: Output = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print a JSON record, not just the answer.")
    ] = False,
    model: Model = "nano",
    device: Device = None,
    dtype: Dtype = None,
) -> None:
    """Ask a question about an image.

    A manifest has the columns image and question, and may have prompt; other columns become metadata.
    """
    _check_choice([image] if image is not None else [], manifest, prompt)
    _check_output(output, [image or ""], manifest)
    if manifest:
        items = read_manifest(manifest, required=("image", "question"))
        return _export(answers(_load(model, device, dtype), items), len(items), "jsonl", output)
    if not question or not question.strip():
        raise MintIQAError("bad_argument", "There is no question: put one in quotes after the image.")
    item = Item(str(image), str(image), _given(prompt), question)
    assessor = _load(model, device, dtype)
    if as_json or output:
        return _export(answers(assessor, [item]), None, "json", output)
    for piece in assessor.ask(item.source, question, prompt=item.prompt):
        print(piece, end="", flush=True)
    print()


@app.command()
def convert(
    paths: Annotated[
        list[Path],
        typer.Argument(metavar="PUBLISHED... OUT", help="Published file or files, and a new folder."),
    ],
    config: Annotated[
        Path | None, typer.Option(help="JSON file of dimensions that differ from the published ones.")
    ] = None,
    tokenizers: Annotated[
        Path | None,
        typer.Option(help="Folder with the LLM's tokenizer, and the Q-Former's in qformer_tokenizer/."),
    ] = None,
    backbone: Annotated[
        str | None, typer.Option(help="For CLIP-AGIQA's AUX.pth TARGET.pth: folder or hub id of its CLIP.")
    ] = None,
) -> None:
    """Convert published checkpoints: MINT-IQA's one file, or with --backbone CLIP-AGIQA's two."""
    *files, folder = paths
    if len(files) != (1 if backbone is None else 2):
        raise MintIQAError(
            "bad_argument",
            "Give PUBLISHED.pt OUT for MINT-IQA, or AUX.pth TARGET.pth OUT --backbone CLIP for CLIP-AGIQA.",
        )
    if backbone is not None:
        from mint_iqa.clip_agiqa import convert_published

        auxiliary, target = files
        convert_published(auxiliary, target, folder, backbone)
        print(f"Converted {auxiliary} and {target} to {folder}, to be used with {backbone}.")
        return
    from mint_iqa.conversion import convert as convert_checkpoint

    done = convert_checkpoint(files[0], folder, config, tokenizers)
    print(f"Converted {files[0]} to {folder}: {done.parameters:,} parameters.")
    print(f"The two towers share their first {done.shared} of {done.blocks} blocks.")
    if done.unused:
        print(f"Left out, because no forward pass reads them: {', '.join(done.unused)}.")
    if not done.tokenizers:
        print("It has no tokenizers: only token ids can be used until it is converted with --tokenizers.")


@app.command()
def schema() -> None:
    """Print the JSON Schema that every exported record follows."""
    print(json.dumps(record_schema(), indent=2, ensure_ascii=False))


def _load(model: str, device: str | None, dtype: str | None) -> "Assessor":
    from mint_iqa.assessor import Assessor  # here, so that --help and schema need not wait for torch

    return Assessor.from_pretrained(model, device=device, dtype=dtype)


def _given(prompt: str | None) -> str | None:
    return prompt if prompt and prompt.strip() else None


def _check_choice(images: Sequence[str] | None, manifest: Path | None, prompt: str | None) -> None:
    if images and manifest:
        raise MintIQAError("bad_argument", "Both IMAGE and --manifest are given: leave one out.")
    if not images and not manifest:
        raise MintIQAError("bad_argument", "Nothing to work on: give IMAGE or --manifest.")
    if manifest and prompt:
        raise MintIQAError(
            "bad_argument", "--prompt is for IMAGE: give the manifest a prompt column instead."
        )


def _check_output(output: Path | None, images: Sequence[str] | None, manifest: Path | None) -> None:
    """Find now what would otherwise be found after the model has been loaded."""
    if output is None:
        return
    if output.is_dir():
        raise MintIQAError("bad_argument", f"--output {output} is a folder: give the name of a file.")
    if not output.parent.is_dir():
        raise MintIQAError(
            "bad_argument", f"--output {output} is in a missing folder: create {output.parent}."
        )
    for path in [*map(Path, images or ()), *([manifest] if manifest else [])]:
        if output.exists() and path.is_file() and output.samefile(path):
            raise MintIQAError("bad_argument", f"--output {output} is also an input: choose another name.")
    if not os.access(output if output.exists() else output.parent, os.W_OK):
        raise _unwritable(output)


def _unwritable(output: Path) -> MintIQAError:
    return MintIQAError("output_unwritable", f"--output {output} can't be written: choose another place.")


def _export(records: Iterator[Record], total: int | None, format: Format, output: Path | None) -> None:
    """Write every record and complain about the failed ones; `total` is None for one image by itself."""
    failed = 0

    def watched() -> Iterator[Record]:
        nonlocal failed
        for record in progress.track(records, total=total or 1):
            if not isinstance(record, Assessment | Answer):
                failed += 1
                _complain(record.error.message, progress.console)
            yield record

    with _opened(output) as stream:
        with _progress(format, stream) as progress:
            if format == "jsonl":
                _write_lines(watched(), stream)
            else:
                kept = list(watched())
        if format != "jsonl":  # not before the bar is gone: both may share a terminal
            _write_together(kept, total is None, format, stream)
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
        raise _unwritable(output) from None
    with stream:
        yield stream


def _progress(format: Format, stream: TextIO) -> Progress:
    """A bar on stderr if that is a terminal, unless lines that appear on the same terminal would tear it."""
    console = Console(stderr=True)
    torn = format == "jsonl" and stream.isatty()
    return Progress(
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=torn or not console.is_terminal,
        redirect_stdout=False,  # rich would send the results to stderr
        redirect_stderr=False,
    )


def _write_lines(records: Iterable[Record], stream: TextIO) -> None:
    for record in records:
        _put(record.model_dump_json() + "\n", stream)


def _write_together(records: Iterable[Record], single: bool, format: Format, stream: TextIO) -> None:
    """JSON; a table is for people, so a file gets the same records as JSON."""
    if format == "table" and stream is sys.stdout:
        _write_table(records, stream)
        return
    values = [record.model_dump(mode="json") for record in records]
    _put(json.dumps(values[0] if single else values, indent=2, ensure_ascii=False) + "\n", stream)


def _write_table(records: Iterable[Record], stream: TextIO) -> None:
    panels = [panel(record) for record in records if isinstance(record, Assessment)]
    console = Console(file=stream, highlight=False)
    with console.capture() as capture:
        console.print(*panels, sep="\n") if panels else None
    _put(capture.get(), stream)


def _put(text: str, stream: TextIO) -> None:
    try:
        stream.write(text)
        stream.flush()
    except BrokenPipeError:  # the reader, say `head`, has had enough; typer ends quietly on it
        raise
    except OSError as error:
        raise MintIQAError("output_unwritable", f"The output can't be written: {error.strerror}.") from None


def _complain(message: str, console: Console | None = None) -> None:
    text = Text.assemble(("error: ", "bold red"), plain(message))
    (console or Console(stderr=True)).print(text, soft_wrap=True, highlight=False)


def _speak_utf8() -> None:
    """JSON is UTF-8 wherever it goes; a terminal keeps its own encoding and shows ? for what it lacks."""
    if isinstance(sys.stdout, TextIOWrapper):
        encoding = None if sys.stdout.isatty() else "utf-8"
        sys.stdout.reconfigure(encoding=encoding, errors="replace")


if __name__ == "__main__":
    sys.exit(main())
