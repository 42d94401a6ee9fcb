"""Fits a whole examiner to what its networks read of the learned pictures."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mint_iqa.model.examiner import OUTPUTS, Examiner, Reading
from mint_iqa.vocabulary import FAULTS
from train.data.pictures import kept_quality
from train.data.readings import Readings
from train.engine.recipes import Examine
from train.heads.examining import (
    Pictures,
    WordBridge,
    fit_axes,
    fit_lines,
    fit_process,
    fit_regions,
    fit_words,
)  # fmt: skip

# A fault takes its share of quality (KADID-10k); of how well a prompt is shown, this much of that share.
FIT_KEPT = 0.1
# BIQ2021's scores, 0..1, on the scale of AGIQA-3K's: what a process that learned the latter alone says of
# photographs is on average 0.09 + 0.70 * MOS.
MOS_SCALE = (0.09, 0.70)
SOUND_FROM = 0.5  # human quality, 0..1, from which a picture counts as faultless
MALFORMED_QUALITY = 0.9
RULED_NOISE = 16.0  # of quality that follows a rule, beside people's own ratings
# Of photographs' ratings, where they are learned together with those of generated pictures: at 1 the order of
# pictures by unseen generators suffers more, at 10 that of photographs (docs/ablation.md).
PHOTOGRAPH_NOISE = 5.0
# Variants that the Gaussian process keeps; nobody knows the quality of the latter.
RATED_KINDS, UNRATED_KINDS = ("clean", "fault"), ("resaved", "small")
PROCESS_KINDS = RATED_KINDS + UNRATED_KINDS
CAPTIONED_STEP = 4  # and every so many of the photographs with captions


@dataclass(frozen=True)
class RatedSet:
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
    every fifth picture by fold, and the names of its parts; captioned: Flickr8k."""

    generated: RatedSet
    prompts: Tensor
    groups: list[str]
    generators: NDArray[np.str_]
    photographs: RatedSet
    subsets: NDArray[np.str_]
    captioned: Captioned
    class_vectors: Tensor


@dataclass(frozen=True)
class Learned:
    """What one fit learns from: rows of both rated sets, and how many of the captioned photographs."""

    generated: NDArray[np.bool_]
    photographs: NDArray[np.bool_]
    captioned: int


def _learned(rated: RatedSet, learned: NDArray[np.bool_], kind: str, what: str) -> Tensor:
    """One field of the readings of the learned pictures."""
    return torch.from_numpy(getattr(rated.readings[kind], what)[learned[rated.numbers[kind]]]).float()


def _targets(rated: RatedSet, learned: NDArray[np.bool_], kind: str) -> tuple[Tensor, Tensor, Tensor]:
    """quality, fit and noise of these pictures; a fault lowers both by rule."""
    numbers = rated.numbers[kind]
    rows = numbers[learned[numbers]]
    kept = torch.from_numpy(kept_share(rated.readings[kind])[learned[numbers]])
    noise = torch.full((len(rows),), 1.0 if kind == "clean" else RULED_NOISE)
    return rated.quality[rows] * kept, rated.fit[rows] * (1 - FIT_KEPT * (1 - kept)), noise


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
    _fit_process(examiner, material, learned, recipe)
    sides = ((material.generated, learned.generated), (material.photographs, learned.photographs))
    _fit_lines(examiner, sides, recipe)
    if regions:
        _fit_regions(examiner, sides, recipe)
    bridge = fit_words(*_texts(material, learned), recipe.words, recipe.seed)
    _keep_words(examiner, bridge)


