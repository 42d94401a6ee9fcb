"""Histograms and scatters of scores as SVG, to be put into a page as they are (classes: pages/page.css)."""

from collections.abc import Iterator

import numpy as np

from mint_iqa.pages.svg import BOTTOM, LEFT, RIGHT, TOP, Scale, diagonal, dots, plot
from mint_iqa.reports.run import Floats
from mint_iqa.vocabulary import LEVEL_CUTS, LEVELS

ACROSS = Scale(0, 100, LEFT, RIGHT)
UP = Scale(0, 100, BOTTOM, TOP)
BASELINE = 150  # pixels from the top to the bottom of a histogram
BINS = 20
MOST_DOTS = 1500  # more are drawn as cells, so that a page with 100,000 images stays small
CELLS_PER_SIDE = 40


def histogram(scores: Floats, other: Floats) -> str:
    """Shares of float[N] scores in bins of 5 points as bars, N >= 1, those of `other`, which may be empty, as
    a line over them; below, the level words with their shares of `scores`."""
    shares = [_percentages(each) for each in (scores, other) if len(each)]
    up = Scale(0, max(float(each.max()) for each in shares), BASELINE, TOP)
    starts = np.linspace(0, 100, BINS, endpoint=False)
    width = ACROSS(100 / BINS) - LEFT - 1
    marks = [
        f'<rect class="mean" x="{ACROSS(start)}" y="{up(share)}" width="{width:.1f}" '
        f'height="{BASELINE - up(share):.1f}"/>'
        for start, share in zip(starts, shares[0], strict=True)
    ]
    for line in shares[1:]:
        steps = "".join(
            f"V{up(share)}H{ACROSS(start + 100 / BINS)}" for start, share in zip(starts, line, strict=True)
        )
        marks.append(f'<path class="curve" d="M{LEFT} {BASELINE}{steps}V{BASELINE}"/>')
    return plot(ACROSS, up, ("score", "% of images"), [*marks, *_words(scores)], below=66)


def scatter(x: Floats, y: Floats, names: tuple[str, str], with_diagonal: bool = False) -> str:
    """A dot per image at its scores x (across) and y (up), float[N]; for many images, cells that are darker
    where they hold more. with_diagonal: a line where both are the same."""
    marks = _cells(x, y) if len(x) > MOST_DOTS else dots(x, y, ACROSS, UP)
    return plot(ACROSS, UP, names, [*marks, diagonal(ACROSS, UP) if with_diagonal else ""])


def _percentages(scores: Floats) -> Floats:
    counts, _ = np.histogram(scores, bins=BINS, range=(0, 100))
    return 100 * counts / len(scores)


def _words(scores: Floats) -> Iterator[str]:
    level = np.searchsorted(LEVEL_CUTS, scores, side="right")
    counts = np.bincount(level, minlength=len(LEVELS))
    edges = (0, *LEVEL_CUTS, 100)
    for word, count, low, high in zip(LEVELS, counts, edges[:-1], edges[1:], strict=True):
        place = f'x="{ACROSS((low + high) / 2)}" text-anchor="middle"'
        yield f'<text y="{BASELINE + 31}" {place}>{word}</text>'
        yield f'<text y="{BASELINE + 45}" {place}>{100 * count / len(scores):.0f} %</text>'


def _cells(x: Floats, y: Floats) -> Iterator[str]:
    counts, _, _ = np.histogram2d(x, y, bins=CELLS_PER_SIDE, range=((0, 100), (0, 100)))
    strength = np.log1p(counts) / np.log1p(counts.max())
    side = 100 / CELLS_PER_SIDE
    size = f'width="{(RIGHT - LEFT) / CELLS_PER_SIDE:.1f}" height="{(BOTTOM - TOP) / CELLS_PER_SIDE:.1f}"'
    for i, j in zip(*np.nonzero(counts), strict=True):
        corner = f'x="{ACROSS(i * side)}" y="{UP((j + 1) * side)}"'
        yield f'<rect class="mean" {corner} {size} fill-opacity="{0.1 + 0.9 * strength[i, j]:.2f}"/>'
