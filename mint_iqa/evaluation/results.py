"""Scores and labels of several dimensions -> figures, and those as JSON."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from mint_iqa.errors import MintIQAError
from mint_iqa.evaluation.agreement import MIN_IMAGES, Agreement, ScoredLabels, agreement
from mint_iqa.evaluation.labels import Column
from mint_iqa.evaluation.pairs import Joined, Pair
from mint_iqa.records import LIBRARY_VERSION
from mint_iqa.text import counted
from mint_iqa.vocabulary import Dimension

WORST_LISTED = 12  # images furthest from their prediction


@dataclass(frozen=True)
class Judged:
    """One dimension: its pairs and what they add up to. data and agreement are in the order of the pairs."""

    column: Column
    pairs: list[Pair]
    data: ScoredLabels
    agreement: Agreement

    @property
    def unit(self) -> str:
        """What to write beside labels."""
        return f"{self.column.name} (0..100)" if self.column.scale else self.column.name

    def worst(self) -> Iterator[tuple[Pair, float, float]]:
        """The pairs furthest from their prediction, with it and the label, both in the labels' unit."""
        predicted, labels = self.agreement.predicted, self.data.labels
        for row in np.argsort(-np.abs(predicted - labels), kind="stable")[:WORST_LISTED].tolist():
            yield self.pairs[row], float(predicted[row]), float(labels[row])


@dataclass(frozen=True)
class Evaluation:
    """Every dimension that has scores and labels, and what a reader should know, a sentence each."""

    images: int
    dimensions: dict[Dimension, Judged]
    notes: list[str]

    @property
    def models(self) -> list[str]:
        """Name and revision of every model that scored an image."""
        infos = (pair.record.model for judged in self.dimensions.values() for pair in judged.pairs)
        return sorted({f"{info.name} {info.revision}" for info in infos})


def evaluate(joined: Joined, folds: int | None = None) -> Evaluation:
    """Figures of every dimension with 10 or more images. folds: as in `agreement`.

    Raises MintIQAError: `too_few_images` if none has so many, `bad_argument` if `folds` can't be made.
    """
    notes, judged = list(joined.notes), {}
    for name, column in joined.columns.items():
        pairs = [pair for pair in joined.pairs if name in pair.label.scores]
        scored = [pair for pair in pairs if getattr(pair.record.scores, name) is not None]
        if not pairs:
            continue
        if unscored := len(pairs) - len(scored):
            notes.append(f"{name}: {counted(unscored, 'image')} had no prompt when scored.")
        if len(scored) < MIN_IMAGES:
            notes.append(f"{name}: {counted(len(scored), 'image')} with both, fewer than {MIN_IMAGES}.")
            continue
        data = comparison(scored, name, column)
        judged[name] = Judged(column, scored, data, agreement(data, folds))
        notes += _doubts(name, judged[name])
    if not judged:
        raise MintIQAError(
            "too_few_images", f"There are too few images to compare. {' '.join(notes)} Label and score more."
        )
    return Evaluation(len(joined.pairs), judged, notes)


def comparison(pairs: Sequence[Pair], name: Dimension, column: Column) -> ScoredLabels:
    """One dimension of pairs that all have it."""
    return ScoredLabels(
        np.array([getattr(pair.record.scores, name) for pair in pairs]),
        np.array([pair.label.scores[name] for pair in pairs]),
        [pair.group for pair in pairs],
        [pair.record.image_sha256 or "" for pair in pairs],
        [pair.label.generator for pair in pairs],
        column.scale is not None,
    )


def _doubts(name: Dimension, judged: Judged) -> Iterator[str]:
    found = judged.agreement
    if found.overall.values["srcc"].high < 0:
        yield (
            f"{name}: higher scores go with lower labels. If lower labels are better, say so: "
            f"--{name} {judged.column.name}:100:0 with the ends of the scale, worst first."
        )
    if math.isnan(found.overall.values["srcc"].value):
        yield f"{name}: all scores or all labels are equal, so nothing correlates."
    if found.rounds is None:
        yield f"{name}: too few prompts to split by, so there are no rounds and no baselines."


def to_json(evaluation: Evaluation) -> dict[str, Any]:
    """What evaluation.json holds; null stands for figures that say nothing."""
    return {
        "library_version": LIBRARY_VERSION,
        "models": evaluation.models,
        "images": evaluation.images,
        "notes": evaluation.notes,
        "dimensions": {name: _dimension(judged) for name, judged in evaluation.dimensions.items()},
    }


def _dimension(judged: Judged) -> dict[str, Any]:
    found = judged.agreement
    figures = {key: value for key, value in asdict(found).items() if key != "predicted"}
    worst = [
        {"image": pair.label.image, "predicted": round(predicted, 4), "label": label}
        for pair, predicted, label in judged.worst()
    ]
    written: dict[str, Any] = finite({"column": asdict(judged.column), **figures, "worst": worst})
    return written


def finite(value: Any) -> Any:
    """nan, which JSON lacks, as None."""
    if isinstance(value, dict):
        return {key: finite(each) for key, each in value.items()}
    if isinstance(value, list):
        return [finite(each) for each in value]
    return None if isinstance(value, float) and math.isnan(value) else value
