"""Heads and tower tuned together on crops of the training pictures."""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.functional import normalize
from tqdm import tqdm

from mint_iqa.errors import MintIQAError
from mint_iqa.model.modeling import MintIQAModel
from mint_iqa.model.processing import MintIQAProcessor
from mint_iqa.model.vision import PIXEL_STATISTICS, VisionTower, pixel_statistics
from train.data import pictures, sets
from train.data.sets import SETS
from train.engine.checkpoints import writing
from train.engine.parameters import alignment_of, shortcut_of
from train.engine.precision import half_type
from train.engine.recipes import HeadLoss, Tower, Tune
from train.heads.readout import FITTED, Readout, refresh, smoothed

# Pictures that go through the tower at once: on a CPU, whose caches are small, 1.4 times as fast as 32.
TOWER_BATCH_SIZE = 16


class TowerCrops:
    """Pixels of looks: the center of each picture, or a random crop, mirrored half of the time."""

    def __init__(self, model: MintIQAModel, features: dict[str, Tensor]) -> None:
        self.processor = MintIQAProcessor.from_config(model.config)
        size = self.processor.image_size
        self.pixels = [pictures.load(name, size, sets.paths_of(name))[0] for name in SETS]
        self.places = torch.stack([features["set"], features["row"]], dim=1)

    def __call__(self, rows: Tensor, generator: torch.Generator | None) -> Tensor:
        """pixel_values float[B, 3, H, W] of the looks `rows`; the middles without a generator."""
        size = self.processor.image_size
        inner, spare = pictures.center(size), pictures.stored_side(size) - size
        crops = []
        for which, row in self.places[rows].tolist():
            picture = self.pixels[which][row]
            if generator is None:
                crops.append(picture[inner, inner])
                continue
            top, left = torch.randint(spare + 1, (2,), generator=generator).tolist()
            step = 1 if torch.rand((), generator=generator) < 0.5 else -1
            crops.append(picture[top : top + size, left : left + size][:, ::step])
        return self.processor.normalize(np.stack(crops))


class TowerStatistics(nn.Module):
    """pixel_values -> `TapReadout.statistics` of every tap, without the tokens that only Q-Formers need."""

    def __init__(self, tower: VisionTower) -> None:
        super().__init__()
        self.tower = tower

    def forward(self, pixel_values: Tensor) -> Tensor:
        _, tapped = self.tower.trunk(pixel_values, len(self.tower.blocks()))
        return self.tower.readout.statistics(tapped)


