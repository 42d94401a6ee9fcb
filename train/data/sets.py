"""AGIQA-3K, BIQ2021 and Flickr8k: tables, files, folds by prompt, and test sets."""

import csv
import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mint_iqa.errors import MintIQAError
from mint_iqa.folds import prompt_folds
from mint_iqa.vocabulary import DIMENSIONS, Dimension
from train.engine.recipes import HeldOut

SETS = ("agiqa3k", "flickr8k")
IMAGENET_CLASSES = Path(__file__).with_name("imagenet_classes.tsv")
# Dimensions that people rated, and the column of AGIQA-3K for each (0..5).
LABELS: dict[Dimension, str] = {"quality": "mos_quality", "correspondence": "mos_align"}
RATED_COLUMNS = [DIMENSIONS.index(name) for name in LABELS]  # their columns among the scores


def data_root() -> Path:
    return Path(os.environ.get("MINT_IQA_DATA", "../shared")) / "data"


def read_table(path: Path) -> list[dict[str, str]]:
    with naming_what_is_missing(), path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@contextmanager
def naming_what_is_missing() -> Iterator[None]:
    """Turn a missing data file into a MintIQAError."""
    try:
        yield
    except FileNotFoundError as error:
        raise MintIQAError(
            "data_missing",
            f"{error.filename} does not exist: set $MINT_IQA_DATA to the folder whose data/ holds agiqa3k "
            "and flickr8k.",
        ) from error


def agiqa3k(root: Path) -> list[dict[str, str]]:
    """AGIQA-3K rows: image, prompt, generator, mos_quality, mos_align (0..5), sha256 of the file."""
    rows = read_table(root / "agiqa3k" / "scores.csv")
    with naming_what_is_missing():
        for row in rows:
            row["path"] = str(root / "agiqa3k" / row["image"])
            row["sha256"] = hashlib.sha256(Path(row["path"]).read_bytes()).hexdigest()
    return rows


def flickr8k(root: Path) -> list[dict[str, Any]]:
    """Photographs with their captions, in file order: path, captions."""
    captions: dict[str, list[str]] = {}
    for row in read_table(root / "flickr8k" / "captions.csv"):
        captions.setdefault(row["image"], []).append(row["caption"].strip(" ."))
    return [{"path": str(root / "flickr8k" / name), "captions": texts} for name, texts in captions.items()]


def biq2021(root: Path) -> list[dict[str, str]]:
    """BIQ2021 rows: image, mos (0..1), subset, path."""
    rows = read_table(root / "biq2021" / "scores.csv")
    return [{**row, "path": str(root / "biq2021" / row["image"])} for row in rows]


def imagenet_classes() -> list[tuple[list[str], str]]:
    """Of each class of ImageNet, in the order of a classifier's outputs: its names, and WordNet's
    definition."""
    with IMAGENET_CLASSES.open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    return [([name.strip() for name in row["names"].split(",")], row["definition"]) for row in rows]


def paths_of(name: str) -> list[str]:
    """The files of "agiqa3k", "biq2021" or "flickr8k", in the order of their table."""
    root = data_root()
    if name == "flickr8k":
        return [str(row["path"]) for row in flickr8k(root)]
    return [str(root / name / row["image"]) for row in read_table(root / name / "scores.csv")]


FOLDS = 5


@dataclass
class Sides:
    """Row numbers of AGIQA-3K or of your own ratings, by role."""

    train: NDArray[np.int64]
    test: NDArray[np.int64]


def folds_of(human: Sequence[Mapping[str, str]], folds: int = FOLDS) -> NDArray[np.int64]:
    """The fold of every AGIQA-3K picture, by prompt, byte-identical pictures together."""
    return prompt_folds([r["prompt"] for r in human], [r["sha256"] for r in human], folds, seed=0)


def learned_of(photographs: Sequence[object], held_out: int) -> int:
    """How many, from the first on, are learned from; the last `held_out`, captions and all, are tested on."""
    return max(0, len(photographs) - held_out)


def check_fold(test_fold: int | None, folds: int) -> None:
    """MintIQAError for a fold that doesn't exist: nothing would be kept out."""
    if test_fold is not None and not 0 <= test_fold < folds:
        raise MintIQAError(
            "bad_config", f"test_fold is {test_fold} of {folds} folds: give 0..{folds - 1}, or null."
        )


def split(human: list[dict[str, str]], kept: HeldOut) -> Sides:
    """By prompt, byte-identical pictures together. With `leave_out`: that generator's pictures of unseen
    prompts are the test, and no other picture of those prompts trains."""
    everything = np.arange(len(human))
    check_fold(kept.test_fold, kept.folds)
    if kept.leave_out and kept.test_fold is None:
        raise MintIQAError("bad_config", "leave_out needs a test_fold: the prompts that are tested on.")
    if kept.leave_out and kept.leave_out not in (known := sorted({r["generator"] for r in human})):
        raise MintIQAError(
            "bad_config", f"leave_out {kept.leave_out!r} is not a generator: give one of {', '.join(known)}."
        )
    if kept.test_fold is None:
        return Sides(everything, everything[:0])
    unseen = folds_of(human, kept.folds) == kept.test_fold
    other = np.array([r["generator"] == kept.leave_out for r in human])
    if kept.leave_out:
        return Sides(everything[~unseen & ~other], everything[unseen & other])
    return Sides(everything[~unseen], everything[unseen])
