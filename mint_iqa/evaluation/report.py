"""What `mint-iqa evaluate` leaves in its folder: evaluation.json, and one page with plots and pictures."""

import json
from collections.abc import Iterator
from html import escape
from pathlib import Path

from mint_iqa.errors import MintIQAError
from mint_iqa.evaluation.pairs import Pair
from mint_iqa.evaluation.plots import calibration_plot, scatter
from mint_iqa.evaluation.results import Evaluation, Judged, to_json
from mint_iqa.evaluation.table import grids
from mint_iqa.pages.html import figure, head, table, thumbnail, warning
from mint_iqa.vocabulary import Dimension

EXPLAINED = (
    "Brackets are 95 % bootstrap intervals over prompts, or over images that have none. “Mapped” is after "
    "the four-parameter logistic curve, fitted on all images; in the rounds it is fitted on the other "
    "prompts, and figures are mean ± standard deviation over test sets. The baselines see no pixel, so what "
    "they reach needs no look at the image. The prompt mean knows other images of the same prompt."
)


def write_report(evaluation: Evaluation, folder: Path, images: Path) -> tuple[Path, Path]:
    """Write evaluation.json and report.html and return their paths. images: where labels' images are.

    Raises MintIQAError (`output_unwritable`).
    """
    data, page = folder / "evaluation.json", folder / "report.html"
    text = json.dumps(to_json(evaluation), indent=2, ensure_ascii=False, allow_nan=False)
    try:
        folder.mkdir(exist_ok=True)
        data.write_text(text + "\n", encoding="utf-8")
        page.write_text("\n".join(_page(evaluation, images)) + "\n", encoding="utf-8")
    except OSError as error:
        raise MintIQAError(
            "output_unwritable", f"{folder} can't be written to ({error.strerror}): choose another folder."
        ) from None
    return data, page


def _page(evaluation: Evaluation, images: Path) -> Iterator[str]:
    yield head("Evaluation")
    models = escape(", ".join(evaluation.models))
    yield f"<h1>{evaluation.images:,} images scored by {models}, and by people</h1>"
    yield from map(warning, evaluation.notes)
    yield f'<p class="small">{escape(EXPLAINED)}</p>'
    for name, judged in evaluation.dimensions.items():
        yield from _dimension(name, judged, images)
    yield "</html>"


def _dimension(name: Dimension, judged: Judged, images: Path) -> Iterator[str]:
    data, found, unit = judged.data, judged.agreement, judged.column.name
    yield f"<h2>{name.capitalize()}</h2>"
    yield from (table(grid.title, grid.header, grid.rows) for grid in grids(name, judged))
    if found.rounds:
        yield f'<p class="small">Rounds: {found.rounds.protocol}.</p>'
    yield '<div class="plots">'
    yield figure(scatter(data.scores, data.labels, found.curve, unit), "Each image, and the logistic curve.")
    yield figure(
        calibration_plot(found.calibration, unit),
        "Calibration: ten equal parts of the images by predicted label (the curve fitted on other prompts), "
        "with 95 % t intervals of the mean label.",
    )
    yield '</div><h3>Judged worst</h3><div class="samples many">'
    yield from (_image(images, name, *each) for each in judged.worst())
    yield "</div>"


def _image(images: Path, name: Dimension, pair: Pair, predicted: float, label: float) -> str:
    path = images / pair.label.image
    picture = thumbnail(path, pair.label.image) if path.is_file() else ""
    known = ", ".join(filter(None, [pair.prompt or "no prompt", pair.label.generator]))
    score = getattr(pair.record.scores, name)
    return (
        f"<article>{picture}<p><b>{escape(pair.label.image)}</b></p>"
        f"<p>people {label:.2f}, predicted {predicted:.2f} (score {score:.1f})</p>"
        f'<p class="small">{escape(known)}</p></article>'
    )
