"""`mint-iqa score`."""

from typing import Annotated

import typer

from mint_iqa.cli.options import (
    Device,
    Dtype,
    Manifest,
    Model,
    Output,
    Prompt,
    check_choice,
    check_output,
    given,
    load,
    reasons,
)
from mint_iqa.cli.output import Format, export
from mint_iqa.manifest import Item, assessments, read_manifest


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
    check_choice(images, manifest, prompt)
    check_output(output, images, manifest)
    single_items = [Item(name, name, given(prompt)) for name in images or ()]
    items = read_manifest(manifest) if manifest else single_items
    explain = reasons(model, explain, usual=manifest is None)
    assessor = load(model, device, dtype)
    records = assessments(assessor, items, batch_size=batch_size, explain=explain)
    single = manifest is None and len(items) == 1
    export(records, None if single else len(items), format or ("jsonl" if manifest else "table"), output)
