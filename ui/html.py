"""Results as self-contained HTML; page.css styles it."""

import base64
import io
import json
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import PurePath

from mint_iqa.records import Assessment, FailedAssessment, Fault, Interval, ModelInfo, Record, Scores
from mint_iqa.scoring.columns import write_rows
from mint_iqa.text import whole_points
from mint_iqa.vocabulary import DIMENSIONS, LEVEL_CUTS, LEVELS, Level, level_of
from ui.session import ComparedPicture, Conversation

# Dots closer than this would overlap on a phone; in points of the scale.
DOT_WIDTH = 7.0

SORT_BY_HEADING = """
element.addEventListener('click', event => {
  const heading = event.target.closest('th');
  if (!heading || !heading.querySelector('button')) return;
  const down = heading.ariaSort !== 'descending';
  element.querySelectorAll('th').forEach(other => other.removeAttribute('aria-sort'));
  heading.ariaSort = down ? 'descending' : 'ascending';
  const body = element.querySelector('tbody');
  const key = row => row.cells[heading.cellIndex].dataset.value;
  const order = (a, b) => key(a) === '' ? 1 : key(b) === '' ? -1
    : (down ? -1 : 1) * key(a).localeCompare(key(b), undefined, {numeric: true});
  [...body.rows].sort(order).forEach(row => body.append(row));
});
"""


def waiting() -> str:
    """Empty score cards, before the first picture."""
    cards = "".join(_card(name, None, None, "drop a picture") for name in DIMENSIONS)
    return f'<div class="scores">{cards}</div>'


def result(assessment: Assessment, note: str = "") -> str:
    """Three scores with their level words and intervals, the detected faults, warnings, and a `note`."""
    cards = "".join(
        _card(name, getattr(assessment.scores, name), assessment.interval(name), "no prompt given")
        for name in DIMENSIONS
    )
    notes = [f'<p class="note">{escape(warning)}</p>' for warning in assessment.warnings]
    notes += [f'<p class="note done">{escape(note)}</p>'] if note else []
    group = f'<div class="scores" role="group" aria-label="Scores">{cards}</div>'
    return f"{group}{_faults(assessment.faults)}{''.join(notes)}"


def alert(message: str) -> str:
    """An error message."""
    return f'<p class="alert" role="alert">{escape(message)}</p>'


def messages(shown: Conversation) -> list[dict[str, str]]:
    """The conversation for a chatbot, escaped: it treats text as HTML, even without Markdown."""
    return [{**message, "content": escape(message["content"], quote=False)} for message in shown.messages()]


def downloads(records: Sequence[Record], name: str) -> str:
    """Links that contain the files themselves, so that the server writes none."""
    pictures = [r for r in records if isinstance(r, Assessment | FailedAssessment)]
    stem = PurePath(name).stem or "picture"
    files = (("JSON", "application/json", json_text(records)), ("CSV", "text/csv", csv_text(pictures)))
    links = [
        f'<a download="{escape(stem)}.{kind.lower()}" href="data:{mime};base64,{_base64(text)}">{kind}</a>'
        for kind, mime, text in files
    ]
    return f'<p class="downloads"><span>Download the result:</span> {" ".join(links)}</p>'


def table(rows: Sequence[ComparedPicture]) -> str:
    """The comparison with one row per picture; `SORT_BY_HEADING` sorts it by the clicked heading."""
    headings = "".join(
        f'<th scope="col"><button type="button">{name}</button></th>'
        for name in ("No.", "Picture", "Quality", "Authen&shy;ticity", "Correspon&shy;dence")
    )
    body = "".join(_table_row(number, row) for number, row in enumerate(rows, 1))
    return (
        '<div class="scroll" tabindex="0" role="region" aria-label="Scores of the compared pictures">'
        f'<table class="compared"><thead><tr>{headings}</tr></thead><tbody>{body}</tbody></table></div>'
    )


def plot(rows: Sequence[ComparedPicture]) -> str:
    """Every score as a numbered dot on a line from 0 to 100."""
    scored = [(n, row.record) for n, row in enumerate(rows, 1) if isinstance(row.record, Assessment)]
    lines = []
    for name in DIMENSIONS:
        points = [(getattr(record.scores, name), number) for number, record in scored]
        rated = [(score, number) for score, number in points if score is not None]
        lines += [_line(name, rated)] if rated else []
    words = "".join(f"<span>{level}</span>" for level in LEVELS)
    return (
        '<div class="plot" role="img" aria-label="The scores of the table as numbered dots from 0 to 100">'
        f'{"".join(lines)}<div class="words">{words}</div></div>'
    )


def about(info: ModelInfo) -> str:
    """The model and its limits."""
    return f"""
<p><b>{escape(info.name)}</b>, revision <code>{escape(info.revision)}</code>. Scores run from 0 to 100, higher
is better: {_scale()}.</p>
<ul>
<li>Scores follow the opinion of the people whose ratings the model learned from, on pictures of a few
generators. On others they are less sure: compare pictures of one kind.</li>
<li>The faults it knows are blur, noise, compression, darkness, pixelation and malformation. A low score
without one of them is called unexplained.</li>
<li>A small language model writes the answers. They follow the scores and the faults found; treat anything
beyond that with care.</li>
<li>The shipped model, nano, sees a picture at 512 x 512 pixels. Authenticity says how much it looks like a
photograph. Its model card has the figures.</li>
</ul>"""


def example_css(thumbnails: Sequence[str]) -> str:
    """CSS for the pictures on the example buttons."""
    return "".join(f'#example-{i}{{background-image:url("{t}")}}\n' for i, t in enumerate(thumbnails))


