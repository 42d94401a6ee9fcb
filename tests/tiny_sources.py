"""Tiny InstructBLIP, BLIP-2, CLIP and BERT with random weights, saved in folders."""

from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import (
    BertConfig,
    BertModel,
    Blip2Config,
    Blip2ForConditionalGeneration,
    CLIPConfig,
    CLIPModel,
    InstructBlipConfig,
    InstructBlipForConditionalGeneration,
    PreTrainedModel,
)

from tests import tiny

VISION = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 5, "num_attention_heads": 2}
VISION |= {"image_size": 28, "patch_size": 14}
TEXT = {"vocab_size": 1100, "hidden_size": 24, "num_hidden_layers": 3, "num_attention_heads": 2}
TEXT |= {"intermediate_size": 40, "max_position_embeddings": 64}
LLAMA = {"model_type": "llama", "vocab_size": 700, "hidden_size": 16, "intermediate_size": 24}
LLAMA |= {"num_hidden_layers": 2, "num_attention_heads": 2, "bos_token_id": 1, "eos_token_id": 2}
BLIP = {"vision_config": VISION, "qformer_config": TEXT, "num_query_tokens": 4, "image_token_index": 699}


def lively(model: nn.Module, seed: int = 0) -> nn.Module:
    """Random weights of usual size, biases and norms included: fresh towers of BLIP are next to zero."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            width = parameter[0].numel() if parameter.ndim > 1 else 25
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * width**-0.5)
            if parameter.ndim == 1 and "norm" in name.lower() and name.endswith("weight"):
                parameter.add_(1)
    return model


def _save(model: PreTrainedModel, folder: Path) -> Path:
    lively(model).eval().save_pretrained(folder)
    return folder


def speaker() -> Any:
    tokenizer = tiny.language_tokenizer()
    tokenizer.chat_template = None  # as Vicuna v1.1's
    return tokenizer


def save_instructblip(folder: Path, **changes: Any) -> Path:
    model = InstructBlipForConditionalGeneration(
        InstructBlipConfig(**{**BLIP, "text_config": LLAMA, **changes})
    )
    speaker().save_pretrained(folder)
    tiny.text_tokenizer().save_pretrained(folder / "qformer_tokenizer")
    return _save(model, folder)


def save_blip2(folder: Path) -> Path:
    opt = {"model_type": "opt", "vocab_size": 700, "hidden_size": 16, "ffn_dim": 24, "num_hidden_layers": 2}
    opt |= {"num_attention_heads": 2, "max_position_embeddings": 256, "word_embed_proj_dim": 16}
    speaker().save_pretrained(folder)
    return _save(Blip2ForConditionalGeneration(Blip2Config(**BLIP, text_config=opt)), folder)


def save_clip(folder: Path) -> Path:
    text = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
    return _save(CLIPModel(CLIPConfig(vision_config=VISION, text_config={**text, "vocab_size": 50})), folder)


def save_bert(folder: Path, **changes: Any) -> Path:
    tiny.text_tokenizer().save_pretrained(folder)
    return _save(BertModel(BertConfig(**{**TEXT, **changes})), folder)
