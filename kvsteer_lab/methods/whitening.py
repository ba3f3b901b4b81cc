"""The linear discriminant."""

from __future__ import annotations

from typing import overload

import torch

from ..edits.given import finite_number
from ..vectors.activation import ActivationVectors
from ..vectors.activation_pairs import ActivationDifferences
from ..vectors.extraction import PairDifferences
from ..vectors.kv import KVVectors
from .differences import Direction, Rows, directions


@overload
def whitened(differences: PairDifferences, shrinkage: float = 0.1) -> KVVectors: ...
@overload
def whitened(differences: ActivationDifferences, shrinkage: float = 0.1) -> ActivationVectors: ...
def whitened(
    differences: PairDifferences | ActivationDifferences, shrinkage: float = 0.1
) -> KVVectors | ActivationVectors:
    """The linear discriminant of the differences (Fisher 1936): v = S^-1 mean_i d_i, with the covariance S of the
    differences shrunk towards a multiple of the identity. Cost: a solve of d x d for each layer and head.

    Args:
        differences: of each pair, of keys and values or of the residual stream.
        shrinkage: 0: S alone; 1: the mean difference.

    Returns:
        `KVVectors` or `ActivationVectors`, with the mean's norms.

    Raises:
        ValueError: shrinkage outside of (0, 1].

    Example:
        >>> import kvsteer_lab as kv
        >>> pairs = kv.ContrastiveSet.from_texts(["Step 1, add. Sum?", "Step 1, add. Rest?"], ["Sum?", "Rest?"])
        >>> differences = kv.extract_pairs(kv.load("tiny"), pairs, progress=False)
        >>> same = kv.methods.whitened(differences, shrinkage=1.0).values - differences.mean().values
        >>> bool(same.abs().max() < 1e-4)
        True
    """
    if not 0 < finite_number("The shrinkage", shrinkage) <= 1:
        raise ValueError(f"shrinkage={shrinkage!r} must be above 0 and at most 1.")

    def solve(rows: Rows) -> Direction:
        mean = rows.mean(-2)
        off = rows - mean[..., None, :]
        spread = off.transpose(-1, -2) @ off / rows.shape[-2]
        size = spread.diagonal(dim1=-2, dim2=-1).mean(-1).clamp_min(1e-12)[..., None, None]
        shrunk = (1 - shrinkage) * spread + shrinkage * size * torch.eye(rows.shape[-1], dtype=rows.dtype)
        return torch.linalg.solve(shrunk, mean)

    return directions(differences, solve, f"whitened, shrinkage {shrinkage:g}")