def _fit_process(examiner: Examiner, material: Material, learned: Learned, recipe: Examine) -> None:
    """Ratings of clean pictures and, by rule, of faulted ones; those saved again and captioned photographs
    tell photographs and generated pictures apart besides."""
    seen, targets, noise = [], [], []
    for photograph, rated, own in (
        (0.0, material.generated, learned.generated), (1.0, material.photographs, learned.photographs)
    ):  # fmt: skip
        for kind in PROCESS_KINDS:
            seen.append(_both(rated.readings[kind], own[rated.numbers[kind]]))
            quality, shown, ruled = _targets(rated, own, kind)
            unknown = torch.full_like(quality, torch.nan)
            known = [quality, unknown, shown]
            if photograph:
                known = [quality if kind == "clean" else unknown, quality, unknown]
            if kind in UNRATED_KINDS:
                known = [unknown] * 3
            targets.append(torch.stack([*known, torch.full_like(quality, photograph)], dim=1))
            sure = torch.ones_like(ruled)
            doubt = PHOTOGRAPH_NOISE * sure if photograph else ruled
            noise.append(torch.stack([doubt, ruled, sure, sure], dim=1))
    rows = slice(0, learned.captioned, CAPTIONED_STEP)
    seen.append(_both(material.captioned.readings, rows))
    targets.append(torch.tensor([torch.nan] * 3 + [1.0]).expand(len(seen[-1]), -1))
    noise.append(torch.ones(len(seen[-1]), len(OUTPUTS)))
    taps = [2 * count for count in examiner.detail.stage_channels]
    everything = torch.cat(seen)
    fit_axes(examiner.process, seen[0], taps, recipe.kernel)
    order = torch.randperm(len(everything), generator=torch.Generator().manual_seed(recipe.seed))
    pictures = examiner.process.axes(everything)[order]
    fit_process(examiner.process, pictures, torch.cat(targets)[order], torch.cat(noise)[order], recipe.kernel)


def pictures_of(material: Material, learned: Learned) -> int:
    """How many pictures the Gaussian process keeps."""
    sides = ((material.generated, learned.generated), (material.photographs, learned.photographs))
    rated = sum(int(own[rated.numbers[k]].sum()) for rated, own in sides for k in PROCESS_KINDS)
    return rated + len(range(0, learned.captioned, CAPTIONED_STEP))


def _both(readings: Readings, rows: Any) -> Tensor:
    """What the process reads of these pictures: statistics of one network, pooled outputs of the other."""
    return torch.from_numpy(
        np.concatenate([readings.statistics[rows], readings.pooled[rows]], axis=1)
    ).float()


def _fit_lines(examiner: Examiner, sides: Any, recipe: Examine) -> None:
    """The lines for the faults of KADID-10k."""
    seen, targets, weights = [], [], []
    for rated, own in sides:
        for kind in RATED_KINDS:
            numbers = rated.numbers[kind]
            rows = numbers[own[numbers]]
            severities = _learned(rated, own, kind, "severities")[:, :-1]
            # Nobody labeled the faults of poor pictures.
            sure = (rated.quality[rows] >= SOUND_FROM).float().unsqueeze(1)
            seen.append(_learned(rated, own, kind, "statistics"))
            targets.append(severities)
            weights.append(torch.where(severities > 0, 1.0, sure.expand_as(severities)))
    fit_lines(examiner.fault_lines, torch.cat(seen), torch.cat(targets), torch.cat(weights), recipe.decay)


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
    for kind in RATED_KINDS:
        rows = generated.numbers[kind][learned.generated[generated.numbers[kind]]]
        for row in rows:
            groups.setdefault(material.groups[row], []).append(len(texts))
            texts.append([first + int(row)])
        pooled.append(_learned(generated, learned.generated, kind, "pooled"))
        logits.append(_learned(generated, learned.generated, kind, "logits"))
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


def reading_of(examiner: Examiner, readings: Readings, rows: NDArray[Any], regions: bool = False) -> Reading:
    """What `Examiner.read` would give for these pictures, from what its networks read before."""
    faults = examiner.fault_lines(torch.from_numpy(readings.statistics[rows]).float())
    malformed = torch.full((len(rows), 1), -10.0)
    if regions and readings.cells.size:
        parts = torch.from_numpy(readings.cells[rows]).split(64)
        malformed = torch.cat([examiner.regions(part.float())[1] for part in parts]).unsqueeze(1)
    vectors = examiner.picture_vectors(
        torch.from_numpy(readings.pooled[rows]).float(), torch.from_numpy(readings.logits[rows]).float()
    )
    return Reading(
        examiner.process.axes(_both(readings, rows)), torch.cat([faults, malformed], dim=1), vectors
    )
