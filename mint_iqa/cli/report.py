"""`mint-iqa report`."""

from pathlib import Path
from typing import Annotated

import typer

from mint_iqa.cli.options import check_output


def report(
    scores: Annotated[Path, typer.Argument(metavar="SCORES.jsonl", help="What mint-iqa score wrote.")],
    output: Annotated[Path, typer.Option(metavar="PAGE.html", help="The page to write.")],
    other: Annotated[
        Path | None, typer.Argument(metavar="[OTHER.jsonl]", help="Another run over these images.")
    ] = None,
    by: Annotated[
        str | None,
        typer.Option(metavar="COLUMN", help="Group by a metadata column, or folder; generator if there."),
    ] = None,
    images: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Folder of the images; else the current one, or that of SCORES."),
    ] = None,
) -> None:
    """Show scores on one HTML page: distributions, groups, faults, best and worst images, failures.

    With OTHER.jsonl also what changed, over images that both have: SCORES minus OTHER, with intervals.
    """
    check_output(output, [str(path) for path in (scores, other) if path], None)
    from mint_iqa.reports.page import write_page  # here, so that --help need not wait for SciPy
    from mint_iqa.reports.run import read_run

    write_page(read_run(scores, by), read_run(other) if other else None, output, images)
    print(f"Wrote {output}.")
