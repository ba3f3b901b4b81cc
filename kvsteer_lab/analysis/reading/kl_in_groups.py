"""KL divergences within groups of distributions: of each from the first of its group, or of the first from each."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


def kl_to_first(logits: Float[Tensor, "groups members vocab"]) -> Float[Tensor, "groups members"]:
    """KL(member || first) in nats from logits, as `kvsteer_lab.generation.divergence.kl` has it; the first one's
    distribution is computed once a group.

    Args:
        logits: of groups of equal size.

    >>> kl_to_first(torch.zeros(1, 2, 3)).tolist()
    [[0.0, 0.0]]
    """
    log_p = _log_softmax(logits)
    return _summed(log_p.exp(), log_p, log_p[:, :1])


def kl_of_first(logits: Float[Tensor, "groups members vocab"]) -> Float[Tensor, "groups others"]:
    """KL(first || other) in nats from logits, of each group's other members.

    Args:
        logits: of groups of equal size.

    >>> kl_of_first(torch.zeros(1, 2, 3)).tolist()
    [[0.0]]
    """
    log_p = _log_softmax(logits)
    return _summed(log_p[:, :1].exp(), log_p[:, :1], log_p[:, 1:])


def _log_softmax(logits: Tensor) -> Tensor:
    return logits.to(torch.float32 if logits.device.type == "mps" else torch.float64).log_softmax(-1)


def _summed(p: Tensor, log_p: Tensor, log_q: Tensor) -> Tensor:
    """Tokens that p excludes count nothing."""
    return torch.nan_to_num(p * (log_p - log_q), nan=0.0, posinf=float("inf")).sum(-1).clamp(min=0).float()
