"""Pictures as an Assessor holds them: read and encoded, then rated with a prompt."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mint_iqa.images import ReadImage
from mint_iqa.model.examiner import Reading
from mint_iqa.model.modeling import EncodedImage, MintIQAModel
from mint_iqa.model.processing import MintIQAProcessor
from mint_iqa.pixels import contradicted
from mint_iqa.records import Fault, Intervals, Scores
from mint_iqa.vocabulary import DIMENSIONS, FAULTS, NAMED_FROM, FaultName


@dataclass(frozen=True)
class Picture:
    """A picture read and encoded once: give it to `assess` and `ask` in place of a file to repeat nothing.

    name: what the user called it; size: (width, height); sha256 and warnings as in `ReadImage`. It keeps no
    pixels, so that many can be held. A `Picture` is only good for the Assessor that made it.
    acquitted: faults that the pixels contradict.
    encoded: None where only scores were wanted, of a model whose `reading` is enough for them.
    """

    name: str
    size: tuple[int, int]
    sha256: str | None
    warnings: tuple[str, ...]
    encoded: EncodedImage | None
    distance: float
    reading: Reading | None = None
    acquitted: frozenset[FaultName] = frozenset()


@dataclass(frozen=True)
class Rated:
    """One picture with one prompt, scored."""

    picture: Picture
    prompt: str | None
    scores: Scores
    faults: tuple[Fault, ...]
    warnings: tuple[str, ...]
    intervals: Intervals | None
    quality_vectors: Tensor | None  # float[1, Q, Dq]; None where only scores were wanted


@torch.inference_mode()
def encode(
    model: MintIQAModel, processor: MintIQAProcessor, read: Sequence[tuple[str, ReadImage]], explain: bool
) -> list[Picture]:
    """Pictures with their names, at least one, as one batch. explain: with what an answer needs."""
    images = [one.rgb for _, one in read]
    encoded, reading, distances = None, None, [0.0] * len(read)
    if model.examiner is not None:
        detail, concept = processor.examiner_values(images)
        values = (detail.to(model.device, model.dtype), concept.to(model.device, model.dtype))
        # On a CPU one after the other: a batch of 512 x 512 leaves its caches, and takes half as long again.
        size = 1 if model.device.type == "cpu" else len(images)
        parts = [torch.split(v, size) for v in values]
        reading = Reading.together([model.examiner.read(*pair) for pair in zip(*parts, strict=True)])
        distances = model.examiner.distance(reading).tolist()
    if explain or reading is None:
        pixels = processor.pixel_values(images)
        encoded = model.encode_image(pixels.to(model.device, model.dtype), explain)
        if reading is None:
            distances = model.novelty(encoded).tolist()
    return [
        Picture(
            name, one.size, one.sha256, one.warnings,
            encoded and encoded.one(i), distances[i], reading and reading.one(i),
            contradicted(processor.fit(one.rgb)),
        )
        for i, (name, one) in enumerate(read)
    ]  # fmt: skip


@dataclass(frozen=True)
class ScoredBatch:
    """A batch: points float[B, K] on 0..100; half float[B, K], half of each 90 % interval, None for a model
    that gives none; severities float[B, F], None likewise; quality_vectors float[B, Q, Dq], None where only
    scores were wanted."""

    points: Tensor
    half: Tensor | None
    severities: Tensor | None
    quality_vectors: Tensor | None

    def scores(self, i: int, prompted: bool) -> tuple[Scores, Intervals | None]:
        """Of picture `i`; without a prompt there is no correspondence."""
        points: dict[str, float] = dict(zip(DIMENSIONS, self.points[i].tolist(), strict=True))
        missing = {} if prompted else {"correspondence": None}
        scores = Scores.model_validate(points | missing)
        if self.half is None:
            return scores, None
        around = zip(points.items(), self.half[i].tolist(), strict=True)
        ends = {name: (max(0.0, p - half), min(100.0, p + half)) for (name, p), half in around}
        return scores, Intervals.model_validate(ends | missing)

    def faults(
        self, i: int, names: Sequence[FaultName], acquitted: frozenset[FaultName]
    ) -> tuple[Fault, ...]:
        """What may be named of picture `i`, the strongest first; `acquitted`: what its pixels contradict."""
        if self.severities is None:
            return ()
        found = [
            pair for pair in zip(names, self.severities[i].tolist(), strict=True) if pair[1] >= NAMED_FROM
        ]
        named = [pair for pair in found if pair[0] not in acquitted]
        return tuple(Fault(name=n, severity=s) for n, s in sorted(named, key=lambda pair: -pair[1]))


def judge(model: MintIQAModel, pictures: Sequence[Picture], ids: Tensor, mask: Tensor) -> ScoredBatch:
    """Scores by the heads; or, of a model that has one, by the examiner, and then quality vectors only where
    an answer may need them. ids, mask int[B, T]: the prompts."""
    vectors, scores, severities, half = None, None, None, None
    parts = [picture.encoded for picture in pictures if picture.encoded is not None]
    if len(parts) == len(pictures):
        output = model.score(EncodedImage.together(parts), ids, mask)
        vectors, scores = output.quality_vectors, output.scores
        severities = None if output.faults is None else output.faults.float().sigmoid()
    readings = [picture.reading for picture in pictures if picture.reading is not None]
    if readings:
        found = model.examine(Reading.together(readings), ids, mask)
        scores, severities, half = found.scores, found.severities, 100 * found.spread
    assert scores is not None
    return ScoredBatch(scores.float().clamp(0, 1) * 100, half, severities, vectors)


def warnings_of(picture: Picture, cut: bool, processor: MintIQAProcessor, untrained: bool) -> Iterator[str]:
    """Reasons why the scores are less certain. cut: whether the prompt was too long to be read in full."""
    width, height = picture.size
    if max(width, height) > processor.max_aspect * min(width, height):
        yield (
            f"The picture is very elongated ({width} x {height}): only its middle part of "
            f"{processor.max_aspect:g}:1 was scored, squeezed into a square."
        )
    if len(picture.acquitted) == len(FAULTS):
        yield "The picture is empty, of nearly one color: its scores mean little."
    if cut:
        yield f"The prompt is long: only its first {processor.max_prompt_tokens} tokens were used."
    if untrained:
        yield "The score heads of this model have never been trained: its scores mean nothing."
    if picture.distance > 1:
        yield "The picture is unlike those the model was trained on: its scores are less certain."


def name_of(image: Any) -> str:
    if isinstance(image, Picture):
        return image.name
    return os.fspath(image) if isinstance(image, str | Path) else "image"
