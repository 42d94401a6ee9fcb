"""Authenticity and faults, read off a tower that was tuned for quality: the end of tuning.

Tuning sees few faulted pictures, and its shortcut knows quality and little else, while the tower's statistics
still show what is wrong. Separate hidden units read it there, and change no other score.
"""

import copy

import torch
from torch import Tensor, nn
from tqdm import tqdm

from mint_iqa.model.heads import ScoreHead, Shortcut
from mint_iqa.model.modeling import MintIQAModel
from mint_iqa.vocabulary import AUTHENTICITY
from train.engine.parameters import fault_head_of, shortcut_of
from train.engine.recipes import OwnUnitsFit
from train.heads.losses import severity_loss
from train.heads.readout import Readout


def fit_own_units(readout: Readout, rows: Tensor, settings: OwnUnitsFit) -> None:
    """Fit both heads on the looks `rows`, faulted ones and all.

    A malformed picture of AGIQA-3K is compared with its own original.
    """
    f, model = readout.features, readout.model
    shortcut, fault_head = shortcut_of(model), fault_head_of(model)
    parts = tqdm(rows.split(64), desc="Settling", disable=None, mininterval=20)
    with torch.no_grad():
        statistics = torch.cat([readout.picture(part)[0] for part in parts])
        vectors = shortcut(f["first_queries"][rows].unsqueeze(1), statistics)
    torch.manual_seed(settings.seed)
    own = OwnUnits(model)
    heads = nn.ModuleList([model.heads["authenticity"], fault_head]).requires_grad_(True)
    learning = [*own.layers.parameters(), *heads.parameters()]
    optimizer = torch.optim.AdamW(learning, lr=settings.learning_rate, weight_decay=0.1)
    steps = settings.epochs * -(-len(rows) // settings.batch_size)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, settings.learning_rate, total_steps=steps)
    original = originals(f["source"][rows], f["human"][rows])
    wanted, faults = f["targets"][rows, AUTHENTICITY], f["faults"][rows]

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
        _linear(fault_head.layers)[-1].bias[malformation] -= settings.caution
    model.requires_grad_(False)


class OwnUnits(nn.Module):
    """Hidden units added to a model's shortcut, which only the authenticity and fault heads read.

    What they add to quality vectors is orthogonal to the directions in which the other scores, which are
    linear, read those.
    """

    def __init__(self, model: MintIQAModel) -> None:
        super().__init__()
        shortcut = shortcut_of(model)
        self.center, self.scale = shortcut.center, shortcut.scale
        self.layers = copy.deepcopy(shortcut.layers).requires_grad_(True)
        others = [head for name, head in model.heads.items() if name != "authenticity"]
        with torch.no_grad():
            read = [_direction(head) for head in others]
            basis = torch.linalg.qr(torch.stack(read, dim=1)).Q  # [Dq, others]
            self.unread = torch.eye(len(basis)) - basis @ basis.T

    def forward(self, statistics: Tensor) -> Tensor:
        """statistics float[B, S] -> what is added to each quality vector, float[B, Dq]."""
        return self.layers((statistics - self.center) / self.scale) @ self.unread

    @torch.no_grad()
    def join(self, model: MintIQAModel) -> None:
        """Make them hidden units of the model's shortcut."""
        before = shortcut_of(model)
        (first, last), (old_first, old_last) = _linear(self.layers), _linear(before.layers)
        last.weight.copy_(self.unread @ last.weight)
        last.bias.copy_(last.bias @ self.unread)
        hidden = old_first.out_features + first.out_features
        wider = Shortcut(len(before.center), len(self.unread), hidden)
        new_first, new_last = _linear(wider.layers)
        new_first.weight.copy_(torch.cat([old_first.weight, first.weight]))
        new_first.bias.copy_(torch.cat([old_first.bias, first.bias]))
        new_last.weight.copy_(torch.cat([old_last.weight, last.weight], dim=1))
        new_last.bias.copy_(old_last.bias + last.bias)
        for name in ("center", "scale", "query_gain"):
            getattr(wider, name).copy_(getattr(before, name))
        model.shortcut, model.config.shortcut_hidden = wider, hidden


def _direction(head: nn.Module) -> Tensor:
    """The weight of the mean quality vector in a score head, which is linear: float[Dq]."""
    assert isinstance(head, ScoreHead)
    first, last = _linear(head.layers)
    return last.weight[head.index] @ first.weight


def _linear(layers: nn.Sequential) -> list[nn.Linear]:
    return [layer for layer in layers if isinstance(layer, nn.Linear)]


def originals(source: Tensor, human: Tensor) -> Tensor:
    """For each look, the number of the look at its undamaged original; its own number if there is none."""
    clean = {int(s): i for i, (s, h) in enumerate(zip(source, human, strict=True)) if h}
    return torch.tensor([clean.get(int(s), i) for i, s in enumerate(source)])
