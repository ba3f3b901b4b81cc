"""NaN and infinity are an error of the run, not a result: what checks for them, and how it is said."""

from __future__ import annotations

from jaxtyping import Bool, Float
from torch import Tensor


class NotFiniteError(ValueError):
    """Values became NaN or infinite; the message says where."""


def broken_rows(logits: Float[Tensor, "rows ... vocab"]) -> Bool[Tensor, " rows"]:
    """Which rows' logits give no distribution: NaN or +infinity among them, or nothing but -infinity.

    The largest logit alone is looked at, which costs one reduction: NaN is the largest of any values that hold it.

    Args:
        logits: with any dimensions between rows and vocabulary.

    Returns:
        A flag a row, on the logits' device.

    >>> import torch
    >>> broken_rows(torch.tensor([[0.0, 1.0], [float("nan"), 0.0]])).tolist()
    [False, True]
    """
    return ~logits.amax(-1).isfinite().reshape(logits.shape[0], -1).all(-1)


def refuse_broken(logits: Float[Tensor, "rows ... vocab"], labels: list[str]) -> None:
    """Refuse logits that give no distribution.

    Args:
        logits: with any dimensions between rows and vocabulary.
        labels: what each row is called in the error.

    Raises:
        NotFiniteError: in some row.

    >>> import torch
    >>> refuse_broken(torch.tensor([[0.0, 1.0]]), ["baseline"])
    """
    broken = broken_rows(logits)
    if bool(broken.any()):
        raise NotFiniteError(broken_message([label for label, bad in zip(labels, broken.tolist(), strict=True) if bad]))


def broken_message(labels: list[str]) -> str:
    """The error's sentence.

    Args:
        labels: of the broken rows.

    Returns:
        Cause and remedy.

    >>> broken_message(["baseline"])[:36]
    "Under 'baseline' the model's next-to"
    """
    named = sorted({label for label in labels if label})
    under = (
        f"Under {' and '.join(map(repr, named[:3]))}" + (" and others" if len(named) > 3 else "") if named else "Here"
    )
    return (
        f"{under} the model's next-token logits are NaN or infinite, so there is no text to compare; lower the"
        " coefficients, use float32 or bfloat16, or check the model's weights."
    )


def check_logits(logits: Float[Tensor, "*any vocab"]) -> Float[Tensor, "*any vocab"]:
    """The same logits, once they are seen to be numbers. Minus infinity is allowed: it is a token that is never said.

    Args:
        logits: as a model gives them.

    Returns:
        The logits themselves.

    Raises:
        NotFiniteError: NaN or plus infinity.

    >>> import torch
    >>> check_logits(torch.tensor([0.5, -torch.inf])).shape
    torch.Size([2])
    """
    if bool((logits.isnan() | logits.isposinf()).any()):
        raise NotFiniteError(
            "The model's logits hold NaN or infinity, so nothing can be measured of them; lower the coefficients, or"
            " load the model in float32."
        )
    return logits
