"""Axes, ticks and dots as SVG, to be put into a page as they are (classes: pages/page.css)."""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from html import escape

import numpy as np
import numpy.typing as npt

WIDTH = 420
LEFT, RIGHT, TOP, BOTTOM = 48, 404, 10, 280  # of the area inside the axes
TICKS_AND_NAME = 40  # pixels below the axis


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


def plot(
    across: Scale, up: Scale, names: tuple[str, str], marks: Iterable[str], below: int = TICKS_AND_NAME
) -> str:
    """The marks in front of axes with ticks. names: of both axes, as text; below: pixels under the axis."""
    x_name, y_name = map(escape, names)
    left, right, bottom, top = across.start, across.end, up.start, up.end
    under = f'y="{bottom + 15}" text-anchor="middle"'
    ticks = [f'<text x="{across(t)}" {under}>{t:g}</text>' for t in _ticks(across)]
    ticks += [f'<text x="{left - 6}" y="{up(t) + 4}" text-anchor="end">{t:g}</text>' for t in _ticks(up)]
    axes = f'<path class="axis" d="M{left} {top}V{bottom}H{right}"/>'
    height, middle_x, middle_y = bottom + below, (left + right) / 2, (top + bottom) / 2
    titles = (
        f'<text x="{middle_x:g}" y="{height - 6}" text-anchor="middle">{x_name}</text>'
        f'<text transform="translate(12 {middle_y:g}) rotate(-90)" text-anchor="middle">{y_name}</text>'
    )
    body = "".join([axes, *ticks, titles, *marks])
    label = f"{y_name} by {x_name}"
    return f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{label}">{body}</svg>'


def dots(x: npt.NDArray[np.float64], y: npt.NDArray[np.float64], across: Scale, up: Scale) -> Iterator[str]:
    """One dot for each x and y, float[N]."""
    for a, b in zip(x, y, strict=True):
        yield f'<circle class="dot" cx="{across(a)}" cy="{up(b)}" r="2.5"/>'


def diagonal(across: Scale, up: Scale) -> str:
    """A dashed line from corner to corner: where both are the same if both scales are."""
    return f'<line class="exact" x1="{across.start}" y1="{up.start}" x2="{across.end}" y2="{up.end}"/>'


def _ticks(scale: Scale) -> list[float]:
    """About five round numbers inside a scale."""
    rough = (scale.high - scale.low) / 5
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(step * power for step in (1, 2, 5, 10) if step * power >= rough)
    first, last = math.ceil(scale.low / step), math.floor(scale.high / step)
    return [round(k * step, 10) for k in range(first, last + 1)]
