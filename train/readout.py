"""The heads fitted on frozen features: minutes for every fold and every generator left out.

    python -m train.readout runs/aligned --cross-validate          # 5 folds, and each generator left out
    python -m train.readout runs/aligned --test-fold 0 --output runs/stage1

Frozen features keep what the tower knows of pictures that AGIQA-3K does not have, and fit in seconds: the
shortcut, the score heads, the fault head and the prompt's gain train; the tower and the Q-Formers do
not.
"""

import argparse
import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, dropout

from mint_iqa.metrics import krcc, plcc, srcc
from mint_iqa.modeling import MintIQAModel, ScoreOutput
from train import pictures
from train.evaluate import t_interval
from train.features import FOLDS, load_features
from train.settings import Stage1
from train.stage1 import masked_l1, rank_loss

Floats = NDArray[np.float64]
LEFT_OUT_FOLDS = 2  # a minute each
FITTED = ("shortcut.", "heads.", "fault_head.", "alignment.gain")


@dataclass
class Fit:
    """How the heads are fitted; chosen on fold 4."""

    epochs: int = 12
    batch_size: int = 128
    learning_rate: float = 5e-4
    weight_decay: float = 0.1
    dropout: float = 0.5  # of the statistics
    sentence_dropout: float = 0.3  # of the picture's sentence vector
    second_weight: float = 0.3  # of the second prompt's correspondence
    rank_weight: float = 1.0
    pair_weight: float = 0.5
    fault_weight: float = 0.3
    seed: int = 0


class Readout:
    """The fitted part of a model, on cached features."""

    def __init__(self, model: MintIQAModel, features: dict[str, Tensor], settings: Fit) -> None:
        self.model, self.settings = model, settings
        self.features = {k: v.float() if v.is_floating_point() else v for k, v in features.items()}

    def judge(self, rows: Tensor, which: str, drop: float = 0.0) -> ScoreOutput:
        f = self.features
        shortcut = self.model.shortcut
        even = (f["statistics"][rows] - shortcut.center) / shortcut.scale
        statistics = dropout(even, drop) * shortcut.scale + shortcut.center
        queries = f[f"{which}_queries"][rows].unsqueeze(1)
        image = dropout(f["image"][rows], self.settings.sentence_dropout) if drop else f["image"][rows]
        return self.model.judge(queries, statistics, image, f[f"{which}_prompt"][rows])

    def loss(self, rows: Tensor) -> Tensor:
        f, s = self.features, self.settings
        first, second = self.judge(rows, "first", s.dropout), self.judge(rows, "second", s.dropout)
        targets, wrong = f["targets"][rows], f["second_correspondence"][rows]
        loss = masked_l1(first.scores, targets) + masked_l1(second.scores[:, :2], targets[:, :2])
        loss = loss + s.second_weight * masked_l1(second.scores[:, 2:], wrong.unsqueeze(1))
        gap = first.scores[:, 2] - second.scores[:, 2]
        loss = loss + s.pair_weight * (0.5 * (targets[:, 2] - wrong) - gap).clamp(min=0).nan_to_num().mean()
        human = f["human"][rows]
        for k in (0, 2):
            loss = loss + s.rank_weight * rank_loss(first.scores[human, k], targets[human, k])
        known = ~torch.isnan(f["faults"][rows])
        wanted = torch.nan_to_num(f["faults"][rows])
        for output in (first, second):
            each = binary_cross_entropy_with_logits(output.faults, wanted, reduction="none")
            loss = loss + s.fault_weight * (each * known).sum() / known.sum().clamp(min=1)
        return loss

    def fit(self, rows: Tensor) -> None:
        """Train on the given rows of the features; the standardisation is theirs too."""
        s = self.settings
        generator = torch.Generator().manual_seed(s.seed)
        torch.manual_seed(s.seed)
        statistics = self.features["statistics"][rows]
        self.model.shortcut.center.copy_(statistics.mean(dim=0))
        self.model.shortcut.scale.copy_(statistics.std(dim=0).clamp(min=1e-3))
        trained = [p for n, p in self.model.named_parameters() if n.startswith(FITTED)]
        optimizer = torch.optim.AdamW(trained, lr=s.learning_rate, weight_decay=s.weight_decay)
        steps = s.epochs * -(-len(rows) // s.batch_size)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, s.learning_rate, total_steps=steps)
        for _ in range(s.epochs):
            for batch in rows[torch.randperm(len(rows), generator=generator)].split(s.batch_size):
                optimizer.zero_grad()
                self.loss(batch).backward()
                torch.nn.utils.clip_grad_norm_(trained, 1.0)
                optimizer.step()
                schedule.step()


def reset(model: MintIQAModel, start: dict[str, Tensor]) -> None:
    model.load_state_dict(start)
    model.requires_grad_(False)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.startswith(FITTED))


