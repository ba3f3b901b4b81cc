"""Keys that don't compete with the keys that are attended to."""

from __future__ import annotations

import torch

from ..edits.banks import Bank, check_bank
from ..edits.given import whole_number
from ..vectors.kv import KVVectors


def key_orthogonal(vectors: KVVectors, focus: Bank, rank: int = 4) -> KVVectors:
    """Keys' vectors without their part in the subspace of the keys that shall be attended to as before: v^K - B B^T
    v^K, with B the first `rank` right singular vectors of these keys, for each layer and KV head. Values stay.

    After SKOP (Luo, Espinosa Zarlenga, Jamnik 2026, arXiv 2605.06342), which constrains how a vector in the residual
    stream moves queries relative to the keys of focus tokens; this is its idea on the cache, not its algorithm. Cost:
    an SVD for each layer and head.

    Args:
        vectors: of keys as they are cached, and values.
        focus: slots that matter, of neutral prompts.
        rank: of the subspace.

    Raises:
        ValueError: a rank below 1, or above the number of slots or the head's width; a bank of another model.

    Example:
        >>> import kvsteer_lab as kv
        >>> model = kv.load("tiny")
        >>> pairs = kv.ContrastiveSet.from_texts(["Step 1, add. Sum?"], ["Sum?"])
        >>> focus = kv.edits.Bank.of(model, "What is 2 + 3?")
        >>> kv.methods.key_orthogonal(kv.extract(model, pairs, progress=False), focus).keys.shape
        torch.Size([4, 2, 32])
    """
    check_bank(focus)
    keys = focus.keys.double()
    if (*keys.shape[:2], keys.shape[3]) != tuple(vectors.keys.shape):
        raise ValueError(f"The bank's keys are {tuple(keys.shape)}, the vectors' {tuple(vectors.keys.shape)}.")
    most = min(keys.shape[-2:])
    if not 1 <= whole_number("The rank", rank) <= most:
        raise ValueError(f"rank={rank!r} must be 1 to {most}, the lesser of the slots' number and the head's width.")
    basis = torch.linalg.svd(keys, full_matrices=False).Vh[..., :rank, :]
    own = vectors.keys.double()
    along = (basis.transpose(-1, -2) @ (basis @ own[..., None]))[..., 0]
    card = vectors.card.after(f"keys without {rank} directions of attended keys")
    return KVVectors((own - along).float(), vectors.values, card)
