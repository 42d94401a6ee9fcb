"""Means with bootstrap intervals, over prompts where there are enough of them."""

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mint_iqa.reports.run import Floats

FEWEST_PROMPTS = 10  # resampling fewer gives intervals that are much too narrow
FEWEST_UNITS = 5  # of fewer, an interval would say nothing
BOOTSTRAP_SAMPLES = 1000


@dataclass(frozen=True)
class Mean:
    """A mean and its 95 % interval, nan where there are fewer than `FEWEST_UNITS` to draw."""

    value: float
    low: float
    high: float


def mean_of(values: Floats, prompts: Sequence[str]) -> Mean:
    """The mean of float[N], N >= 1, with its interval over `units_of(prompts)`."""
    return Mean(float(values.mean()), *mean_interval(values, units_of(prompts)))


def units_of(prompts: Sequence[str]) -> list[Hashable]:
    """What is drawn: prompts, as images of one prompt aren't independent, and images that have none; images
    alone where there are fewer than `FEWEST_PROMPTS`."""
    by_prompt: list[Hashable] = [prompt or row for row, prompt in enumerate(prompts)]
    return by_prompt if len(set(by_prompt)) >= FEWEST_PROMPTS else list(range(len(prompts)))


def mean_interval(
    values: Floats, units: Sequence[Hashable], samples: int = BOOTSTRAP_SAMPLES, seed: int = 0
) -> tuple[float, float]:
    """The 95 % percentile bootstrap interval of the mean of float[N]: (low, high).

    What `metrics.bootstrap_interval` gives for a mean with groups=units, but on the sums of units: for
    100,000 images in seconds. (nan, nan) with fewer than `FEWEST_UNITS` different units.
    """
    numbers: dict[Hashable, int] = {}
    unit_of_row = np.array([numbers.setdefault(unit, len(numbers)) for unit in units], dtype=np.int64)
    if len(numbers) < FEWEST_UNITS:
        return math.nan, math.nan
    sums = np.bincount(unit_of_row, values).astype(np.float64)
    counts = np.bincount(unit_of_row).astype(np.float64)
    rng = np.random.default_rng(seed)
    means = [_mean_of_drawn(sums, counts, rng) for _ in range(samples)]
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high)


def _mean_of_drawn(sums: Floats, counts: Floats, rng: np.random.Generator) -> float:
    drawn: npt.NDArray[np.int64] = rng.integers(len(sums), size=len(sums))
    return float(sums[drawn].sum() / counts[drawn].sum())
