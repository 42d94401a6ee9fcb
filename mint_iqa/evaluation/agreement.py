"""How well the scores of one dimension agree with people's, and what baselines reach without the image.

Figures come with 95 % bootstrap intervals over groups of dependent images, since images of one prompt are not
independent; within them the logistic curve stays as it was fitted.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from mint_iqa.errors import MintIQAError
from mint_iqa.evaluation.logistic import Logistic, fit_logistic
from mint_iqa.evaluation.rounds import Round, fold_rounds, prompt_rounds
from mint_iqa.metrics import Metric, bootstrap_interval, krcc, plcc, rmse, srcc, t_interval

Floats = npt.NDArray[np.float64]
Curve = Callable[[npt.ArrayLike], Floats]
MIN_IMAGES = 10  # with a score and a label, in one dimension
FOLDS = 5  # for baselines and residuals, which must not see the label that they predict
ROUNDS = 10  # CLIP-AGIQA (arXiv 2406.16641): random splits of prompts, 80/20
BOOTSTRAP_SAMPLES = 500
BINS = 10

# Each with whether it is taken after the logistic. That is monotone: SRCC and KRCC stay as they are.
METRICS: dict[str, tuple[Metric, bool]] = {
    "srcc": (srcc, False), "krcc": (krcc, False), "plcc": (plcc, False), "rmse": (rmse, False),
    "plcc_mapped": (plcc, True), "rmse_mapped": (rmse, True),
}  # fmt: skip


@dataclass(frozen=True)
class ScoredLabels:
    """Scores of N images beside people's, and what else is known of them.

    scores: float[N], 0..100; labels: float[N], in any unit; groups: N names, equal where images depend on
    each other (one prompt); hashes, generators: N texts, "" for unknown; same_unit: whether labels are on
    0..100 too, since only then an error before the logistic says anything.
    """

    scores: Floats
    labels: Floats
    groups: Sequence[str]
    hashes: Sequence[str]
    generators: Sequence[str]
    same_unit: bool

    def part(self, rows: npt.NDArray[np.int64]) -> "ScoredLabels":
        """The images of these rows only."""
        groups, hashes, generators = (
            [texts[row] for row in rows] for texts in (self.groups, self.hashes, self.generators)
        )
        return ScoredLabels(self.scores[rows], self.labels[rows], groups, hashes, generators, self.same_unit)


@dataclass(frozen=True)
class Figure:
    """A statistic and its 95 % bootstrap interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Figures:
    """Statistics of n images by the keys of `METRICS`; nan where one says nothing."""

    n: int
    values: dict[str, Figure]


@dataclass(frozen=True)
class Rounds:
    """Mean and sample standard deviation over test sets; the curve is fitted on the other images."""

    protocol: str
    mean: dict[str, float]
    std: dict[str, float]


@dataclass(frozen=True)
class Bin:
    """One of ten equal parts of the images, by predicted label. half_width: 95 % t interval of `labeled`."""

    n: int
    predicted: float
    labeled: float
    half_width: float


@dataclass(frozen=True)
class Agreement:
    """All figures of one dimension.

    overall, generators: the curve is fitted on all images, as VQEG has it; baselines: by what they know;
    rounds: None where there are too few groups; predicted: float[N], scores in the labels' unit by a curve
    fitted without the image's fold.
    """

    curve: Logistic
    overall: Figures
    generators: dict[str, Figures]
    baselines: dict[str, Figures]
    rounds: Rounds | None
    calibration: list[Bin]
    predicted: Floats


def agreement(data: ScoredLabels, folds: int | None = None) -> Agreement:
    """Every figure of one dimension. folds: for k-fold cross-validation in place of ten rounds of 80/20.

    Raises MintIQAError: `too_few_images` for fewer than 10, `bad_argument` if `folds` can't be made.
    """
    if len(data.scores) < MIN_IMAGES:
        raise MintIQAError(
            "too_few_images",
            f"{len(data.scores)} images with a score and a label are too few: compare {MIN_IMAGES} or more.",
        )
    curve = fit_logistic(data.scores, data.labels)
    generators = {name: data.part(rows) for name, rows in _rows_of(data.generators).items() if name}
    unseen = _unseen(data)
    predicted = _out_of_fold(data, unseen) if unseen else curve(data.scores)
    guesses = {name: replace(data, scores=y, same_unit=True) for name, y in baselines(data).items()}
    return Agreement(
        curve,
        figures(data, curve),
        {name: figures(part, curve) for name, part in sorted(generators.items())},
        {name: figures(guess, np.asarray) for name, guess in guesses.items()},
        over_rounds(data, folds),
        calibration(predicted, data.labels),
        predicted,
    )


