"""How well tuning does on unseen prompts, and on generators left out, beside what frozen features give.

    python -m train.cross_validate runs/aligned --shard 0/2 &
    python -m train.cross_validate runs/aligned --shard 1/2
    python -m train.cross_validate runs/aligned --summary

Every fit is a job of its own whose predictions are kept: started again, only the missing ones run, and a
stopped one goes on from its last pass. Each generator unseen in training, tested on prompts that are unseen
too (fold 0), and beside them on all of its pictures; then five folds by prompt. Each job fits three models: a
support vector machine on the frozen tower's statistics, which knows no prompt; the model's heads on the same;
and tower and heads tuned (train.tuning). Settling, which changes no order of quality and correspondence, is
left out.
"""

import argparse
import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
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

from mint_iqa.metrics import bootstrap_interval, krcc, plcc, srcc, t_interval
from mint_iqa.modeling import MintIQAModel
from train import pictures
from train.features import FOLDS, load_features
from train.readout import Readout, predicted, right_above_wrong
from train.resume import write_whole
from train.tuning import Tuning, run

LEFT_OUT_FOLD = 0
MODELS = ("svr", "heads", "tuned")
LABELS = {"quality": "mos_quality", "correspondence": "mos_align"}
AXES = 256  # principal axes that the support vector machine sees

Rows = NDArray[np.int64]
Predictions = dict[str, list[float]]


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


def rows_of(job: Job, fold: Tensor, generator: NDArray[np.str_]) -> tuple[Tensor, Tensor]:
    """Looks to train on and to test on. fold int[N] (-1: no human-rated picture), generator str[N].

    With a generator left out, its looks don't train, nor do any of the fold's prompts; all of its looks are
    tested, of which those of other folds have prompts that trained with other generators.
    """
    unseen = fold == job.fold
    if not job.left_out:
        return (~unseen).nonzero().squeeze(1), unseen.nonzero().squeeze(1)
    own = torch.from_numpy(generator == job.left_out)
    return (~unseen & ~own).nonzero().squeeze(1), own.nonzero().squeeze(1)


def results_of(folder: Path, passes: int) -> Path:
    return folder / "cross_validation" / f"{passes}_passes"


def work(folder: Path, settings: Tuning, part: int, parts: int) -> None:
    human = pictures.agiqa3k(pictures.data_root())
    features = load_features(folder)
    generator = np.array([*(r["generator"] for r in human), ""])[features["source"].numpy()]
    results = results_of(folder, settings.epochs)
    results.mkdir(parents=True, exist_ok=True)
    for job in jobs(sorted({r["generator"] for r in human}))[part::parts]:
        path = results / f"{job.name}.json"
        if path.exists():
            continue
        train, test = rows_of(job, features["fold"], generator)
        test = test[features["human"][test]]
        found: dict[str, Any] = {
            "pictures": features["source"][test].tolist(),
            "svr": support_vectors(features, train, test),
        }
        model = MintIQAModel.from_pretrained(folder / "model", dtype=torch.float32).eval()
        heads = Readout(model, features, human)
        heads.fit(train)
        found["heads"] = predicted(heads, test)
        checkpoint = results / f"{job.name}.pt"
        found["tuned"] = predicted(run(folder, features, train, human, settings, checkpoint), test)
        write_whole(path, json.dumps(found))
        checkpoint.unlink()
        print(job.name, "done", flush=True)


def support_vectors(features: dict[str, Tensor], train: Tensor, test: Tensor) -> Predictions:
    """The field's plain baseline: an RBF support vector machine on principal axes of statistics."""
    train = train[features["human"][train]]
    statistics, targets = features["statistics"].numpy(), features["targets"].numpy()
    found = {}
    for name, column in (("quality", 0), ("correspondence", 2)):
        machine = make_pipeline(StandardScaler(), PCA(AXES, random_state=0), SVR(C=1.0, epsilon=0.02))
        machine.fit(statistics[train], targets[train, column])
        found[name] = machine.predict(statistics[test]).round(5).tolist()
    return found


