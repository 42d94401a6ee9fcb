"""Measures the recipe of tuning on unseen prompts and on left-out generators, fit by fit.

    python -m train.measure.generators configs/nano/tune.yaml --shard 0/2 &    # a process a core
    python -m train.measure.generators configs/nano/tune.yaml --shard 1/2
    python -m train.measure.generators configs/nano/tune.yaml --summary

Every fit is a job of its own whose predictions are kept: started again, only the missing ones run, and a
stopped one continues from its last pass. First each generator is left out of training, and so are the prompts
of fold 0; then five folds by prompt. Each job fits three models: a support vector machine on the frozen
tower's statistics; the model's heads on the same, with what Q-Former 1 says of picture and prompt; and tower
and heads tuned (train.tune). The heads for authenticity and faults, which change no order of quality and
correspondence, are left out.
"""

import argparse
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.decomposition import PCA
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVR
from torch import Tensor

from instruct_data.recipes import add_recipe, read_settings
from mint_iqa.checkpoints.finding import revision_of
from mint_iqa.errors import MintIQAError
from mint_iqa.files import write_whole
from mint_iqa.metrics import krcc, plcc, srcc, t_interval
from mint_iqa.model.modeling import MintIQAModel
from mint_iqa.vocabulary import CORRESPONDENCE, QUALITY, Dimension
from train.data import sets
from train.data.features import load_features
from train.data.sets import FOLDS, folds_of
from train.engine.commands import ends_in_a_sentence
from train.engine.recipes import FrozenFit, Tune
from train.heads.readout import Integers, Readout
from train.heads.tuned import tune_model
from train.measure.predictions import Predictions, predicted, right_above_wrong

LEFT_OUT_FOLD = 0
MODELS = ("svr", "heads", "tuned")
PRINCIPAL_AXES = 256  # principal axes that the support vector machine sees


@dataclass(frozen=True)
class Job:
    """One fit. left_out: a generator that only tests, or ""."""

    left_out: str
    fold: int

    @property
    def name(self) -> str:
        return f"{self.left_out or 'all'}-{self.fold}"


def jobs(generators: list[str]) -> list[Job]:
    """The ones that matter most first, so that an interrupted run has them."""
    return [*(Job(name, LEFT_OUT_FOLD) for name in generators), *(Job("", fold) for fold in range(FOLDS))]


def rows_of(job: Job, fold: Tensor, generator: NDArray[np.str_], copy: Integers) -> tuple[Tensor, Tensor]:
    """Looks to train on and to test on: fold int[N] (-1: no human-rated picture), generator str[N], and copy
    int[N], the same number for looks at byte-identical pictures.

    With a generator left out, its looks don't train, nor do any of the fold's prompts; all of its looks are
    tested, of which those of other folds have prompts that trained with other generators.
    """
    unseen = (fold == job.fold).numpy()
    test = generator == job.left_out if job.left_out else unseen
    train = ~unseen & ~np.isin(copy, copy[test])
    return torch.from_numpy(train.nonzero()[0]), torch.from_numpy(test.nonzero()[0])


def results_of(folder: Path, passes: int) -> Path:
    """Where fits of the run's model in so many passes are kept."""
    return folder / "cross_validation" / f"{revision_of(folder / 'model')}-{passes}"


def work(recipe: Tune, part: int, parts: int) -> None:
    folder = Path(recipe.start)
    human = sets.agiqa3k(sets.data_root())
    features = load_features(folder, recipe.photographs)
    source = features["source"].numpy()
    generator = np.array([*(r["generator"] for r in human), ""])[source]
    # A photograph has no copy: each has a number of its own.
    files = {digest: n for n, digest in enumerate(r["sha256"] for r in human)}
    copy = np.array([files[human[n]["sha256"]] if n >= 0 else -1 - i for i, n in enumerate(source)])
    results = results_of(folder, recipe.tower.epochs)
    results.mkdir(parents=True, exist_ok=True)
    for job in jobs(sorted({r["generator"] for r in human}))[part::parts]:
        path = results / f"{job.name}.json"
        if path.exists():
            continue
        train, test = rows_of(job, features["fold"], generator, copy)
        test = test[features["human"][test]]
        found: dict[str, Any] = {
            "pictures": features["source"][test].tolist(),
            "svr": support_vectors(features, train, test),
        }
        model = MintIQAModel.from_pretrained(folder / "model", dtype=torch.float32).eval()
        fit = FrozenFit()
        heads = Readout(model, features, human, fit)
        heads.fit(train, fit)
        found["heads"] = predicted(heads, test)
        checkpoint = results / f"{job.name}.pt"
        found["tuned"] = predicted(tune_model(folder, features, train, human, recipe, checkpoint), test)
        write_whole(path, json.dumps(found))
        checkpoint.unlink()
        print(job.name, "done", flush=True)


