"""Learns the projection of pictures into the sentence encoder's space, from captions on frozen features.

    python -m train.align configs/nano/align.yaml

Features of the clean photographs are computed once; the projection then sees them for many epochs in one
minute.
"""

import sys
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, normalize
from tqdm import tqdm

from mint_iqa.errors import MintIQAError
from mint_iqa.model.modeling import MintIQAModel
from mint_iqa.model.processing import MintIQAProcessor
from train.data import pictures
from train.data.captions import caption_bank
from train.data.features import encode
from train.data.sets import learned_of
from train.data.sources import Sources, read_sources
from train.engine.checkpoints import RUN_AGAIN, held_out, leave, save_alone, writing
from train.engine.commands import step
from train.engine.parameters import alignment_of
from train.engine.recipes import Align


@torch.inference_mode()
def pooled_features(
    model: MintIQAModel, processor: MintIQAProcessor, sources: Sources, rows: list[int]
) -> Tensor:
    """float[N, 2 Dv]: what `Alignment.image_vector` pools, before its projection."""
    inner = pictures.center(processor.image_size)
    starts = tqdm(range(0, len(rows), 32), desc="Features", disable=None)
    crops = (sources.pixels["flickr8k"][rows[start : start + 32]][:, inner, inner] for start in starts)
    found = []
    for encoded in encode(model, map(processor.normalize, crops), half=True):
        embeds = encoded.image_embeds
        found.append(torch.cat([embeds[:, 0], embeds[:, 1:].mean(dim=1)], dim=-1).float())
    return torch.cat(found)


def fit(projection: nn.Module, pooled: Tensor, captions: Tensor, recipe: Align) -> float:
    """Train the projection in place, each photograph against a caption of every other; the logit scale."""
    generator = torch.Generator().manual_seed(recipe.seed)
    scale = nn.Parameter(torch.tensor(3.0))
    optimizer = torch.optim.AdamW(
        [*projection.parameters(), scale], lr=recipe.learning_rate, weight_decay=recipe.weight_decay
    )
    steps = recipe.epochs * -(-len(pooled) // recipe.batch_size)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, recipe.learning_rate, total_steps=steps)
    spread = pooled.std(dim=0)
    for _ in tqdm(range(recipe.epochs), desc="Captions", disable=None):
        for rows in torch.randperm(len(pooled), generator=generator).split(recipe.batch_size):
            noise = torch.randn(len(rows), pooled.shape[1], generator=generator)
            noisy = pooled[rows] + recipe.noise * spread * noise
            keep = (torch.rand(noisy.shape, generator=generator) > recipe.dropout) / (1 - recipe.dropout)
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
    if len(pooled) < 2:
        return "not measured: no photographs were kept apart"
    image = normalize(projection(pooled), dim=-1)
    similarity = image @ captions[:, 0].T
    own = similarity.diagonal().unsqueeze(1)
    rank = (similarity > own).sum(dim=1)
    nearest, nearer = (rank < 10).float().mean(), (similarity < own).float().sum(dim=1).mean()
    return (
        f"own caption in the nearest ten {nearest:.3f}, above a random one {nearer / (len(image) - 1):.3f} "
        f"of {len(image)} photographs kept apart"
    )


def align(recipe: Align) -> None:
    """Run the recipe: OUTPUT/model. MintIQAError if nothing is left to learn from."""
    start, output = Path(recipe.start), Path(recipe.output)
    kept = held_out(start)
    model = MintIQAModel.from_pretrained(start / "model", dtype=torch.float32).eval()
    processor = MintIQAProcessor.from_config(model.config)
    sources = read_sources(processor.image_size)
    learned = learned_of(sources.photographs, kept.held_out_photographs)
    if learned < 2:
        raise MintIQAError(
            "bad_config",
            f"{kept.held_out_photographs} of {len(sources.photographs)} photographs are kept apart: there is "
            "nothing to learn from, so train with held_out_photographs lower.",
        )
    rows = [i for i, row in enumerate(sources.rows["flickr8k"]) if row.variant == pictures.CLEAN]
    pooled = pooled_features(model, processor, sources, rows)
    captions = caption_bank(model, processor, sources.photographs)
    alignment = alignment_of(model)
    projection, unseen = alignment.image_projection, (pooled[learned:], captions[learned:])
    print(f"before: {retrieval(projection, *unseen)}", flush=True)
    scale = fit(projection, pooled[:learned].clone(), captions[:learned], recipe)
    alignment.logit_scale.data.fill_(scale)
    figure = retrieval(projection, *unseen)
    with writing(output, RUN_AGAIN):
        leave(output, recipe, kept, figure)
        save_alone(model, output / "model")


if __name__ == "__main__":
    sys.exit(step(Align, align, __doc__))
