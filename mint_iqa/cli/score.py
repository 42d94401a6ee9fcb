"""`mint-iqa score`."""

from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Annotated, Literal

import typer

from mint_iqa.cli.fail_under import FailUnder, gate, limits_of
from mint_iqa.cli.long_run import Engine, score_into_file
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
from mint_iqa.cli.output import Format, export
from mint_iqa.errors import MintIQAError
from mint_iqa.records import ModelInfo, kind_of
from mint_iqa.scoring.batches import Batch, Batches, batches_of, readers_for, score_batches
from mint_iqa.scoring.columns import need_pyarrow
from mint_iqa.scoring.folders import find_items, is_list
from mint_iqa.scoring.manifest import read_manifest
from mint_iqa.scoring.on_ray import Loading, score_batches_on_ray
from mint_iqa.scoring.scorer import Scorer, explains, open_model

RESUMABLE: tuple[Format, ...] = ("jsonl", "csv", "parquet")


def score(
    images: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="IMAGE|DIR|GLOB|CSV...", help="Image files, folders, patterns in quotes, manifests."
        ),
    ] = None,
    prompt: Prompt = None,
    manifest: Manifest = None,
    output: Output = None,
    format: Annotated[
        Format | None,
        typer.Option(help="By the name of --output; else table for images, jsonl for a list of them."),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue an --output that was cut off, or start it.")
    ] = False,
    explain: Annotated[
        bool | None, typer.Option("--explain/--no-explain", help="On for images, off for a list of them.")
    ] = None,
    model: Model = "nano",
    device: Device = None,
    dtype: Dtype = None,
    quantization: Quantization = None,
    device_map: DeviceMap = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Images scored at once.")] = 8,
    engine: Annotated[
        Literal["local", "ray"], typer.Option(help="ray: on a Ray cluster, see docs/measurements.md.")
    ] = "local",
    workers: Annotated[
        int | None,
        typer.Option(min=1, help="Processes that read images; with ray, that score them. One per core."),
    ] = None,
    fail_under: FailUnder = None,
) -> None:
    """Score images on 0..100, higher is better, and say why.

    A manifest has the column image, and may have prompt; other columns become metadata. A run into a .jsonl,
    .csv or .parquet file may be ended at any time; --resume continues it.
    """
    check_choice(images, manifest, prompt)
    check_output(output, images, manifest)
    limits = limits_of(fail_under or ())
    listed = manifest is not None or any(map(is_list, images or ()))
    format = format or _usual_format(output, listed)
    _check_format(format, output, resume)
    items = read_manifest(manifest) if manifest else find_items(images or (), given(prompt))
    explain = explains(model, explain, usual=not listed)

    info, score_all = (
        _on_ray(Loading(model, device, dtype, quantization, device_map), explain, workers)
        if engine == "ray"
        else _here(open_model(model, device, dtype, quantization, device_map), explain, workers)
    )
    with gate(limits) as watching:
        if output is not None and format in RESUMABLE:
            return score_into_file(
                items,
                output,
                score_all,
                model=info,
                table=format != "jsonl",
                batch_size=batch_size,
                explain=explain,
                resume=resume,
                note=watching.note if limits else None,
            )
        single = not listed and len(items) == 1
        records = chain.from_iterable(score_all(batches_of(items, batch_size)))
        export(watching.watch(records), None if single else len(items), format, output)


def _here(assessor: Scorer, explain: bool, workers: int | None) -> tuple[ModelInfo, Engine]:
    def score_all(batches: Sequence[Batch]) -> Batches:
        readers = readers_for(len(batches)) if workers is None else workers
        return score_batches(assessor, batches, explain=explain, readers=readers)

    return assessor.model_info, score_all


def _on_ray(loading: Loading, explain: bool, workers: int | None) -> tuple[ModelInfo, Engine]:
    from mint_iqa.checkpoints.finding import find_checkpoint, info_of

    if kind_of(loading.model) == "clip_agiqa":
        raise MintIQAError("bad_argument", "--engine ray does not take CLIP-AGIQA: leave it out.")

    def score_all(batches: Sequence[Batch]) -> Batches:
        return score_batches_on_ray(batches, loading=loading, explain=explain, workers=workers)

    return info_of(loading.model, find_checkpoint(loading.model)), score_all


def _usual_format(output: Path | None, listed: bool) -> Format:
    suffixes: dict[str, Format] = {".jsonl": "jsonl", ".csv": "csv", ".parquet": "parquet"}
    by_name = suffixes.get(output.suffix.lower()) if output else None
    return by_name or ("jsonl" if listed else "table")


def _check_format(format: Format, output: Path | None, resume: bool) -> None:
    if output is None and format in ("csv", "parquet"):
        raise MintIQAError("bad_argument", f"--format {format} is for files: give --output.")
    if resume and (output is None or format not in RESUMABLE):
        raise MintIQAError("bad_argument", "--resume needs an --output in .jsonl, .csv or .parquet.")
    if format == "parquet":
        need_pyarrow()
