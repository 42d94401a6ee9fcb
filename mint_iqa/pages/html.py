"""Self-contained HTML pages: one file that asks nothing of any server, pictures and style included."""

import base64
import io
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path

from PIL import ImageDraw

from mint_iqa.errors import MintIQAError
from mint_iqa.images import read_image

THUMBNAIL_SIDE = 224  # pixels
STYLE = Path(__file__).with_name("page.css")


def head(title: str) -> str:
    """How a page begins, up to its first heading."""
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{escape(title)}</title>'
        f'<meta name="viewport" content="width=device-width"><style>{STYLE.read_text()}</style>'
    )


def bars(title: str, counts: Mapping[str, int]) -> str:
    """A table whose last column is a bar: read by people and by screen readers alike."""
    most = max(counts.values(), default=1)
    rows = "".join(
        f'<tr><td>{escape(name)}</td><td class="n">{n:,}</td>'
        f'<td class="bar"><div style="width:{100 * n / max(most, 1):.1f}%"></div></td></tr>'
        for name, n in counts.items()
    )
    return f"<table><caption>{escape(title)}</caption>{rows}</table>"


def table(title: str, header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of texts: the first column says what, the others hold figures."""
    names = "".join(f"<th>{escape(name)}</th>" for name in header)
    body = "".join(map(_row, rows))
    caption = f"<caption>{escape(title)}</caption>"
    return f'<div class="wide"><table class="figures">{caption}<tr>{names}</tr>{body}</table></div>'


def _row(cells: Sequence[str]) -> str:
    what, *figures = map(escape, cells)
    numbers = "".join(f'<td class="n">{each}</td>' for each in figures)
    return f"<tr><td>{what}</td>{numbers}</tr>"


def figure(plot: str, text: str) -> str:
    """A plot with its caption."""
    return f"<figure>{plot}<figcaption>{escape(text)}</figcaption></figure>"


def warning(text: str) -> str:
    """A sentence to read before trusting the rest."""
    return f'<p class="warning">{escape(text)}</p>'


def thumbnail(path: Path, name: str, region: tuple[float, float, float, float] | None = None) -> str:
    """The picture as a data URI; what is wrong with the file in its place.

    region: left, top, right, bottom as shares of width and height, which gets a frame.
    """
    try:
        image = read_image(path).rgb
    except MintIQAError as error:
        return warning(error.message)
    image.thumbnail((THUMBNAIL_SIDE, THUMBNAIL_SIDE))
    if region:
        box = [share * side for share, side in zip(region, image.size * 2, strict=True)]
        ImageDraw.Draw(image).rectangle(box, outline="#e8a13a", width=2)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=85)
    data = base64.b64encode(buffer.getvalue()).decode()
    return f'<img alt="{escape(name)}" src="data:image/jpeg;base64,{data}">'
