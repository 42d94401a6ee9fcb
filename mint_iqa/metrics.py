"""How well predicted scores agree with human ones, and splits that don't leak.

All metrics take `predictions` and `labels`, float[N] in any unit (the same one for `rmse`), N >= 3, and raise
MintIQAError (`bad_argument`) when there are fewer rows, unequal lengths, or values that aren't finite
numbers.
"""

from collections.abc import Callable, Hashable, Iterable, Sequence
from itertools import chain

import numpy as np
import numpy.typing as npt
from scipy import stats

from mint_iqa.errors import MintIQAError

Floats = npt.NDArray[np.float64]
Metric = Callable[[npt.ArrayLike, npt.ArrayLike], float]


def srcc(predictions: npt.ArrayLike, labels: npt.ArrayLike) -> float:
    """Spearman's rank correlation, -1..1, higher is better; nan if either side is constant."""
    return _correlation(lambda x, y: _pearson(stats.rankdata(x), stats.rankdata(y)), predictions, labels)


def plcc(predictions: npt.ArrayLike, labels: npt.ArrayLike) -> float:
    """Pearson's linear correlation, -1..1, higher is better; nan if either side is constant.

    On the scores as they are. VQEG's protocol maps them first: `mint_iqa.evaluation.logistic.fit_logistic`.
    """
    return _correlation(_pearson, predictions, labels)


def krcc(predictions: npt.ArrayLike, labels: npt.ArrayLike) -> float:
    """Kendall's tau-b, -1..1, higher is better; nan if either side is constant."""
    return _correlation(lambda x, y: stats.kendalltau(x, y).statistic, predictions, labels)


def rmse(predictions: npt.ArrayLike, labels: npt.ArrayLike) -> float:
    """Root of the mean squared error, in the unit of the labels, 0 is best."""
    x, y = checked_pair(predictions, labels)
    return float(np.sqrt(np.mean((x - y) ** 2)))


def roc_auc(scores: npt.ArrayLike, positives: npt.ArrayLike) -> float:
    """Chance that a positive scores above a negative (ties count half), 0..1; nan if one kind is missing.

    `scores`: float[N]; `positives`: bool[N].
    """
    x, is_positive = checked_pair(scores, positives)
    chosen = is_positive.astype(bool)
    n_positive, n_negative = int(chosen.sum()), int((~chosen).sum())
    if not n_positive or not n_negative:
        return float("nan")
    above = stats.rankdata(x)[chosen].sum() - n_positive * (n_positive + 1) / 2  # Mann-Whitney U
    return float(above / (n_positive * n_negative))


def bootstrap_interval(
    metric: Metric,
    predictions: npt.ArrayLike,
    labels: npt.ArrayLike,
    *,
    groups: Sequence[Hashable] | None = None,
    samples: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
) -> tuple[float, float]:
    """The percentile bootstrap interval of `metric` (Efron & Tibshirani 1993, section 13.3): (low, high).

    With `groups` (N values, e.g. each row's prompt), whole groups are drawn instead of rows, since rows of
    one prompt are not independent. Resamples on which the metric is nan are left out; (nan, nan) if all are.
    """
    x, y = checked_pair(predictions, labels)
    if samples < 1 or not 0 < confidence < 1:
        raise MintIQAError("bad_argument", "bootstrap_interval needs samples >= 1 and 0 < confidence < 1.")
    members = _members(range(len(x)) if groups is None else groups, len(x))
    rng = np.random.default_rng(seed)
    values = np.array([_resampled(metric, x, y, members, rng) for _ in range(samples)])
    values = values[~np.isnan(values)]
    if not len(values):
        return float("nan"), float("nan")
    low, high = np.quantile(values, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


def t_interval(values: Sequence[float], confidence: float = 0.95) -> tuple[float, float]:
    """Mean and half width of the t interval over runs or folds; the width is nan for a single one."""
    if len(values) < 2:
        return float(np.mean(values)), float("nan")
    error = np.std(values, ddof=1) / np.sqrt(len(values))
    return float(np.mean(values)), float(stats.t.ppf((1 + confidence) / 2, len(values) - 1) * error)


def _members(groups: Iterable[Hashable], rows: int) -> list[npt.NDArray[np.int64]]:
    members: dict[Hashable, list[int]] = {}
    for row, group in enumerate(groups):
        members.setdefault(group, []).append(row)
    found = sum(map(len, members.values()))
    if found != rows:
        raise MintIQAError(
            "bad_argument", f"There are {rows} rows but {found} groups: give one group per row."
        )
    return [np.array(each) for each in members.values()]


def _resampled(
    metric: Metric, x: Floats, y: Floats, members: list[npt.NDArray[np.int64]], rng: np.random.Generator
) -> float:
    drawn = rng.integers(len(members), size=len(members))
    rows = np.fromiter(chain.from_iterable(members[index] for index in drawn), dtype=np.int64)
    return metric(x[rows], y[rows]) if len(rows) >= 3 else float("nan")


def _pearson(x: Floats, y: Floats) -> float:
    return float(
        np.corrcoef(x, y)[0, 1]
    )  # without SciPy's p-value, six times faster: intervals take thousands


def _correlation(
    statistic: Callable[[Floats, Floats], float], predictions: npt.ArrayLike, labels: npt.ArrayLike
) -> float:
    x, y = checked_pair(predictions, labels)
    if np.ptp(x) == 0 or np.ptp(y) == 0:
        return float("nan")
    return float(statistic(x, y))


def checked_pair(predictions: npt.ArrayLike, labels: npt.ArrayLike) -> tuple[Floats, Floats]:
    """Both as float[N]; raises what every metric here raises."""
    try:
        x, y = np.asarray(predictions, dtype=np.float64), np.asarray(labels, dtype=np.float64)
    except (TypeError, ValueError):
        raise MintIQAError(
            "bad_argument", "A metric takes two lists of numbers, but a value isn't one."
        ) from None
    if x.ndim != 1 or x.shape != y.shape:
        raise MintIQAError(
            "bad_argument", f"A metric takes two lists of equal length, not shapes {x.shape} and {y.shape}."
        )
    if len(x) < 3:
        raise MintIQAError("bad_argument", f"A metric needs at least 3 rows, not {len(x)}.")
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        raise MintIQAError("bad_argument", "A metric takes finite numbers: remove the rows with nan or inf.")
    return x, y
