"""The section of a page that sets generators, folders or other groups beside each other."""

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from html import escape

import numpy as np

from mint_iqa.reports.intervals import mean_of
from mint_iqa.reports.parts import interval, short, small
from mint_iqa.reports.run import Run
from mint_iqa.vocabulary import Dimension

MOST_GROUPS = 25
LONGEST_NAME = 48  # letters


def groups_section(run: Run, scored: Sequence[Dimension]) -> Iterator[str]:
    """Mean scores of each group; nothing where there is one group only."""
    sizes = Counter(item.group for item in run.items)
    if len(sizes) < 2:
        return
    failed = Counter(failure.group for failure in run.failures)
    largest = [group for group, _ in sizes.most_common(MOST_GROUPS)]
    yield f'<h2>By {escape(short(run.by))}</h2><div class="charts groups">'
    for name in scored:
        yield _chart(run, name, largest)
    yield "</div>"
    yield small(
        "Means with 95 % bootstrap intervals, over prompts where a group has ten or more, else over images."
    )
    if len(sizes) > MOST_GROUPS:
        yield small(f"These are the {MOST_GROUPS} largest of {len(sizes):,}.")
    if failed:
        shown = "; ".join(f"{short(group)} {n:,}" for group, n in failed.most_common(MOST_GROUPS))
        yield small(f"Could not be scored: {shown}.")


def _chart(run: Run, name: Dimension, groups: Sequence[str]) -> str:
    members: dict[str, list[int]] = {group: [] for group in groups}
    for row in np.flatnonzero(np.isfinite(run.of(name))):
        members.get(run.items[row].group, []).append(int(row))
    means = {
        group: mean_of(run.of(name)[rows], [run.items[i].prompt for i in rows])
        for group, rows in members.items()
        if rows
    }
    rows = "".join(
        f'<tr><td class="name">{escape(short(group, LONGEST_NAME))}</td>'
        f'<td class="n">{len(members[group]):,}</td>'
        f'<td class="n"><b>{mean.value:.1f}</b></td><td class="n">{interval(mean)}</td>'
        f'<td class="range">{_track(mean.value, mean.low, mean.high)}</td></tr>'
        for group, mean in sorted(means.items(), key=lambda each: -each[1].value)
    )
    header = "<tr><th></th><th>images</th><th>mean</th><th>95 %</th><th>0–100</th></tr>"
    return f'<div class="wide"><table><caption>{name.capitalize()}</caption>{header}{rows}</table></div>'


def _track(value: float, low: float, high: float) -> str:
    """The interval as a bar and the mean as a mark on a line from 0 to 100."""
    bar = "" if math.isnan(low) else f'<i style="left:{low:.1f}%;width:{high - low:.1f}%"></i>'
    return f'<div>{bar}<b style="left:{value:.1f}%"></b></div>'