class Tested:
    """Predictions of several jobs, one after the other, beside the labels of their pictures."""

    def __init__(self, found: list[dict[str, Any]], human: list[dict[str, str]], fold: Rows) -> None:
        """fold: of every AGIQA-3K picture."""
        numbers = [n for job in found for n in job["pictures"]]
        self.job = np.repeat(np.arange(len(found)), [len(job["pictures"]) for job in found])
        self.fold = fold[numbers]
        self.prompts = [human[n]["prompt"] for n in numbers]
        self.labels = {
            name: np.array([float(human[n][key]) for n in numbers]) for name, key in LABELS.items()
        }
        self.found = {
            model: {name: np.concatenate([job[model][name] for job in found]) for name in found[0][model]}
            for model in MODELS
        }

    def mean_srcc(self, model: str, name: str, rows: Rows) -> float:
        """Of each job's pictures among `rows`; nan where a job has fewer than three."""
        parts = [rows[self.job[rows] == job] for job in np.unique(self.job[rows])]
        if min(map(len, parts)) < 3:
            return float("nan")
        return float(np.mean([srcc(self.found[model][name][p], self.labels[name][p]) for p in parts]))

    def interval(self, name: str, rows: Rows, model: str, below: str | None = None) -> str:
        """`mean_srcc` with its 95 % bootstrap interval over prompts; what it is above that of `below`."""

        def value(drawn: Any, _: Any) -> float:
            chosen = rows[np.asarray(drawn, dtype=np.int64)]
            low = self.mean_srcc(below, name, chosen) if below else 0.0
            return self.mean_srcc(model, name, chosen) - low

        every = np.arange(len(rows))
        middle = value(every, every)
        if np.isnan(middle):
            return "-"
        groups = [self.prompts[row] for row in rows]
        low, high = bootstrap_interval(value, every, every, groups=groups, samples=500)
        return f"{middle:.3f} [{low:.3f}, {high:.3f}]"


def summary(folder: Path, passes: int) -> Iterator[str]:
    """Markdown: means over folds by prompt with 95 % t intervals, then each generator left out."""
    found = {path.stem: json.loads(path.read_text()) for path in results_of(folder, passes).glob("*.json")}
    human = pictures.agiqa3k(pictures.data_root())
    features = load_features(folder)
    fold = np.full(len(human), -1)
    fold[features["source"][features["human"]]] = features["fold"][features["human"]]
    if folds := [found[name] for name in sorted(found) if name.startswith("all-")]:
        yield from _by_prompt([Tested([each], human, fold) for each in folds])
    left = {name.rsplit("-", 1)[0]: job for name, job in sorted(found.items()) if not name.startswith("all-")}
    if left:
        for name in LABELS:
            yield ""
            yield from _left_out(list(left), Tested(list(left.values()), human, fold), name)


def _by_prompt(folds: list[Tested]) -> Iterator[str]:
    yield f"| unseen prompts, {len(folds)} of {FOLDS} folds | {' | '.join(MODELS)} |"
    yield "|---" * (1 + len(MODELS)) + "|"
    for name in LABELS:
        for title, metric in (("SRCC", srcc), ("PLCC", plcc), ("KRCC", krcc)):
            cells = [
                _over_folds([metric(f.found[model][name], f.labels[name]) for f in folds]) for model in MODELS
            ]
            yield f"| {name} {title} | {' | '.join(cells)} |"
    cells = ["-", *(_over_folds([_told_apart(f, model) for f in folds]) for model in MODELS[1:])]
    yield f"| right prompt above an unrelated one | {' | '.join(cells)} |"


def _over_folds(values: list[float]) -> str:
    mean, half = t_interval(values)
    return f"{mean:.3f} ± {half:.3f}" if len(values) > 1 else f"{mean:.3f}"


def _told_apart(tested: Tested, model: str) -> float:
    found = tested.found[model]
    return right_above_wrong(found["correspondence"], found["second"], found["unrelated"])


def _left_out(generators: list[str], tested: Tested, name: str) -> Iterator[str]:
    yield f"| generator left out, {name} SRCC | pictures | {' | '.join(MODELS)} | tuned above svr |"
    yield "|---" * (3 + len(MODELS)) + "|"
    for title, chosen in (("unseen prompts", tested.fold == LEFT_OUT_FOLD), ("all", tested.fold >= 0)):
        every = chosen.nonzero()[0]
        for job, generator in enumerate(generators):
            yield _line(f"{generator}, {title}", tested, name, every[tested.job[every] == job])
        yield _line(f"**mean, {title}**", tested, name, every)


def _line(title: str, tested: Tested, name: str, rows: Rows) -> str:
    cells = [tested.interval(name, rows, model) for model in MODELS]
    cells.append(tested.interval(name, rows, "tuned", "svr"))
    return f"| {title} | {len(rows)} | {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("--passes", type=int, default=Tuning().epochs, help="over the clean pictures")
    parser.add_argument("--shard", default="0/1", help="which part of how many, for several processes")
    parser.add_argument("--summary", action="store_true", help="only read what is there")
    options = parser.parse_args()
    if not options.summary:
        work(options.run, replace(Tuning(), epochs=options.passes), *map(int, options.shard.split("/")))
    print("\n".join(summary(options.run, options.passes)))


if __name__ == "__main__":
    main()
