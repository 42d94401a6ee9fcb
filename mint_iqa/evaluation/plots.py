"""Scatter and calibration plots as SVG, to be put into a page as they are (classes: pages.css)."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape

import numpy as np
import numpy.typing as npt

from mint_iqa.evaluation.agreement import Bin
from mint_iqa.evaluation.logistic import Logistic

WIDTH, HEIGHT = 420, 320
LEFT, RIGHT, TOP, BOTTOM = 48, 404, 10, 280  # of the area inside the axes
CURVE_POINTS = 80


@dataclass(frozen=True)
class Scale:
    """Values low..high -> pixels start..end."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        """Pixels, to a tenth, so that pages stay small."""
        return round(self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start), 1)


def scatter(scores: npt.ArrayLike, labels: npt.ArrayLike, curve: Logistic, unit: str) -> str:
    """A dot an image, scores (0..100) across, labels up, and the logistic curve. unit: of the labels."""
    x, y = np.asarray(scores, float), np.asarray(labels, float)
    across, up = Scale(0, 100, LEFT, RIGHT), _up(y)
    dots = (f'<circle class="dot" cx="{across(a)}" cy="{up(b)}" r="2.5"/>' for a, b in zip(x, y, strict=True))
    points = np.linspace(x.min(), x.max(), CURVE_POINTS)
    line = " ".join(f"{across(a)},{up(b)}" for a, b in zip(points, curve(points), strict=True))
    return _svg(across, up, ("score", unit), [*dots, f'<polyline class="curve" points="{line}"/>'])


def calibration_plot(bins: Sequence[Bin], unit: str) -> str:
    """Mean predicted label across and mean label up, with its interval; on the dashed line they agree."""
    widths = [0.0 if math.isnan(b.half_width) else b.half_width for b in bins]
    ends = [b.labelled + s * w for b, w in zip(bins, widths, strict=True) for s in (-1, 1)]
    up = _up([*ends, *(b.predicted for b in bins)])
    across = Scale(up.low, up.high, LEFT, RIGHT)
    marks = [
        f'<line class="exact" x1="{LEFT}" y1="{BOTTOM}" x2="{RIGHT}" y2="{TOP}"/>',
        *(_whisker(across(b.predicted), up, b.labelled, w) for b, w in zip(bins, widths, strict=True)),
    ]
    return _svg(across, up, (f"predicted {unit}", f"mean {unit}"), marks)


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


def _svg(across: Scale, up: Scale, names: tuple[str, str], marks: Iterable[str]) -> str:
    x_name, y_name = map(escape, names)
    below = f'y="{BOTTOM + 15}" text-anchor="middle"'
    ticks = [f'<text x="{across(t)}" {below}>{t:g}</text>' for t in _ticks(across)]
    ticks += [f'<text x="{LEFT - 6}" y="{up(t) + 4}" text-anchor="end">{t:g}</text>' for t in _ticks(up)]
    axes = f'<path class="axis" d="M{LEFT} {TOP}V{BOTTOM}H{RIGHT}"/>'
    middle_x, middle_y = (LEFT + RIGHT) // 2, (TOP + BOTTOM) // 2
    titles = (
        f'<text x="{middle_x}" y="{HEIGHT - 6}" text-anchor="middle">{x_name}</text>'
        f'<text transform="translate(12 {middle_y}) rotate(-90)" text-anchor="middle">{y_name}</text>'
    )
    body = "".join([axes, *ticks, titles, *marks])
    label = f"{y_name} by {x_name}"
    return f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{label}">{body}</svg>'


def _ticks(scale: Scale) -> list[float]:
    """Some five round numbers inside a scale."""
    rough = (scale.high - scale.low) / 5
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(step * power for step in (1, 2, 5, 10) if step * power >= rough)
    first, last = math.ceil(scale.low / step), math.floor(scale.high / step)
    return [round(k * step, 10) for k in range(first, last + 1)]
