"""A CLIP small enough to build in a test, and published CLIP-AGIQA files for it."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import CLIPConfig, CLIPModel

from mint_iqa.clip_agiqa.model import ClipAgiqa, ClipAgiqaConfig, PromptLearner
from mint_iqa.clip_agiqa.towers import ALIGNED, GOOD, Antonyms, ClipTowers

VOCABULARY = 49408  # CLIP's own: the class words are fixed token ids


def clip(layers: int = 3, seed: int = 0, patch_size: int = 16) -> CLIPModel:
    """Widths 32 (text), 48 (vision) and 24 (shared); pictures of 32 pixels; lively random weights."""
    torch.manual_seed(seed)
    tower = {"num_hidden_layers": layers, "intermediate_size": 40, "projection_dim": 24}
    text = {"hidden_size": 32, "num_attention_heads": 2, "vocab_size": VOCABULARY}
    vision = {"hidden_size": 48, "num_attention_heads": 3, "image_size": 32, "patch_size": patch_size}
    model = CLIPModel(
        CLIPConfig(text_config={**text, **tower}, vision_config={**vision, **tower}, projection_dim=24)
    )
    with torch.no_grad():
        for parameter in model.parameters():  # biases and norms too: a skipped one must show
            parameter.add_(torch.randn(parameter.shape) * 0.1)
        model.logit_scale.fill_(2.0)  # at CLIP's own 4.6 random scores lie near 0 or 1
    return model.eval()


def save(folder: Path, seed: int = 0, **settings: Any) -> Path:
    """A whole CLIP-AGIQA with random prompts, and the CLIP that it names."""
    backbone = clip(seed=seed)
    backbone.save_pretrained(folder / "clip")
    config = ClipAgiqaConfig(backbone=str(folder / "clip"), text_depth=2, vision_depth=2, **settings)
    model = ClipAgiqa(backbone, config)
    with torch.no_grad():
        for tensor in model.learned().values():
            tensor.add_(torch.randn(tensor.shape) * 0.3)
    model.save_pretrained(folder)
    return folder


def published(
    model: CLIPModel, seed: int = 0, perceptual: Antonyms = GOOD
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The auxiliary and the target file, with random prompts for 12 layers."""
    generator = torch.Generator().manual_seed(seed)
    return _file(model, ALIGNED, False, generator), _file(model, perceptual, True, generator)


def _file(model: CLIPModel, words: Antonyms, fused: bool, generator: torch.Generator) -> dict[str, Tensor]:
    learner = PromptLearner(ClipAgiqaConfig(), ClipTowers(model), fused)
    state = {
        name: torch.randn(tensor.shape, generator=generator) * 0.3
        for name, tensor in learner.state_dict().items()
    }
    ids = torch.zeros(2, 77 - 8, dtype=torch.long)
    for row, sentence in zip(ids, words.ids, strict=True):
        row[: len(sentence)] = torch.tensor(sentence)
    embedded = model.text_model.embeddings.token_embedding.weight.detach()[ids]
    return {**state, "token_prefix": embedded[:, :1], "token_suffix": embedded[:, 1:]}
