"""Fits of the examiner's parts to what its networks read: kernels and lines in closed form or by a convex
problem, two small networks by gradient descent. Each is a minute or less on a core.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import (
    binary_cross_entropy_with_logits,
    cross_entropy,
    dropout,
    normalize,
    softmax,
)

from mint_iqa.model.examiner import CLIP, OUTPUTS, TEMPERATURE, GaussianProcess, RegionHead, rbf
from train.engine.recipes import Kernel, Regions, Words

Floats = NDArray[np.float32]
SMALLEST_DEVIATION = 1e-3
PHOTOGRAPH = OUTPUTS.index("photograph")


def fit_axes(process: GaussianProcess, seen: Tensor, taps: Sequence[int], settings: Kernel) -> None:
    """Standardize float[N, S], let every tap (of so many numbers) count alike, and the numbers behind them as
    much as `Kernel.concepts` says; keep the principal axes."""
    axes = settings.axes
    mean, deviation = seen.mean(dim=0), seen.std(dim=0) + SMALLEST_DEVIATION
    shares = [torch.full((count,), (count * len(taps)) ** -0.5) for count in taps]
    if rest := seen.shape[1] - sum(taps):
        shares.append(torch.full((rest,), settings.concepts * rest**-0.5))
    each = torch.cat(shares)
    even = (seen - mean) / deviation * each
    _, vectors = torch.linalg.eigh(even.T @ even)
    leading = vectors.flip(1)[:, :axes]
    process.center.copy_(mean)
    process.projection.zero_()[:, : leading.shape[1]] = leading * (each / deviation).unsqueeze(1)


def fit_process(
    process: GaussianProcess, pictures: Tensor, targets: Tensor, noise: Tensor, settings: Kernel
) -> None:
    """Kernel ridge regression, output by output: pictures float[N, A] on their axes, the anchors first;
    targets and noise float[N, O]: a target is NaN where unknown, noise a factor on `Kernel.noise`."""
    process.gamma.fill_(settings.gamma)
    process.pictures.copy_(pictures)
    anchors = pictures[: settings.anchors]
    kernel = rbf(anchors, anchors, settings.gamma)
    process.precision.copy_(torch.linalg.inv(kernel + settings.noise * torch.eye(len(anchors))))
    process.weights.zero_()
    for output, wanted in enumerate(targets.T):
        rows = (~wanted.isnan()).nonzero().squeeze(1)
        # What is like nothing known is no photograph, and else as it is on average.
        offset = torch.tensor(0.0) if output == PHOTOGRAPH else wanted[rows].mean()
        kernel = rbf(pictures[rows], pictures[rows], settings.gamma)
        kernel += torch.diag(settings.noise * noise[rows, output])
        process.weights[rows, output] = torch.linalg.solve(kernel, wanted[rows] - offset)
        process.offsets[output] = offset


def fit_lines(line: nn.Linear, statistics: Tensor, targets: Tensor, weights: Tensor, decay: float) -> None:
    """Logistic regression for every output: statistics float[N, S], targets float[N, O] on 0..1 (soft),
    weights float[N, O], 0 where unknown; decay: of the squared weights of standardized statistics."""
    mean, deviation = statistics.mean(dim=0), statistics.std(dim=0) + SMALLEST_DEVIATION
    even = ((statistics - mean) / deviation).clamp(-CLIP, CLIP)
    share = weights / weights.sum(dim=0)
    weight = torch.zeros(targets.shape[1], statistics.shape[1], requires_grad=True)
    bias = torch.zeros(targets.shape[1], requires_grad=True)
    solver = torch.optim.LBFGS([weight, bias], max_iter=150, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        solver.zero_grad()
        each = binary_cross_entropy_with_logits(even @ weight.T + bias, targets, reduction="none")
        total = (share * each).sum() + decay * weight.square().sum()
        total.backward()  # type: ignore[no-untyped-call]
        return total

    solver.step(loss)
    with torch.no_grad():
        line.weight.copy_(weight / deviation)
        line.bias.copy_(bias - (weight / deviation) @ mean)


@dataclass(frozen=True)
class Pictures:
    """Pictures and their texts: pooled float[N, HEAD], logits float[N, CLASSES]; texts: for each the numbers
    of its own among sentences float[M, D]; groups: pictures of one group are never told apart; weights
    float[N]."""

    pooled: Tensor
    logits: Tensor
    texts: list[list[int]]
    groups: list[list[int]]
    weights: Tensor


class WordBridge(nn.Module):
    """What `Examiner.picture_vectors` and `prompt_vectors` compute, in the form that learns best: the
    residual of pictures on whitened axes, and both sides centered."""

    def __init__(self, class_vectors: Tensor, pooled: Tensor, named: Tensor, axes: int) -> None:
        super().__init__()
        self.class_vectors = class_vectors
        self.center = pooled.mean(dim=0)
        values, vectors = torch.linalg.eigh((pooled - self.center).T @ (pooled - self.center) / len(pooled))
        self.whitening = vectors[:, -axes:] / (values[-axes:] + SMALLEST_DEVIATION).sqrt() / 4
        self.named_center = named.mean(dim=0)
        width = class_vectors.shape[1]
        self.residual = nn.Linear(self.whitening.shape[1], width)
        self.moved = nn.Linear(width, width)
        self.gain = nn.Parameter(torch.tensor(3.0))
        for layer in (self.residual, self.moved):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def pictures(self, named: Tensor, pooled: Tensor, share: float = 0.0) -> Tensor:
        even = dropout((pooled - self.center) @ self.whitening, share, training=share > 0)
        return normalize(self.gain * (named - self.named_center) + self.residual(even), dim=-1)

    def texts(self, sentences: Tensor) -> Tensor:
        return normalize(sentences + self.moved(sentences), dim=-1)


def named_by(logits: Tensor, class_vectors: Tensor) -> Tensor:
    """ConSE: class vectors weighted by the classes' probabilities, float[N, D]."""
    named: Tensor = softmax(logits / TEMPERATURE, dim=1) @ class_vectors
    return named


