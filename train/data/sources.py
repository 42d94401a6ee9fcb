"""The pictures of stage 1, and which of them are only tested on."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mint_iqa.errors import MintIQAError
from mint_iqa.folds import unrelated_sets
from train.data import pictures, sets
from train.data.pictures import Row
from train.data.ratings import Ratings, read_ratings
from train.data.sets import SETS, Sides
from train.engine.recipes import Stage1

OWN_SET = "rated"  # the set of your own pictures


@dataclass
class Sources:
    """Tables and pixels of all sets that stage 1 can use."""

    human: list[dict[str, str]] = field(default_factory=list)
    photographs: list[dict[str, Any]] = field(default_factory=list)
    ratings: Ratings | None = None
    pixels: dict[str, NDArray[np.uint8]] = field(default_factory=dict)
    rows: dict[str, list[Row]] = field(default_factory=dict)


def read_sources(image_size: int, names: Sequence[str] = SETS) -> Sources:
    """These sets, their pictures stored for a model that sees `image_size`."""
    root, sources = sets.data_root(), Sources()
    if "agiqa3k" in names:
        sources.human = sets.agiqa3k(root)
    if "flickr8k" in names:
        sources.photographs = sets.flickr8k(root)
    for name in names:
        sources.pixels[name], sources.rows[name] = pictures.load(name, image_size, sets.paths_of(name))
    return sources


def sources_of(recipe: Stage1, image_size: int, max_aspect: float) -> Sources:
    """The sets that the recipe names; no others need exist. Your own pictures are stored on the way."""
    epochs = {"agiqa3k": recipe.human_epochs, "flickr8k": recipe.photograph_epochs}
    sources = read_sources(image_size, [name for name, passes in epochs.items() if passes])
    if recipe.ratings:
        sources.ratings = ratings = read_ratings(recipe.ratings, recipe.images, recipe.columns)
        _check_overlap(ratings, sources.human, recipe)
        hashes = [str(max_aspect), *(picture.sha256 for picture in ratings.pictures)]
        name = f"rated-{hashlib.sha256(' '.join(hashes).encode()).hexdigest()[:16]}"
        paths = [str(picture.path) for picture in ratings.pictures]
        pictures.build(name, image_size, paths, (), max_aspect=max_aspect)
        sources.pixels[OWN_SET], sources.rows[OWN_SET] = pictures.load(name, image_size)
    return sources


def _check_overlap(ratings: Ratings, human: list[dict[str, str]], recipe: Stage1) -> None:
    """MintIQAError if both sets share a prompt or picture: one's test would train in the other."""
    if not human or (recipe.test_fold is None and not ratings.held_out().any()):
        return
    groups = [*ratings.groups(), *(r["prompt"] for r in human)]
    hashes = [*ratings.hashes(), *(r["sha256"] for r in human)]
    if any(rows.min() < len(ratings.records) <= rows.max() for rows in unrelated_sets(groups, hashes)):
        raise MintIQAError(
            "bad_config",
            "Some of the ratings are of prompts or pictures of AGIQA-3K, so that what is kept out of the one "
            "could train in the other: set human_epochs=0, or keep nothing out (test_fold=null).",
        )


def split_rated(ratings: Ratings, recipe: Stage1) -> Sides:
    """Of your own ratings: what their files keep apart, and the test fold by prompt, does not train."""
    apart = ratings.held_out()
    if recipe.test_fold is not None:
        rest = np.flatnonzero(~apart)
        if ratings.most_folds(rest) < recipe.folds:
            raise MintIQAError(
                "too_few_ratings",
                f"The ratings are of fewer than {recipe.folds} prompts (or pictures, without prompts), too "
                "few to keep one fold out: set test_fold=null, or folds lower.",
            )
        apart[rest[ratings.folds(rest, recipe.folds, seed=0) == recipe.test_fold]] = True
    return Sides(np.flatnonzero(~apart), np.flatnonzero(apart))
