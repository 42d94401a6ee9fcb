"""The tower's upper blocks tuned together with fitted heads: what ships as stage 1.

    python -m train.tuning runs/aligned --test-fold 0 --output runs/stage1

Heads are fitted on frozen features first, so that the tower is not bent by heads that know nothing yet; then
the upper half of the blocks learns on the cached states below them. Of the weights that tune, the running
average is kept, blended with the start (`Tuning.share`). 12 minutes on one core.
"""

import argparse
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize
from tqdm import tqdm

from mint_iqa.modeling import MintIQAModel
from mint_iqa.vision import PIXEL_STATISTICS
from train import pictures
from train.features import FOLDS, Trunks, frozen_blocks, load_features
from train.readout import FITTED, Readout
from train.settings import Stage1
from train.stage1 import severity_loss


@dataclass(frozen=True)
class Tuning:
    """How the tower is tuned; chosen on fold 0."""

    epochs: int = 3  # passes over the clean human-rated pictures
    others: float = 0.3  # faulted pictures and photographs per clean one and pass
    batch_size: int = 32
    tower_learning_rate: float = 3e-4  # of the last block
    layer_decay: float = 0.8
    head_learning_rate: float = 1e-4
    weight_decay: float = 0.05
    averaging: float = 0.99  # of the running average, per step
    # How far from the fitted, frozen start (0) to the tuned end (1) the kept weights lie: what tuning gains
    # at home it may lose on other generators, and in between lies more of both (WiSE-FT, arXiv 2109.01903).
    share: float = 0.75
    seed: int = 0


@dataclass(frozen=True)
class Settling:
    """How the heads for authenticity and faults are fitted to the tuned tower."""

    epochs: int = 30
    batch_size: int = 256
    learning_rate: float = 2e-3
    # Higher separates more malformed pictures from sound ones, and takes authenticity further from quality:
    # at this weight they correlate by .77 on unseen prompts (human scores of AIGCIQA2023+: .86).
    pair_weight: float = 2.5
    seed: int = 0


