"""A finished run of stage 2 -> the folder that ships, for --model or mint_iqa/weights.

    python -m train.release runs/explain runs/release

Measures which pictures are familiar to the model (for the warning on unfamiliar ones) and writes fp16
weights in shards below 95 MB, and the LoRA adapter.
"""

import argparse
import shutil
import sys
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from mint_iqa.checkpoints.finding import revision_of
from mint_iqa.model.modeling import FAMILIAR_AXES, MintIQAModel
from mint_iqa.model.processing import MintIQAProcessor
from train.data import pictures
from train.data.features import encode
from train.data.pictures import load
from train.data.sets import SETS
from train.engine.checkpoints import FIGURE, RUN_AGAIN, writing
from train.engine.commands import ends_in_a_sentence

SAMPLE_SIZE = 500  # pictures of each set, clean and faulted
FAMILIAR_SHARE = 0.995


@torch.inference_mode()
def pooled_embeds(model: MintIQAModel, processor: MintIQAProcessor, name: str) -> Tensor:
    """float[SAMPLE_SIZE, Dv]: mean image_embeds of a seeded sample of a training set."""
    pixels, _ = load(name, processor.image_size)
    rows = np.random.default_rng(0).permutation(len(pixels))[:SAMPLE_SIZE]
    inner = pictures.center(processor.image_size)
    parts = tqdm(np.array_split(rows, -(-len(rows) // 25)), desc=name, disable=None)
    batches = (processor.normalize(pixels[np.sort(part)][:, inner, inner]) for part in parts)
    return torch.cat([encoded.image_embeds.mean(dim=1) for encoded in encode(model, batches)])


def measure_familiarity(model: MintIQAModel, embeds: Tensor) -> None:
    """Whiten the leading principal axes; scale them so that `novelty` is 1 at the 99.5th percentile."""
    mean = embeds.mean(dim=0)
    _, singular, axes = torch.linalg.svd(embeds - mean, full_matrices=False)
    whitening = torch.zeros_like(model.familiar_axes)
    number = min(FAMILIAR_AXES, len(singular))  # a narrow tower has fewer
    whitening[:, :number] = axes[:number].T / (singular[:number] / len(embeds) ** 0.5)
    distances = ((embeds - mean) @ whitening).square().mean(dim=1)
    model.familiar_mean.copy_(mean)
    model.familiar_axes.copy_(whitening / distances.quantile(FAMILIAR_SHARE).sqrt())


@ends_in_a_sentence
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("preset", type=Path)
    options = parser.parse_args()
    model = MintIQAModel.from_pretrained(options.run / "model", dtype=torch.float32).eval()
    processor = MintIQAProcessor.from_config(model.config)
    embeds = torch.cat([pooled_embeds(model, processor, name) for name in SETS])
    measure_familiarity(model, embeds)
    with writing(options.preset, RUN_AGAIN):
        model.half().save_pretrained(options.preset, max_shard_size="90MB")
        adapter = options.preset / "language"
        adapter.mkdir(exist_ok=True)
        for name in ("adapter_config.json", "adapter_model.safetensors"):
            shutil.copy(options.run / "model" / "language" / name, adapter / name)
    print(f"{FIGURE}revision {revision_of(options.preset)}")


if __name__ == "__main__":
    sys.exit(main())
