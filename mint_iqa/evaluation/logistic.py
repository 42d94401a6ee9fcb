"""The four-parameter logistic curve that is fitted between scores and human opinion before PLCC and RMSE.

Raters use their scale unevenly near its ends, and every metric has a scale of its own: the curve takes both
out (VQEG, FR-TV phase I and II; ITU-T P.1401). It is monotone, so it leaves SRCC and KRCC as they are.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.optimize import least_squares
from scipy.special import expit

from mint_iqa.errors import MintIQAError
from mint_iqa.metrics import checked_pair

PARAMETERS = 4
# In standard deviations of the scores. A fit can end in a local minimum, a step between two clusters, so the
# best of these starts is taken.
START_WIDTHS = (0.2, 1.0, 4.0)


@dataclass(frozen=True)
class Logistic:
    """score -> lowest + (highest - lowest) / (1 + exp((middle - score) / width)), width > 0.

    lowest, highest: in the unit of the labels, swapped where a higher score means a lower label;
    middle, width: in the unit of the scores.
    """

    lowest: float
    highest: float
    middle: float
    width: float

    def __call__(self, scores: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """Scores float[N] in the unit of the labels, float[N]."""
        position = (np.asarray(scores, np.float64) - self.middle) / self.width
        mapped: npt.NDArray[np.float64] = self.lowest + (self.highest - self.lowest) * expit(position)
        return mapped


def fit_logistic(scores: npt.ArrayLike, labels: npt.ArrayLike) -> Logistic:
    """The least-squares curve through scores float[N] and labels float[N], in any two units.

    A constant side gives the flat curve at the labels' mean. Raises MintIQAError (`bad_argument`) for fewer
    than 5 rows, and as the metrics do.
    """
    x, y = checked_pair(scores, labels)
    if len(x) <= PARAMETERS:
        raise MintIQAError("bad_argument", f"A curve of 4 parameters needs at least 5 rows, not {len(x)}.")
    if np.ptp(x) == 0 or np.ptp(y) == 0:
        return Logistic(float(y.mean()), float(y.mean()), float(x.mean()), 1.0)
    center, spread = float(x.mean()), float(x.std())
    fits = [_fit((x - center) / spread, y, width) for width in START_WIDTHS]
    lowest, highest, middle, width = min(fits, key=lambda fit: fit[0])[1]
    return Logistic(lowest, highest, center + spread * middle, spread * width)


def _fit(x: npt.NDArray[np.float64], y: npt.NDArray[np.float64], width: float) -> tuple[float, list[float]]:
    """Sum of squares and parameters from one start. x: standardized.

    Only middle and width are searched for: with them fixed, the two ends are a linear least-squares problem
    (variable projection, Golub & Pereyra 1973).
    """

    def ends(shape: npt.NDArray[np.float64]) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        curve = expit((x - shape[0]) / np.exp(shape[1]))
        columns = np.stack([1 - curve, curve], axis=1)
        return np.linalg.lstsq(columns, y, rcond=None)[0], columns

    def residuals(shape: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        solution, columns = ends(shape)
        return columns @ solution - y

    # Beyond these bounds the curve is a straight line or a step between two neighbors.
    bounds = ([float(x.min()), np.log(0.01)], [float(x.max()), np.log(100.0)])
    found = least_squares(residuals, [0.0, np.log(width)], bounds=bounds, max_nfev=60)
    (lowest, highest), _ = ends(found.x)
    return float(found.cost), [float(lowest), float(highest), float(found.x[0]), float(np.exp(found.x[1]))]
