"""How well tuning does on unseen prompts, and on generators left out, by how far the weights go.

    python -m train.cross_validate runs/aligned --shard 0/2 &
    python -m train.cross_validate runs/aligned --shard 1/2
    python -m train.cross_validate runs/aligned --summary

Every fit is a job of its own whose figures are kept: started again, only the missing ones run. Five folds by
prompt; then each generator unseen, on the prompts of fold 0, unseen too. Figures are given for several shares
of the way from fitted heads on the frozen tower (0) to the tuned end (1), see train.tuning.Tuning.share.
80 minutes on 2 cores. Settling, which changes no order of quality and correspondence, is left out.
"""

import argparse
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from train import pictures
from train.evaluate import t_interval
from train.features import FOLDS, load_features
from train.readout import figures
from train.tuning import Tuning, run

LEFT_OUT_FOLD = 0
SHARES = (0.0, 0.5, 0.75, 1.0)


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
        readout = run(folder, features, train, human, job.name, Tuning())
        found = {}
        for share in SHARES:
            readout.blend(share)
            found[str(share)] = figures(readout, test)
            print(job.name, share, {k: round(v, 3) for k, v in found[str(share)].items()}, flush=True)
        path.write_text(json.dumps(found, indent=1))


def summary(folder: Path) -> Iterator[str]:
    """Lines for people, by share: means over folds with 95 % t intervals, then each generator left out."""
    found = {path.stem: json.loads(path.read_text()) for path in (folder / "cross_validation").glob("*.json")}
    folds = [found[name] for name in sorted(found) if name.startswith("all-")]
    left = {name.rsplit("-", 1)[0]: f for name, f in sorted(found.items()) if not name.startswith("all-")}
    for share in map(str, SHARES):
        for key in folds[0][share] if folds else ():
            values = [f[share][key] for f in folds]
            mean, half = t_interval(values)
            listed = " ".join(f"{value:.3f}" for value in values)
            yield f"share {share}, {key}: {mean:.4f} +- {half:.4f} (95 %, {len(folds)} folds) [{listed}]"
        for key in ("quality_srcc", "correspondence_srcc") if left else ():
            values = [f[share][key] for f in left.values()]
            each = ", ".join(f"{name} {value:.3f}" for name, value in zip(left, values, strict=True))
            yield f"share {share}, generator left out, {key}: mean {np.mean(values):.4f} ({each})"


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
