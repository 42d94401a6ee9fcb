"""Histograms and scatters of scores as SVG, to be put into a page as they are (classes: pages.css)."""

from collections.abc import Iterable, Iterator

import numpy as np

from mint_iqa.reports.run import Floats
from mint_iqa.vocabulary import LEVEL_CUTS, LEVELS

WIDTH = 420
LEFT, RIGHT, TOP = 42, 408, 12  # of the area inside the axes
BINS = 20
MOST_DOTS = 1500  # more are drawn as cells, so that a page with 100,000 images stays small
CELLS = 40  # a side
EDGES = (0.0, *LEVEL_CUTS, 100.0)


def histogram(scores: Floats, other: Floats | None = None) -> str:
    """Shares of float[N] scores in bins of 5 points as bars, those of `other` as a line over them; below,
    the level words with their shares of `scores`."""
    bottom = 150
    shares = _shares(scores)
    lines = [shares] if other is None else [shares, _shares(other)]
    most = max(line.max() for line in lines)
    width = (RIGHT - LEFT) / BINS
    tops = [bottom - line / most * (bottom - TOP) for line in lines]
    marks = [
        f'<rect class="mean" x="{LEFT + i * width + 0.5:.1f}" y="{top:.1f}" width="{width - 1:.1f}" '
        f'height="{bottom - top:.1f}"/>'
        for i, top in enumerate(tops[0])
    ]
    for top in tops[1:]:
        steps = " ".join(f"V{y:.1f}H{LEFT + (i + 1) * width:.1f}" for i, y in enumerate(top))
        marks.append(f'<path class="curve" d="M{LEFT} {bottom}{steps}V{bottom}"/>')
    scale = f'<text x="{LEFT - 5}" y="{TOP + 5}" text-anchor="end">{100 * most:.0f} %</text>'
    words = _words(scores, bottom)
    return _svg(bottom + 50, bottom, f"distribution, {100 * most:.0f} % at most", [*marks, scale, *words])


def scatter(x: Floats, y: Floats, names: tuple[str, str], diagonal: bool = False) -> str:
    """A dot an image at its scores x (across) and y (up), float[N]; of many images, cells that are the
    darker the more of them they hold. diagonal: where both are the same."""
    bottom = 330
    up = [f'<text x="{LEFT - 5}" y="{_up(t, bottom) + 4}" text-anchor="end">{t:g}</text>' for t in EDGES]
    line = f'<line class="exact" x1="{LEFT}" y1="{bottom}" x2="{RIGHT}" y2="{TOP}"/>' if diagonal else ""
    middle = (TOP + bottom) // 2
    titles = (
        f'<text x="{(LEFT + RIGHT) // 2}" y="{bottom + 33}" text-anchor="middle">{names[0]}</text>'
        f'<text transform="translate(11 {middle}) rotate(-90)" text-anchor="middle">{names[1]}</text>'
    )
    marks = _cells(x, y, bottom) if len(x) > MOST_DOTS else _dots(x, y, bottom)
    return _svg(bottom + 40, bottom, f"{names[1]} by {names[0]}", [*up, titles, *marks, line])


def _shares(scores: Floats) -> Floats:
    counts, _ = np.histogram(scores, bins=BINS, range=(0, 100))
    return counts / max(len(scores), 1)


def _words(scores: Floats, bottom: int) -> Iterator[str]:
    level = np.searchsorted(LEVEL_CUTS, scores, side="right")
    counts = np.bincount(level, minlength=len(LEVELS))
    for word, count, low, high in zip(LEVELS, counts, EDGES[:-1], EDGES[1:], strict=True):
        x = _across((low + high) / 2)
        share = f"{100 * count / max(len(scores), 1):.0f} %"
        yield f'<text x="{x}" y="{bottom + 31}" text-anchor="middle">{word}</text>'
        yield f'<text x="{x}" y="{bottom + 45}" text-anchor="middle">{share}</text>'


def _dots(x: Floats, y: Floats, bottom: int) -> Iterator[str]:
    for a, b in zip(x, y, strict=True):
        yield f'<circle class="dot" cx="{_across(a)}" cy="{_up(b, bottom)}" r="2.5"/>'


def _cells(x: Floats, y: Floats, bottom: int) -> Iterator[str]:
    counts, _, _ = np.histogram2d(x, y, bins=CELLS, range=((0, 100), (0, 100)))
    strength = np.log1p(counts) / np.log1p(counts.max())
    side = 100 / CELLS
    width, height = (RIGHT - LEFT) / CELLS, (bottom - TOP) / CELLS
    for i, j in zip(*np.nonzero(counts), strict=True):
        corner = f'x="{_across(i * side)}" y="{_up((j + 1) * side, bottom)}"'
        size = f'width="{width:.1f}" height="{height:.1f}"'
        yield f'<rect class="mean" {corner} {size} fill-opacity="{0.1 + 0.9 * strength[i, j]:.2f}"/>'


def _across(score: float) -> float:
    """Pixels, to a tenth, so that pages stay small."""
    return round(LEFT + score / 100 * (RIGHT - LEFT), 1)


def _up(score: float, bottom: int) -> float:
    return round(bottom - score / 100 * (bottom - TOP), 1)


def _svg(height: int, bottom: int, label: str, marks: Iterable[str]) -> str:
    """The marks above a scale from 0 to 100 with a tick at each cut between level words."""
    ticks = [
        f'<text x="{_across(t)}" y="{bottom + 15}" text-anchor="middle">{t:g}</text>'
        f'<path class="axis" d="M{_across(t)} {bottom}v4"/>'
        for t in EDGES
    ]
    axes = f'<path class="axis" d="M{LEFT} {TOP}V{bottom}H{RIGHT}"/>'
    body = "".join([*marks, axes, *ticks])
    return f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{label}">{body}</svg>'
