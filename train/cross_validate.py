"""How well tuning does on unseen prompts, and on generators left out, beside what frozen features give.

    python -m train.cross_validate runs/aligned --shard 0/2 &
    python -m train.cross_validate runs/aligned --shard 1/2
    python -m train.cross_validate runs/aligned --summary

Every fit is a job of its own whose figures are kept: started again, only the missing ones run, and a stopped
one goes on from its last pass. Five folds by prompt; then each generator unseen, on the prompts of fold 0,
unseen too. Each job fits three models: a support vector machine on the frozen tower's statistics, which knows
no prompt; the model's heads on the same; and tower and heads tuned (train.tuning). 6 hours on 2 cores.
Settling, which changes no order of quality and correspondence, is left out.
"""

import argparse
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from sklearn.decomposition import PCA
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVR
from torch import Tensor

from mint_iqa.metrics import srcc
from mint_iqa.modeling import MintIQAModel
from train import pictures
from train.evaluate import t_interval
from train.features import FOLDS, load_features
from train.readout import Readout, figures
from train.resume import write_whole
from train.tuning import Tuning, run

LEFT_OUT_FOLD = 0
MODELS = ("svr", "heads", "tuned")
AXES = 256  # principal axes that the support vector machine sees


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
    return [*(Job("", fold) for fold in range(FOLDS)), *(Job(name, LEFT_OUT_FOLD) for name in generators)]


def rows_of(job: Job, fold: Tensor, generator: np.ndarray) -> tuple[Tensor, Tensor]:
    """Looks to train on and to test on. fold int[N] (-1: no human-rated picture), generator str[N].

    With a generator left out, its looks don't train, nor do any of the tested prompts.
    """
    unseen = fold == job.fold
    own = torch.from_numpy(generator == job.left_out)
    if not job.left_out:
        return (~unseen).nonzero().squeeze(1), unseen.nonzero().squeeze(1)
    return (~unseen & ~own).nonzero().squeeze(1), (unseen & own).nonzero().squeeze(1)


def work(folder: Path, part: int, parts: int) -> None:
    human = pictures.agiqa3k(pictures.data_root())
    features = load_features(folder)
    generator = np.array([*(r["generator"] for r in human), ""])[features["source"].numpy()]
    results = folder / "cross_validation"
    results.mkdir(exist_ok=True)
    for job in jobs(sorted({r["generator"] for r in human}))[part::parts]:
        path = results / f"{job.name}.json"
        if path.exists():
            continue
        train, test = rows_of(job, features["fold"], generator)
        model = MintIQAModel.from_pretrained(folder / "model", dtype=torch.float32).eval()
        heads = Readout(model, features, human)
        heads.fit(train)
        found = {"svr": support_vectors(features, train, test), "heads": figures(heads, test)}
        checkpoint = results / f"{job.name}.pt"
        found["tuned"] = figures(run(folder, features, train, human, Tuning(), checkpoint), test)
        for name, values in found.items():
            print(job.name, name, {k: round(v, 3) for k, v in values.items()}, flush=True)
        write_whole(path, json.dumps(found, indent=1))
        checkpoint.unlink()


def support_vectors(features: dict[str, Tensor], train: Tensor, test: Tensor) -> dict[str, float]:
    """SRCC of the field's plain baseline: an RBF support vector machine on principal axes of statistics."""
    train, test = (rows[features["human"][rows]] for rows in (train, test))
    statistics, targets = features["statistics"].numpy(), features["targets"].numpy()
    found = {}
    for name, column in (("quality_srcc", 0), ("correspondence_srcc", 2)):
        machine = make_pipeline(StandardScaler(), PCA(AXES, random_state=0), SVR(C=1.0, epsilon=0.02))
        machine.fit(statistics[train], targets[train, column])
        found[name] = srcc(machine.predict(statistics[test]), targets[test, column])
    return found


def summary(folder: Path) -> Iterator[str]:
    """Lines for people, by model: means over folds with 95 % t intervals, then each generator left out."""
    found = {path.stem: json.loads(path.read_text()) for path in (folder / "cross_validation").glob("*.json")}
    folds = [found[name] for name in sorted(found) if name.startswith("all-")]
    left = {name.rsplit("-", 1)[0]: f for name, f in sorted(found.items()) if not name.startswith("all-")}
    for model in MODELS:
        for key in folds[0][model] if folds else ():
            values = [f[model][key] for f in folds]
            mean, half = t_interval(values)
            listed = " ".join(f"{value:.3f}" for value in values)
            yield f"{model}, {key}: {mean:.4f} +- {half:.4f} (95 %, {len(folds)} folds) [{listed}]"
        for key in ("quality_srcc", "correspondence_srcc") if left else ():
            values = [f[model][key] for f in left.values()]
            each = ", ".join(f"{name} {value:.3f}" for name, value in zip(left, values, strict=True))
            yield f"{model}, generator left out, {key}: mean {np.mean(values):.4f} ({each})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("--shard", default="0/1", help="which part of how many, for several processes")
    parser.add_argument("--summary", action="store_true", help="only read what is there")
    options = parser.parse_args()
    if not options.summary:
        work(options.run, *(int(n) for n in options.shard.split("/")))
    print("\n".join(summary(options.run)))


if __name__ == "__main__":
    main()
