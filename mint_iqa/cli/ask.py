"""`mint-iqa ask`."""

from collections.abc import Iterator, Sequence
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
)
from mint_iqa.cli.output import export
from mint_iqa.errors import MintIQAError
from mint_iqa.records import Answer, FailedAnswer, Failure
from mint_iqa.scoring.manifest import Item, read_manifest
from mint_iqa.scoring.scorer import Scorer, explains, open_model


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
    explains(model, wanted=True)
    if manifest:
        items = read_manifest(manifest, required=("image", "question"))
        return export(
            answers(open_model(model, device, dtype, quantization, device_map), items),
            len(items),
            "jsonl",
            output,
        )
    if not question or not question.strip():
        raise MintIQAError("bad_argument", "There is no question: put one in quotes after the image.")
    item = Item(str(image), str(image), given(prompt), question)
    assessor = open_model(model, device, dtype, quantization, device_map)
    if as_json or output:
        return export(answers(assessor, [item]), None, "json", output)
    for piece in assessor.ask(item.source, question, prompt=item.prompt):
        print(piece, end="", flush=True)
    print()


def answers(assessor: Scorer, items: Sequence[Item]) -> Iterator[Answer | FailedAnswer]:
    """One record per item, in order, each as soon as it is ready; never raises for a bad item."""
    for item in items:
        try:
            if item.problem is not None:
                raise MintIQAError(item.problem.code, item.problem.message)
            answer = assessor.answer(item.source, item.question, prompt=item.prompt)
            yield answer.with_origin(item.image, item.metadata)
        except MintIQAError as error:
            yield FailedAnswer(
                image=item.image, prompt=item.prompt, metadata=item.metadata, model=assessor.model_info,
                question=item.question, error=Failure.of(error),
            )  # fmt: skip
