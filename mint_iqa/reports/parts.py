"""Texts and contact sheets of a page as HTML."""

import math
from collections.abc import Sequence
from html import escape

from mint_iqa.reports.intervals import Mean
from mint_iqa.reports.run import Floats
from mint_iqa.text import plain, whole_points

MAX_LETTERS = 160  # of a name or a prompt
NOTHING = "–"


def short(text: str, most: int = MAX_LETTERS) -> str:
    """`text` on one line, without control characters, its middle left out if it is long; not escaped."""
    text = plain(text)
    return text if len(text) <= most else f"{text[: most // 2]} … {text[-most // 2 :]}"


def small(text: str) -> str:
    """A paragraph in small type."""
    return f'<p class="small">{escape(text)}</p>'


def card(pictures: Sequence[str], head: str, image: str, *notes: str) -> str:
    """One picture of a contact sheet, or two of it. pictures: HTML; everything else is text."""
    lines = "".join(small(note) for note in (short(image), *notes) if note)
    return f"<article>{''.join(pictures)}<p><b>{escape(head)}</b></p>{lines}</article>"


def sheet(title: str, cards: Sequence[str]) -> str:
    """A contact sheet; nothing if it is empty."""
    return f'<h3>{escape(title)}</h3><div class="samples many">{"".join(cards)}</div>' if cards else ""


def percent(share: float) -> str:
    """0.125 -> 12.5 %."""
    return f"{100 * share:.1f} %"


def between(ends: Floats) -> str:
    """The 90 % interval of a score, float[2], in whole points with a blank before it; nothing for nan."""
    return "" if math.isnan(ends[0]) else f" {list(whole_points(*ends))}"


def interval(mean: Mean, form: str = ".1f") -> str:
    """[low, high], each as `form` writes it; a dash where there is no interval."""
    return NOTHING if math.isnan(mean.low) else f"[{mean.low:{form}}, {mean.high:{form}}]"
