"""The readers of checkpoints, each on a tiny valid checkpoint with one file replaced."""

import io
import shutil
import tempfile
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import torch
from safetensors.torch import save

from mint_iqa.checkpoints.checks import check_all_finite, read_state
from mint_iqa.clip_agiqa.files import read_config, read_weights
from mint_iqa.clip_agiqa.model import ClipAgiqaConfig
from mint_iqa.convert.published import Dimensions, read_dimensions
from mint_iqa.model.modeling import MintIQAModel
from mint_iqa.model.processing import MintIQAProcessor
from tests import tiny

WEIGHTS = {"first": torch.arange(6.0).reshape(2, 3), "second": torch.zeros(4, dtype=torch.float16)}


@lru_cache
def sound() -> Path:
    """A folder like those of training, without an LLM."""
    return tiny.save(Path(tempfile.mkdtemp()), Path("no_language_model"))


def with_exchanged(name: str, data: bytes, folder: Path) -> Path:
    """Fill `folder` with the valid checkpoint, except for the bytes of one file."""
    for path in sound().iterdir():
        if not (folder / path.name).exists():
            shutil.copy(path, folder / path.name)
    (folder / name).write_bytes(data)
    return folder


def model(name: str) -> Callable[[bytes, Path], object]:
    """A reader that loads the model with its file `name` replaced."""
    return lambda data, folder: MintIQAModel.from_pretrained(with_exchanged(name, data, folder))


def tokenizer(data: bytes, folder: Path) -> None:
    MintIQAProcessor.from_config(tiny.config(), with_exchanged("tokenizer.json", data, folder)).tokenize(
        ["a fox"]
    )


def state(data: bytes, folder: Path) -> None:
    path = folder / "state.pt"
    path.write_bytes(data)
    check_all_finite(read_state(path, mmap=False), path)


def dimensions(data: bytes, folder: Path) -> None:
    (folder / "dims.json").write_bytes(data)
    read_dimensions(folder / "dims.json", {})


def clip_config(data: bytes, folder: Path) -> None:
    (folder / "config.json").write_bytes(data)
    read_config(ClipAgiqaConfig, folder / "config.json")


def clip_weights(data: bytes, folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(data)
    read_weights(folder / "model.safetensors", WEIGHTS)


def states() -> list[bytes]:
    files = []
    for legacy in (False, True):
        buffer = io.BytesIO()
        torch.save(WEIGHTS, buffer, _use_new_zipfile_serialization=not legacy)
        files.append(buffer.getvalue())
    return files


def stored(name: str) -> Callable[[], list[bytes]]:
    return lambda: [(sound() / name).read_bytes()]


def dimension_files() -> list[bytes]:
    return [Dimensions().model_dump_json(exclude_none=True).encode(), b'{"vision_layers": 2}']


def clip_configs() -> list[bytes]:
    from pydantic import TypeAdapter

    return [TypeAdapter(ClipAgiqaConfig).dump_json(ClipAgiqaConfig())]


def weight_files() -> list[bytes]:
    return [save(WEIGHTS, {"format": "pt"})]
