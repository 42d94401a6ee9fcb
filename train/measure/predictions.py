"""Predictions of several models on the same pictures, compared with intervals."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from instruct_data.prompts import UNRELATED_SCORE
from mint_iqa.metrics import bootstrap_interval, srcc
from mint_iqa.vocabulary import CORRESPONDENCE, QUALITY, Dimension
from train.data.sets import LABELS
from train.heads.readout import Integers, Readout


def predicted(readout: Readout, rows: Tensor) -> dict[str, Any]:
    """Scores of looks, a list each; `second` is correspondence with the second prompt, of which some are
    `unrelated`."""
    first, second = readout.scores(rows)
    unrelated = readout.features["second_correspondence"][rows] == torch.tensor(UNRELATED_SCORE)
    return {
        "quality": first[:, QUALITY].round(5).tolist(),
        "correspondence": first[:, CORRESPONDENCE].round(5).tolist(),
        "second": second[:, CORRESPONDENCE].round(5).tolist(),
        "unrelated": unrelated.tolist(),
    }


def right_above_wrong(scores: Mapping[str, Any]) -> float:
    """Share of the pictures with an unrelated second prompt that fit their own better, by `predicted`."""
    own, second, unrelated = (np.asarray(scores[k]) for k in ("correspondence", "second", "unrelated"))
    return float((own > second)[unrelated].mean())


class Predictions:
    """Predictions of models on the same pictures, beside the labels; of one job or of several.

    Each job has "pictures", numbers of AGIQA-3K's rows, and by model what `predicted` gives.
    """

    def __init__(self, jobs: Sequence[Mapping[str, Any]], human: Sequence[Mapping[str, str]]) -> None:
        self.pictures = numbers = np.array([n for job in jobs for n in job["pictures"]])
        self.jobs = len(jobs)
        self.job = np.repeat(np.arange(len(jobs)), [len(job["pictures"]) for job in jobs])
        self.prompts = [human[n]["prompt"] for n in numbers]
        self.labels = {k: np.array([float(human[n][label]) for n in numbers]) for k, label in LABELS.items()}
        self.scores = {
            model: {name: np.concatenate([job[model][name] for job in jobs]) for name in jobs[0][model]}
            for model in jobs[0]
            if model != "pictures"
        }

    def mean_srcc(self, model: str, name: Dimension, rows: Integers) -> float:
        """Mean over the jobs of SRCC on their pictures among `rows`; jobs without any don't count.

        nan where one has fewer than three.
        """
        parts = [part for job in range(self.jobs) if len(part := rows[self.job[rows] == job])]
        if not parts or min(map(len, parts)) < 3:
            return float("nan")
        return float(np.mean([srcc(self.scores[model][name][p], self.labels[name][p]) for p in parts]))

    def interval(self, name: Dimension, rows: Integers, model: str, baseline: str | None = None) -> str:
        """`mean_srcc` with its 95 % bootstrap interval over prompts, or by how much it is above `baseline`'s.

        Both models are compared on the same draws.
        """

        def value(drawn: Any, _: Any = None) -> float:
            chosen = rows[np.asarray(drawn, dtype=np.int64)]
            of_baseline = self.mean_srcc(baseline, name, chosen) if baseline else 0.0
            return self.mean_srcc(model, name, chosen) - of_baseline

        every = np.arange(len(rows))
        estimate = value(every)
        if np.isnan(estimate):
            return "-"
        # Numbers of pictures are drawn: a metric of two models and several jobs needs more than scores.
        groups = [self.prompts[row] for row in rows]
        low, high = bootstrap_interval(value, every, every, groups=groups, samples=500)
        return f"{estimate:.3f} [{low:.3f}, {high:.3f}]"
