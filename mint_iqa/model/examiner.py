"""Examiner: scores, intervals and faults from what two small CNNs see of a picture.

Statistics of a CNN at full resolution tell quality better than Q-Former 1's queries do (docs/ablation.md),
and the class names of a second CNN are a bridge from pictures to words (ConSE, arXiv 1312.5650). What is
learned on top is fitted in closed form or in a minute (train.examine), and knows how sure it is.

Axes: B batch, S statistics, A principal axes, N training pictures, O outputs, D sentence space, C classes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, gelu, normalize, softmax

from mint_iqa.model.cnn import CLASSES, HEAD, EfficientNetLite, statistics
from mint_iqa.vocabulary import DIMENSIONS

# What the Gaussian process predicts, 0..1: what people say of the quality of generated pictures and of
# photographs, how well a picture shows its prompt, as far as the picture alone can tell, and whether it is a
# photograph.
OUTPUTS = ("quality", "photograph_quality", "fit", "photograph")
TEMPERATURE = 2.0  # of the class probabilities, so that more than one class has a say
GRID = 16  # cells a side
# Stages whose outputs fill the grid; from the last on, a cell is one position.
FIRST_GRID_STAGE, WHOLE_CELL_STAGE = 1, 5
REGION_WIDTH = 96
WORST_CELLS = 12  # of GRID * GRID
CLIP = 6.0  # standard deviations


@dataclass
class Reading:
    """A batch of pictures as the examiner sees them: axes float[B, A]; faults float[B, F], logits; vectors
    float[B, D], in the sentence space, of unit length."""

    axes: Tensor
    faults: Tensor
    vectors: Tensor

    def one(self, i: int) -> "Reading":
        """Picture `i` alone."""
        part = slice(i, i + 1)
        return Reading(self.axes[part], self.faults[part], self.vectors[part])

    @staticmethod
    def together(readings: "Sequence[Reading]") -> "Reading":
        """One batch of several."""
        return Reading(
            torch.cat([r.axes for r in readings]),
            torch.cat([r.faults for r in readings]),
            torch.cat([r.vectors for r in readings]),
        )


@dataclass
class Examination:
    """scores float[B, K] around 0..1; spread float[B, K]: half a 90 % interval, same units; severities
    float[B, F], 0..1; similarity float[B]: cosine of picture and prompt; novelty float[B]: 0 for a picture
    like those learned from, 1 for one like none of them."""

    scores: Tensor
    spread: Tensor
    severities: Tensor
    similarity: Tensor
    novelty: Tensor


class GaussianProcess(nn.Module):
    """An RBF kernel on principal axes of statistics: the mean is kernel ridge regression on `pictures`, and
    the variance says how far a picture is from the first `anchors` of them."""

    center: Tensor
    projection: Tensor
    pictures: Tensor
    weights: Tensor
    offsets: Tensor
    precision: Tensor
    gamma: Tensor

    def __init__(self, statistics: int, axes: int, pictures: int, anchors: int, outputs: int) -> None:
        super().__init__()
        self.register_buffer("center", torch.zeros(statistics))
        self.register_buffer("projection", torch.zeros(statistics, axes))
        self.register_buffer("pictures", torch.zeros(pictures, axes))
        self.register_buffer("weights", torch.zeros(pictures, outputs))
        self.register_buffer("offsets", torch.zeros(outputs))
        self.register_buffer("precision", torch.zeros(anchors, anchors))
        self.register_buffer("gamma", torch.tensor(1.0))

    def axes(self, statistics: Tensor) -> Tensor:
        """statistics float[B, S] -> float[B, A]."""
        return (statistics.float() - self.center.float()) @ self.projection.float()

    def forward(self, axes: Tensor) -> tuple[Tensor, Tensor]:
        """axes float[B, A] -> predictions float[B, O], and the variance's share of the prior's, float[B]."""
        kernel = self._kernel(axes, self.pictures)
        predicted = kernel @ self.weights.double() + self.offsets.double()
        return predicted.float(), self._variance(kernel[:, : len(self.precision)])

    def novelty(self, axes: Tensor) -> Tensor:
        """The variance alone, float[B]."""
        return self._variance(self._kernel(axes, self.pictures[: len(self.precision)]))

    def _kernel(self, axes: Tensor, pictures: Tensor) -> Tensor:
        """In float64: thousands of terms nearly cancel out, and in float32 a score's second decimal would
        depend on the other pictures of its batch."""
        return rbf(axes.double(), pictures.double(), self.gamma.double())

    def _variance(self, near: Tensor) -> Tensor:
        """near float[B, anchors]: kernels with the anchors."""
        return (1 - ((near @ self.precision.double()) * near).sum(dim=1)).clamp(0, 1).float()


def rbf(a: Tensor, b: Tensor, gamma: Tensor | float) -> Tensor:
    """exp(-gamma |a - b|^2) for float[B, A] and float[N, A]: float[B, N]."""
    squares = a.square().sum(dim=1, keepdim=True) + b.square().sum(dim=1) - 2 * a @ b.T
    return torch.exp(-gamma * squares.clamp(min=0))


class RegionHead(nn.Module):
    """Where a picture is malformed: a logit for every cell of a grid, and one for the picture from the most
    suspicious cells. Pooled over the whole picture, a bent hand would be lost."""

    center: Tensor
    scale: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("center", torch.zeros(channels, 1, 1))
        self.register_buffer("scale", torch.ones(channels, 1, 1))
        self.look = nn.Conv2d(channels, REGION_WIDTH, 1)
        self.around = nn.Conv2d(REGION_WIDTH, REGION_WIDTH, 3, padding=1)
        self.judge = nn.Conv2d(REGION_WIDTH, 1, 1)
        self.line = nn.Parameter(torch.tensor([1.0, -3.0]))  # from the cells to the picture

    def forward(self, cells: Tensor) -> tuple[Tensor, Tensor]:
        """cells float[B, C, GRID, GRID] -> logits float[B, GRID, GRID] and float[B]."""
        even = ((cells - self.center) / self.scale).clamp(-CLIP, CLIP).to(self.look.weight.dtype)
        hidden = gelu(self.look(even))
        grid = self.judge(hidden + gelu(self.around(hidden)))[:, 0]
        worst = grid.flatten(1).topk(WORST_CELLS, dim=1).values.mean(dim=1)
        return grid, self.line[0] * worst + self.line[1]


def cells_of(outputs: list[Tensor]) -> Tensor:
    """Stages -> mean, and deviation where a cell has several positions, of every channel in every cell of a
    grid: float[B, C, GRID, GRID]."""
    parts = []
    for output in outputs:
        side = output.shape[-1] // GRID
        if side <= 1:
            parts.append(output)
            continue
        mean = avg_pool2d(output, side)
        parts += [mean, (avg_pool2d(output.square(), side) - mean.square()).clamp(min=0).sqrt()]
    return torch.cat(parts, dim=1)


class Examiner(nn.Module):
    """settings: `detail` and `concepts`, the two networks (width, depth), and `axes`, `pictures`, `anchors`,
    the sizes of the Gaussian process; text_width: D; faults: F, the last of which is malformation."""

    class_vectors: Tensor
    ramp: Tensor
    likeness: Tensor
    matching: Tensor
    spread: Tensor
    familiar: Tensor
    own_direction: Tensor
    own_line: Tensor

    def __init__(self, settings: dict[str, Any], text_width: int, faults: int) -> None:
        super().__init__()
        self.detail = EfficientNetLite(**settings["detail"])
        self.concepts = EfficientNetLite(**settings["concepts"])
        channels = self.detail.stage_channels
        width = 2 * sum(channels)
        sizes = (settings["axes"], settings["pictures"], settings["anchors"])
        self.process = GaussianProcess(width + HEAD, *sizes, len(OUTPUTS))
        self.fault_lines = nn.Linear(width, faults - 1)  # every fault but malformation
        spread = sum(channels[FIRST_GRID_STAGE:WHOLE_CELL_STAGE])
        self.regions = RegionHead(2 * spread + sum(channels[WHOLE_CELL_STAGE:]))
        self.register_buffer("class_vectors", torch.zeros(CLASSES, text_width))
        self.picture_map = nn.Linear(HEAD, text_width)
        self.prompt_map = nn.Linear(text_width, text_width)
        # How the parts make scores; see the methods that use them.
        self.register_buffer("ramp", torch.tensor([0.0, 1.0]))
        self.register_buffer("likeness", torch.zeros(3))
        self.register_buffer("matching", torch.zeros(6))
        self.register_buffer("spread", torch.zeros(len(DIMENSIONS), 2))
        self.register_buffer("familiar", torch.tensor(1.0))  # novelty of the most unusual training pictures
        # What train.finetune learned of someone's own ratings: added to a score are a direction of the axes,
        # and the score, the similarity and 1 times these.
        self.register_buffer("own_direction", torch.zeros(len(DIMENSIONS), settings["axes"]))
        self.register_buffer("own_line", torch.zeros(len(DIMENSIONS), 3))
        self.requires_grad_(False)

    def read(self, detail_values: Tensor, concept_values: Tensor) -> Reading:
        """detail_values float[B, 3, 512, 512] and concept_values float[B, 3, 260, 260] of the same
        pictures."""
        outputs = self.detail.stages(detail_values)
        seen = statistics(outputs)
        _, malformed = self.regions(cells_of(outputs[FIRST_GRID_STAGE:]))
        faults = self.fault_lines(seen.to(self.fault_lines.weight.dtype))
        pooled = self.concepts.pooled(concept_values)
        vectors = self.picture_vectors(pooled, self.concepts.classifier(pooled))
        axes = self.process.axes(torch.cat([seen, pooled], dim=1))
        return Reading(axes, torch.cat([faults, malformed.unsqueeze(1)], dim=1).float(), vectors)

    def picture_vectors(self, pooled: Tensor, logits: Tensor) -> Tensor:
        """Class names weighted by how likely they are, and what `picture_map` adds: float[B, D]."""
        likely = softmax(logits.float() / TEMPERATURE, dim=1)
        named = likely @ self.class_vectors.float()
        return normalize(named + self.picture_map(pooled).float(), dim=-1)

    def prompt_vectors(self, sentences: Tensor) -> Tensor:
        """Sentence vectors float[B, D] of the frozen encoder, moved to where pictures lie."""
        moved = self.prompt_map(sentences.to(self.prompt_map.weight.dtype))
        return normalize(sentences.float() + moved.float(), dim=-1)

    def distance(self, reading: Reading) -> Tensor:
        """How unlike the training pictures, float[B]: above 1 farther than nearly all of them."""
        distance: Tensor = self.process.novelty(reading.axes) / self.familiar.float()
        return distance

    def judge(self, reading: Reading, sentences: Tensor) -> Examination:
        """Scores of the pictures, each with its prompt's sentence vector: sentences float[B, D]."""
        predicted, novelty = self.process(reading.axes)
        quality, photograph_quality, fit, likely = predicted.unbind(dim=1)
        severities = reading.faults.sigmoid()
        similarity = (reading.vectors * self.prompt_vectors(sentences)).sum(dim=1)
        photograph = self.photograph(likely)
        scores = {
            "quality": self.quality(quality, photograph_quality, photograph),
            "authenticity": self.authenticity(likely, severities[:, -1]),
            "correspondence": self.correspondence(fit, photograph, similarity),
        }
        spread = self.spread[:, 0] + self.spread[:, 1] * novelty.unsqueeze(1)
        general = torch.stack([scores[name] for name in DIMENSIONS], dim=1)
        slope, gain, shift = self.own_line.float().T
        own = reading.axes @ self.own_direction.float().T + gain * similarity.unsqueeze(1) + shift
        return Examination((1 + slope) * general + own, spread.float(), severities, similarity, novelty)

    def photograph(self, likely: Tensor) -> Tensor:
        """How much a picture is rated as photographs are, 0..1: a ramp between two predictions."""
        low, high = self.ramp.float()
        share: Tensor = ((likely - low) / (high - low)).clamp(0, 1)
        return share

    def quality(self, quality: Tensor, photograph_quality: Tensor, photograph: Tensor) -> Tensor:
        """As of a photograph, as much as the picture is rated as one."""
        return quality + photograph * (photograph_quality - quality)

    def authenticity(self, likely: Tensor, malformation: Tensor) -> Tensor:
        """From "generated" to "photograph", less what malformed parts take; 0..1."""
        gain, shift, taken = self.likeness.float()
        score: Tensor = (gain * likely + shift).sigmoid() * (1 - taken * malformation)
        return score

    def correspondence(self, fit: Tensor, photograph: Tensor, similarity: Tensor) -> Tensor:
        """A line with a cap: below it every bit of similarity counts, above it hardly any, because among
        pictures that show their prompt similarity says little. A photograph shows what it was taken of, so
        its fit is a constant."""
        shift, weight, slope, cap, tail, constant = self.matching.float()
        mixed = fit + photograph * (constant - fit)
        score: Tensor = shift + weight * mixed + slope * similarity.minimum(cap) + tail * similarity
        return score