class TunedReadout(Readout):
    """A read-out whose pictures come through the tower's upper blocks, from a random crop while training."""

    def __init__(
        self,
        model: MintIQAModel,
        features: dict[str, Tensor],
        human: list[dict[str, str]],
        trunks: Trunks,
    ) -> None:
        super().__init__(model, features, human)
        self.trunks, self.training = trunks, False
        self.generator = torch.Generator()
        self.blended: list[tuple[Tensor, Tensor, Tensor]] = []  # parameter, where it started, where it ended

    def picture(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        f = self.features
        view = torch.zeros_like(rows)
        if self.training:
            view = (torch.rand(len(rows), generator=self.generator) * f["views"][rows]).long()
        places = f["first_view"][rows] + view
        tower = self.model.vision
        with torch.autocast("cpu", torch.bfloat16):
            tapped = tower.rest(self.trunks[places], frozen_blocks(self.model))
        statistics = torch.cat([f["early"][places].float(), tower.readout.statistics(tapped)], dim=1)
        return statistics, image_vectors(self.model, statistics)

    def tune(self, rows: Tensor, settings: Tuning, title: str) -> None:
        """Tune on the given looks, from fitted heads; leaves averaged and blended weights in the model."""
        model = self.model
        trained = tuned_parameters(model, settings)
        self.generator.manual_seed(settings.seed)
        torch.manual_seed(settings.seed)
        batches = list(self._batches(rows, settings))
        optimizer = torch.optim.AdamW(trained, betas=(0.9, 0.99), fused=True)
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, [group["lr"] for group in trained], total_steps=len(batches) + 1, pct_start=0.15
        )
        weights = [p for group in trained for p in group["params"]]
        start = [p.detach().clone() for p in weights]
        average = [p.clone() for p in start]
        self.training = True
        for step, batch in enumerate(tqdm(batches, desc=title, disable=None, mininterval=20)):
            optimizer.zero_grad()
            self.loss(batch).backward()
            torch.nn.utils.clip_grad_norm_(weights, 1.0)
            optimizer.step()
            schedule.step()
            kept = min(settings.averaging, (step + 1) / (step + 11))
            torch._foreach_lerp_(average, [p.detach() for p in weights], 1 - kept)
        self.training = False
        model.requires_grad_(False)
        self.blended = list(zip(weights, start, average, strict=True))
        self.blend(settings.share)

    def blend(self, share: float) -> None:
        """Move the weights to `share` of the way from the fitted start to the tuned end."""
        for weight, start, end in self.blended:
            weight.data.copy_(torch.lerp(start, end, share))

    def settle(self, rows: Tensor, settings: Settling) -> None:
        """Set the level of the scores, then fit the authenticity and fault heads to the tower as it now is.

        Between two ends the scores of a blend lie lower or higher than either's: their mean over the clean
        looks is put back. And tuning sees few faulted pictures, and learns quality above all: here every
        faulted picture counts, and a malformed one is held against its own original. Malformation is still
        detected as it was, because here clean pictures look familiar and their malformed twins do not.
        """
        f, model = self.features, self.model
        parts = tqdm(rows.split(64), desc="Settling", disable=None, mininterval=20)
        with torch.no_grad():
            seen = [self.picture(part) for part in parts]
            picture = (torch.cat([s for s, _ in seen]), torch.cat([i for _, i in seen]))
            self._level(rows, picture)
            vectors = model.shortcut(f["first_queries"][rows].unsqueeze(1), picture[0])
            faults = f["faults"][rows].clone()
            malformation = list(model.config.faults).index("malformation")
            faults[:, malformation] = model.fault_head(vectors)[:, malformation].sigmoid()
        heads = nn.ModuleList([model.heads["authenticity"], model.fault_head]).requires_grad_(True)
        torch.manual_seed(settings.seed)
        original = originals(f["source"][rows], f["human"][rows])
        wanted = f["targets"][rows, 1]
        optimizer = torch.optim.AdamW(heads.parameters(), lr=settings.learning_rate, weight_decay=0.1)
        steps = settings.epochs * -(-len(rows) // settings.batch_size)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, settings.learning_rate, total_steps=steps)
        for _ in range(settings.epochs):
            for part in torch.randperm(len(rows)).split(settings.batch_size):
                own, first = heads[0](vectors[part]), heads[0](vectors[original[part]])
                drop = wanted[original[part]] - wanted[part]
                loss = (own - wanted[part]).abs().mean()
                loss = loss + settings.pair_weight * (drop - (first - own)).clamp(min=0).mean()
                loss = loss + severity_loss(heads[1](vectors[part]), faults[part])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
        model.requires_grad_(False)

    def _level(self, rows: Tensor, picture: tuple[Tensor, Tensor]) -> None:
        """Move each score by a constant, so that its mean over the clean looks is that of their targets."""
        human = self.features["human"][rows]
        clean = (picture[0][human], picture[1][human])
        missing = (self.targets[rows[human]] - self.judge(clean, rows[human], "first").scores).mean(dim=0)
        for head, shift in zip(self.model.heads.values(), missing, strict=True):
            head.layers[-1].bias += shift

    def _batches(self, rows: Tensor, settings: Tuning) -> Iterator[Tensor]:
        """Every epoch the clean human-rated looks and a fresh draw of the others, shuffled; whole batches."""
        human = self.features["human"][rows]
        clean, others = rows[human], rows[~human]
        extra, size = round(settings.others * len(clean)), settings.batch_size
        for _ in range(settings.epochs):
            drawn = others[torch.randperm(len(others), generator=self.generator)[:extra]]
            order = torch.cat([clean, drawn])
            order = order[torch.randperm(len(order), generator=self.generator)]
            yield from order[: len(order) // size * size].split(size)


def originals(source: Tensor, human: Tensor) -> Tensor:
    """For each look the number of the look at its unspoilt original; a look without one is its own."""
    clean = {int(s): i for i, (s, h) in enumerate(zip(source, human, strict=True)) if h}
    return torch.tensor([clean.get(int(s), i) for i, s in enumerate(source)])


def tuned_parameters(model: MintIQAModel, settings: Tuning) -> list[dict[str, Any]]:
    """AdamW's groups: the heads, and each tuned block at its rate; vectors are not decayed."""
    groups = [{"params": [p for n, p in model.named_parameters() if n.startswith(FITTED)],
               "lr": settings.head_learning_rate, "weight_decay": 0.1}]  # fmt: skip
    blocks = model.vision.blocks()
    for number in range(frozen_blocks(model), len(blocks)):
        rate = settings.tower_learning_rate * settings.layer_decay ** (len(blocks) - 1 - number)
        for decay, is_matrix in ((settings.weight_decay, True), (0.0, False)):
            own = [p for p in blocks[number].parameters() if (p.ndim > 1) == is_matrix]
            groups.append({"params": own, "lr": rate, "weight_decay": decay})
    for group in groups:
        for parameter in group["params"]:
            parameter.requires_grad_(True)
    return groups


def image_vectors(model: MintIQAModel, statistics: Tensor) -> Tensor:
    """`Alignment.encode_image` from statistics: fusing is linear, so it may come after the means."""
    readout, alignment = model.vision.readout, model.alignment
    each = statistics[:, PIXEL_STATISTICS:].unflatten(1, (len(readout.norms), 3, -1))  # [B, taps, 3, D]
    weight, bias = (torch.stack([getattr(n, k) for n in readout.norms]) for k in ("weight", "bias"))
    first, mean = ((each[:, :, k] * weight + bias).flatten(1) for k in (0, 1))
    spread = readout.spread((each[:, :, 2] * weight.abs()).flatten(1))
    patches = (model.config.processor["image_size"] // model.config.vision["patch_size"]) ** 2
    # The mean goes over the patches and the spread token behind them.
    mean = (patches * readout.fuse(mean) + spread) / (patches + 1)
    return normalize(alignment.image_projection(torch.cat([readout.fuse(first), mean], dim=1)), dim=-1)


def run(
    folder: Path,
    features: dict[str, Tensor],
    rows: Tensor,
    human: list[dict[str, str]],
    title: str,
    settings: Tuning,
) -> TunedReadout:
    """Fit the heads of the model in `folder` on the looks `rows`, then tune."""
    model = MintIQAModel.from_pretrained(folder / "model", dtype=torch.float32).eval()
    frozen = Readout(model, features, human)
    frozen.fit(rows)
    tuned = TunedReadout(model, features, human, Trunks(folder))
    tuned.targets = frozen.targets
    tuned.tune(rows, settings, title)
    return tuned


def save(model: MintIQAModel, output: Path, start: Path, test_fold: int | None) -> None:
    """A finished stage-1 run: the model in float16, and what train.evaluate and stage 2 must know of it."""
    model.config.language["taught"] = False
    model.half().save_pretrained(output / "model", max_shard_size="90MB")
    recipe = Stage1(output=str(output), model=str(start), folds=FOLDS, test_fold=test_fold)
    (output / "recipe.json").write_text(json.dumps(asdict(recipe), indent=2))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path, help="a run with a model and its features (train.features)")
    parser.add_argument("--test-fold", type=int, default=None, help="keep this fold out")
    parser.add_argument("--output", type=Path, required=True)
    options = parser.parse_args()
    features = load_features(options.run)
    rows = (features["fold"] != (-2 if options.test_fold is None else options.test_fold)).nonzero().squeeze(1)
    human = pictures.agiqa3k(pictures.data_root())
    readout = run(options.run, features, rows, human, "Tuning", Tuning())
    readout.settle(rows, Settling())
    save(readout.model, options.output, options.run, options.test_fold)


if __name__ == "__main__":
    main()
