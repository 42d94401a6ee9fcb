"""Moves a score head towards a few ratings: ridge regression, solved exactly.

Heads are linear in the mean quality vector, so what a few dozen ratings can teach one is found in closed
form: the same ratings give the same head, and there is no step size or stopping time to guess.
Cross-validation chooses how far it may move; not at all is one of the choices.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from mint_iqa.model.examiner import Examiner
from mint_iqa.model.heads import ScoreHead
from mint_iqa.model.modeling import MintIQAModel
from mint_iqa.vocabulary import CORRESPONDENCE
from train.data.vectors import FrozenVectors

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
# How strongly a head is held in place: fixed, shifted as a whole (its level alone), ... nearly free.
STRENGTHS: tuple[float | None, ...] = (None, np.inf, *(10 ** (k / 2) for k in range(6, -3, -1)))
# The strongest hold whose error is within this many standard errors of the least is taken. On 40 ratings of
# AGIQA-3K the least itself cost up to .19 of SRCC where there was nothing to learn, half an error .06.
STANDARD_ERRORS = 0.5
# A hundredth of a point, squared on 0..1: smaller differences come from processors and batches.
ROUNDING = 1e-8


@dataclass(frozen=True)
class HeadInputs:
    """What one head reads of N pictures: vectors float[N, Dq], similarity float[N] (0 for all heads but the
    one that reads it), and score float[N], around 0..1, what it says now."""

    vectors: Floats
    similarity: Floats
    score: Floats

    def __getitem__(self, rows: Integers) -> "HeadInputs":
        return HeadInputs(self.vectors[rows], self.similarity[rows], self.score[rows])


@dataclass(frozen=True)
class Adjustment:
    """Added to a score: slope * score + vectors @ direction + gain * similarity + shift."""

    slope: float
    direction: Floats
    gain: float
    shift: float

    def __call__(self, seen: HeadInputs) -> Floats:
        """The new scores, float[N], around 0..1."""
        moved = seen.vectors @ self.direction + self.gain * seen.similarity + self.shift
        return (1 + self.slope) * seen.score + moved


def head_inputs(model: MintIQAModel, dimension: str, frozen: FrozenVectors) -> HeadInputs:
    number = model.config.dimensions.index(dimension)
    similarity = frozen.similarity.astype(np.float64) * (number == CORRESPONDENCE)
    return HeadInputs(
        frozen.vectors.astype(np.float64), similarity, frozen.scores[:, number].astype(np.float64)
    )


def learn_adjustment(
    seen: HeadInputs, wanted: Floats, weights: Floats, folds: Integers
) -> tuple[Adjustment, float | None]:
    """The adjustment towards `wanted` float[N] on 0..1, and the strength that was chosen for it.

    weights float[N] > 0; folds int[N]: rows of one fold are predicted by a fit on the others.
    """
    errors = np.zeros((len(STRENGTHS), len(wanted)))
    for fold in np.unique(folds):
        others, own = np.flatnonzero(folds != fold), np.flatnonzero(folds == fold)
        for i, strength in enumerate(STRENGTHS):
            adjusted = fit_adjustment(seen[others], wanted[others], weights[others], strength)(seen[own])
            errors[i, own] = weights[own] * (adjusted.clip(0, 1) - wanted[own]) ** 2
    strength = STRENGTHS[choose_strength(errors)]
    return fit_adjustment(seen, wanted, weights, strength), strength


def choose_strength(errors: Floats) -> int:
    """The first row of errors float[S, N] whose mean is as good as the best one's; see STANDARD_ERRORS."""
    worse = errors - errors[errors.mean(axis=1).argmin()]
    standard_error = worse.std(axis=1) / np.sqrt(errors.shape[1])
    return int((worse.mean(axis=1) <= STANDARD_ERRORS * standard_error + ROUNDING).argmax())


def fit_adjustment(seen: HeadInputs, wanted: Floats, weights: Floats, strength: float | None) -> Adjustment:
    """Weighted ridge regression of the residual; None: no adjustment, infinity: a constant."""
    none = Adjustment(0.0, np.zeros(seen.vectors.shape[1]), 0.0, 0.0)
    if strength is None:
        return none
    share = weights / weights.sum()
    missing = wanted - seen.score
    level = float(share @ missing)
    if np.isinf(strength):
        return Adjustment(0.0, none.direction, 0.0, level)
    # Score, vectors and similarity count equally, whatever their sizes.
    parts = [seen.score[:, None], seen.vectors, seen.similarity[:, None]]
    centers = [share @ part for part in parts]
    even = [part - center for part, center in zip(parts, centers, strict=True)]
    scales = [max(np.sqrt(share @ (e**2).sum(axis=1)), 1e-6) for e in even]
    x = np.concatenate([e / scale for e, scale in zip(even, scales, strict=True)], axis=1)
    # N x N: there are fewer ratings than numbers in a vector.
    dual = np.linalg.solve(x @ x.T + np.diag(strength / (share * len(share))), missing - level)
    slope, *direction, gain = x.T @ dual
    moves = [np.array([slope]) / scales[0], np.array(direction) / scales[1], np.array([gain]) / scales[2]]
    shift = level - sum(float(c @ m) for c, m in zip(centers, moves, strict=True))
    return Adjustment(float(moves[0][0]), moves[1], float(moves[2][0]), shift)


@torch.no_grad()
def apply(model: MintIQAModel, dimension: str, adjustment: Adjustment) -> set[str]:
    """Build the adjustment into the model; the names of the weights that changed.

    Of a model with an examiner, into what it keeps for this; else into the score head, of which the first
    layer takes the smallest change that has the wanted effect through the second.
    """
    if model.examiner is not None:
        return _apply_to_examiner(model.examiner, model.config.dimensions.index(dimension), adjustment)
    head, prefix = model.heads[dimension], f"heads.{dimension}.layers"
    assert isinstance(head, ScoreHead)
    first, last = (layer for layer in head.layers if isinstance(layer, nn.Linear))
    out = last.weight[head.index]
    direction = torch.from_numpy(adjustment.direction).to(out)
    change = adjustment.slope * (out @ first.weight) + direction
    constant = adjustment.slope * (out @ first.bias + last.bias[head.index]) + adjustment.shift
    first.weight += torch.outer(out, change) / out.square().sum()
    last.bias[head.index] += constant
    names = {f"{prefix}.0.weight", f"{prefix}.1.bias"}
    if dimension == "correspondence" and model.alignment is not None:
        alignment = model.alignment
        alignment.gain.add_(adjustment.slope * alignment.gain + adjustment.gain)
        names.add("alignment.gain")
        if alignment.prompt_map is not None:
            alignment.slope.mul_(1 + adjustment.slope)
            names.add("alignment.slope")
    return names


def _apply_to_examiner(examiner: Examiner, row: int, adjustment: Adjustment) -> set[str]:
    """On top of an earlier adjustment, which may be there already."""
    factor = 1 + adjustment.slope
    slope, gain, shift = examiner.own_line[row].tolist()
    direction = torch.from_numpy(adjustment.direction).to(examiner.own_direction)
    examiner.own_direction[row] = factor * examiner.own_direction[row] + direction
    examiner.own_line[row] = torch.tensor(
        [(1 + slope) * factor - 1, factor * gain + adjustment.gain, factor * shift + adjustment.shift]
    )
    return {"examiner.own_direction", "examiner.own_line"}
