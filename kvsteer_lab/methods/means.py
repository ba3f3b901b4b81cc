"""The mean difference."""

from __future__ import annotations

from typing import overload

from ..vectors.activation import ActivationVectors
from ..vectors.activation_pairs import ActivationDifferences
from ..vectors.extraction import PairDifferences
from ..vectors.kv import KVVectors
from .differences import check_differences


@overload
def mean_difference(differences: PairDifferences) -> KVVectors: ...
@overload
def mean_difference(differences: ActivationDifferences) -> ActivationVectors: ...
def mean_difference(differences: PairDifferences | ActivationDifferences) -> KVVectors | ActivationVectors:
    """The mean difference, the paper's (Belitsky et al. 2025; of the residual stream: Rimsky et al. 2024): v = mean_i
    d_i. Cost: n pairs read, O(n d).

    Args:
        differences: of each pair, from `kv.extract_pairs`, or of the residual stream, from
            `kvsteer_lab.vectors.extract_activation_pairs`.

    Returns:
        As `kv.extract`, or `kv.extract_activations`.

    Example:
        >>> import kvsteer_lab as kv
        >>> pairs = kv.ContrastiveSet.from_texts(["Step 1, add. Sum?", "Step 1, add. Rest?"], ["Sum?", "Rest?"])
        >>> differences = kv.extract_pairs(kv.load("tiny"), pairs, progress=False)
        >>> kv.methods.mean_difference(differences).values.shape
        torch.Size([4, 2, 32])
    """
    check_differences(differences)
    return differences.mean()
