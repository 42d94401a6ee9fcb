"""Fits a whole examiner to what its networks read of the learned pictures."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mint_iqa.model.examiner import Examiner, Reading
from mint_iqa.vocabulary import FAULTS
from train.data.pictures import kept_quality
from train.data.readings import Readings
from train.engine.recipes import HeldOut
from train.heads.examining import (
    Kernel,
    Pictures,
    Regions,
    WordBridge,
    Words,
    fit_axes,
    fit_process,
    fit_regions,
    fit_signs,
    fit_words,
)  # fmt: skip

# A fault takes its share of quality (KADID-10k); of how well a prompt is shown, this much of that share.
FIT_KEPT = 0.1
PHOTOGRAPH_FIT = 0.8  # of photographs with their own captions, which nobody rated
SOUND_FROM = 0.6  # human quality, 0..1, from which a picture counts as faultless
MALFORMED_QUALITY = 0.9
RULED_NOISE = 8.0  # of targets that follow a rule, beside people's own ratings


@dataclass
class Examine(HeldOut):
    """Recipe of the examiner."""

    start: str = "runs/explain"  # a finished run, or a preset or folder: the model that gets the examiner
    output: str = "runs/examine"
    networks: dict[str, dict[str, float]] = field(
        default_factory=lambda: {
            "detail": {"width": 1.0, "depth": 1.0},
            "concepts": {"width": 1.1, "depth": 1.2},
        }
    )
    parts: dict[str, str] = field(
        default_factory=lambda: {"detail": "efficientnet_lite0", "concepts": "efficientnet_lite2"}
    )
    kernel: Kernel = field(default_factory=Kernel)
    words: Words = field(default_factory=Words)
    regions: Regions = field(default_factory=Regions)
    decay: float = 1e-3  # of the lines for photographs and faults
    seed: int = 0


@dataclass(frozen=True)
class Rated:
    """A rated set. quality, fit float[N] on 0..1, NaN where unknown; fold int[N]; by kind of variant, what
    the networks read of its pictures `numbers[kind]`."""

    quality: Tensor
    fit: Tensor
    fold: NDArray[np.int64]
    readings: dict[str, Readings]
    numbers: dict[str, NDArray[np.int64]]


@dataclass(frozen=True)
class Captioned:
    """Photographs with captions: pooled, logits and caption numbers of each, sentences of all captions."""

    readings: Readings
    captions: list[list[int]]
    sentences: Tensor


@dataclass(frozen=True)
class Material:
    """All that is learned from. generated: AGIQA-3K, its prompts' vectors float[N, D]; photographs: BIQ2021,
    every fifth picture by fold; captioned: Flickr8k."""

    generated: Rated
    prompts: Tensor
    groups: list[str]
    generators: NDArray[np.str_]
    photographs: Rated
    captioned: Captioned
    class_vectors: Tensor


@dataclass(frozen=True)
class Learned:
    """What one fit learns from: rows of both rated sets, and how many of the captioned photographs."""

    generated: NDArray[np.bool_]
    photographs: NDArray[np.bool_]
    captioned: int


def _join(rated: Rated, learned: NDArray[np.bool_], kinds: tuple[str, ...], what: str) -> Tensor:
    """One field of the readings of the learned pictures, kind after kind."""
    parts = [getattr(rated.readings[k], what)[learned[rated.numbers[k]]] for k in kinds]
    return torch.from_numpy(np.concatenate(parts)).float()


def _targets(
    rated: Rated, learned: NDArray[np.bool_], kinds: tuple[str, ...]
) -> tuple[Tensor, Tensor, Tensor]:
    """quality, fit and noise of these pictures; a fault lowers both by rule."""
    quality, fit, noise = [], [], []
    for kind in kinds:
        numbers = rated.numbers[kind]
        rows = numbers[learned[numbers]]
        kept = torch.from_numpy(kept_share(rated.readings[kind])[learned[numbers]])
        quality.append(rated.quality[rows] * kept)
        fit.append(rated.fit[rows] * (1 - FIT_KEPT * (1 - kept)))
        noise.append(torch.full((len(rows),), 1.0 if kind == "clean" else RULED_NOISE))
    return torch.cat(quality), torch.cat(fit), torch.cat(noise)


def kept_share(readings: Readings) -> NDArray[np.float32]:
    """Share of its quality that a picture keeps with the fault that was put in, float32[N]."""
    shares = np.ones(len(readings.level), np.float32)
    for i, (severities, level) in enumerate(zip(readings.severities, readings.level, strict=True)):
        if severities.any():
            fault = FAULTS[int(severities.argmax())]
            shares[i] = MALFORMED_QUALITY if fault == "malformation" else kept_quality(fault, int(level))
    return shares


def fit(examiner: Examiner, material: Material, learned: Learned, recipe: Examine, regions: bool) -> None:
    """Fit every part of the examiner, in place. regions: the region head too, which takes longest."""
    sides = ((material.generated, learned.generated), (material.photographs, learned.photographs))
    kinds = ("clean", "fault")
    seen = [_join(rated, own, kinds, "statistics") for rated, own in sides]
    known = [_targets(rated, own, kinds) for rated, own in sides]
    taps = [2 * count for count in examiner.detail.stage_channels]
    fit_axes(examiner.process, seen[0], taps, recipe.kernel.axes)
    unknown = [torch.full((len(one),), torch.nan) for one in seen]
    (quality, shown, noise), (liked, captioned, photo_noise) = known
    targets = torch.stack(
        [torch.cat([quality, unknown[1]]), torch.cat([unknown[0], liked]), torch.cat([shown, captioned])],
        dim=1,
    )
    pictures = examiner.process.axes(torch.cat(seen))
    order = torch.randperm(len(pictures), generator=torch.Generator().manual_seed(recipe.seed))
    fit_process(
        examiner.process,
        pictures[order],
        targets[order],
        torch.cat([noise, photo_noise])[order],
        recipe.kernel,
    )
    _fit_lines(examiner, sides, recipe)
    if regions:
        _fit_regions(examiner, sides, recipe)
    bridge = fit_words(*_texts(material, learned), recipe.words, recipe.seed)
    _keep_words(examiner, bridge)


def _fit_lines(examiner: Examiner, sides: Any, recipe: Examine) -> None:
    """The lines for "a photograph" and for the faults of KADID-10k."""
    seen, targets, weights = [], [], []
    for photograph, (rated, own) in zip((0.0, 1.0), sides, strict=True):
        for kind in ("clean", "fault", "resaved"):
            numbers = rated.numbers[kind]
            rows = numbers[own[numbers]]
            part = _join(rated, own, (kind,), "statistics")
            severities = _join(rated, own, (kind,), "severities")[:, :-1]
            # Nobody labeled the faults of poor pictures, nor what saving again did.
            sure = (
                (rated.quality[rows] >= SOUND_FROM).float() if kind != "resaved" else torch.zeros(len(rows))
            )
            faults = (
                torch.where(severities > 0, 1.0, sure.unsqueeze(1)) if kind == "fault" else sure.unsqueeze(1)
            )
            seen.append(part)
            targets.append(torch.cat([torch.full((len(rows), 1), photograph), severities], dim=1))
            share = 1 / float(own.sum())  # both sets count alike
            weights.append(
                torch.cat([torch.full((len(rows), 1), share), faults.expand(-1, severities.shape[1])], dim=1)
            )
    fit_signs(examiner.signs, torch.cat(seen), torch.cat(targets), torch.cat(weights), recipe.decay)


def _fit_regions(examiner: Examiner, sides: Any, recipe: Examine) -> None:
    cells, masks, strength = [], [], []
    for rated, own in sides:
        for kind in ("resaved", "malformed"):
            chosen = own[rated.numbers[kind]]
            readings = rated.readings[kind]
            cells.append(torch.from_numpy(readings.cells[chosen]))
            masks.append(torch.from_numpy(readings.mask[chosen]).float())
            strength.append(torch.from_numpy(readings.severities[chosen, -1]).float())
    fit_regions(
        examiner.regions, torch.cat(cells), torch.cat(masks), torch.cat(strength), recipe.regions, recipe.seed
    )


def _texts(material: Material, learned: Learned) -> tuple[Tensor, Tensor, list[Pictures]]:
    """Class vectors, sentences of captions and prompts, and the pictures that go with them."""
    captioned, generated = material.captioned, material.generated
    count = learned.captioned
    photographs = Pictures(
        torch.from_numpy(captioned.readings.pooled[:count]).float(),
        torch.from_numpy(captioned.readings.logits[:count]).float(),
        captioned.captions[:count], [], torch.ones(count),
    )  # fmt: skip
    first = len(captioned.sentences)
    texts: list[list[int]] = []
    groups: dict[str, list[int]] = {}
    pooled, logits, weights = [], [], []
    for kind in ("clean", "fault"):
        rows = generated.numbers[kind][learned.generated[generated.numbers[kind]]]
        for row in rows:
            groups.setdefault(material.groups[row], []).append(len(texts))
            texts.append([first + int(row)])
        pooled.append(_join(generated, learned.generated, (kind,), "pooled"))
        logits.append(_join(generated, learned.generated, (kind,), "logits"))
        # What hardly shows its prompt teaches little about the prompt's words.
        weights.append(0.3 + generated.fit[rows])
    made = Pictures(torch.cat(pooled), torch.cat(logits), texts, list(groups.values()), torch.cat(weights))
    return material.class_vectors, torch.cat([captioned.sentences, material.prompts]), [photographs, made]


def _keep_words(examiner: Examiner, bridge: WordBridge) -> None:
    """The bridge's two sides in the form in which they are used: centers and whitening folded in."""
    with torch.no_grad():
        examiner.class_vectors.copy_(bridge.gain * bridge.class_vectors)
        weight = bridge.residual.weight @ bridge.whitening.T
        examiner.picture_map.weight.copy_(weight)
        shift = bridge.residual.bias - weight @ bridge.center - bridge.gain * bridge.named_center
        examiner.picture_map.bias.copy_(shift)
        examiner.prompt_map.load_state_dict(bridge.moved.state_dict())


def reading_of(examiner: Examiner, readings: Readings, rows: NDArray[Any]) -> Reading:
    """What `Examiner.read` would give for these pictures, from what its networks read before."""
    seen = torch.from_numpy(readings.statistics[rows]).float()
    signs = examiner.signs(seen)
    malformed = torch.full((len(rows), 1), -10.0)
    if readings.cells.size:
        parts = torch.from_numpy(readings.cells[rows]).split(64)
        malformed = torch.cat([examiner.regions(part.float())[1] for part in parts]).unsqueeze(1)
    vectors = examiner.picture_vectors(
        torch.from_numpy(readings.pooled[rows]).float(), torch.from_numpy(readings.logits[rows]).float()
    )
    return Reading(examiner.process.axes(seen), torch.cat([signs, malformed], dim=1), vectors)