def figures(data: ScoredLabels, curve: Curve) -> Figures:
    """Every statistic of `METRICS` with its interval. curve: from scores to the labels' unit."""
    mapped, values = curve(data.scores), {}
    for name, (metric, after) in METRICS.items():
        scores, value = (mapped if after else data.scores), _value(name, data, mapped)
        interval = (math.nan, math.nan)
        if not math.isnan(value):
            interval = bootstrap_interval(
                metric, scores, data.labels, groups=data.groups, samples=BOOTSTRAP_SAMPLES
            )
        values[name] = Figure(value, *interval)
    return Figures(len(mapped), values)


def over_rounds(data: ScoredLabels, folds: int | None = None) -> Rounds | None:
    """The same statistics on test sets of unseen prompts; None where ten rounds need more prompts.

    Raises MintIQAError (`bad_argument`) if `folds` can't be made.
    """
    if folds is None:
        rounds = _rounds_or_none(lambda: prompt_rounds(data.groups, data.hashes, ROUNDS, parts=(4, 0, 1)))
        protocol = f"{ROUNDS} random splits by prompt, 80/20"
    else:
        rounds, protocol = fold_rounds(data.groups, data.hashes, folds), f"{folds} folds by prompt"
    if rounds is None:
        return None
    tested = [_on_test(data, each) for each in rounds]
    table = {name: np.array([values[name] for values in tested]) for name in METRICS}
    return Rounds(
        protocol,
        {name: float(values.mean()) for name, values in table.items()},
        {name: float(values.std(ddof=1)) for name, values in table.items()},
    )


def calibration(predicted: Floats, labels: Floats) -> list[Bin]:
    """Mean prediction beside mean label, both float[N] in one unit, in ten parts of nearly equal size."""
    bins = []
    for rows in np.array_split(np.argsort(predicted, kind="stable"), BINS):
        labeled, half_width = t_interval(labels[rows].tolist())
        bins.append(Bin(len(rows), float(predicted[rows].mean()), labeled, half_width))
    return bins


def _value(name: str, data: ScoredLabels, mapped: Floats) -> float:
    metric, after = METRICS[name]
    if len(mapped) < 3 or (name == "rmse" and not data.same_unit):
        return math.nan
    return metric(mapped if after else data.scores, data.labels)


def _on_test(data: ScoredLabels, each: Round) -> dict[str, float]:
    curve = fit_logistic(data.scores[each.train], data.labels[each.train])
    test = data.part(each.test)
    return {name: _value(name, test, curve(test.scores)) for name in METRICS}


def _rounds_or_none(make: Callable[[], list[Round]]) -> list[Round] | None:
    try:
        return make()
    except MintIQAError:  # too few unrelated groups: what needs them is left out
        return None


def _unseen(data: ScoredLabels) -> list[Round] | None:
    return _rounds_or_none(lambda: fold_rounds(data.groups, data.hashes, FOLDS))


def _out_of_fold(data: ScoredLabels, rounds: Sequence[Round]) -> Floats:
    predicted = np.empty(len(data.scores))
    for each in rounds:
        curve = fit_logistic(data.scores[each.train], data.labels[each.train])
        predicted[each.test] = curve(data.scores[each.test])
    return predicted


# --- baselines ---


def baselines(data: ScoredLabels) -> dict[str, Floats]:
    """Labels predicted without the image and without its own label: float[N] by what is known.

    Empty where there are too few groups, only one generator, and no two images of a group.
    """
    unseen, found = _unseen(data), {}
    if unseen and len({name for name in data.generators if name}) > 1:
        found["generator mean"] = _generator_means(data, unseen)
    if unseen and len(set(data.groups)) < len(data.groups):
        found["prompt mean"] = _other_means(data)
    return found


def _generator_means(data: ScoredLabels, rounds: Sequence[Round]) -> Floats:
    """By fold. Leave-one-out would reverse the ranking of each generator's images: the mean of the others
    falls as an image's own label rises."""
    guess = np.empty(len(data.labels))
    for each in rounds:
        rest = data.part(each.train)
        means = {name: rest.labels[rows].mean() for name, rows in _rows_of(rest.generators).items()}
        guess[each.test] = [means.get(data.generators[row], rest.labels.mean()) for row in each.test]
    return guess


def _other_means(data: ScoredLabels) -> Floats:
    """The mean of the other images of the group; one number for all images that are alone in theirs."""
    guess = np.full(len(data.labels), data.labels.mean())
    for rows in _rows_of(data.groups).values():
        if len(rows) > 1:
            guess[rows] = (data.labels[rows].sum() - data.labels[rows]) / (len(rows) - 1)
    return guess


def _rows_of(names: Sequence[str]) -> dict[str, npt.NDArray[np.int64]]:
    values = np.array(names)
    return {name: np.flatnonzero(values == name) for name in dict.fromkeys(names)}
