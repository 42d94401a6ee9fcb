"""python -m instruct_data: what is done to pictures and texts, made visible."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from mint_iqa.errors import MintIQAError

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)


@app.callback()
def _root() -> None:
    """Instruction data from known faults and human scores."""


@app.command()
def sheet(
    image: Annotated[Path, typer.Argument(help="A picture to damage.")],
    output: Annotated[Path, typer.Option(help="PNG file to write.")],
    region: Annotated[bool, typer.Option("--region", help="Distort a part instead of the whole.")] = False,
) -> None:
    """Draw every distortion and artefact at every level, labelled."""
    from instruct_data.sheet import contact_sheet
    from mint_iqa.images import read_image

    drawn = contact_sheet(read_image(image).rgb, region)
    try:
        drawn.save(output, "PNG")
    except OSError as error:
        raise MintIQAError("output_unwritable", f"{output} can't be written: {error.strerror}.") from None


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command with `arguments` (those of the process by default) and return its exit code."""
    try:
        app(args=arguments, prog_name="python -m instruct_data")
    except SystemExit as stop:  # how typer ends, with the code
        return stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except MintIQAError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
