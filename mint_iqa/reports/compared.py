"""The section of a page that sets a run beside another over the same images."""

import math
from collections.abc import Iterator, Sequence
from html import escape

import numpy as np

from mint_iqa.pages.html import figure, table
from mint_iqa.reports.album import Album
from mint_iqa.reports.comparison import Change, Comparison, differ
from mint_iqa.reports.parts import between, card, interval, percent, sheet, short, small
from mint_iqa.reports.plots import scatter
from mint_iqa.reports.run import Run
from mint_iqa.text import counted
from mint_iqa.vocabulary import Dimension

SIGNED = "+.2f"
MOST_CHANGED = 6  # images that gained most, and as many that lost most
EXPLAINED = (
    "Differences are this run minus the other, in points, with 95 % paired bootstrap intervals: over prompts "
    "where there are ten or more, else over images."
)


def comparison_section(
    run: Run, other: Run, comparison: Comparison, albums: Sequence[Album]
) -> Iterator[str]:
    """What changed, how surely, and in which pictures. albums: of `run` and of `other`."""
    yield f"<h2>Against {escape(short(str(other.path)))}</h2>"
    yield "<ul>"
    yield from (f"<li>{verdict(name, change)}</li>" for name, change in comparison.changes.items())
    yield "</ul>"
    header = ["", "pairs", "this run", "the other", "difference", "95 %", "better", "worse", "no difference"]
    yield table("Differences", header, (_row(name, change) for name, change in comparison.changes.items()))
    yield small(EXPLAINED)
    yield from map(small, _notes(run, other, comparison))
    yield '<div class="plots">'
    for name, change in comparison.changes.items():
        new, old = (each.of(name)[change.pairs[:, i]] for i, each in enumerate((run, other)))
        plot = scatter(old, new, ("the other run", "this run"), with_diagonal=True)
        yield figure(plot, f"{name.capitalize()}: above the dashed line this run is better.")
    yield "</div>"
    for name, change in comparison.changes.items():
        yield from _most_changed(run, other, name, change, albums)


def verdict(name: Dimension, change: Change) -> str:
    """One sentence as HTML: better, worse, or neither shown."""
    difference, what = change.difference, name.capitalize()
    size, known = f"{abs(difference.value):.2f} points", interval(difference, SIGNED)
    if math.isnan(difference.low):
        return f"{what}: {difference.value:{SIGNED}}, from too few images for an interval."
    if difference.low > 0:
        return f"{what} is <b>better by {size}</b> {known}."
    if difference.high < 0:
        return f"{what} is <b>worse by {size}</b> {known}."
    return f"{what}: <b>no difference shown</b>, {difference.value:{SIGNED}} {known}."


def _row(name: Dimension, change: Change) -> list[str]:
    new, old = change.means
    shares = map(change.share, (1, -1, 0))
    return [
        name, f"{len(change.pairs):,}", f"{new:.1f}", f"{old:.1f}", f"{change.difference.value:{SIGNED}}",
        interval(change.difference, SIGNED), *map(percent, shares),
    ]  # fmt: skip


def _notes(run: Run, other: Run, comparison: Comparison) -> Iterator[str]:
    how = "file name" if comparison.by_file_name else "image name"
    new, old = comparison.unpaired
    yield (
        f"{counted(comparison.pairs, 'pair')} by {how} and prompt. Unpaired: {new:,} of this run and {old:,} "
        f"of the other. Not scored: {len(run.failures):,} and {len(other.failures):,}."
    )
    yield f"This run is by {short(', '.join(run.models))}, the other by {short(', '.join(other.models))}."
    within = [
        f"{name} {change.within:,} of {counted(change.with_intervals, 'pair')}"
        for name, change in comparison.changes.items()
        if change.with_intervals
    ]
    if within:
        yield (
            "A picture counts as better or worse only if each score lies outside the other's 90 % interval. "
            f"No difference by that: {', '.join(within)}."
        )
    if comparison.other_bytes:
        yield f"In {counted(comparison.other_bytes, 'pair')} the pictures themselves differ: both are shown."


def _most_changed(
    run: Run, other: Run, name: Dimension, change: Change, albums: Sequence[Album]
) -> Iterator[str]:
    order = np.argsort(change.differences, kind="stable")
    gained = [i for i in order[::-1] if change.signs[i] > 0][:MOST_CHANGED]
    lost = [i for i in order if change.signs[i] < 0][:MOST_CHANGED]
    for title, chosen in (
        (f"{name.capitalize()} gained most", gained),
        (f"{name.capitalize()} lost most", lost),
    ):
        cards = [_card(run, other, name, change.pairs[i], change.differences[i], albums) for i in chosen]
        yield sheet(title, cards)


def _card(
    run: Run, other: Run, name: Dimension, pair: Sequence[int], difference: float, albums: Sequence[Album]
) -> str:
    new, old = run.items[pair[0]], other.items[pair[1]]
    pictures = [albums[0].picture(new.image)]
    if differ(new, old):
        pictures.append(albums[1].picture(old.image))
    before, after = (
        f"{each.of(name)[row]:.2f}{between(each.intervals_of(name)[row])}"
        for each, row in ((other, pair[1]), (run, pair[0]))
    )
    scores = f"{before} → {after}"
    return card(pictures, f"{difference:+.2f}", new.image, scores, short(new.prompt))
