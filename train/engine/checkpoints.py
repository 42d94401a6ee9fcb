"""Starts or continues a run, and writes its files: complete or absent even if it is killed."""

import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError

from mint_iqa.errors import MintIQAError
from mint_iqa.files import write_whole, written_whole
from mint_iqa.model.modeling import MintIQAModel
from mint_iqa.model.processing import MintIQAProcessor
from train.engine.recipes import HeldOut, Optimization

RECIPE = "recipe.json"  # of a run, beside its model
FIGURE = "Figure: "  # begins the line with a run's result
COMPLETE_MARK = "whole.json"  # written last: a checkpoint without it is a killed run's remainder
RUN_AGAIN = "run it again"  # the remedy of a command that has nothing to continue from
# Settings that may differ between a run and its continuation: they change no weight.
MAY_DIFFER = ("output", "stop_after", "save_steps", "log_steps", "threads", "rounds")


def rank() -> int:
    return int(os.environ.get("RANK", "0"))


def world_size() -> int:
    return int(os.environ.get("WORLD_SIZE", "1"))


def checkpoints(output: Path) -> list[Path]:
    """The complete ones, oldest first."""
    found = [path.parent for path in output.glob(f"checkpoint-*/{COMPLETE_MARK}")]
    return sorted(found, key=lambda path: int(path.name.split("-")[1]))


def begin(recipe: Optimization, resume: bool, folder: Path | None = None) -> Path | None:
    """The checkpoint to continue from, if any. Writes the resolved recipe beside the weights to come.

    folder: where they come, if not in the recipe's output itself.
    MintIQAError if a run would be overwritten, or continued with another recipe or number of processes.
    """
    output = Path(recipe.output) if folder is None else folder
    whole, finished = checkpoints(output), (output / "model").exists()
    if not resume and (whole or finished):
        raise MintIQAError(
            "output_exists",
            f"{output} holds a run: continue it with --resume, or name another --set output=.",
        )
    written, settings = output / RECIPE, asdict(recipe)
    if whole or (finished and written.exists()):  # the model alone may have been put there
        _check_recipe(output, json.loads(written.read_text(encoding="utf-8")), settings)
    if whole:
        _check_processes(whole[-1])
    if rank() == 0:
        output.mkdir(parents=True, exist_ok=True)
        write_whole(written, json.dumps(settings, indent=2))
    return whole[-1] if whole else None


def bind(output: Path, what: str, digest: str) -> None:
    """Write beside the weights a digest of what the run learns from, called `what`.

    MintIQAError if a run would continue with other data than it began with.
    """
    path = output / f"{what}.sha256"
    if checkpoints(output) and path.exists() and path.read_text(encoding="utf-8") != digest:
        raise MintIQAError(
            "other_recipe",
            f"{output} was begun with other {what} or pictures: resume with those, or name another --set "
            "output=.",
        )
    if rank() == 0:
        with writing(output):
            write_whole(path, digest)


def held_out(run: Path) -> HeldOut:
    """What a run kept out of training; MintIQAError if its folder has no recipe."""
    path = run / RECIPE
    try:
        values = json.loads(path.read_bytes())
    except (OSError, ValueError):
        raise MintIQAError(
            "config_missing", f"{path} can't be read: name the folder of a finished run."
        ) from None
    return HeldOut(**{f.name: values[f.name] for f in fields(HeldOut) if f.name in values})


def leave(output: Path, recipe: Any, kept: HeldOut, figure: str) -> None:
    """Write beside a finished model its recipe and what it kept out, and print its figure."""
    print(f"{FIGURE}{figure}", flush=True)
    output.mkdir(parents=True, exist_ok=True)
    write_whole(output / RECIPE, json.dumps(asdict(recipe) | asdict(kept), indent=2))


def _check_recipe(output: Path, before: dict[str, Any], now: dict[str, Any]) -> None:
    keys = [k for k in before.keys() | now.keys() if k not in MAY_DIFFER and before.get(k) != now.get(k)]
    if keys:
        raise MintIQAError(
            "other_recipe",
            f"{output} was begun with another recipe (differing: {', '.join(sorted(keys))}): "
            "resume with its recipe.json, or name another --set output=.",
        )


def _check_processes(checkpoint: Path) -> None:
    processes = json.loads((checkpoint / COMPLETE_MARK).read_text(encoding="utf-8"))["processes"]
    if processes != world_size():
        raise MintIQAError(
            "other_world_size",
            f"{checkpoint} was written by {processes} processes but this run has {world_size()}: resume with "
            f"{processes}.",
        )


@contextmanager
def writing(folder: Path, remedy: str = "continue with --resume") -> Iterator[None]:
    """Turn whatever keeps a folder from being written, usually a full disk, into a MintIQAError."""
    try:
        yield
    # Rust's and torch.save's errors name no errno, and the latter no reason.
    except (OSError, RuntimeError, SafetensorError) as error:
        there = next(path for path in folder.absolute().parents if path.is_dir())
        free = shutil.disk_usage(there).free / 1e9
        raise MintIQAError(
            "output_unwritable",
            f"{folder} could not be written ({str(error).splitlines()[0]}; {free:.1f} GB are free): make "
            f"room and {remedy}.",
        ) from error


def kept_arrays(path: Path, make: Callable[[], dict[str, NDArray[Any]]]) -> dict[str, NDArray[Any]]:
    """Arrays from a .npz file, or made, and written there: the file is complete or absent."""
    if not path.is_file():
        made: dict[str, Any] = make()
        with writing(path, RUN_AGAIN):
            part = path.with_suffix(".part.npz")  # renamed when complete
            np.savez(part, **made)
            part.replace(path)
    with np.load(path) as stored:
        return dict(stored)


def save_alone(model: MintIQAModel, folder: Path) -> None:
    """Write in float16, replacing what is there; complete or not at all."""
    shutil.rmtree(folder, ignore_errors=True)
    with written_whole(folder) as temporary:
        model.half().save_pretrained(temporary, max_shard_size="90MB")


def save_model(model: MintIQAModel, processor: MintIQAProcessor, folder: Path) -> None:
    """Write in float16, with the tokenizer unless a part provides it."""
    model.half().save_pretrained(folder, max_shard_size="90MB")
    if "text" not in model.config.parts:
        processor.tokenizer.save_pretrained(folder)