def fit_words(
    class_vectors: Tensor, sentences: Tensor, sets: Sequence[Pictures], settings: Words, seed: int
) -> WordBridge:
    """Contrast pictures with texts. sets: the first is of photographs (a random part each step), of the
    others one picture of each group is looked at in a step. sentences: of all sets' texts."""
    generator = torch.Generator().manual_seed(seed)
    rng = np.random.default_rng(seed)
    torch.manual_seed(seed)
    named = [named_by(one.logits, class_vectors) for one in sets]
    bridge = WordBridge(class_vectors, torch.cat([s.pooled for s in sets]), torch.cat(named), settings.axes)
    own = [sorted({t for texts in one.texts for t in texts}) for one in sets]
    with torch.no_grad():
        bridge.moved.bias.copy_(-torch.stack([sentences[rows].mean(dim=0) for rows in own]).mean(dim=0))
    decayed = [bridge.residual.weight, bridge.moved.weight]
    groups = [
        {"params": decayed, "weight_decay": settings.decay},
        {"params": [bridge.residual.bias, bridge.moved.bias, bridge.gain], "weight_decay": 0.0},
    ]
    solver = torch.optim.AdamW(groups, lr=settings.learning_rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(solver, settings.learning_rate, total_steps=settings.steps)
    for _ in range(settings.steps):
        parts = [torch.randperm(len(sets[0].pooled), generator=generator)[: settings.photographs].tolist()]
        parts += [[g[rng.integers(len(g))] for g in one.groups] for one in sets[1:]]
        seen = torch.cat(
            [
                bridge.pictures(names[rows], one.pooled[rows], settings.dropout)
                for one, names, rows in zip(sets, named, parts, strict=True)
            ]
        )
        texts = [
            one.texts[i][rng.integers(len(one.texts[i]))]
            for one, rows in zip(sets, parts, strict=True)
            for i in rows
        ]
        weights = torch.cat([one.weights[rows] for one, rows in zip(sets, parts, strict=True)])
        logits = settings.scale * seen @ bridge.texts(sentences[texts]).T
        # One text may belong to several pictures of a step: they are no wrong pairs.
        same = torch.tensor(texts)
        logits = logits.masked_fill((same[:, None] == same) & ~torch.eye(len(texts), dtype=torch.bool), -1e4)
        right = torch.arange(len(texts))
        each = cross_entropy(logits, right, reduction="none") + cross_entropy(
            logits.T, right, reduction="none"
        )
        loss = (weights * each).sum() / weights.sum()
        solver.zero_grad()
        loss.backward()
        solver.step()
        schedule.step()
    return bridge.eval()


def fit_regions(
    head: RegionHead, cells: Tensor, masks: Tensor, strength: Tensor, settings: Regions, seed: int
) -> None:
    """Tell malformed pictures from sound ones, cell by cell and as a whole: cells float16[N, C, G, G], masks
    float[N, G, G]; strength float[N], 0 for sound pictures, else the severity, by which a picture counts."""
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    sample = cells[:: max(1, len(cells) // 500)].float()
    head.center.copy_(sample.mean(dim=(0, 2, 3)).view(-1, 1, 1))
    head.scale.copy_(sample.std(dim=(0, 2, 3)).view(-1, 1, 1) + SMALLEST_DEVIATION)
    head.requires_grad_(True)
    batches = len(cells) // settings.batch_size
    solver = torch.optim.AdamW(head.parameters(), lr=settings.learning_rate, weight_decay=settings.decay)
    total = settings.passes * batches
    schedule = torch.optim.lr_scheduler.OneCycleLR(solver, settings.learning_rate, total_steps=total)
    positive = torch.tensor(settings.positive)
    for _ in range(settings.passes):
        order = torch.randperm(len(cells), generator=generator)
        for rows in order[: batches * settings.batch_size].view(batches, -1):
            kept = torch.nn.functional.dropout2d(cells[rows].float() - head.center, 0.2) + head.center
            grid, whole = head(kept)
            counts = torch.where(strength[rows] > 0, strength[rows], 1.0)
            each = binary_cross_entropy_with_logits(grid, masks[rows], reduction="none", pos_weight=positive)
            found = binary_cross_entropy_with_logits(whole, (strength[rows] > 0).float(), reduction="none")
            loss = (counts * (settings.cell * each.mean(dim=(1, 2)) + found)).mean()
            solver.zero_grad()
            loss.backward()
            solver.step()
            schedule.step()
    head.requires_grad_(False)
