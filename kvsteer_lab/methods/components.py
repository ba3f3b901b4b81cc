"""The first principal component."""

from __future__ import annotations

from typing import overload

import torch

from ..vectors.activation import ActivationVectors
from ..vectors.activation_pairs import ActivationDifferences
from ..vectors.extraction import PairDifferences
from ..vectors.kv import KVVectors
from .differences import directions


@overload
def first_component(differences: PairDifferences) -> KVVectors: ...
@overload
def first_component(differences: ActivationDifferences) -> ActivationVectors: ...
def first_component(differences: PairDifferences | ActivationDifferences) -> KVVectors | ActivationVectors:
    """The first principal component of the differences, not centred (after Zou et al. 2023, who take PCA of
    differences): the right singular vector of D, signed as the mean. Cost: an SVD `[n, d]` for each layer and head.

    Args:
        differences: of each pair, of keys and values or of the residual stream.

    Returns:
        `KVVectors` or `ActivationVectors`, with the mean's norms.

    Example:
        >>> import kvsteer_lab as kv
        >>> pairs = kv.ContrastiveSet.from_texts(["Step 1, add. Sum?", "Step 1, add. Rest?"], ["Sum?", "Rest?"])
        >>> differences = kv.extract_pairs(kv.load("tiny"), pairs, progress=False)
        >>> bool(kv.methods.first_component(differences).values.isfinite().all())
        True
    """
    return directions(differences, lambda d: torch.linalg.svd(d, full_matrices=False).Vh[..., 0, :], "first component")
