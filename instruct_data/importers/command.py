"""The command `import`: a label file -> records as JSON Lines."""

import sys
from argparse import ArgumentParser, Namespace, _SubParsersAction
from collections.abc import Callable, Sequence
from pathlib import Path

from instruct_data.importers.agiqa3k import read_agiqa3k
from instruct_data.importers.aigciqa2023 import read_aigciqa2023, read_aigciqa2023_raw
from instruct_data.importers.distortions import read_clive, read_kadid, read_live
from instruct_data.importers.llava import read_llava
from instruct_data.importers.scores import missing_images
from instruct_data.importers.table import TableColumns, read_table
from instruct_data.records import InstructionSample, Record, ratings_of, write_jsonl
from mint_iqa.errors import MintIQAError
from mint_iqa.tables.reading import Findings
from mint_iqa.tables.scales import ScoreColumn
from mint_iqa.text import counted
from mint_iqa.vocabulary import DIMENSIONS

Reader = Callable[[Path, Findings], Sequence[Record]]


def add_arguments(parser: ArgumentParser) -> None:
    """Add one subcommand for each format."""
    formats = parser.add_subparsers(required=True, metavar="NAME")
    samples = _format(formats, "aigciqa2023", read_aigciqa2023, "AIGCIQA2023+ questions: AIGIQA2023.json")
    samples.add_argument("--ratings", type=Path, help="also write the pictures' scores there")
    _format(formats, "aigciqa2023-raw", read_aigciqa2023_raw, "AIGCIQA2023+ annotation: AIGIQA2023+.csv")
    _format(formats, "agiqa3k", read_agiqa3k, "AGIQA-3K: data.csv or scores.csv")
    _format(formats, "live", read_live, "LIVE Release 2: JSON of the MINT-IQA code, difference scores")
    _format(formats, "clive", read_clive, "LIVE in the Wild: JSON of the MINT-IQA code")
    _format(formats, "kadid", read_kadid, "KADID-10k: JSON of the MINT-IQA code")
    _format(formats, "llava", read_llava, "LLaVA conversations: JSON")
    table = _format(formats, "csv", None, "any CSV file; name scores as COLUMN:WORST:BEST")
    for dimension in DIMENSIONS:
        table.add_argument(f"--{dimension}", metavar="COLUMN:WORST:BEST", help="e.g. mos:1:5 or dmos:100:0")
    table.add_argument("--image-column", default="image", metavar="COLUMN")
    for name in ("prompt", "generator", "reference"):
        table.add_argument(f"--{name}-column", metavar="COLUMN")


def run(arguments: Namespace) -> None:
    """Read, check and write the records, and print a summary. MintIQAError comes before any writing."""
    findings = Findings(arguments.file)
    reader: Reader | None = arguments.reader
    if reader is None:
        records: Sequence[Record] = read_table(arguments.file, _columns(arguments), findings)
    else:
        records = reader(arguments.file, findings)
    if arguments.skip_broken and findings.problems:
        print(f"left out: {findings.summary()}", file=sys.stderr)
    else:
        findings.check("Correct these lines, or leave them out with --skip-broken")
    if not records:
        raise MintIQAError("nothing_to_import", f"{arguments.file} has no usable record: give another file.")
    _write(arguments, records)
    for field, lines in sorted(findings.ignored.items()):
        print(f"not taken over: {field!r}, on {counted(lines, 'line')}")


def _format(
    formats: "_SubParsersAction[ArgumentParser]", name: str, reader: Reader | None, text: str
) -> ArgumentParser:
    parser = formats.add_parser(name, help=text, description=text)
    parser.set_defaults(reader=reader)
    parser.add_argument("file", type=Path, metavar="FILE")
    parser.add_argument("--output", type=Path, required=True, help="JSON Lines file to write")
    parser.add_argument("--images", type=Path, help="folder of the pictures (default: the one of FILE)")
    parser.add_argument("--skip-broken", action="store_true", help="report unusable lines and leave them out")
    return parser


def _columns(arguments: Namespace) -> TableColumns:
    named = {dimension: getattr(arguments, dimension) for dimension in DIMENSIONS}
    return TableColumns(
        scores={dimension: ScoreColumn.parse(text) for dimension, text in named.items() if text},
        image=arguments.image_column,
        prompt=arguments.prompt_column,
        generator=arguments.generator_column,
        reference=arguments.reference_column,
    )


def _write(arguments: Namespace, records: Sequence[Record]) -> None:
    print(f"{counted(write_jsonl(arguments.output, records), 'record')} in {arguments.output}")
    samples = [record for record in records if isinstance(record, InstructionSample)]
    if getattr(arguments, "ratings", None):
        written = write_jsonl(arguments.ratings, ratings_of(samples))
        print(f"{counted(written, 'record')} in {arguments.ratings}")
    folder = arguments.images or arguments.file.parent
    missing, pictures = missing_images(records, folder)
    print(f"{counted(pictures, 'picture')}, {missing:,} of them not in {folder}")
