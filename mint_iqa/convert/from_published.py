"""A published MINT-IQA checkpoint (one .pt) -> a folder that `MintIQAModel.from_pretrained` loads.

The folder holds both stages as safetensors, the LLM under `language/` and, if given, the tokenizers. The
checkpoint is mapped, not read: one shard at a time is copied.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import LlamaForCausalLM

from mint_iqa.checkpoints.checks import check_all_finite, misfit, read_state, shapes_of
from mint_iqa.checkpoints.tokenizers import fitting_tokenizer
from mint_iqa.convert.published import (
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
from mint_iqa.convert.writing import check_new, write_part
from mint_iqa.errors import MintIQAError
from mint_iqa.files import written_whole
from mint_iqa.model.modeling import MintIQAModel


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
    Raises MintIQAError when a file can't be used, when a key is missing, unknown or of another shape (named),
    or when `folder` has something in it.
    """
    check_new(folder)
    if not source.is_file():
        raise MintIQAError("file_missing", f"{source} is not a file: check the path.")
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
    if found := misfit(expected, shapes_of(state), may_have=known):
        raise MintIQAError(
            "bad_checkpoint",
            f"{source} is not a published MINT-IQA checkpoint of these dimensions ({found}): give it another "
            "--config, or another file.",
        )


def _expected_shapes(dims: Dimensions) -> dict[str, torch.Size]:
    """Of every key that is used; the checkpoint holds both towers in full."""
    model, llm = _models(dims, branch_at=0)
    expected = {LLM + name: tensor.shape for name, tensor in llm.state_dict().items()}
    for name, tensor in model.state_dict().items():
        names = published_names(name, 0)
        shape = torch.Size([len(tensor) // 3]) if len(names) == 2 else tensor.shape
        expected |= dict.fromkeys(names, shape)
    return expected


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


def _read_tokenizers(folder: Path, dims: Dimensions) -> dict[str, Any]:
    """Place below the output -> tokenizer."""
    return {
        "language": fitting_tokenizer(folder, dims.llm_vocab or 0),
        ".": fitting_tokenizer(folder / "qformer_tokenizer", dims.qformer_vocab or 0),
    }
