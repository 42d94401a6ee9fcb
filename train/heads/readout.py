"""The heads on cached features: the shortcut, the score heads, the fault head and the prompt's gain.

Frozen features keep what the tower knows about pictures unlike AGIQA-3K's, and the heads fit in a minute.
train.tune fits them with the tower instead, and is what ships.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import dropout

from instruct_data.prompts import UNRELATED_SCORE, content_words
from mint_iqa.model.modeling import MintIQAModel, ScoreOutput
from mint_iqa.vocabulary import CORRESPONDENCE, QUALITY
from train.data.sets import RATED_COLUMNS
from train.engine.parameters import alignment_of, faults_in, shortcut_of
from train.engine.recipes import FrozenFit, HeadLoss
from train.heads.losses import PROMPT_FREE, masked_l1, rank_loss, severity_loss

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
FITTED = ("shortcut.", "heads.", "fault_head.", "alignment.gain")


class Readout:
    """The fitted part of a model, on cached features (see train.data.features)."""

    def __init__(
        self,
        model: MintIQAModel,
        features: dict[str, Tensor],
        human: list[dict[str, str]],
        settings: HeadLoss,
    ) -> None:
        """human: AGIQA-3K's rows, whose numbers are the features' `source`."""
        self.model, self.features, self.human = model, features, human
        self.settings = settings
        self.targets = features["targets"]
        words = [content_words(row["prompt"]) for row in human]
        self.words = [words[i] if i >= 0 else None for i in features["source"].tolist()]

    def picture(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """statistics float[B, S] and the unit vectors float[B, Dt] of the pictures in the sentence space."""
        return self.features["statistics"][rows], self.features["image"][rows]

    def outputs(
        self,
        picture: tuple[Tensor, Tensor],
        rows: Tensor,
        which: str,
        drop: bool = False,
        prompts: Tensor | None = None,
    ) -> ScoreOutput:
        """Scores of looks with their `which` prompt ("first", "second"), or that of the looks `prompts`."""
        statistics, image = picture
        if drop:
            shortcut = shortcut_of(self.model)
            even = (statistics - shortcut.center) / shortcut.scale
            statistics = dropout(even, self.settings.dropout) * shortcut.scale + shortcut.center
            image = dropout(image, self.settings.sentence_dropout)
        queries = self.features[f"{which}_queries"][rows].unsqueeze(1)
        prompt = self.features[f"{which}_prompt"][rows if prompts is None else prompts]
        return self.model.apply_heads(queries, statistics, image, prompt)

    def loss(self, rows: Tensor) -> Tensor:
        f, s = self.features, self.settings
        picture = self.picture(rows)
        first, second = (self.outputs(picture, rows, which, drop=True) for which in ("first", "second"))
        targets, wrong = self.targets[rows], f["second_correspondence"][rows]
        loss = masked_l1(first.scores, targets)
        loss = loss + masked_l1(second.scores[:, PROMPT_FREE], targets[:, PROMPT_FREE])
        loss = loss + self._wrong_prompt_loss(first, second.scores[:, CORRESPONDENCE], targets, wrong)
        # The next picture's prompt too, if it asks for nothing that this one's does.
        other = self._unrelated(rows, rows.roll(1))
        third = self.outputs(picture, rows, "first", drop=True, prompts=rows.roll(1))
        loss = loss + self._wrong_prompt_loss(first, third.scores[:, CORRESPONDENCE], targets, other)
        human = f["human"][rows]
        for k in RATED_COLUMNS:
            loss = loss + s.rank_weight * rank_loss(first.scores[human, k], targets[human, k])
        for output in (first, second):
            loss = loss + s.fault_weight * severity_loss(faults_in(output), f["faults"][rows])
        return loss

    def _wrong_prompt_loss(
        self, right: ScoreOutput, scores: Tensor, targets: Tensor, wrong: Tensor
    ) -> Tensor:
        """Correspondence with a wrong prompt: far from `wrong` (NaN: unknown), too near the right one's."""
        gap = right.scores[:, CORRESPONDENCE] - scores
        close = (0.5 * (targets[:, CORRESPONDENCE] - wrong) - gap).clamp(min=0).nan_to_num().mean()
        level = masked_l1(scores.unsqueeze(1), wrong.unsqueeze(1))
        return self.settings.second_weight * level + self.settings.pair_weight * close

    def _unrelated(self, rows: Tensor, others: Tensor) -> Tensor:
        """Correspondence of looks with the prompts of `others`: known where those are unrelated, else NaN."""
        pairs = [(self.words[i], self.words[j]) for i, j in zip(rows.tolist(), others.tolist(), strict=True)]
        apart = [a is not None and b is not None and not a & b for a, b in pairs]
        return torch.where(torch.tensor(apart), UNRELATED_SCORE, torch.nan)

    def fit(self, rows: Tensor, settings: FrozenFit) -> None:
        """Train fresh heads, with their standardization, on the given looks."""
        model, shortcut = self.model, shortcut_of(self.model)
        generator = torch.Generator().manual_seed(settings.seed)
        torch.manual_seed(settings.seed)
        trained = refresh(model)
        statistics = self.features["statistics"][rows]
        shortcut.center.copy_(statistics.mean(dim=0))
        shortcut.scale.copy_(statistics.std(dim=0).clamp(min=1e-3))
        self.targets = smoothed(self.features, rows, self.settings.quality_share)
        optimizer = torch.optim.AdamW(trained, lr=settings.learning_rate, weight_decay=settings.weight_decay)
        steps = settings.epochs * -(-len(rows) // settings.batch_size)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, settings.learning_rate, total_steps=steps)
        for _ in range(settings.epochs):
            for batch in rows[torch.randperm(len(rows), generator=generator)].split(settings.batch_size):
                optimizer.zero_grad()
                self.loss(batch).backward()
                torch.nn.utils.clip_grad_norm_(trained, 1.0)
                optimizer.step()
                schedule.step()

    @torch.inference_mode()
    def scores(self, rows: Tensor) -> tuple[Floats, Floats]:
        """float[N, K] with the first prompts and with the second."""
        found: list[list[Tensor]] = [[], []]
        for part in rows.split(64):
            picture = self.picture(part)
            for kept, which in zip(found, ("first", "second"), strict=True):
                kept.append(self.outputs(picture, part, which).scores)
        first, second = (torch.cat(parts).double().numpy() for parts in found)
        return first, second


def refresh(model: MintIQAModel) -> list[Tensor]:
    """Fresh heads, the only trained part; their parameters. Resets what train.match learned."""
    model.renew_heads()
    alignment = alignment_of(model)
    if alignment.prompt_map is not None:
        torch.nn.init.zeros_(alignment.prompt_map.weight)
        torch.nn.init.zeros_(alignment.slope)
    torch.nn.init.constant_(shortcut_of(model).query_gain, 0.1)
    torch.nn.init.constant_(alignment.gain, 0.5)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.startswith(FITTED))
    return [p for p in model.parameters() if p.requires_grad]


def smoothed(features: dict[str, Tensor], rows: Tensor, share: float) -> Tensor:
    """Targets float[N, K] with `share` of human correspondence replaced by what quality predicts of it.

    The prediction is a line fitted on the human-rated looks among `rows`; other looks stay as they are.
    """
    targets = features["targets"].clone()
    rated = rows[features["human"][rows]]
    quality, correspondence = targets[rated, QUALITY], targets[rated, CORRESPONDENCE]
    slope = ((quality - quality.mean()) * correspondence).mean() / quality.var(correction=0)
    predicted = correspondence.mean() + slope * (quality - quality.mean())
    targets[rated, CORRESPONDENCE] = (1 - share) * correspondence + share * predicted
    return targets