@torch.inference_mode()
def figures(readout: Readout, rows: Tensor, human: list[dict[str, str]]) -> dict[str, float]:
    """On clean unseen pictures: correlations with people, and the right prompt against a wrong one."""
    f = readout.features
    clean = rows[f["human"][rows]]
    first, second = (
        readout.judge(clean, "first").scores.numpy(),
        readout.judge(clean, "second").scores.numpy(),
    )
    labels = [human[i] for i in f["source"][clean].tolist()]
    quality, alignment = ([float(r[k]) for r in labels] for k in ("mos_quality", "mos_align"))
    unrelated = (f["second_correspondence"][clean] < 0.07).numpy()
    return {
        "quality_srcc": srcc(first[:, 0], quality), "quality_plcc": plcc(first[:, 0], quality),
        "quality_krcc": krcc(first[:, 0], quality),
        "correspondence_srcc": srcc(first[:, 2], alignment),
        "correspondence_plcc": plcc(first[:, 2], alignment),
        "correspondence_krcc": krcc(first[:, 2], alignment),
        "right_above_wrong": float((first[:, 2] > second[:, 2])[unrelated].mean()),
        "authenticity_quality_srcc": srcc(first[:, 1], first[:, 0]), "pictures": len(clean),
    }  # fmt: skip


Results = dict[str, list[dict[str, float]]]


def cross_validate(readout: Readout, start: dict[str, Tensor], human: list[dict[str, str]]) -> Results:
    """By prompt over the folds; then each generator, unseen, on prompts unseen too."""
    fold = readout.features["fold"]
    generators = np.array([*(r["generator"] for r in human), ""])[readout.features["source"].numpy()]
    results: Results = {}
    for name in ["", *sorted({r["generator"] for r in human})]:
        own = torch.from_numpy(generators == name) & bool(name)
        for k in range(LEFT_OUT_FOLDS if name else FOLDS):
            reset(readout.model, start)
            readout.fit(((fold != k) & ~own).nonzero().squeeze(1))
            tested = (fold == k) & own if name else fold == k
            results.setdefault(name or "all", []).append(figures(readout, tested.nonzero().squeeze(1), human))
            shown = {key: round(value, 3) for key, value in results[name or "all"][-1].items()}
            print(name or "all", k, shown, flush=True)
    return results


def summary(results: Results) -> str:
    lines = []
    for name, runs in results.items():
        for key in runs[0]:
            mean, half = t_interval([run[key] for run in runs])
            lines.append(f"{name:12s} {key:26s} {mean:.4f} +- {half:.4f} (95 %, {len(runs)} folds)")
    left_out = [
        np.mean([run["quality_srcc"] for run in runs]) for name, runs in results.items() if name != "all"
    ]
    lines.append(f"one generator left out, mean quality SRCC of {len(left_out)}: {np.mean(left_out):.4f}")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("--cross-validate", action="store_true")
    parser.add_argument("--test-fold", type=int, default=None, help="keep this fold out of the fit")
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    model = MintIQAModel.from_pretrained(options.run / "model", dtype=torch.float32).eval()
    start = {k: v.clone() for k, v in model.state_dict().items()}
    readout = Readout(model, load_features(options.run), Fit())
    human = pictures.agiqa3k(pictures.data_root())
    if options.cross_validate:
        results = cross_validate(readout, start, human)
        (options.run / "cross_validation.json").write_text(json.dumps(results, indent=1))
        print(summary(results))
    if options.output:
        reset(model, start)
        readout.fit((readout.features["fold"] != options.test_fold).nonzero().squeeze(1))
        model.half().save_pretrained(options.output / "model", max_shard_size="90MB")
        recipe = Stage1(
            output=str(options.output), model=str(options.run), folds=FOLDS, test_fold=options.test_fold
        )
        (options.output / "recipe.json").write_text(json.dumps(asdict(recipe), indent=2))


if __name__ == "__main__":
    main()
