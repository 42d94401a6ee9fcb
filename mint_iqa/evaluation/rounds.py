"""Repeated splits by prompt, and the rule for choosing among candidates: validation decides, test reports.

A checkpoint, an epoch, a learning rate or a share of tuning is chosen inside a round by its validation
figure, and only the chosen one's test figure is looked at. Its mean and spread over rounds are what may be
reported; the best test figure of all candidates may not, since the tested pictures chose it.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mint_iqa.errors import MintIQAError
from mint_iqa.folds import prompt_folds

Rows = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Round:
    """Row numbers by role, each in ascending order; none is in two of them."""

    train: Rows
    validation: Rows
    test: Rows


def prompt_rounds(
    prompts: Sequence[str],
    image_hashes: Sequence[str] | None,
    rounds: int = 10,
    *,
    parts: tuple[int, int, int] = (7, 1, 2),
    seed: int = 0,
) -> list[Round]:
    """`rounds` random splits in which no prompt or image has two roles, the same for the same arguments.

    parts: of training, validation and test, as whole numbers; (4, 0, 1) without validation is the protocol of
    CLIP-AGIQA (arXiv 2406.16641: 80/20 by prompt, 10 rounds). Raises MintIQAError (`bad_argument`) for parts
    without training or test, and as `mint_iqa.folds.prompt_folds` does.
    """
    if min(parts) < 0 or not parts[0] or not parts[2] or rounds < 1:
        raise MintIQAError("bad_argument", f"{rounds} rounds of parts {parts}: there must be some of each.")
    train, validation, test = (part // math.gcd(*parts) for part in parts)
    role_of_fold = np.repeat([0, 1, 2], [train, validation, test])
    drawn = [prompt_folds(prompts, image_hashes, len(role_of_fold), seed + k) for k in range(rounds)]
    return [Round(*(np.flatnonzero(role_of_fold[fold] == role) for role in range(3))) for fold in drawn]


def fold_rounds(prompts: Sequence[str], image_hashes: Sequence[str] | None, folds: int) -> list[Round]:
    """K-fold by prompt: every row is tested in exactly one of `folds` rounds; there is no validation."""
    fold = prompt_folds(prompts, image_hashes, folds, seed=0)
    nothing = np.flatnonzero(fold < 0)
    return [Round(np.flatnonzero(fold != k), nothing, np.flatnonzero(fold == k)) for k in range(folds)]


@dataclass(frozen=True)
class Choice:
    """What was chosen by validation in each of R rounds, and what the chosen ones reach on test.

    candidates: int[R]; test: float[R]; mean and std over rounds (std of the sample, nan for one round).
    """

    candidates: tuple[int, ...]
    test: tuple[float, ...]
    mean: float
    std: float


def choose_on_validation(validation: npt.ArrayLike, test: npt.ArrayLike) -> Choice:
    """The candidate of the highest validation figure in every round; the first of equal ones.

    validation, test: float[R, C], a figure for which higher is better (SRCC, or minus a loss) of C candidates
    in R rounds. A candidate whose validation figure is nan isn't chosen. Raises MintIQAError (`bad_argument`)
    for tables of different or other shapes, and for a round in which no candidate has a figure.
    """
    seen, unseen = np.asarray(validation, np.float64), np.asarray(test, np.float64)
    if seen.ndim != 2 or not seen.size or seen.shape != unseen.shape:
        raise MintIQAError(
            "bad_argument",
            f"Choosing takes two tables of rounds x candidates, not shapes {seen.shape} and {unseen.shape}.",
        )
    if np.isnan(seen).all(axis=1).any():
        raise MintIQAError("bad_argument", "In one round no candidate has a validation figure.")
    best = np.nanargmax(seen, axis=1)
    values = unseen[np.arange(len(unseen)), best]
    spread = float(values.std(ddof=1)) if len(values) > 1 else float("nan")
    return Choice(tuple(best.tolist()), tuple(values.tolist()), float(values.mean()), spread)
