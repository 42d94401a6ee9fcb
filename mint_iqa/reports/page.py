"""One self-contained page about one run, or about one run compared with another."""

import math
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from html import escape
from itertools import combinations
from pathlib import Path

import numpy as np

from mint_iqa.errors import MintIQAError
from mint_iqa.metrics import srcc
from mint_iqa.pages.html import bars, figure, head, table, warning
from mint_iqa.reports.album import Album
from mint_iqa.reports.compared import comparison_section
from mint_iqa.reports.comparison import Comparison, compare
from mint_iqa.reports.groups import groups_section
from mint_iqa.reports.parts import NOTHING, between, card, percent, sheet, short, small
from mint_iqa.reports.plots import histogram, scatter
from mint_iqa.reports.run import FOLDER, Floats, Run
from mint_iqa.text import counted
from mint_iqa.vocabulary import DIMENSIONS, Dimension, level_of

STYLE = Path(__file__).with_name("report.css")
BEST_AND_WORST = 12  # images of each
MOST_FAILURES = 200
LONGEST_MESSAGE = 500
MOST_CODES = 25
MOST_WARNINGS = 10


def write_page(run: Run, other: Run | None, output: Path, images: Path | None) -> None:
    """Write the page to `output`.

    Images are looked for in the folder `images`, or without one in the current folder and beside the
    records. Raises MintIQAError (`no_match`, `output_unwritable`).
    """
    comparison = compare(run, other) if other else None
    albums = [_album(each, images) for each in (run, other or run)]
    body = list(_body(run, other, comparison, albums))  # first, as only then it's known what is missing
    asked, missing = sum(a.asked for a in albums), sum(a.missing for a in albums)
    notes = list(_notes(run, missing, asked))
    page = [*_head(run), *map(warning, notes), *body, "</html>\n"]
    try:
        output.write_text("\n".join(page), encoding="utf-8")
    except OSError as error:
        raise MintIQAError(
            "output_unwritable", f"{output} can't be written ({error.strerror}): choose another place."
        ) from None


def _album(run: Run, images: Path | None) -> Album:
    return Album([images] if images else [Path(), run.path.parent])


def _head(run: Run) -> Iterator[str]:
    models = short(", ".join(run.models))
    yield head(f"{short(run.path.name)}: scores by {models}")
    yield f"<style>{STYLE.read_text()}</style>"
    yield f"<h1>{counted(len(run.items), 'image')} scored by {escape(models)}</h1>"
    brackets = " After the score of a picture, its 90 % interval." if np.isfinite(run.intervals).any() else ""
    yield small(f"From {short(str(run.path))}. Scores are 0 to 100, higher is better.{brackets}")


def _notes(run: Run, missing: int, asked: int) -> Iterator[str]:
    if run.failures:
        yield f"{counted(len(run.failures), 'image')} could not be scored: see the end of the page."
    for name in DIMENSIONS:
        if without := int(np.isnan(run.of(name)).sum()):
            have = "has" if without == 1 else "have"
            yield f"{counted(without, 'image')} of {len(run.items):,} {have} no score for {name}."
    if len(run.models) > 1:
        yield f"The scores come from {len(run.models)} models and should not be set beside each other."
    if missing:
        yield (
            f"{missing} of the {asked} pictures to be shown are not on this disk: name their folder with "
            "--images."
        )


def _body(
    run: Run, other: Run | None, comparison: Comparison | None, albums: Sequence[Album]
) -> Iterator[str]:
    scored = [name for name in DIMENSIONS if np.isfinite(run.of(name)).any()]
    if comparison and other:
        yield from comparison_section(run, other, comparison, albums)
    if scored:
        yield from _distributions(run, other, scored)
        yield from groups_section(run, scored)
        yield from _scatters(run, scored)
        yield from _faults(run)
        for name in scored:
            yield from _contact_sheets(run, name, albums[0])
    yield from _failures(run)


def _distributions(run: Run, other: Run | None, scored: Sequence[Dimension]) -> Iterator[str]:
    yield "<h2>Scores</h2>"
    header = ["", "images", "mean", "sd", "lowest", "5 %", "median", "95 %", "highest"]
    yield table("Distribution", header, (_summary(run, name) for name in scored))
    yield '<div class="plots">'
    for name in scored:
        before = _finite(other, name) if other else np.empty(0)
        legend = "; the line is the other run" if len(before) else ""
        yield figure(histogram(_finite(run, name), before), f"{name.capitalize()}{legend}.")
    yield "</div>"


