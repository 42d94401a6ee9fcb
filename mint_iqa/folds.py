"""Splits by prompt: what shares a prompt or a picture stays on one side."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from mint_iqa.errors import MintIQAError
from mint_iqa.metrics import _members


def prompt_folds(
    prompts: Sequence[str], image_hashes: Sequence[str] | None, folds: int, seed: int
) -> npt.NDArray[np.int64]:
    """The fold of every row, int[N] in 0..folds-1, of nearly equal sizes and the same for the same arguments.

    Rows with one prompt (spaces and capitals aside) share a fold, and so do rows with one image, also across
    prompts: otherwise a model is tested on what it has learned. An empty prompt or hash links nothing.
    Raises MintIQAError (`bad_argument`) where the rows don't fall into at least `folds` separate sets, or on
    unequal lengths.
    """
    sets = unrelated_sets(prompts, image_hashes)
    if folds < 2 or len(sets) < folds:
        raise MintIQAError(
            "bad_argument",
            f"{len(sets)} unrelated sets of rows can't make {folds} folds: use 2..{len(sets)}.",
        )
    return _dealt(sets, len(prompts), folds, np.random.default_rng(seed))


def unrelated_sets(prompts: Sequence[str], image_hashes: Sequence[str] | None) -> list[npt.NDArray[np.int64]]:
    """Numbers of the rows that are linked by prompts or images as in `prompt_folds`, set by set."""
    hashes = [""] * len(prompts) if image_hashes is None else image_hashes
    if len(hashes) != len(prompts):
        raise MintIQAError(
            "bad_argument", f"There are {len(prompts)} prompts but {len(hashes)} image hashes."
        )
    tidy = [" ".join(prompt.split()).casefold() for prompt in prompts]
    return _members(_linked_rows(tidy, hashes), len(prompts))


def _dealt(
    sets: list[npt.NDArray[np.int64]], rows: int, folds: int, rng: np.random.Generator
) -> npt.NDArray[np.int64]:
    """Largest set first, each into the fold that is smallest so far; sets of one size in random order."""
    fold_of_row = np.empty(rows, dtype=np.int64)
    sizes = np.zeros(folds, dtype=np.int64)
    for index in sorted(rng.permutation(len(sets)), key=lambda index: -len(sets[index])):
        smallest = int(sizes.argmin())
        fold_of_row[sets[index]] = smallest
        sizes[smallest] += len(sets[index])
    return fold_of_row


def _linked_rows(prompts: Sequence[str], hashes: Sequence[str]) -> list[int]:
    """Union-find over rows: one number for all rows connected by prompts or images, however indirectly."""
    parent = list(range(len(prompts)))

    def root(row: int) -> int:
        while parent[row] != row:
            parent[row] = row = parent[parent[row]]
        return row

    first_with: dict[tuple[str, str], int] = {}
    for row, pair in enumerate(zip(prompts, hashes, strict=True)):
        for key in zip(("prompt", "image"), pair, strict=True):
            if key[1]:
                parent[root(row)] = root(first_with.setdefault(key, row))
    return [root(row) for row in range(len(parent))]
