"""Authenticity and faults, read off a tower that was tuned for quality: the end of stage 1.

Tuning sees few faulted pictures, and the shortcut that it leaves tells quality and little else, while the
tower's statistics still hold what is wrong. Hidden units of their own read it there, and move no other score.
"""

import copy
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from tqdm import tqdm

from mint_iqa.model.heads import Shortcut
from mint_iqa.model.modeling import MintIQAModel
from train.heads.losses import severity_loss
from train.heads.readout import Readout


@dataclass(frozen=True)
class Settling:
    """How the heads for authenticity and faults are fitted to the tuned tower; chosen on fold 0."""

    epochs: int = 20
    batch_size: int = 256
    learning_rate: float = 5e-4
    # Higher separates more malformed pictures from sound ones, and takes authenticity further from quality.
    pair_weight: float = 0.3
    # Taken off the logit of malformation: clean pictures that it has learned from look sound, others less so.
    # Of those in fold 0 with a MOS of 3.5 or more, .09 are then called malformed, and .23 without it.
    caution: float = 0.9
    seed: int = 0


def settle(readout: Readout, rows: Tensor, settings: Settling) -> None:
    """Fit both heads on the looks `rows`, faulted ones and all.

    A malformed picture of AGIQA-3K is held against its own original.
    """
    f, model = readout.features, readout.model
    parts = tqdm(rows.split(64), desc="Settling", disable=None, mininterval=20)
    with torch.no_grad():
        statistics = torch.cat([readout.picture(part)[0] for part in parts])
        vectors = model.shortcut(f["first_queries"][rows].unsqueeze(1), statistics)
    torch.manual_seed(settings.seed)
    own = OwnUnits(model)
    heads = nn.ModuleList([model.heads["authenticity"], model.fault_head]).requires_grad_(True)
    learning = [*own.layers.parameters(), *heads.parameters()]
    optimizer = torch.optim.AdamW(learning, lr=settings.learning_rate, weight_decay=0.1)
    steps = settings.epochs * -(-len(rows) // settings.batch_size)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, settings.learning_rate, total_steps=steps)
    original = originals(f["source"][rows], f["human"][rows])
    wanted, faults = f["targets"][rows, 1], f["faults"][rows]

    def seen(part: Tensor) -> Tensor:
        return vectors[part] + own(statistics[part]).unsqueeze(1)

    for _ in range(settings.epochs):
        for part in torch.randperm(len(rows)).split(settings.batch_size):
            looked = seen(part)
            authenticity, first = heads[0](looked), heads[0](seen(original[part]))
            drop = wanted[original[part]] - wanted[part]
            loss = (authenticity - wanted[part]).abs().mean()
            loss = loss + settings.pair_weight * (drop - (first - authenticity)).clamp(min=0).mean()
            loss = loss + severity_loss(heads[1](looked), faults[part])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    own.join(model)
    malformation = list(model.config.faults).index("malformation")
    with torch.no_grad():
        model.fault_head.layers[-1].bias[malformation] -= settings.caution
    model.requires_grad_(False)


class OwnUnits(nn.Module):
    """Hidden units to join a model's shortcut, of which only authenticity and the fault head take notice.

    What they add to quality vectors is orthogonal to the directions in which the other scores, which are
    linear, read those.
    """

    def __init__(self, model: MintIQAModel) -> None:
        super().__init__()
        self.center, self.scale = model.shortcut.center, model.shortcut.scale
        self.layers = copy.deepcopy(model.shortcut.layers).requires_grad_(True)
        others = [head for name, head in model.heads.items() if name != "authenticity"]
        with torch.no_grad():
            read = [head.layers[1].weight[head.index] @ head.layers[0].weight for head in others]
            basis = torch.linalg.qr(torch.stack(read, dim=1)).Q  # [Dq, others]
            self.unread = torch.eye(len(basis)) - basis @ basis.T

    def forward(self, statistics: Tensor) -> Tensor:
        """statistics float[B, S] -> what is added to each quality vector, float[B, Dq]."""
        return self.layers((statistics - self.center) / self.scale) @ self.unread

    @torch.no_grad()
    def join(self, model: MintIQAModel) -> None:
        """Make them hidden units of the model's shortcut."""
        first, _, last = self.layers
        last.weight.copy_(self.unread @ last.weight)
        last.bias.copy_(last.bias @ self.unread)
        before = model.shortcut
        old_first, _, old_last = before.layers
        hidden = old_first.out_features + first.out_features
        wider = Shortcut(len(before.center), len(self.unread), hidden)
        new_first, _, new_last = wider.layers
        new_first.weight.copy_(torch.cat([old_first.weight, first.weight]))
        new_first.bias.copy_(torch.cat([old_first.bias, first.bias]))
        new_last.weight.copy_(torch.cat([old_last.weight, last.weight], dim=1))
        new_last.bias.copy_(old_last.bias + last.bias)
        for name in ("center", "scale", "query_gain"):
            getattr(wider, name).copy_(getattr(before, name))
        model.shortcut, model.config.shortcut_hidden = wider, hidden


def originals(source: Tensor, human: Tensor) -> Tensor:
    """For each look the number of the look at its unspoilt original; a look without one is its own."""
    clean = {int(s): i for i, (s, h) in enumerate(zip(source, human, strict=True)) if h}
    return torch.tensor([clean.get(int(s), i) for i, s in enumerate(source)])
