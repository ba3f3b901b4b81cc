"""Steering keys by a projection of their own."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ..edits.given import finite_number, whole_number
from ..edits.operators import Map
from ..edits.spans import Span
from ..vectors.extraction import PairDifferences
from .differences import check_differences


def key_projection(
    differences: PairDifferences, gain: float, rank: int = 1, *, span: Span, layers: Sequence[int] | None = None
) -> Map:
    """Amplify the part of a span's keys that lies in the subspace where pairs differ most: k <- k + g P k (after SEKA,
    Li et al. 2026, arXiv 2603.01281). P projects on the first `rank` right singular vectors of the differences, for
    each layer and KV head; in SEKA, on singular vectors of the cross-covariance of neutral and relevant tokens' keys.
    Attention to the span changes, what is read from it doesn't. Cost: an SVD for each layer and head, then one d x d
    product a slot. Keys are taken as they are cached, after RoPE.

    Args:
        differences: of each pair, from `kv.extract_pairs`.
        gain: g; -1 takes that part out.
        rank: of P.
        span: whose keys are amplified.
        layers: as in every operator.

    Returns:
        An operator for `kv.CacheEdits`.

    Raises:
        ValueError: a rank below 1, or above the number of pairs or the head's width; a gain that is no number.

    Example:
        >>> import kvsteer_lab as kv
        >>> pairs = kv.ContrastiveSet.from_texts(["Step 1, add. Sum?", "Step 1, add. Rest?"], ["Sum?", "Rest?"])
        >>> differences = kv.extract_pairs(kv.load("tiny"), pairs, progress=False)
        >>> kv.methods.key_projection(differences, 0.5, span=kv.spans.Everything()).matrix.shape
        torch.Size([4, 2, 32, 32])
    """
    finite_number("The gain", gain)
    check_differences(differences, PairDifferences)
    rows = differences.keys.double().permute(1, 2, 0, 3)
    most = min(rows.shape[-2:])
    if not 1 <= whole_number("The rank", rank) <= most:
        raise ValueError(f"rank={rank!r} must be 1 to {most}, the lesser of the pairs' number and the head's width.")
    basis = torch.linalg.svd(rows, full_matrices=False).Vh[..., :rank, :]
    matrix = torch.eye(rows.shape[-1]) + gain * (basis.transpose(-1, -2) @ basis).float()
    return Map(matrix, part="keys", span=span, layers=layers)
