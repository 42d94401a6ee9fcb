"""Losses of scores and faults whose targets are known in part. Columns are those of `DIMENSIONS`."""

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from mint_iqa.vocabulary import CORRESPONDENCE, DIMENSIONS

# Scores that a wrong prompt must not move.
PROMPT_FREE = [k for k in range(len(DIMENSIONS)) if k != CORRESPONDENCE]


def masked_l1(predictions: Tensor, targets: Tensor) -> Tensor:
    """Mean absolute error where the target is known, per column, summed over them (MINT-IQA section 3.2)."""
    known = ~torch.isnan(targets)
    errors = (predictions - torch.nan_to_num(targets)).abs() * known
    return (errors.sum(dim=0) / known.sum(dim=0).clamp(min=1)).sum()


def severity_loss(logits: Tensor, severities: Tensor) -> Tensor:
    """Mean cross-entropy with severities 0..1 as soft labels; unknown ones (NaN) are left out."""
    known = ~torch.isnan(severities)
    each = binary_cross_entropy_with_logits(logits, torch.nan_to_num(severities), reduction="none")
    return (each * known).sum() / known.sum().clamp(min=1)


def rank_loss(predictions: Tensor, targets: Tensor) -> Tensor:
    """Hinge over all pairs of a column whose targets differ; the margin is the difference of the targets."""
    difference = targets.unsqueeze(0) - targets.unsqueeze(1)
    predicted = predictions.unsqueeze(0) - predictions.unsqueeze(1)
    known = difference > 0.02
    hinge = (difference.clamp(max=0.2) - predicted).clamp(min=0)
    return (hinge.nan_to_num() * known).sum() / known.sum().clamp(min=1)
