"""`mint-iqa evaluate`."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from mint_iqa.errors import MintIQAError

_SCORE = "Column of human scores, as COLUMN or COLUMN:WORST:BEST (mos:1:5; dmos:100:0)."


def evaluate(
    scores: Annotated[Path, typer.Argument(metavar="SCORES.jsonl", help="What mint-iqa score wrote.")],
    labels: Annotated[
        Path, typer.Argument(metavar="LABELS", help="CSV file of human scores, or ratings (.jsonl).")
    ],
    output: Annotated[Path, typer.Option(metavar="DIR", help="Folder for evaluation.json and report.html.")],
    quality: Annotated[str | None, typer.Option(metavar="COLUMN", help=_SCORE)] = None,
    authenticity: Annotated[str | None, typer.Option(metavar="COLUMN", help=_SCORE)] = None,
    correspondence: Annotated[str | None, typer.Option(metavar="COLUMN", help=_SCORE)] = None,
    image: Annotated[str | None, typer.Option(metavar="COLUMN", help="Column of image names.")] = None,
    prompt: Annotated[str | None, typer.Option(metavar="COLUMN", help="Column of prompts.")] = None,
    generator: Annotated[str | None, typer.Option(metavar="COLUMN", help="Column of generators.")] = None,
    images: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder of the images, if it is not that of LABELS.")
    ] = None,
    folds: Annotated[
        int | None, typer.Option(min=2, help="Folds by prompt, in place of ten random splits of 80/20.")
    ] = None,
) -> None:
    """Compare scores with human ones: correlations with intervals, by generator, beside baselines.

    Columns that are not named are looked for under usual names, such as mos_quality, mos_align and generator.
    """
    if not output.parent.is_dir() or (output.exists() and not output.is_dir()):
        raise MintIQAError("bad_argument", f"--output {output} is not a folder, and none can be made there.")
    from mint_iqa.evaluation.pairs import join  # here, so that --help need not wait for SciPy
    from mint_iqa.evaluation.report import write_report
    from mint_iqa.evaluation.results import evaluate as evaluated
    from mint_iqa.evaluation.table import grids, rich_table

    given = {
        "quality": quality, "authenticity": authenticity, "correspondence": correspondence, "image": image,
        "prompt": prompt, "generator": generator,
    }  # fmt: skip
    named = {key: column for key, column in given.items() if column}
    result = evaluated(join(scores, labels, named), folds)
    console = Console(highlight=False, markup=False, emoji=False)  # names of others: :100: is not an emoji
    for name, judged in result.dimensions.items():
        for grid in grids(name, judged):
            console.print(rich_table(grid), "", sep="\n")
    for note in result.notes:
        console.print(f"note: {note}", soft_wrap=True)
    for path in write_report(result, output, images or labels.parent):
        console.print(f"wrote {path}", soft_wrap=True)