class TunedReadout(Readout):
    """A read-out that runs pictures through the tower; it learns from random crops."""

    def __init__(
        self,
        model: MintIQAModel,
        features: dict[str, Tensor],
        human: list[dict[str, str]],
        settings: HeadLoss,
    ) -> None:
        super().__init__(model, features, human, settings)
        self.crops = TowerCrops(model, features)
        self.half = half_type()
        self.generator: torch.Generator | None = None

    def picture(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        pixel_values, reader = self.crops(rows, self.generator), TowerStatistics(self.model.vision)
        # Weights in bfloat16 beside those in float32 that learn: on CPU 1.7 times as fast as autocast, which
        # keeps what is between the matrix products in float32.
        half = {name: parameter.to(self.half) for name, parameter in reader.named_parameters()}
        parts = pixel_values.to(self.half).split(TOWER_BATCH_SIZE)
        statistics = torch.cat([functional_call(reader, half, (part,)) for part in parts])
        statistics = torch.cat([pixel_statistics(pixel_values), statistics], dim=1)
        return statistics, image_vectors(self.model, statistics)

    def tune(self, rows: Tensor, settings: Tower, title: str, checkpoint: Path) -> None:
        """Tune on the looks `rows`; leaves averaged weights in the model. Continues from `checkpoint`."""
        f, model = self.features, self.model
        torch.manual_seed(settings.seed)
        refresh(model)
        rated = f["statistics"][rows[f["human"][rows]]]
        shortcut_of(model).center.copy_(rated.mean(dim=0))
        shortcut_of(model).scale.copy_(rated.std(dim=0).clamp(min=1e-3))
        self.targets = smoothed(f, rows, self.settings.quality_share)
        self.generator = torch.Generator().manual_seed(settings.seed)
        state = TuningState(self, rows, settings, self.generator)
        state.resume(checkpoint)
        for epoch in range(state.epoch, settings.epochs):
            batches = self._batches(rows, settings)
            for batch in tqdm(batches, desc=f"{title} {epoch + 1}/{settings.epochs}", disable=None):
                state.step(self.loss(batch))
            state.save(checkpoint, epoch + 1)
        self.generator = None
        model.requires_grad_(False)
        for weight, average in zip(state.weights, state.average, strict=True):
            weight.data.copy_(average)

    def _batches(self, rows: Tensor, settings: Tower) -> list[Tensor]:
        """One pass: the clean human-rated looks and a fresh draw of the others, shuffled; whole batches."""
        human = self.features["human"][rows]
        clean, others = rows[human], rows[~human]
        extra, size = round(settings.others * len(clean)), settings.batch_size
        drawn = others[torch.randperm(len(others), generator=self.generator)[:extra]]
        order = torch.cat([clean, drawn])
        order = order[torch.randperm(len(order), generator=self.generator)]
        return list(order[: len(order) // size * size].split(size))


class TuningState:
    """Optimizer, schedule and running average of one tuning, and their checkpoint."""

    def __init__(
        self, readout: TunedReadout, rows: Tensor, settings: Tower, generator: torch.Generator
    ) -> None:
        self.readout, self.settings, self.generator = readout, settings, generator
        groups = tuned_parameters(readout.model, settings)
        self.weights = [p for group in groups for p in group["params"]]
        self.average = [p.detach().clone() for p in self.weights]
        self.optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.99), fused=True)
        clean = int(readout.features["human"][rows].sum())
        others = min(round(settings.others * clean), len(rows) - clean)
        steps = settings.epochs * ((clean + others) // settings.batch_size)
        rates = [group["lr"] for group in groups]
        self.schedule = torch.optim.lr_scheduler.OneCycleLR(
            self.optimizer, rates, total_steps=steps + 1, pct_start=0.15
        )
        self.epoch = self.steps = 0
        self.begun = self._begun(rows)

    def _begun(self, rows: Tensor) -> str:
        """A digest of all that must be equal for a run to continue from a checkpoint."""
        f = self.readout.features
        seen = [rows, *(f[k][rows] for k in ("set", "row")), self.readout.targets[rows], *self.weights]
        digest = hashlib.sha256(repr(self.settings).encode())
        for tensor in seen:
            digest.update(tensor.detach().contiguous().numpy().tobytes())
        return digest.hexdigest()

    def step(self, loss: Tensor) -> None:
        self.optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.weights, 1.0)
        self.optimizer.step()
        self.schedule.step()
        kept = min(self.settings.averaging, (self.steps + 1) / (self.steps + 11))
        torch._foreach_lerp_(self.average, [p.detach() for p in self.weights], 1 - kept)
        self.steps += 1

    def save(self, path: Path, epoch: int) -> None:
        """Save all that the rest of the run depends on; the file is the new one or the one before."""
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(".part")
        kept = {
            "begun": self.begun, "epoch": epoch, "steps": self.steps,
            "weights": [p.detach() for p in self.weights], "average": self.average,
            "optimizer": self.optimizer.state_dict(), "schedule": self.schedule.state_dict(),
            "crops": self.generator.get_state(), "dropout": torch.get_rng_state(),
        }  # fmt: skip
        with writing(path.parent):
            torch.save(kept, part)
            part.replace(path)

    def resume(self, path: Path) -> None:
        """Continue from `path` if it exists; MintIQAError if another run wrote it."""
        if not path.exists():
            return
        saved = torch.load(path, weights_only=True)
        if saved["begun"] != self.begun:
            raise MintIQAError(
                "other_recipe",
                f"{path} is of a run with other settings, pictures or weights to start from: delete it, "
                "or name another output.",
            )
        self.epoch, self.steps, self.average = saved["epoch"], saved["steps"], saved["average"]
        for weight, value in zip(self.weights, saved["weights"], strict=True):
            weight.data.copy_(value)
        self.optimizer.load_state_dict(saved["optimizer"])
        self.schedule.load_state_dict(saved["schedule"])
        self.generator.set_state(saved["crops"])
        torch.set_rng_state(saved["dropout"])


def tuned_parameters(model: MintIQAModel, settings: Tower) -> list[dict[str, Any]]:
    """AdamW's groups: the heads, then the patch embedding and each block at its rate; vectors don't decay."""
    named = [(n, p) for n, p in model.named_parameters() if n.startswith(FITTED)]
    groups: list[dict[str, Any]] = [
        {"params": [p for _, p in named], "lr": settings.head_learning_rate, "weight_decay": 0.1}
    ]
    chosen = {p for n, p in model.vision.named_parameters() if any(part in n for part in settings.trains)}
    blocks = model.vision.blocks()
    bottom: nn.Module = model.vision.backbone.embeddings.patch_embeddings  # type: ignore[union-attr,assignment]
    for below, part in enumerate([*reversed(blocks), bottom]):
        rate = settings.learning_rate * settings.layer_decay**below
        for decay, is_matrix in ((settings.weight_decay, True), (0.0, False)):
            own = [p for p in part.parameters() if p in chosen and (p.ndim > 1) == is_matrix]
            groups.append({"params": own, "lr": rate, "weight_decay": decay})
    for group in groups:
        for parameter in group["params"]:
            parameter.requires_grad_(True)
    return groups


def image_vectors(model: MintIQAModel, statistics: Tensor) -> Tensor:
    """`Alignment.image_vector` from statistics: fusing is linear, so it may come after the means."""
    readout, alignment = model.vision.readout, alignment_of(model)
    each = statistics[:, PIXEL_STATISTICS:].unflatten(1, (len(readout.norms), 3, -1))  # [B, taps, 3, D]
    weight, bias = (torch.stack([getattr(n, k) for n in readout.norms]) for k in ("weight", "bias"))
    first, mean = ((each[:, :, k] * weight + bias).flatten(1) for k in (0, 1))
    spread = readout.spread((each[:, :, 2] * weight.abs()).flatten(1))
    patches = (model.config.processor["image_size"] // model.config.vision["patch_size"]) ** 2
    # The mean goes over the patches and the spread token behind them.
    mean = (patches * readout.fuse(mean) + spread) / (patches + 1)
    return normalize(alignment.image_projection(torch.cat([readout.fuse(first), mean], dim=1)), dim=-1)


def tune_model(
    folder: Path,
    features: dict[str, Tensor],
    rows: Tensor,
    human: list[dict[str, str]],
    recipe: Tune,
    checkpoint: Path,
) -> TunedReadout:
    """Tune the model in `folder` on the looks `rows`, continuing from `checkpoint` if that exists."""
    model = MintIQAModel.from_pretrained(folder / "model", dtype=torch.float32).eval()
    tuned = TunedReadout(model, features, human, recipe.heads)
    tuned.tune(rows, recipe.tower, checkpoint.stem, checkpoint)
    return tuned
