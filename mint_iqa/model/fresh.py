"""A new model from its parts, or an earlier one to continue from."""

import json
from pathlib import Path

import torch
from torch import Tensor, nn

from mint_iqa.checkpoints.checks import misfit, shapes_of
from mint_iqa.checkpoints.finding import find_checkpoint
from mint_iqa.errors import MintIQAError
from mint_iqa.model.configuration import MintIQAConfig
from mint_iqa.model.modeling import MintIQAModel
from mint_iqa.model.processing import MintIQAProcessor
from mint_iqa.model.qformer import qformer_state
from mint_iqa.model.references import fill_referenced, part_state
from mint_iqa.tables.reading import read_bytes


def initialize(model: MintIQAModel) -> None:
    """Start of training: the tower from its part, both Q-Formers from the sentence encoder's layers.

    The query feed-forward layers start as copies of the text ones, as BLIP-2 does with BERT.
    """
    load_part(model.vision.backbone, "vision", model.config)
    as_qformer = qformer_state(part_state(model.config, "text"))
    for qformer in (model.qformer1, model.qformer2):
        _load(qformer.encoder, as_qformer, allowed_missing=("crossattention",))
    fill_referenced(model.state_dict(), model.config)


def load_part(module: nn.Module, role: str, config: MintIQAConfig) -> None:
    """Fill `module` from the part for `role`; MintIQAError unless names and shapes are the same."""
    _load(module, part_state(config, role))


def _load(module: nn.Module, state: dict[str, Tensor], allowed_missing: tuple[str, ...] = ()) -> None:
    expected = shapes_of(module.state_dict())
    may_lack = [name for name in expected if any(part in name for part in allowed_missing)]
    if found := misfit(expected, shapes_of(state), may_lack):
        raise MintIQAError(
            "bad_checkpoint",
            f"The part's weights do not fit the model ({found}): name another part in the config.",
        )
    module.load_state_dict(state, strict=False)


def load_model(source: str) -> tuple[MintIQAModel, MintIQAProcessor]:
    """A preset, a checkpoint's folder or hub id, or a config file whose parts are the start."""
    if Path(source).suffix == ".json":
        model = MintIQAModel(MintIQAConfig(**json.loads(read_bytes(Path(source)))))
        initialize(model)
        return model, MintIQAProcessor.from_config(model.config, Path(source))
    folder = find_checkpoint(source)
    model = MintIQAModel.from_pretrained(folder, dtype=torch.float32)
    return model, MintIQAProcessor.from_config(model.config, folder)
