"""Two runs over the same images: which records belong together, and what changed."""

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from mint_iqa.errors import MintIQAError
from mint_iqa.reports.intervals import Mean, mean_of
from mint_iqa.reports.run import Floats, Run, Scored
from mint_iqa.vocabulary import DIMENSIONS, Dimension

Pair: TypeAlias = tuple[int, int]
Key: TypeAlias = tuple[str, str]


@dataclass(frozen=True)
class Change:
    """One dimension over P pairs that have it in both runs; differences are the first run minus the second.

    pairs: int[P, 2] rows of both runs; differences: float[P], points; signs: int[P], 1 where the first run is
    better, -1 where it is worse, 0 where there is no difference. with_intervals: pairs with an interval of
    both scores; within: those of them where a score lies in the other's interval, which makes their sign 0.
    """

    pairs: npt.NDArray[np.int64]
    differences: Floats
    means: tuple[float, float]
    difference: Mean
    signs: npt.NDArray[np.int64]
    with_intervals: int
    within: int

    def share(self, sign: int) -> float:
        """The share of pairs with this sign, 0..1."""
        return float((self.signs == sign).mean())


@dataclass(frozen=True)
class Comparison:
    """What two runs say of the same images.

    by_file_name: no full names matched, so folders were ignored; unpaired: scored images of each run
    without a partner; other_bytes: pairs whose files differ.
    """

    changes: dict[Dimension, Change]
    pairs: int
    unpaired: tuple[int, int]
    by_file_name: bool
    other_bytes: int


def compare(run: Run, other: Run) -> Comparison:
    """Pair the images by name and prompt, the k-th of several alike with the k-th.

    Where no two names are the same, names of files are compared, whatever the folder; those that a run has
    more than once are left unpaired. Raises MintIQAError (`no_match`) where nothing can be paired.
    """
    pairs = _paired(_by_key(run.items, str), _by_key(other.items, str))
    by_file_name = not pairs
    if by_file_name:
        pairs = _paired(*(_single(_by_key(each.items, _file_name)) for each in (run, other)))
    if not pairs:
        raise MintIQAError(
            "no_match",
            f"No image that {run.path} scores is in {other.path} with the same prompt: give two runs over "
            "the same images.",
        )
    rows = np.array(pairs)
    changes = {name: _change(run, other, rows, name) for name in DIMENSIONS}
    return Comparison(
        {name: change for name, change in changes.items() if change},
        len(pairs),
        (len(run.items) - len(pairs), len(other.items) - len(pairs)),
        by_file_name,
        sum(differ(run.items[i], other.items[j]) for i, j in pairs),
    )


def _change(run: Run, other: Run, rows: npt.NDArray[np.int64], name: Dimension) -> Change | None:
    new, old = run.of(name)[rows[:, 0]], other.of(name)[rows[:, 1]]
    both = np.isfinite(new) & np.isfinite(old)
    if not both.any():
        return None
    rows, new, old = rows[both], new[both], old[both]
    differences = np.round(new - old, 2)  # scores have two decimals: 0.3 - 0.2 is the same change as 0.1
    of_new, of_old = run.intervals_of(name)[rows[:, 0]], other.intervals_of(name)[rows[:, 1]]
    known = np.isfinite(of_new).all(1) & np.isfinite(of_old).all(1)
    within = known & (_inside(new, of_old) | _inside(old, of_new))
    prompts = [run.items[i].prompt for i in rows[:, 0]]
    return Change(
        rows,
        differences,
        (float(new.mean()), float(old.mean())),
        mean_of(differences, prompts),
        np.where(within, 0, np.sign(differences)).astype(np.int64),
        int(known.sum()),
        int(within.sum()),
    )


def _inside(scores: Floats, intervals: Floats) -> npt.NDArray[np.bool_]:
    return (intervals[:, 0] <= scores) & (scores <= intervals[:, 1])


def _by_key(items: Sequence[Scored], name_of: Callable[[str], str]) -> dict[Key, list[int]]:
    rows: dict[Key, list[int]] = defaultdict(list)
    for row, item in enumerate(items):
        rows[name_of(item.image), item.prompt].append(row)
    return rows


def _single(rows: dict[Key, list[int]]) -> dict[Key, list[int]]:
    return {key: found for key, found in rows.items() if len(found) == 1}


def _paired(new: dict[Key, list[int]], old: dict[Key, list[int]]) -> list[Pair]:
    found = (zip(rows, old[key], strict=False) for key, rows in new.items() if key in old)
    return sorted(pair for pairs in found for pair in pairs)


def _file_name(image: str) -> str:
    return PurePosixPath(image.replace("\\", "/")).name


def differ(new: Scored, old: Scored) -> bool:
    """True if both files are known and not the same."""
    return None not in (new.sha256, old.sha256) and new.sha256 != old.sha256
