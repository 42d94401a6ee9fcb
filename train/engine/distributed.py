"""Losses over the whole batch, for any number of processes.

Pairs to be ranked and captions to be told apart lie in different processes, and means over what is known do
not average. So every process gathers the few numbers per example that the losses need and computes the loss
of all of them; each adds the gradient of its own examples.
"""

import torch
from torch import Tensor
from torch import distributed as dist


def processes() -> int:
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def whole_batch(rows: Tensor) -> Tensor:
    """[b, ...] of each process -> [B, ...] in the batch's order; the gradient of the own rows remains."""
    if processes() == 1:
        return rows
    # Gloo gathers no booleans.
    sent = (rows.byte() if rows.dtype == torch.bool else rows).detach().contiguous()
    gathered = [torch.empty_like(sent) for _ in range(processes())]
    dist.all_gather(gathered, sent)
    gathered = [part.to(rows.dtype) for part in gathered]
    gathered[dist.get_rank()] = rows
    return torch.cat(gathered)


def own_share(loss: Tensor) -> Tensor:
    """The same value, with a gradient that the mean over all processes turns into that of the whole batch."""
    return loss if processes() == 1 else processes() * loss - (processes() - 1) * loss.detach()
