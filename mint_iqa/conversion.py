"""A published MINT-IQA checkpoint (one .pt) -> a folder that `MintIQAModel.from_pretrained` loads.

The folder holds both stages as safetensors, the LLM under `language/` and, if given, the tokenizers. The
checkpoint is mapped, not read: one shard at a time is copied.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import split_torch_state_dict_into_shards
from safetensors.torch import save_file
from torch import Tensor
from tqdm import tqdm
from transformers import LlamaForCausalLM, PretrainedConfig, PreTrainedModel

from mint_iqa.checkpoint import check_all_finite, read_state
from mint_iqa.errors import MintIQAError
from mint_iqa.modeling import MintIQAModel
from mint_iqa.pretrained import written_whole
from mint_iqa.processing import read_tokenizer
from mint_iqa.published import (
    DERIVED,
    LLM,
    UNUSED,
    Dimensions,
    State,
    llm_config,
    model_config,
    published_names,
    read_dimensions,
    shared_blocks,
    weight,
)

SHARD_SIZE = "1GB"


@dataclass(frozen=True)
class Conversion:
    """What `convert` did.

    Of `blocks` in each tower the first `shared` are equal and kept once; the checkpoint's `unused` keys are
    left out.
    """

    folder: Path
    parameters: int
    blocks: int
    shared: int
    unused: tuple[str, ...]
    tokenizers: bool


def convert(
    source: Path, folder: Path, dimensions: Path | None = None, tokenizers: Path | None = None
) -> Conversion:
    """Write the checkpoint `source` to the new folder `folder`.

    dimensions: JSON file of what differs from the published `Dimensions`.
    tokenizers: a folder laid out as InstructBLIP's: the LLM's tokenizer, and the Q-Former's in
    `qformer_tokenizer/`. Without it the result takes token ids alone.
    Raises MintIQAError when a file is of no use, when a key is missing, unknown or of another shape (named),
    or when `folder` has something in it.
    """
    check_new(folder)
    if not source.is_file():
        raise MintIQAError("checkpoint_missing", f"{source} is no file: check the path.")
    state = read_state(source, mmap=True)
    dims = read_dimensions(dimensions, state)
    read_by_whom = _read_tokenizers(tokenizers, dims) if tokenizers else {}
    _check(source, state, dims)
    check_all_finite(state, source)
    shared = shared_blocks(state, dims.vision_layers)
    try:
        with written_whole(folder) as temporary:
            parameters = _write(state, dims, shared, temporary)
            for place, tokenizer in read_by_whom.items():
                tokenizer.save_pretrained(temporary / place)
    except OSError as error:
        raise MintIQAError("output_unwritable", f"{folder} can't be written: {error.strerror}.") from error
    unused = tuple(name for name in state if UNUSED.fullmatch(name))
    return Conversion(folder, parameters, dims.vision_layers, shared, unused, bool(tokenizers))


def check_new(folder: Path) -> None:
    """MintIQAError if there is something at `folder` already."""
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise MintIQAError("output_exists", f"{folder} exists already: give the name of a new folder.")


def _models(dims: Dimensions, branch_at: int) -> tuple[MintIQAModel, LlamaForCausalLM]:
    """Both without weights: for their names and shapes."""
    try:
        with torch.device("meta"):
            return MintIQAModel(model_config(dims, branch_at)), LlamaForCausalLM(llm_config(dims))
    except Exception as error:  # each size is used in another layer of transformers or torch
        raise MintIQAError("bad_config", f"No model has these dimensions: {error!s:.200}.") from error


def _check(source: Path, state: State, dims: Dimensions) -> None:
    """MintIQAError unless `state` holds exactly what a checkpoint of these dimensions does."""
    expected = _expected_shapes(dims)
    known = {name for name in state if UNUSED.fullmatch(name) or DERIVED.fullmatch(name)}
    trouble = {
        "missing": sorted(expected.keys() - state.keys()),
        "unknown": sorted(state.keys() - expected.keys() - known),
        "of another shape": sorted(
            n for n in expected.keys() & state.keys() if state[n].shape != expected[n]
        ),
    }
    if found := named(trouble):
        raise MintIQAError(
            "bad_checkpoint",
            f"{source} is no published MINT-IQA checkpoint of these dimensions ({found}): give it another "
            "--config, or another file.",
        )


def _expected_shapes(dims: Dimensions) -> dict[str, torch.Size]:
    """Of every key but those that are of no use; both towers are whole in the checkpoint."""
    model, llm = _models(dims, branch_at=0)
    expected = {LLM + name: tensor.shape for name, tensor in llm.state_dict().items()}
    for name, tensor in model.state_dict().items():
        names = published_names(name, 0)
        shape = torch.Size([len(tensor) // 3]) if len(names) == 2 else tensor.shape
        expected |= dict.fromkeys(names, shape)
    return expected


def named(trouble: dict[str, list[str]], shown: int = 3) -> str:
    """{what is wrong: keys} -> one phrase with the first keys of each; "" where nothing is wrong."""
    more = {what: f" and {len(keys) - shown} more" * (len(keys) > shown) for what, keys in trouble.items()}
    return "; ".join(
        f"{what}: {', '.join(keys[:shown])}{more[what]}" for what, keys in trouble.items() if keys
    )


def _write(state: State, dims: Dimensions, branch_at: int, folder: Path) -> int:
    """Both parts; returns how many parameters they have."""
    model, llm = _models(dims, branch_at)
    stages = {
        name: weight(state, published_names(name, branch_at), tensor.shape)
        for name, tensor in model.state_dict().items()
    }
    language = {name: state[LLM + name] for name in llm.state_dict()}
    write_part(model, stages, folder)
    write_part(llm, language, folder / "language")
    return sum(tensor.numel() for part in (stages, language) for tensor in part.values())


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


def _read_tokenizers(folder: Path, dims: Dimensions) -> dict[str, Any]:
    """Place below the output -> tokenizer."""
    return {
        "language": fitting_tokenizer(folder, dims.llm_vocab or 0),
        ".": fitting_tokenizer(folder / "qformer_tokenizer", dims.qformer_vocab or 0),
    }


def fitting_tokenizer(source: Path, vocabulary: int) -> Any:
    """MintIQAError when there is none, or it knows more words than the `vocabulary` of the weights."""
    try:
        tokenizer = read_tokenizer(source)
    except MintIQAError as error:
        raise MintIQAError(
            "tokenizer_missing",
            f"{source} holds no tokenizer: give --tokenizers a folder laid out as InstructBLIP's, the LLM's "
            "tokenizer and a folder qformer_tokenizer.",
        ) from error
    if not 0 < len(tokenizer) <= vocabulary:
        raise MintIQAError(
            "tokenizer_mismatch",
            f"The tokenizer in {source} has {len(tokenizer)} tokens but the checkpoint {vocabulary}: give "
            "--tokenizers those that it was trained with.",
        )
    return tokenizer
