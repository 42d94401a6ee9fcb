"""The `mint-iqa` command: score, report, ask, compare with people, convert, print the schema.

Results go to stdout or `--output`, everything else to stderr. Exit code 0: all well; 1: some items of several
failed, and have an `error` in the output; 2: the input could not be used, a single image included; 3: none
failed, but some are below --fail-under; 130: Ctrl-C.
"""

import json
import sys
from collections.abc import Sequence
from io import TextIOWrapper
from typing import Annotated

import typer

from mint_iqa.cli.ask import ask
from mint_iqa.cli.convert import convert
from mint_iqa.cli.evaluate import evaluate
from mint_iqa.cli.output import complain
from mint_iqa.cli.report import report
from mint_iqa.cli.score import score
from mint_iqa.errors import MintIQAError
from mint_iqa.records import LIBRARY_VERSION
from mint_iqa.records import schema as record_schema

app = typer.Typer(
    name="mint-iqa",
    help="Scores AI-generated images for quality, authenticity and correspondence, and says why.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command with `arguments` (those of the process by default) and return its exit code."""
    speak_utf8()
    try:
        app(args=arguments, prog_name="mint-iqa")
    except SystemExit as stop:  # how typer ends, with the code
        return stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except MintIQAError as error:
        complain(error.message)
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


app.command()(score)
app.command()(ask)
app.command()(convert)
app.command()(evaluate)
app.command()(report)


@app.command()
def schema() -> None:
    """Print the JSON Schema that every exported record follows."""
    print(json.dumps(record_schema(), indent=2, ensure_ascii=False))


def speak_utf8() -> None:
    """JSON is UTF-8 wherever it goes; a terminal keeps its own encoding and shows ? for what it lacks."""
    if isinstance(sys.stdout, TextIOWrapper):
        encoding = None if sys.stdout.isatty() else "utf-8"
        sys.stdout.reconfigure(encoding=encoding, errors="replace")
