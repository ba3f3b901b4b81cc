"""Logits that are no numbers are an error: a model that overflows says nothing about what an intervention does."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor


def check_logits(logits: Float[Tensor, "*any vocab"]) -> Float[Tensor, "*any vocab"]:
    """The same logits, once they are seen to be numbers. Minus infinity is allowed: it is a token that is never said.

    Args:
        logits: as a model gives them.

    Returns:
        The logits themselves.

    Raises:
        ValueError: NaN or plus infinity.

    >>> import torch
    >>> check_logits(torch.tensor([0.5, -torch.inf])).shape
    torch.Size([2])
    """
    if bool((logits.isnan() | logits.isposinf()).any()):
        raise ValueError(
            "The model's logits hold NaN or infinity, so nothing can be measured of them; lower the coefficients, or"
            " load the model in float32."
        )
    return logits
