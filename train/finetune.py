"""Moves the scores of a finished model towards your own ratings, in one command.

    python -m train.finetune configs/nano/finetune.yaml --set ratings=ratings.csv output=runs/mine
    mint-iqa score picture.png --model runs/mine

Only the score heads that have ratings change. Faults, and all that an explanation sees of a picture, stay as
they are to the bit; level words follow the new scores.
"""

import json
import shutil
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import cast

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from mint_iqa.assessor import Assessor
from mint_iqa.errors import MintIQAError
from mint_iqa.files import written_whole
from mint_iqa.metrics import bootstrap_interval, srcc
from mint_iqa.vocabulary import DIMENSIONS, Dimension
from train.data.ratings import Ratings, read_ratings
from train.data.vectors import vectors_of
from train.engine.commands import step
from train.heads.ridge import Adjustment, HeadInputs, apply, head_inputs, learn_adjustment

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
MIN_RATINGS = 10  # ratings; below, cross-validation hardly tells a better head from a worse one
MIN_GROUPS = 3
MIN_TEST_PICTURES = 3  # for a correlation
REPORT = "finetune.json"


@dataclass
class Finetune:
    """Recipe of a fine-tune on one's own ratings."""

    ratings: str | list[str] = "ratings.csv"  # CSV files, or JSON Lines of instruct_data
    images: str | None = None  # folder of the pictures; that of each file if left out
    columns: dict[str, str] = field(default_factory=dict)  # of CSV files, e.g. {quality: "mos:1:5"}
    model: str = "nano"  # where it starts: a preset, a folder, a hub id
    output: str = "runs/finetuned"
    folds: int = 8  # of cross-validation, by prompt
    # Count pictures that raters agree on for more. On 40 and on 200 ratings of AGIQA-3K it changes nothing
    # that could be measured.
    spread_weight: bool = False
    seed: int = 0


def finetune(recipe: Finetune) -> Path:
    """Run the recipe; the folder of the new model. MintIQAError if there is nothing to learn from."""
    output = Path(recipe.output)
    if output.exists():
        raise MintIQAError("output_exists", f"{output} exists already: delete it, or choose another output.")
    ratings = read_ratings(recipe.ratings, recipe.images, recipe.columns)
    print("\n".join(ratings.notes), flush=True)
    rows = {name: _rated_rows(ratings, name) for name in DIMENSIONS}
    known = {name: own for name, own in rows.items() if len(own)}
    assessor = Assessor.from_pretrained(recipe.model)
    frozen = vectors_of(assessor, ratings.pictures)
    report, changed = {}, set[str]()
    for name, own in known.items():
        case = _case(recipe, ratings, name, own, head_inputs(assessor.model, name, frozen))
        adjustment, strength = case.final()
        report[name] = case.figures() | {"strength": strength}
        print(_result_lines(name, report[name]), flush=True)
        changed |= apply(assessor.model, name, adjustment)
    state = assessor.model.state_dict()
    save(output, assessor.model.folder, {k: state[k] for k in changed}, recipe, report)
    return output


def _rated_rows(ratings: Ratings, name: Dimension) -> Integers:
    """The rated pictures; MintIQAError if there are some, but nothing to learn from."""
    targets = ratings.targets(name)
    rows = np.flatnonzero(~np.isnan(targets))
    learned = rows[~ratings.held_out()[rows]]
    where = " and ".join(note.split(":")[0] for note in ratings.notes)
    groups = ratings.most_folds(learned)
    if len(rows) and len(learned) < MIN_RATINGS:
        kept = "" if len(learned) == len(rows) else " to learn from, the file's test pictures aside"
        raise MintIQAError(
            "too_few_ratings",
            f"{where} has {len(learned)} ratings of {name}{kept}: give at least {MIN_RATINGS}, or leave that "
            "column out.",
        )
    if len(rows) and groups < MIN_GROUPS:
        raise MintIQAError(
            "too_few_ratings",
            f"The ratings of {name} in {where} are of {groups} prompts: what is learned can't be tested on "
            f"others, so give at least {MIN_GROUPS}, or leave the prompts out to test on other pictures.",
        )
    if len(rows) and np.ptp(targets[learned]) == 0:
        raise MintIQAError(
            "ratings_equal",
            f"Every rating of {name} in {where} is {100 * targets[learned[0]]:g} of 100: there is nothing to "
            "learn from, so leave that column out.",
        )
    return rows


