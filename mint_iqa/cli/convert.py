"""`mint-iqa convert`."""

from pathlib import Path
from typing import Annotated

import typer

from mint_iqa.errors import MintIQAError

CHECKPOINT_SUFFIXES = (".pt", ".pth", ".bin", ".ckpt")


def convert(
    paths: Annotated[
        list[Path],
        typer.Argument(
            metavar="SOURCE... OUT", help="Published file or files or a folder, and a new folder."
        ),
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
    llm: Annotated[
        str | None, typer.Option(help="For a start to train from: folder or hub id of another LLM.")
    ] = None,
    text: Annotated[
        str | None,
        typer.Option(help="For BLIP-2 and CLIP: folder or hub id of a BERT that reads the prompt."),
    ] = None,
) -> None:
    """Convert published checkpoints, MINT-IQA's one file or with --backbone CLIP-AGIQA's two.

    The folder or hub id of an InstructBLIP, BLIP-2 or CLIP becomes a start to train from.
    """
    *files, folder = paths
    if len(files) != (1 if backbone is None else 2):
        raise MintIQAError(
            "bad_argument",
            "Give PUBLISHED.pt OUT for MINT-IQA, AUX.pth TARGET.pth OUT --backbone CLIP for CLIP-AGIQA, or "
            "INSTRUCTBLIP OUT for a start.",
        )
    if backbone is not None:
        from mint_iqa.clip_agiqa.model import convert_published

        auxiliary, target = files
        convert_published(auxiliary, target, folder, backbone)
        print(f"Converted {auxiliary} and {target} to {folder}, to be used with {backbone}.")
        return
    if not files[0].is_file() and files[0].suffix not in CHECKPOINT_SUFFIXES:
        return _start(files[0], folder, text, llm, tokenizers)
    if llm or text:
        raise MintIQAError("bad_argument", "--llm and --text are for a start: a published file has its own.")
    from mint_iqa.convert.from_published import convert as convert_checkpoint

    done = convert_checkpoint(files[0], folder, config, tokenizers)
    print(f"Converted {files[0]} to {folder}: {done.parameters:,} parameters.")
    print(f"The two towers share their first {done.shared} of {done.blocks} blocks.")
    if done.unused:
        print(f"Left out, because no forward pass reads them: {', '.join(done.unused)}.")
    if not done.tokenizers:
        print("It has no tokenizers: only token ids can be used until it is converted with --tokenizers.")


def _start(source: Path, folder: Path, text: str | None, llm: str | None, tokenizers: Path | None) -> None:
    from mint_iqa.convert.start import initialize

    start = initialize(str(source), folder, text, llm, tokenizers)
    print(f"Wrote {folder}, a start to train from:")
    for origin in start.origins:
        print(f"  {origin.part:<20}{origin.parameters:>14,} parameters  {origin.source}")
    if start.unused:
        print(f"Left out: {', '.join(start.unused)}.")
    print("What is new has to be trained: until then its scores mean nothing.")
