"""Writes a converted checkpoint: parts, shards and where each weight lies."""

import json
from collections.abc import Iterable
from functools import reduce
from pathlib import Path

import torch
from huggingface_hub import split_torch_state_dict_into_shards
from safetensors.torch import save_file
from torch import Tensor
from tqdm import tqdm
from transformers import PretrainedConfig, PreTrainedModel

from mint_iqa.convert.published import State
from mint_iqa.errors import MintIQAError

SHARD_SIZE = "1GB"


def check_new(folder: Path) -> None:
    """MintIQAError if there is something at `folder` already."""
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise MintIQAError("output_exists", f"{folder} exists already: give the name of a new folder.")


def write_part(model: PreTrainedModel, state: State, folder: Path) -> None:
    """`state` as the weights of `model`, as `save_pretrained` does but never with two copies in memory."""
    folder.mkdir(exist_ok=True)
    config: PretrainedConfig = model.config
    config.architectures = [type(model).__name__]
    # Towers in half precision beside Q-Formers in full: loaded as the widest.
    config.dtype = str(_widest(state.values())).removeprefix("torch.")
    config.save_pretrained(folder)
    plan = split_torch_state_dict_into_shards(
        state, filename_pattern="model{suffix}.safetensors", max_shard_size=SHARD_SIZE
    )
    shards = tqdm(plan.filename_to_tensors.items(), desc=f"Writing {config.model_type}", disable=None)
    for file, names in shards:
        # Cloned: tensors of a checkpoint may overlap in memory, which safetensors refuses.
        save_file({name: state[name].clone() for name in names}, folder / file, metadata={"format": "pt"})
    if plan.is_sharded:
        index = {"metadata": plan.metadata, "weight_map": plan.tensor_to_filename}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2), encoding="utf-8")


def _widest(tensors: Iterable[Tensor]) -> torch.dtype:
    return reduce(torch.promote_types, (tensor.dtype for tensor in tensors))
