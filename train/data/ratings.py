"""Rated pictures of one or several sets as training data: targets, weights, and what must stay together.

Every set's scores are mapped from its own range to one scale. What a set does not rate is NaN, and no loss
counts it: LIVE and KADID-10k with one score and no prompt train quality, and leave the rest alone.
"""

import csv
import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from instruct_data.importers.own import read_own
from instruct_data.importers.table import TableColumns
from instruct_data.records import RatedImage, read_jsonl
from instruct_data.splits import image_hashes, pristine
from mint_iqa.errors import MintIQAError
from mint_iqa.files import write_whole
from mint_iqa.folds import prompt_folds, unrelated_sets
from mint_iqa.tables.reading import Findings
from mint_iqa.text import counted
from mint_iqa.vocabulary import DIMENSIONS, Dimension
from train.data.vectors import ShownPicture

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


@dataclass(frozen=True)
class Ratings:
    """Rated pictures in the order of their files.

    sets int[N]: number of the file; notes: how each file was read, in sentences.
    """

    records: list[RatedImage]
    pictures: list[ShownPicture]
    sets: Integers
    notes: list[str]

    def digest(self) -> str:
        """Of all that stage 1 learns from or splits by: pictures, prompts, scores, references, sides."""
        rows = [
            [p.sha256, p.prompt, r.reference, r.distortion, r.split, sorted(r.mos.items())]
            for p, r in zip(self.pictures, self.records, strict=True)
        ]
        return hashlib.sha256(json.dumps(rows).encode()).hexdigest()

    def targets(self, dimension: Dimension) -> Floats:
        """float[N] on 0..1, NaN where nobody rated it."""
        return np.array([r.mos.get(dimension, np.nan) for r in self.records]) / 100

    def weights(self, dimension: Dimension) -> Floats:
        """float[N], of mean 1 in each set: the more raters disagree, the less their mean counts.

        1 / (1 + (std / median std of the set) ** 2); 1 in sets that give no std for every picture.
        """
        weights = np.ones(len(self.records))
        for number in np.unique(self.sets):
            rows = np.flatnonzero((self.sets == number) & ~np.isnan(self.targets(dimension)))
            spread = np.array([self.records[i].mos_std.get(dimension, np.nan) for i in rows])
            if len(rows) and np.median(spread) > 0:  # False where one is NaN
                found = 1 / (1 + (spread / np.median(spread)) ** 2)
                weights[rows] = found / found.mean()
        return weights

    def held_out(self) -> NDArray[np.bool_]:
        """bool[N]: the pictures that a file keeps for testing or validation, and whatever in any file shares
        a prompt, a reference or the picture itself with one of them."""
        apart = np.array([r.split in ("test", "validation") for r in self.records])
        if apart.any():
            for rows in unrelated_sets(self.groups(), self.hashes()):
                apart[rows] = apart[rows].any()
        return apart

    def groups(self) -> list[str]:
        """The group of a picture: its prompt, or its reference if it has no prompt."""
        return [r.prompt or pristine(r) for r in self.records]

    def hashes(self) -> list[str]:
        return [p.sha256 for p in self.pictures]

    def most_folds(self, rows: Integers) -> int:
        """The largest possible number of folds: prompts, spelling ignored, that share no picture."""
        groups, hashes = self.groups(), self.hashes()
        return len(unrelated_sets([groups[i] for i in rows], [hashes[i] for i in rows]))

    def folds(self, rows: Integers, folds: int, seed: int) -> Integers:
        """The fold of each of the rows, see `mint_iqa.folds.prompt_folds`."""
        groups, hashes = self.groups(), self.hashes()
        return prompt_folds([groups[i] for i in rows], [hashes[i] for i in rows], folds, seed)


def read_ratings(files: str | Sequence[str], images: str | None, columns: Mapping[str, str]) -> Ratings:
    """CSV files (see `instruct_data.importers.own.read_own`) and JSON Lines that `instruct_data` wrote.

    images: the folder of the pictures; None for that of each file. columns: for the CSV files.
    Raises MintIQAError for broken rows, missing pictures, and a correspondence score without a prompt.
    """
    records: list[RatedImage] = []
    pictures: list[ShownPicture] = []
    sets: list[int] = []
    notes: list[str] = []
    for number, path in enumerate(map(Path, [files] if isinstance(files, str) else files)):
        own, note = _read(path, columns)
        folder = Path(images) if images else path.parent
        hashes = image_hashes(own, folder)
        _check(path, own, folder, hashes)
        records += own
        pictures += [ShownPicture(folder / r.image, hashes[r.image], r.prompt or "") for r in own]
        sets += [number] * len(own)
        notes.append(note)
    return Ratings(records, pictures, np.array(sets), notes)


def write_rated(path: Path, ratings: Ratings, rows: Integers) -> None:
    """A CSV file of these pictures that `mint-iqa score` and `mint-iqa evaluate` read; none without rows."""
    path.unlink(missing_ok=True)
    if not len(rows):
        return
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(["image", "prompt", *DIMENSIONS])
    for i in rows:
        picture, mos = ratings.pictures[i], ratings.records[i].mos
        writer.writerow([picture.path.resolve(), picture.prompt, *(mos.get(d, "") for d in DIMENSIONS)])
    write_whole(path, text.getvalue())


def _read(path: Path, columns: Mapping[str, str]) -> tuple[list[RatedImage], str]:
    if path.suffix == ".jsonl":
        records = read_jsonl(path, RatedImage)
        rated = [d for d in DIMENSIONS if any(d in r.mos for r in records)]
        return records, f"{path}: {counted(len(records), 'picture')} with {', '.join(rated)}"
    findings = Findings(path)
    records, found = read_own(path, columns, findings)
    findings.check()
    return records, f"{path}: {counted(len(records), 'picture')} with {_ranges(found)}"


def _ranges(columns: TableColumns) -> str:
    return ", ".join(f"{d} {c.worst:g} (worst) .. {c.best:g} (best)" for d, c in columns.scores.items())


def _check(path: Path, records: Sequence[RatedImage], folder: Path, hashes: Mapping[str, str]) -> None:
    if not records:
        raise MintIQAError("too_few_ratings", f"{path} has no rated picture: add one a line.")
    if missing := [r.image for r in records if r.image not in hashes]:
        raise MintIQAError(
            "image_missing",
            f"{missing[0]!r:.200} of {path} was not found in {folder} ({len(missing)} of {len(records)} are "
            "missing): correct the names, or give the folder with images=FOLDER.",
        )
    if blind := [r.image for r in records if "correspondence" in r.mos and not r.prompt]:
        raise MintIQAError(
            "prompt_missing",
            f"{blind[0]!r:.200} of {path} has a correspondence but no prompt that it could be with: add a "
            "column prompt, or leave correspondence out.",
        )