@dataclass(frozen=True)
class ScoreCase:
    """One score's ratings: `seen`, wanted (0..1), weights, folds and groups of the same N pictures; test:
    those that are never learned from."""

    seen: HeadInputs
    wanted: Floats
    weights: Floats
    folds: Integers
    groups: list[str]
    test: NDArray[np.bool_]

    def final(self) -> tuple[Adjustment, float | None]:
        """The adjustment learned from all training rows."""
        return self._learn(~self.test)

    def figures(self) -> dict[str, object]:
        """Before and after, on pictures that were not learned from: the test part, or each fold in turn."""
        own_test = int(self.test.sum()) >= MIN_TEST_PICTURES
        rows = np.flatnonzero(self.test == own_test)
        after = np.zeros(len(self.wanted))
        if own_test:
            after[rows] = self.final()[0](self.seen[rows])
        else:
            for fold in np.unique(self.folds[rows]):
                own = rows[self.folds[rows] == fold]
                after[own] = self._learn((self.folds != fold) & ~self.test)[0](self.seen[own])
        groups = [self.groups[i] for i in rows]
        return _figures(100 * self.seen.score[rows].clip(0, 1), 100 * after[rows].clip(0, 1),
                        100 * self.wanted[rows], groups, own_test)  # fmt: skip

    def _learn(self, used: NDArray[np.bool_]) -> tuple[Adjustment, float | None]:
        rows = np.flatnonzero(used)
        return learn_adjustment(self.seen[rows], self.wanted[rows], self.weights[rows], self.folds[rows])


def _case(recipe: Finetune, ratings: Ratings, name: Dimension, rows: Integers, seen: HeadInputs) -> ScoreCase:
    groups, test = [ratings.groups()[i] for i in rows], ratings.held_out()[rows]
    learned, folds = rows[~test], np.zeros(len(rows), dtype=np.int64)
    folds[~test] = ratings.folds(learned, min(recipe.folds, ratings.most_folds(learned)), recipe.seed)
    weights = ratings.weights(name)[rows] if recipe.spread_weight else np.ones(len(rows))
    return ScoreCase(seen[rows], ratings.targets(name)[rows], weights, folds, groups, test)


def _figures(
    before: Floats, after: Floats, wanted: Floats, groups: list[str], own_test: bool
) -> dict[str, object]:
    """SRCC and mean absolute error (points of 100), each with its 95 % interval over prompts or pictures."""

    def with_interval(metric: Callable[..., float], x: Floats, y: Floats) -> list[float]:
        return [metric(x, y), *bootstrap_interval(metric, x, y, groups=groups)]

    def error(x: Floats, y: Floats) -> float:
        return float(np.abs(x - y).mean())

    def difference(x: Floats, y: Floats) -> float:
        return float((x - y).mean())

    return {
        "pictures": len(wanted), "groups": len(set(groups)), "own_test": own_test,
        "srcc_before": with_interval(srcc, before, wanted), "srcc_after": with_interval(srcc, after, wanted),
        "error_before": with_interval(error, before, wanted),
        "error_after": with_interval(error, after, wanted),
        "error_less_by": with_interval(difference, np.abs(before - wanted), np.abs(after - wanted)),
    }  # fmt: skip


def _result_lines(name: str, figures: dict[str, object]) -> str:
    """One score's figures as lines for people."""

    def shown(key: str, digits: int) -> str:
        value, low, high = cast(list[float], figures[key])
        return f"{value:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"

    how = "the file's test pictures" if figures["own_test"] else "each picture judged by a fit without it"
    lines = [
        f"{name}: {figures['pictures']} pictures, {how}; 95 % intervals",
        f"  SRCC  {shown('srcc_before', 2)} -> {shown('srcc_after', 2)}",
        f"  mean error in points  {shown('error_before', 1)} -> {shown('error_after', 1)}, "
        f"less by {shown('error_less_by', 1)}",
    ]
    if figures["strength"] is None:
        lines.append("  Nothing that could be learned was sure to help: this score stays as it was.")
    return "\n".join(lines)


def save(
    output: Path,
    start: Path,
    changed: dict[str, Tensor],
    recipe: Finetune,
    report: Mapping[Dimension, object],
) -> None:
    """The start's folder with the changed weights; all other weights keep their bytes."""
    try:
        with written_whole(output) as folder:
            left_out = shutil.ignore_patterns("README.md", REPORT)  # they describe another model
            shutil.copytree(start, folder, ignore=left_out, dirs_exist_ok=True)
            for path in sorted(folder.glob("*.safetensors")):
                state = load_file(path)
                if own := state.keys() & changed.keys():
                    save_file(
                        state | {k: changed[k].to(state[k].dtype).contiguous() for k in own},
                        path, metadata={"format": "pt"},
                    )  # fmt: skip
            told = {"recipe": asdict(recipe), "figures": report}
            (folder / REPORT).write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")
    except (OSError, SafetensorError) as error:  # the latter, Rust's, has no strerror
        reason = str(error).splitlines()[0] if isinstance(error, SafetensorError) else error.strerror
        raise MintIQAError(
            "output_unwritable", f"{output} can't be written ({reason}): choose another output."
        ) from error


def main() -> int:
    def run(recipe: Finetune) -> None:
        folder = finetune(recipe)
        print(f"The model is in {folder}: mint-iqa score picture.png --model {folder}")

    return step(Finetune, run, __doc__)


if __name__ == "__main__":
    sys.exit(main())
