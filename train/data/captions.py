"""Sentence vectors of prompts, and of the photographs' captions, computed once."""

import hashlib
import json
import os
from collections.abc import Sequence
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from mint_iqa.files import cache_root
from mint_iqa.model.modeling import MintIQAModel
from mint_iqa.model.processing import MintIQAProcessor
from train.engine.checkpoints import writing
from train.engine.parameters import alignment_of
from train.engine.precision import autocast


def sentence_vectors(model: MintIQAModel, processor: MintIQAProcessor, texts: Sequence[str]) -> Tensor:
    """What the frozen encoder says of texts, unit vectors float[M, Dt], before any map."""
    alignment = alignment_of(model)
    found = [torch.empty(0, alignment.text_encoder.config.hidden_size)]
    for start in range(0, len(texts), 64):
        text = processor.tokenize(list(texts[start : start + 64]))
        found.append(alignment.encode_text(text.ids, text.mask))
    return torch.cat(found)


@torch.no_grad()
def caption_bank(
    model: MintIQAModel, processor: MintIQAProcessor, photographs: Sequence[dict[str, Any]]
) -> Tensor:
    """float[N, 5, Dt]: the frozen sentence vectors of each photograph's five captions; computed once."""
    texts = [(p["captions"] * 5)[:5] for p in photographs]
    alignment = alignment_of(model)
    made_of = hashlib.sha256(json.dumps(texts).encode())
    for weight in alignment.text_encoder.state_dict().values():
        made_of.update(weight.cpu().contiguous().numpy().tobytes())
    path = cache_root() / "pictures" / f"captions-{made_of.hexdigest()[:16]}.safetensors"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        flat = sorted({t for five in texts for t in five}, key=len)
        vectors: dict[str, Tensor] = {}
        for start in range(0, len(flat), 256):
            batch = flat[start : start + 256]
            text = processor.tokenize(batch)
            ids, mask = text.ids.to(model.device), text.mask.to(model.device)
            with autocast(model.device.type):
                vectors |= dict(zip(batch, alignment.encode_text(ids, mask).cpu(), strict=True))
        bank = torch.stack([torch.stack([vectors[t] for t in five]) for five in texts])
        # Renamed when complete, so that a killed process leaves no half file.
        temporary = path.with_name(f".{path.name}-{os.getpid()}")
        with writing(path):
            save_file({"captions": bank}, temporary)
            temporary.replace(path)
    return load_file(path)["captions"]