def _scale() -> str:
    below = [f"{word} below {cut:g}" for word, cut in zip(LEVELS, LEVEL_CUTS, strict=False)]
    return ", ".join([*below, f"{LEVELS[-1]} from {LEVEL_CUTS[-1]:g}"])


def _card(name: str, score: float | None, interval: Interval | None, absent: str) -> str:
    meaning = Scores.model_fields[name].description.split(";")[0].rstrip(".")  # type: ignore[union-attr]
    meaning += f".<br>{_scale().capitalize()}."
    meaning += f"<br>{_in_words(interval)}." if interval else ""
    tip = f'<span class="tip" role="tooltip" id="about-{name}">{meaning}</span>'
    title = f'<span class="name">{name.capitalize()}</span>'
    if score is None:
        return (
            f'<div class="score none" tabindex="0" role="group" aria-label="{name}: {absent}" '
            f'aria-describedby="about-{name}">{title}<span class="number">–</span>'
            f'<span class="word">{absent}</span><span class="track"></span>{tip}</div>'
        )
    level, number = level_of(round(score, 2)), _shown(score)
    said = f"{number} of 100, {level}" + (f", {_in_words(interval)}" if interval else "")
    return (
        f'<div class="score {level}" tabindex="0" role="meter" aria-label="{name}" aria-valuemin="0" '
        f'aria-valuemax="100" aria-valuenow="{number}" aria-valuetext="{said}" '
        f'aria-describedby="about-{name}">{title}<span class="number">{number}</span>'
        f'<span class="word">{level}</span>{_ends(interval)}{_track(score, interval, level)}{tip}</div>'
    )


def _in_words(interval: Interval) -> str:
    low, high = whole_points(*interval)
    return f"90 % interval {low} to {high}"


def _ends(interval: Interval | None) -> str:
    """Both ends of an interval as short text, read aloud in full."""
    if interval is None:
        return ""
    low, high = whole_points(*interval)
    said = _in_words(interval)
    return f'<span class="ends" role="img" aria-label="{said}" title="{said}">{low}–{high}</span>'


def _track(score: float, interval: Interval | None, level: Level) -> str:
    """A score as a bar from 0 to 100, and over it its interval."""
    band = ""
    if interval is not None:
        low, high = interval
        band = f'<b style="left:{low:.1f}%;width:{high - low:.1f}%"></b>'
    return f'<span class="track {level}"><i style="width:{score:.1f}%"></i>{band}</span>'


def _shown(score: float) -> str:
    """A score, truncated: 59.7 must not be shown as 60 beside the word for 59."""
    return str(int(round(score, 2)))


def _faults(faults: Sequence[Fault]) -> str:
    if not faults:
        return '<p class="faults">No known fault found.</p>'
    chips = " ".join(f'<span class="fault">{f.name} <b>{f.severity:.2f}</b></span>' for f in faults)
    return f'<p class="faults" title="Severity from 0 to 1">Faults found: {chips}</p>'


def _base64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def _table_row(number: int, row: ComparedPicture) -> str:
    record, name = row.record, escape(row.record.image)
    head = f'<td data-value="{number}"><span class="dot">{number}</span></td>'
    image = f'<img src="{row.thumbnail}" alt="">' if row.thumbnail else ""
    if isinstance(record, FailedAssessment):
        message = f'<br><span class="wrong">{escape(record.error.message)}</span>'
        empty = '<td data-value="">–</td>' * len(DIMENSIONS)
        return f'<tr>{head}<td data-value="{name}">{name}{message}</td>{empty}</tr>'
    faults = ", ".join(fault.name for fault in record.faults)
    caption = f"<span>{name}<small>{faults or 'no known fault'}</small></span>"
    cells = "".join(_table_cell(getattr(record.scores, name), record.interval(name)) for name in DIMENSIONS)
    return f'<tr>{head}<td data-value="{name}"><div class="who">{image}{caption}</div></td>{cells}</tr>'


def _table_cell(score: float | None, interval: Interval | None) -> str:
    if score is None:
        return '<td data-value="">–</td>'
    level = level_of(round(score, 2))
    shown = f"<b>{_shown(score)}</b> <small>{level}</small> {_ends(interval)}"
    return f'<td data-value="{score:.2f}">{shown}{_track(score, interval, level)}</td>'


def _line(name: str, points: Sequence[tuple[float, int]]) -> str:
    """The dots of one dimension, each in the first lane where it overlaps no other."""
    ends: list[float] = []
    dots = []
    for score, number in sorted(points):
        lane = next((i for i, end in enumerate(ends) if score >= end), len(ends))
        ends[lane : lane + 1] = [score + DOT_WIDTH]
        dots.append(f'<span class="dot" style="left:{score:.1f}%;--lane:{lane}">{number}</span>')
    style = f"--lanes:{max(1, len(ends))}"
    return f'<div class="line"><b>{name.capitalize()}</b><div style="{style}">{"".join(dots)}</div></div>'


def json_text(records: Iterable[Record]) -> str:
    """A JSON array of records that validate against `mint_iqa.records.schema()`."""
    return json.dumps([r.model_dump(mode="json") for r in records], indent=2, ensure_ascii=False) + "\n"


def csv_text(records: Iterable[Assessment | FailedAssessment]) -> str:
    """One row per picture, in the columns of `mint-iqa score --output scores.csv`."""
    buffer = io.StringIO()
    write_rows(records, buffer)
    return buffer.getvalue()
