"""Rounds of CLIP-AGIQA's training: predictions after each epoch, on disk."""

import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from mint_iqa.files import write_whole
from mint_iqa.metrics import srcc
from mint_iqa.vocabulary import Dimension
from train.data.sets import LABELS


def write_pictures(folder: Path, rows: list[dict[str, str]], parts: dict[str, Iterable[int]]) -> None:
    """Write which pictures a round's scores belong to; parts: row numbers of validation and test."""
    kept = [
        {"part": part, "image": rows[i]["image"], "prompt": rows[i]["prompt"]}
        | {key: float(rows[i][key]) for key in LABELS.values()}
        for part, chosen in parts.items()
        for i in chosen
    ]
    write_whole(folder / "pictures.json", json.dumps(kept))


def write_epoch(folder: Path, epoch: int, scores: dict[str, list[float]]) -> None:
    """scores: 0..1, by task, in the order of `write_pictures`."""
    write_whole(folder / f"epoch{epoch}.json", json.dumps(scores))


def read_part(
    folder: Path, epoch: int, task: Dimension, part: str
) -> tuple[list[float], list[float], list[str]]:
    """(scores, human scores, prompts) of the validation or the test pictures after an epoch."""
    labels = json.loads((folder / "pictures.json").read_text())
    scores = json.loads((folder / f"epoch{epoch}.json").read_text())[task]
    chosen = [
        (s, x[LABELS[task]], x["prompt"]) for s, x in zip(scores, labels, strict=True) if x["part"] == part
    ]
    predictions, human, prompts = (list(column) for column in zip(*chosen, strict=True))
    return predictions, human, prompts


def best_epoch(folder: Path, part: str) -> int:
    """The epoch with the highest quality SRCC on a part, the first of equal ones."""
    epochs = sorted(int(path.stem.removeprefix("epoch")) for path in folder.glob("epoch*.json"))
    found = {epoch: srcc(*read_part(folder, epoch, "quality", part)[:2]) for epoch in epochs}
    return max(found, key=lambda epoch: np.nan_to_num(found[epoch], nan=-1.0))
