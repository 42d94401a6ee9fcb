"""`mint-iqa convert`."""

from pathlib import Path
from typing import Annotated

import typer

from mint_iqa.errors import MintIQAError


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
