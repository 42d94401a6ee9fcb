"""What a checkpoint references instead of carrying: parts of other models, and its LLM."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from transformers import BertModel

from mint_iqa.checkpoints.finding import find_folder
from mint_iqa.checkpoints.parts import PARTS, part_folder
from mint_iqa.errors import MintIQAError
from mint_iqa.language.llm import LanguageModel
from mint_iqa.language.loading import check_own
from mint_iqa.model.configuration import MintIQAConfig
from mint_iqa.model.vision import BACKBONES
from mint_iqa.quiet import quiet_transformers

EXAMINER_PARTS = ("detail", "concepts")


def fill_referenced(state: dict[str, Tensor], config: MintIQAConfig) -> None:
    """Fill, in place, the weights of a model's `state` that its checkpoint references.

    The frozen sentence encoder and its word embeddings come from their part, as the examiner's networks do,
    and the frozen layers of Q-Former 2 from Q-Former 1.
    """
    if not config.referenced:
        return
    text = part_state(config, "text")
    networks = [role for role in EXAMINER_PARTS if role in config.parts]
    source = {f"alignment.text_encoder.{k}": v for k, v in text.items()}
    source["qformer1.encoder.embeddings.word_embeddings.weight"] = text["embeddings.word_embeddings.weight"]
    for role in networks:
        own = part_state(config, role)
        source |= {f"examiner.{role}.{k}": v for k, v in own.items() if f"examiner.{role}.{k}" in state}
    names = list(filter(config.is_referenced, state))
    for name in names:
        origin = source[name] if name in source else state.get(name.replace("qformer2.", "qformer1.", 1))
        if origin is None or origin is state[name] or origin.shape != state[name].shape:
            raise MintIQAError(
                "bad_checkpoint",
                f"The config references {name}, which no part has: download or convert the checkpoint again.",
            )
    with torch.no_grad():
        # Q-Former 2's copies come last: Q-Former 1 is complete only then.
        for name in sorted(names, key=lambda name: name not in source):
            origin = source[name] if name in source else state[name.replace("qformer2.", "qformer1.", 1)]
            state[name].copy_(origin)


def part_state(config: MintIQAConfig, role: str) -> dict[str, Tensor]:
    """The weights of the tower ("vision"), the sentence encoder ("text") or one of the examiner's networks
    ("detail", "concepts") that `config.parts` names.

    A local folder is read by transformers. MintIQAError where it is missing or does not fit.
    """
    if role not in config.parts:
        raise MintIQAError("weights_missing", f"The config names no part for {role!r}: add it under `parts`.")
    name = config.parts[role]
    folder = part_folder(name)
    if name in PARTS:
        state = load_file(folder / "model.safetensors")
    else:
        kind: Any = BACKBONES[config.vision["model_type"]][1] if role == "vision" else BertModel
        try:
            with quiet_transformers():
                part, info = kind.from_pretrained(folder, dtype=torch.float32, output_loading_info=True)
        except (OSError, SafetensorError, RuntimeError, ValueError) as error:
            raise MintIQAError(
                "bad_checkpoint", f"{folder} holds no readable weights for {role!r}: copy its files again."
            ) from error
        if lacking := sorted(k for k in info["missing_keys"] if not k.startswith("pooler.")):
            raise MintIQAError(
                "bad_checkpoint", f"{folder} lacks {', '.join(lacking[:3])}, which {role!r} needs."
            )
        state = part.state_dict()
    return {k: v for k, v in state.items() if "position_ids" not in k and not k.startswith("pooler.")}


def named_llm(config: MintIQAConfig) -> Path:
    """The folder of the LLM that `config` names: `language.source` (folder or hub id), or a packaged part."""
    if "source" in config.language:
        return find_folder(config.language["source"], "LLM")
    if "language" not in config.parts:
        raise MintIQAError(
            "weights_missing",
            "The config names no LLM, and the checkpoint brings none: convert or download it again.",
        )
    return part_folder(config.parts["language"])


def load_language(config: MintIQAConfig, own: Path | None, **settings: Any) -> LanguageModel:
    """The LLM of a checkpoint.

    own: what the checkpoint brings: a whole LLM, or an adapter, which is merged into the LLM that `config`
    names. None: that LLM alone. settings: as for `LanguageModel.load`.
    MintIQAError when none can be read, or it is of another width than `config` says.
    """
    width = config.language["hidden_size"]
    if own is None or not (own / "config.json").is_file():
        return LanguageModel.load(named_llm(config), own, width, **settings)
    check_own(own)
    # A converted checkpoint may lack its tokenizer; asking would silently give an empty one.
    can_read = (own / "tokenizer.json").is_file()
    return LanguageModel.load(own, None, width, can_read=can_read, **settings)


class LanguageOnDemand:
    """The LLM of a model, loaded once it is first asked for.

    Not an nn.Module, so that a model may hold it: scoring never needs the LLM, and its weights are neither
    saved nor trained with the model's.
    """

    def __init__(self, config: MintIQAConfig, folder: Path | None, settings: Mapping[str, Any]) -> None:
        """folder: the model's; its language/ may hold an LLM or an adapter. settings: as `placement` gave."""
        own = folder / "language" if folder is not None else None
        self.config, self.own = config, own if own is not None and own.is_dir() else None
        self.settings = dict(settings)
        self.loaded: LanguageModel | None = None

    def __call__(self, dtype: torch.dtype, device: torch.device) -> LanguageModel:
        """In this dtype, and on this device unless the settings say otherwise.

        MintIQAError when the checkpoint neither brings nor names one that can be read.
        """
        if self.loaded is None:
            self.loaded = load_language(self.config, self.own, dtype=dtype, **self.settings)
        return self.loaded if self.settings else self.loaded.to(device)