def support_vectors(features: dict[str, Tensor], train: Tensor, test: Tensor) -> dict[str, list[float]]:
    """The field's plain baseline: an RBF support vector machine on principal axes of statistics."""
    train = train[features["human"][train]]
    statistics, targets = features["statistics"].numpy(), features["targets"].numpy()
    found = {}
    for name, column in (("quality", QUALITY), ("correspondence", CORRESPONDENCE)):
        machine = make_pipeline(
            StandardScaler(), PCA(PRINCIPAL_AXES, random_state=0), SVR(C=1.0, epsilon=0.02)
        )
        machine.fit(statistics[train], targets[train, column])
        found[name] = machine.predict(statistics[test]).round(5).tolist()
    return found


def summary(folder: Path, passes: int) -> Iterator[str]:
    """Markdown: means over folds by prompt with 95 % t intervals, then each generator left out."""
    found = {path.stem: json.loads(path.read_text()) for path in results_of(folder, passes).glob("*.json")}
    human = sets.agiqa3k(sets.data_root())
    every = jobs(sorted({r["generator"] for r in human}))
    if folds := [found[job.name] for job in every if not job.left_out and job.name in found]:
        yield from _by_prompt([Predictions([each], human) for each in folds])
    left = {job.left_out: found[job.name] for job in every if job.left_out and job.name in found}
    if left:
        tested = Predictions(list(left.values()), human)
        unseen = folds_of(human)[tested.pictures] == LEFT_OUT_FOLD
        for name in sets.LABELS:
            yield ""
            yield f"| {name} SRCC, generator left out | pictures | {' | '.join(MODELS)} | tuned above svr |"
            yield "|---" * (3 + len(MODELS)) + "|"
            for title, rows in (("unseen prompts", unseen), ("prompts seen with others", ~unseen)):
                for job, generator in enumerate(left):
                    yield _line(f"{generator}, {title}", tested, name, rows & (tested.job == job))
                yield _line(f"**mean of {len(left)} of {len(every) - FOLDS}, {title}**", tested, name, rows)


def _by_prompt(folds: list[Predictions]) -> Iterator[str]:
    yield f"| unseen prompts, {len(folds)} of {FOLDS} folds | {' | '.join(MODELS)} |"
    yield "|---" * (1 + len(MODELS)) + "|"
    for name in sets.LABELS:
        for title, metric in (("SRCC", srcc), ("PLCC", plcc), ("KRCC", krcc)):
            cells = [
                _over_folds([metric(f.scores[model][name], f.labels[name]) for f in folds])
                for model in MODELS
            ]
            yield f"| {name} {title} | {' | '.join(cells)} |"
    cells = ["-", *(_over_folds([right_above_wrong(f.scores[model]) for f in folds]) for model in MODELS[1:])]
    yield f"| right prompt above an unrelated one | {' | '.join(cells)} |"


def _over_folds(values: list[float]) -> str:
    mean, half = t_interval(values)
    return f"{mean:.3f} ± {half:.3f}" if len(values) > 1 else f"{mean:.3f}"


def _line(title: str, tested: Predictions, name: Dimension, chosen: NDArray[np.bool_]) -> str:
    rows = chosen.nonzero()[0]
    cells = [tested.interval(name, rows, model) for model in MODELS]
    cells.append(tested.interval(name, rows, "tuned", "svr"))
    return f"| {title} | {len(rows)} | {' | '.join(cells)} |"


@ends_in_a_sentence
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    add_recipe(parser)
    parser.add_argument("--shard", default="0/1", help="which part of how many, for several processes")
    parser.add_argument("--summary", action="store_true", help="only read what is there")
    options = parser.parse_args()
    recipe = read_settings(Tune, options.recipe, options.set)
    if not options.summary:
        work(recipe, *map(int, options.shard.split("/")))
    lines = list(summary(Path(recipe.start), recipe.tower.epochs))
    if not lines:
        raise MintIQAError(
            "nothing_to_report",
            f"{recipe.start} holds no fit of {recipe.tower.epochs} passes yet: check both, or leave out "
            "--summary.",
        )
    print("\n".join(lines))


if __name__ == "__main__":
    sys.exit(main())