def _summary(run: Run, name: Dimension) -> list[str]:
    scores = _finite(run, name)
    quantiles = np.quantile(scores, [0, 0.05, 0.5, 0.95, 1])
    return [name, f"{len(scores):,}", *(f"{x:.1f}" for x in (scores.mean(), scores.std(), *quantiles))]


def _finite(run: Run, name: Dimension) -> Floats:
    return run.of(name)[np.isfinite(run.of(name))]


def _scatters(run: Run, scored: Sequence[Dimension]) -> Iterator[str]:
    if len(scored) < 2:
        return
    yield '<h2>One score against another</h2><div class="plots">'
    for across, up in combinations(scored, 2):
        both = np.isfinite(run.of(across)) & np.isfinite(run.of(up))
        x, y = run.of(across)[both], run.of(up)[both]
        correlation = srcc(x, y) if len(x) >= 3 else math.nan
        said = NOTHING if math.isnan(correlation) else f"{correlation:.2f}"
        yield figure(scatter(x, y, (across, up)), f"{counted(len(x), 'image')}, SRCC {said}.")
    yield "</div>"


def _faults(run: Run) -> Iterator[str]:
    yield "<h2>Faults</h2>"
    severities: dict[str, list[float]] = defaultdict(list)
    rows: dict[str, list[int]] = defaultdict(list)
    for row, item in enumerate(run.items):
        for name, severity in item.faults:
            severities[name].append(severity)
            rows[name].append(row)
    counts = {name: len(found) for name, found in sorted(rows.items(), key=lambda each: -len(each[1]))}
    none = sum(not item.faults for item in run.items)
    yield '<div class="charts">' + bars("Images with", {**counts, "none found": none})
    if counts:
        quality = run.of("quality")
        figures = (
            [
                name,
                percent(n / len(run.items)),
                f"{np.mean(severities[name]):.2f}",
                f"{quality[rows[name]].mean():.1f}",
            ]
            for name, n in counts.items()
        )
        yield table("Of these", ["", "of all", "mean severity", "mean quality"], figures)
    yield "</div>"
    for text, n in run.warnings.most_common(MOST_WARNINGS):
        yield small(f"Of {counted(n, 'image')}: {short(text)}.")


def _contact_sheets(run: Run, name: Dimension, album: Album) -> Iterator[str]:
    scores = run.of(name)
    order = [int(row) for row in np.argsort(scores, kind="stable") if np.isfinite(scores[row])]
    least = min(BEST_AND_WORST, len(order) // 2)
    ends = {"Best": order[least:][-BEST_AND_WORST:][::-1], "Worst": order[:least]}
    yield f"<h2>Best and worst {name}</h2>"
    for title, rows in ends.items():
        yield sheet(title, [_card(run, row, name, album) for row in rows])


def _card(run: Run, row: int, name: Dimension, album: Album) -> str:
    item, score = run.items[row], float(run.of(name)[row])
    faults = ", ".join(f"{fault} {severity:.2f}" for fault, severity in item.faults)
    group = "" if run.by == FOLDER else short(item.group)
    title = f"{score:.2f} {level_of(score)}{between(run.intervals_of(name)[row])}"
    return card([album.picture(item.image)], title, item.image, short(item.prompt), group, faults)


def _failures(run: Run) -> Iterator[str]:
    if not run.failures:
        return
    codes = Counter(failure.code for failure in run.failures)
    yield f"<h2>Could not be scored ({len(run.failures):,})</h2>"
    if len(codes) > 1:
        yield f'<div class="charts">{bars("Why", dict(codes.most_common(MOST_CODES)))}</div>'
    yield "<ul>"
    for failure in run.failures[:MOST_FAILURES]:
        message = escape(short(failure.message, LONGEST_MESSAGE))
        yield f"<li><b>{escape(short(failure.image))}</b><br>{message}</li>"
    yield "</ul>"
    if (rest := len(run.failures) - MOST_FAILURES) > 0:
        yield small(f"And {rest:,} more.")
