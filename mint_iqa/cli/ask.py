"""`mint-iqa ask`."""

from typing import Annotated

import typer

from mint_iqa.cli.options import (
    Device,
    DeviceMap,
    Dtype,
    Manifest,
    Model,
    Output,
    Prompt,
    Quantization,
    check_choice,
    check_output,
    given,
    load,
)
from mint_iqa.cli.output import export
from mint_iqa.errors import MintIQAError
from mint_iqa.manifest import Item, answers, read_manifest


def ask(
    image: Annotated[str | None, typer.Argument(metavar="IMAGE", help="Image file.")] = None,
    question: Annotated[str | None, typer.Argument(metavar="QUESTION", help="What to ask about it.")] = None,
    prompt: Prompt = None,
    manifest: Manifest = None,
    output: Output = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print a JSON record, not just the answer.")
    ] = False,
    model: Model = "nano",
    device: Device = None,
    dtype: Dtype = None,
    quantization: Quantization = None,
    device_map: DeviceMap = None,
) -> None:
    """Ask a question about an image.

    A manifest has the columns image and question, and may have prompt; other columns become metadata.
    """
    check_choice([image] if image is not None else [], manifest, prompt)
    check_output(output, [image or ""], manifest)
    if manifest:
        items = read_manifest(manifest, required=("image", "question"))
        return export(
            answers(load(model, device, dtype, quantization, device_map), items), len(items), "jsonl", output
        )
    if not question or not question.strip():
        raise MintIQAError("bad_argument", "There is no question: put one in quotes after the image.")
    item = Item(str(image), str(image), given(prompt), question)
    assessor = load(model, device, dtype, quantization, device_map)
    if as_json or output:
        return export(answers(assessor, [item]), None, "json", output)
    for piece in assessor.ask(item.source, question, prompt=item.prompt):
        print(piece, end="", flush=True)
    print()
