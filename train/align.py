"""The projection of pictures into the sentence encoder's space, learned from captions on frozen features.

    python -m train.align runs/pretrain --output runs/aligned

Features of the clean photographs are computed once; the projection then sees them for many epochs in one
minute.
"""

import argparse
import sys
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, normalize
from tqdm import tqdm

from instruct_data.recipes import read_settings
from mint_iqa.errors import MintIQAError
from mint_iqa.model.modeling import MintIQAModel
from mint_iqa.model.processing import MintIQAProcessor
from train.data import pictures
from train.data.captions import caption_bank
from train.data.sets import learned_of
from train.data.sources import Sources, read_sources
from train.engine.checkpoints import AGAIN, writing
from train.engine.commands import ends_in_a_sentence
from train.engine.precision import autocast
from train.engine.recipes import Stage1

EPOCHS, BATCH, RATE, DECAY, DROPOUT, NOISE = 60, 512, 1e-3, 0.2, 0.3, 0.05


@torch.inference_mode()
def features(model: MintIQAModel, processor: MintIQAProcessor, sources: Sources, rows: list[int]) -> Tensor:
    """float[N, 2 Dv]: what `Alignment.image_vector` pools, before its projection."""
    inner = pictures.center(processor.image_size)
    found = []
    for start in tqdm(range(0, len(rows), 32), desc="Features", disable=None):
        pixels = sources.pixels["flickr8k"][rows[start : start + 32]][:, inner, inner]
        with autocast():
            embeds = model.encode_image(processor.normalize(pixels)).image_embeds
        found.append(torch.cat([embeds[:, 0], embeds[:, 1:].mean(dim=1)], dim=-1).float())
    return torch.cat(found)


def fit(projection: nn.Module, pooled: Tensor, captions: Tensor, seed: int = 0) -> float:
    """Train the projection in place, each photograph against a caption of every other; the logit scale."""
    generator = torch.Generator().manual_seed(seed)
    scale = nn.Parameter(torch.tensor(3.0))
    optimizer = torch.optim.AdamW([*projection.parameters(), scale], lr=RATE, weight_decay=DECAY)
    steps = EPOCHS * -(-len(pooled) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=steps)
    spread = pooled.std(dim=0)
    for _ in tqdm(range(EPOCHS), desc="Captions", disable=None):
        for rows in torch.randperm(len(pooled), generator=generator).split(BATCH):
            noisy = pooled[rows] + NOISE * spread * torch.randn(
                len(rows), pooled.shape[1], generator=generator
            )
            keep = (torch.rand(noisy.shape, generator=generator) > DROPOUT) / (1 - DROPOUT)
            image = normalize(projection(noisy * keep), dim=-1)
            which = torch.randint(captions.shape[1], (len(captions),), generator=generator)
            bank = captions[torch.arange(len(captions)), which]
            loss = cross_entropy(scale.exp().clamp(max=50) * image @ bank.T, rows)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            schedule.step()
    return float(scale.detach())


@torch.inference_mode()
def retrieval(projection: nn.Module, pooled: Tensor, captions: Tensor) -> str:
    """How often a photograph's own caption is among its ten nearest, and nearer than a random one."""
    image = normalize(projection(pooled), dim=-1)
    similarity = image @ captions[:, 0].T
    own = similarity.diagonal().unsqueeze(1)
    rank = (similarity > own).sum(dim=1)
    nearest, nearer = (rank < 10).float().mean(), (similarity < own).float().sum(dim=1).mean()
    return f"in the nearest ten {nearest:.3f}, above a random caption {nearer / (len(image) - 1):.3f}"


@ends_in_a_sentence
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("--output", type=Path, required=True)
    options = parser.parse_args()
    model = MintIQAModel.from_pretrained(options.run / "model", dtype=torch.float32).eval()
    processor = MintIQAProcessor.from_config(model.config)
    sources = read_sources(processor.image_size)
    held_out = read_settings(Stage1, options.run / "recipe.json").held_out_photographs
    learned = learned_of(sources.photographs, held_out)
    if learned < 2:
        raise MintIQAError(
            "bad_config",
            f"{held_out} of {len(sources.photographs)} photographs are kept apart: there is nothing to learn "
            "from, so train with held_out_photographs lower.",
        )
    rows = [i for i, row in enumerate(sources.rows["flickr8k"]) if row.variant == pictures.CLEAN]
    pooled = features(model, processor, sources, rows)
    captions = caption_bank(model, processor, sources.photographs)
    projection = model.alignment.image_projection
    unseen = pooled[learned:], captions[learned:]
    if len(unseen[0]) > 1:
        print(f"before: {retrieval(projection, *unseen)}")
    scale = fit(projection, pooled[:learned].clone(), captions[:learned])
    model.alignment.logit_scale.data.fill_(scale)
    if len(unseen[0]) > 1:
        print(f"after: {retrieval(projection, *unseen)}")
    with writing(options.output, AGAIN):
        model.half().save_pretrained(options.output / "model", max_shard_size="90MB")


if __name__ == "__main__":
    sys.exit(main())
