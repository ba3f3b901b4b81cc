"""A logistic probe's direction."""

from __future__ import annotations

from typing import overload

import torch

from ..edits.given import finite_number, whole_number
from ..vectors.activation import ActivationVectors
from ..vectors.activation_pairs import ActivationDifferences
from ..vectors.extraction import PairDifferences
from ..vectors.kv import KVVectors
from .differences import Direction, Rows, directions


@overload
def logistic(differences: PairDifferences, penalty: float = 1.0, steps: int = 200) -> KVVectors: ...
@overload
def logistic(differences: ActivationDifferences, penalty: float = 1.0, steps: int = 200) -> ActivationVectors: ...
def logistic(
    differences: PairDifferences | ActivationDifferences, penalty: float = 1.0, steps: int = 200
) -> KVVectors | ActivationVectors:
    """The weights of a logistic probe that tells each pair's sides apart: min_w mean_i log(1 + exp(-w.d_i / s)) +
    penalty |w|^2 / 2, where s is the root mean square norm of the differences. Cost: `steps` gradient steps, O(n d)
    each.

    Args:
        differences: of each pair, of keys and values or of the residual stream.
        penalty: of the weights' square.
        steps: of gradient descent at the rate that the curvature allows.

    Returns:
        `KVVectors` or `ActivationVectors`, with the mean's norms.

    Raises:
        ValueError: no steps, or a penalty that is negative or no number.

    Example:
        >>> import kvsteer_lab as kv
        >>> pairs = kv.ContrastiveSet.from_texts(["Step 1, add. Sum?", "Step 1, add. Rest?"], ["Sum?", "Rest?"])
        >>> differences = kv.extract_pairs(kv.load("tiny"), pairs, progress=False)
        >>> bool((kv.methods.logistic(differences).values * differences.mean().values).sum() > 0)
        True
    """

    if whole_number("The number of steps", steps) < 1 or finite_number("The penalty", penalty) < 0:
        raise ValueError(f"steps={steps} must be at least 1, and penalty={penalty} at least 0.")

    def descend(rows: Rows) -> Direction:
        rows = rows / rows.pow(2).sum(-1).mean(-1).sqrt().clamp_min(1e-12)[..., None, None]
        w = torch.zeros_like(rows[..., 0, :])
        for _ in range(steps):
            wrong = torch.sigmoid(-(rows @ w[..., None])[..., 0])
            w = w - (penalty * w - (wrong[..., None] * rows).mean(-2)) / (0.25 + penalty)
        return w

    return directions(differences, descend, f"logistic probe, penalty {penalty:g}")
