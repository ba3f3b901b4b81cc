"""One real pair's difference."""

from __future__ import annotations

from typing import overload

import torch

from ..vectors.activation import ActivationVectors
from ..vectors.activation_pairs import ActivationDifferences
from ..vectors.extraction import PairDifferences
from ..vectors.kv import KVVectors
from .differences import check_differences, directions


@overload
def nearest_pair(differences: PairDifferences) -> KVVectors: ...
@overload
def nearest_pair(differences: ActivationDifferences) -> ActivationVectors: ...
def nearest_pair(differences: PairDifferences | ActivationDifferences) -> KVVectors | ActivationVectors:
    """The one pair's difference that lies nearest to the mean, all layers together, by cosine: a vector of a real pair
    (our own baseline). Cost: O(n d).

    Args:
        differences: of each pair, of keys and values or of the residual stream.

    Returns:
        `KVVectors` or `ActivationVectors`, with the mean's norms.

    Example:
        >>> import kvsteer_lab as kv
        >>> pairs = kv.ContrastiveSet.from_texts(["Step 1, add. Sum?", "Step 1, add. Rest?"], ["Sum?", "Rest?"])
        >>> differences = kv.extract_pairs(kv.load("tiny"), pairs, progress=False)
        >>> kv.methods.nearest_pair(differences).values.shape
        torch.Size([4, 2, 32])
    """
    check_differences(differences)
    if isinstance(differences, PairDifferences):
        every = torch.stack([differences.keys, differences.values], 1).flatten(1).double()
    else:
        every = differences.residuals.flatten(1).double()
    best = int(torch.nn.functional.cosine_similarity(every, every.mean(0, keepdim=True)).argmax())
    return directions(differences, lambda d: d[..., best, :], f"pair {best}, the nearest to the mean")
