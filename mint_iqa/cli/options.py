"""What commands have in common: options, the model, and checks made before it is loaded."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from mint_iqa.cli.output import unwritable
from mint_iqa.errors import MintIQAError

Prompt = Annotated[str | None, typer.Option(help="The text the images were made from.")]
Manifest = Annotated[Path | None, typer.Option(help="CSV file of items; images relative to its folder.")]
Output = Annotated[
    Path | None, typer.Option(help="File to write to; a table stays on the screen, and the file gets JSON.")
]
Model = Annotated[str, typer.Option(help="Preset (nano), folder, hub id, or clip-agiqa=FOLDER.")]
Device = Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, ...; chosen if left out.")]
Dtype = Annotated[str | None, typer.Option(help="float32, bfloat16 or float16; chosen if left out.")]

Quantization = Annotated[
    str | None,
    typer.Option(
        help="nf4 or int8: the language model in 4 or 8 bits a weight (bitsandbytes). int8-steps: faster "
        "answers on a CPU."
    ),
]
DeviceMap = Annotated[
    str | None, typer.Option(help="auto spreads the language model over all GPUs, and memory if it must.")
]


def given(prompt: str | None) -> str | None:
    return prompt if prompt and prompt.strip() else None


def check_choice(images: Sequence[str] | None, manifest: Path | None, prompt: str | None) -> None:
    if images and manifest:
        raise MintIQAError("bad_argument", "Both IMAGE and --manifest are given: leave one out.")
    if not images and not manifest:
        raise MintIQAError("bad_argument", "Nothing to work on: give IMAGE or --manifest.")
    if manifest and prompt:
        raise MintIQAError(
            "bad_argument", "--prompt is for IMAGE: give the manifest a prompt column instead."
        )


def check_output(output: Path | None, images: Sequence[str] | None, manifest: Path | None) -> None:
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
        raise unwritable(output)
