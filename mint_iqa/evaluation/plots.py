"""Scatter and calibration plots as SVG, to be put into a page as they are (classes: pages/page.css)."""

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from mint_iqa.evaluation.agreement import Bin
from mint_iqa.evaluation.logistic import Logistic
from mint_iqa.pages.svg import BOTTOM, LEFT, RIGHT, TOP, Scale, diagonal, dots, plot

CURVE_POINTS = 80


def scatter(scores: npt.ArrayLike, labels: npt.ArrayLike, curve: Logistic, unit: str) -> str:
    """A dot per image, scores (0..100) across, labels up, and the logistic curve. unit: of the labels."""
    x, y = np.asarray(scores, float), np.asarray(labels, float)
    across, up = Scale(0, 100, LEFT, RIGHT), _up(y)
    points = np.linspace(x.min(), x.max(), CURVE_POINTS)
    line = " ".join(f"{across(a)},{up(b)}" for a, b in zip(points, curve(points), strict=True))
    return plot(
        across, up, ("score", unit), [*dots(x, y, across, up), f'<polyline class="curve" points="{line}"/>']
    )


def calibration_plot(bins: Sequence[Bin], unit: str) -> str:
    """Mean predicted label across and mean label up, with its interval; on the dashed line they agree."""
    widths = [0.0 if math.isnan(b.half_width) else b.half_width for b in bins]
    ends = [b.labeled + s * w for b, w in zip(bins, widths, strict=True) for s in (-1, 1)]
    up = _up([*ends, *(b.predicted for b in bins)])
    across = Scale(up.low, up.high, LEFT, RIGHT)
    marks = [
        diagonal(across, up),
        *(_whisker(across(b.predicted), up, b.labeled, w) for b, w in zip(bins, widths, strict=True)),
    ]
    return plot(across, up, (f"predicted {unit}", f"mean {unit}"), marks)


def _whisker(x: float, up: Scale, middle: float, half_width: float) -> str:
    low, high = up(middle - half_width), up(middle + half_width)
    return (
        f'<line class="whisker" x1="{x}" y1="{low}" x2="{x}" y2="{high}"/>'
        f'<circle class="mean" cx="{x}" cy="{up(middle)}" r="4"/>'
    )


def _up(values: Sequence[float] | npt.NDArray[np.float64]) -> Scale:
    low, high = float(np.min(values)), float(np.max(values))
    margin = 0.04 * (high - low) or 1.0
    return Scale(low - margin, high + margin, BOTTOM, TOP)
