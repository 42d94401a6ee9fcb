"""Files of CLIP-AGIQA: its own checkpoints, the published pair, the backbone; what does not fit is named."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar

import torch
from pydantic import TypeAdapter, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import CLIPConfig, CLIPModel

from mint_iqa.checkpoints import checks
from mint_iqa.checkpoints.finding import PRESETS
from mint_iqa.errors import MintIQAError
from mint_iqa.model.configuration import MintIQAConfig
from mint_iqa.model.modeling import MintIQAModel
from mint_iqa.quiet import quiet_transformers

# Two embeddings of one token lie this close together: float16 moves one by 1e-4, other tokens are .1 away.
SAME_TOKEN = 1e-2

C = TypeVar("C")


def write_checkpoint(folder: Path, config: object, state: dict[str, Tensor]) -> None:
    """config.json and model.safetensors; MintIQAError where they can't be written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        text = TypeAdapter(type(config)).dump_json(config, indent=2)
        (folder / "config.json").write_bytes(text + b"\n")
        save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    except (OSError, SafetensorError):
        raise MintIQAError("output_unwritable", f"{folder} can't be written: choose another.") from None


def read_config(kind: type[C], path: Path) -> C:
    """A config of dataclass `kind` from JSON; MintIQAError if it is missing or one of its values is wrong."""
    try:
        return TypeAdapter(kind).validate_json(path.read_bytes())
    except OSError:
        raise MintIQAError("model_missing", f"{path} can't be read: check the path.") from None
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the file"
        raise MintIQAError(
            "bad_config",
            f"{path} is not a CLIP-AGIQA config ({where}: {first['msg']}): convert or train again.",
        ) from None


def read_weights(path: Path, expected: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A safetensors file with the names and shapes of `expected`; MintIQAError otherwise."""
    try:
        state = load_file(path)
    except (OSError, SafetensorError, ValueError, LookupError):
        raise MintIQAError(
            "bad_checkpoint", f"{path} holds no readable weights: copy or convert them again."
        ) from None
    check_names(str(path), state, expected)
    checks.check_all_finite(state, path)
    return state


def read_published(path: Path) -> dict[str, Tensor]:
    """The state dict in a published .pth file, read without running code; MintIQAError if there is none."""
    if not path.is_file():
        raise MintIQAError("file_missing", f"{path} is not a file: check the path.")
    state = checks.read_state(path, mmap=False)
    checks.check_all_finite(state, path)
    return state


def check_names(label: str, state: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    """MintIQAError, by name, unless `state` has the names and shapes of `expected` and no other."""
    if found := checks.misfit(checks.shapes_of(expected), checks.shapes_of(state)):
        raise MintIQAError(
            "bad_checkpoint",
            f"{label} does not fit ({found}): give the right file, and the CLIP that it was trained on.",
        )


def read_token_ids(label: str, state: Mapping[str, Tensor], table: Tensor, end: int) -> list[tuple[int, ...]]:
    """The sentences of a published state dict, from the start token to the token `end`, without the context.

    They are kept as embeddings (token_prefix, token_suffix), so each is looked up in the backbone's `table`,
    float[vocabulary, Dt]; MintIQAError if it is not there, which means that the backbone is another.
    """
    rows = torch.cat([state["token_prefix"], state["token_suffix"]], dim=1).to(table)  # [2, 77 - n, Dt]
    is_end = (rows - table[end]).norm(dim=-1) < SAME_TOKEN
    stops = is_end.int().argmax(dim=1) + 1
    sentences = [sentence[:stop] for sentence, stop in zip(rows, stops.tolist(), strict=True)]
    distances, ids = torch.cdist(torch.cat(sentences), table).min(dim=1)
    if not is_end.any(dim=1).all() or distances.max() > SAME_TOKEN:
        raise MintIQAError(
            "bad_checkpoint",
            f"{label} was trained on another CLIP: its token_suffix is not made of this one's embeddings.",
        )
    return [tuple(part.tolist()) for part in torch.split(ids, stops.tolist())]


def load_backbone(source: str) -> CLIPModel | MintIQAModel:
    """The MINT-IQA that is called nano or lies in a folder, else a CLIP as `load_clip` does; float32."""
    for folder in (PRESETS / source, Path(source)):
        if _model_type(folder / "config.json") == MintIQAConfig.model_type:
            return MintIQAModel.from_pretrained(folder, dtype=torch.float32)
    return load_clip(source)


def _model_type(path: Path) -> str | None:
    try:
        config = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None
    return config.get("model_type") if isinstance(config, dict) else None


def load_clip(source: str) -> CLIPModel:
    """The CLIPModel in a folder or on the hub, float32; MintIQAError if that is not a complete CLIP."""
    if Path(source).is_dir():
        _check_backbone(Path(source))
    try:
        with quiet_transformers():
            clip, info = CLIPModel.from_pretrained(source, dtype=torch.float32, output_loading_info=True)
    except Exception as error:  # hub, config and weights each fail in their own ways
        raise MintIQAError(
            "model_missing", f"No CLIP model can be loaded from {source!r}: give its folder or hub id."
        ) from error
    if missing := sorted(info["missing_keys"]):
        raise MintIQAError(
            "bad_checkpoint",
            f"{source} is not a complete CLIP model ({missing[0]} is missing): download it again.",
        )
    checks.check_finite(clip, source)
    return clip


def _check_backbone(folder: Path) -> None:
    """MintIQAError unless the folder's config describes a CLIP of its weights' size."""
    settings = checks.read_config(folder, CLIPConfig.model_type)
    try:
        with torch.device("meta"):
            clip = CLIPModel(CLIPConfig.from_dict(settings))
    except Exception as error:  # any value may be of any type, and each is used somewhere else
        raise MintIQAError(
            "bad_checkpoint", f"No CLIP can be built from {folder / 'config.json'}: {checks.RENEW}."
        ) from error
    checks.check_size(folder, clip)
