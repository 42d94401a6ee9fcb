"""`python -m instruct_data`: label files to records, records to splits, and the records' JSON Schema.

Exit code 0: success; 2: the input cannot be used, and one sentence on stderr says why.
"""

import argparse
import json
import os
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from pathlib import Path

from instruct_data.importers import command as importing
from instruct_data.recipes import add_recipe, read_settings
from instruct_data.records import InstructionSample, RatedImage, read_any_jsonl, schema, write_jsonl
from mint_iqa.errors import MintIQAError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command with `arguments` (default: the process's own) and return its exit code."""
    chosen = _parser().parse_args(arguments)
    try:
        chosen.run(chosen)
    except MintIQAError as error:
        print(error.message, file=sys.stderr)
        return 2
    except BrokenPipeError:  # the reader, for example `head`, has closed the pipe
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # otherwise Python complains at exit
    return 0


def _parser() -> ArgumentParser:
    parser = ArgumentParser(prog="python -m instruct_data", description="Instruction data for MINT-IQA.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    command = commands.add_parser("import", help="a label file -> records as JSON Lines")
    importing.add_arguments(command)
    command.set_defaults(run=importing.run)

    command = commands.add_parser("split", help="records -> the same with train, validation and test")
    _add_split_arguments(command)
    command.set_defaults(run=_split)

    command = commands.add_parser("schema", help="print the JSON Schema of a record")
    command.add_argument("kind", nargs="?", choices=("samples", "ratings"), default="samples")
    command.set_defaults(run=_schema)

    command = commands.add_parser("segment", help="prompts -> their content, style and atmosphere")
    command.add_argument("file", type=Path, metavar="IN.jsonl", help="ratings or samples")
    command.add_argument("--output", type=Path, required=True, help="JSON Lines file to write")
    command.add_argument("--model", help="folder of a chat model (default: split by rules)")
    command.set_defaults(run=_segment)

    command = commands.add_parser("build", help="rated pictures -> instruction data, by a recipe")
    add_recipe(command)
    command.add_argument("--processes", type=int, help="default: one for each core")
    command.set_defaults(run=_build)

    command = commands.add_parser("report", help="a page about a folder of instruction data")
    command.add_argument("folder", type=Path, metavar="DIR")
    command.set_defaults(run=_report)

    command = commands.add_parser(
        "grammar", help="how well scores predict the words of AIGCIQA2023+'s answers"
    )
    command.add_argument("file", type=Path, metavar="AIGIQA2023.json")
    command.set_defaults(run=_grammar)

    command = commands.add_parser("sheet", help="draw every distortion and artifact at every level, labeled")
    command.add_argument("image", type=Path, help="a picture to damage")
    command.add_argument("--output", type=Path, required=True, help="PNG file to write")
    command.add_argument("--region", action="store_true", help="distort a part instead of the whole picture")
    command.set_defaults(run=_sheet)

    return parser


def _schema(arguments: Namespace) -> None:
    kind = RatedImage if arguments.kind == "ratings" else InstructionSample
    print(json.dumps(schema(kind), indent=2), flush=True)


def _add_split_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("file", type=Path, metavar="IN.jsonl")
    parser.add_argument("--by", choices=("prompt", "reference", "official-aigciqa2023"), required=True)
    parser.add_argument("--output", type=Path, required=True, help="JSON Lines file to write")
    parser.add_argument("--images", type=Path, help="folder of the pictures (default: the one of IN.jsonl)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--shares", type=_shares, default=(80, 10, 10), help="train/validation/test (default: 80/10/10)"
    )
    parser.add_argument(
        "--folds", type=int, help="instead of shares: the number of folds, one of them the test"
    )
    parser.add_argument("--test-fold", type=int, default=0, help="0 .. folds - 1 (default: 0)")


def _split(arguments: Namespace) -> None:
    from instruct_data import splits  # imports SciPy, which the other commands do not need

    records = read_any_jsonl(arguments.file)
    if arguments.by == "official-aigciqa2023":
        done = splits.official_aigciqa2023(records)
        shared, prompts = splits.shared_prompts(done)
        print(f"warning: {shared} of {prompts} prompts are on both sides of this split", file=sys.stderr)
    else:
        folder = arguments.images or arguments.file.parent
        hashes = splits.image_hashes(records, folder)
        pictures = len({record.image for record in records})
        print(f"looked for identical pictures among {len(hashes):,} of {pictures:,} in {folder}")
        if arguments.folds is None:
            done = splits.by_shares(
                records, arguments.by, shares=arguments.shares, hashes=hashes, seed=arguments.seed
            )
        else:
            done = splits.by_fold(
                records, arguments.by, folds=arguments.folds, test_fold=arguments.test_fold, hashes=hashes,
                seed=arguments.seed,
            )  # fmt: skip
    write_jsonl(arguments.output, done)
    print(", ".join(f"{side} {count:,}" for side, count in splits.sizes(done).items()))


def _segment(arguments: Namespace) -> None:
    from functools import partial

    from tqdm import tqdm

    from instruct_data.segmentation import chat_with, segment, segment_with

    split = partial(segment_with, chat_with(arguments.model)) if arguments.model else segment
    prompts = sorted({r.prompt for r in read_any_jsonl(arguments.file) if r.prompt})
    lines = [
        json.dumps({"prompt": prompt, **vars(split(prompt))}, ensure_ascii=False) + "\n"
        for prompt in tqdm(prompts, "Segmenting", disable=None)
    ]
    arguments.output.write_text("".join(lines), encoding="utf-8")
    print(f"{len(prompts):,} prompts in {arguments.output}")


def _build(arguments: Namespace) -> None:
    from instruct_data.build import Build, build

    recipe = read_settings(Build, arguments.recipe, arguments.set)
    problems = build(recipe, arguments.processes)
    print(f"{recipe.output}: built, see python -m instruct_data report {recipe.output}")
    if problems:
        raise MintIQAError(
            "unreadable_pictures",
            f"{len(problems)} pictures could not be read and are left out, the first: {problems[0]}",
        )


def _report(arguments: Namespace) -> None:
    from instruct_data.report import write_report

    print(write_report(arguments.folder))


def _grammar(arguments: Namespace) -> None:
    from instruct_data.answers.grammar import slot_accuracy
    from instruct_data.importers.aigciqa2023 import read_aigciqa2023
    from mint_iqa.tables.reading import Findings

    findings = Findings(arguments.file)
    samples = read_aigciqa2023(arguments.file, findings)
    findings.check()
    answers = [(s.prompt or "", s.mos, s.answer) for s in samples if s.mos is not None]
    print("right on unseen prompts:  always the commonest  by cuts on the score  the cuts")
    for found in slot_accuracy(answers):
        cuts = " ".join(f"{cut:.1f}" for cut in found.cuts)
        print(f"{found.slot:24}  {found.commonest:20.3f}  {found.thresholds:20.3f}  {cuts}")


def _sheet(arguments: Namespace) -> None:
    from instruct_data.damage.sheet import contact_sheet
    from mint_iqa.images import read_image

    drawn = contact_sheet(read_image(arguments.image).rgb, arguments.region)
    try:
        drawn.save(arguments.output, "PNG")
    except OSError as error:
        raise MintIQAError(
            "output_unwritable",
            f"{arguments.output} can't be written ({error.strerror}): choose another --output.",
        ) from None


def _shares(text: str) -> tuple[int, ...]:
    parts = text.split("/")
    if len(parts) != 3 or not all(part.isdecimal() for part in parts):
        raise argparse.ArgumentTypeError(f"{text!r} is not like 80/10/10")
    return tuple(map(int, parts))


if __name__ == "__main__":
    sys.exit(main())
