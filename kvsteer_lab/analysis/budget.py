"""How much a forward pass may hold: batches are cut by bytes, too, so that long prompts and large models fit."""

from __future__ import annotations

from collections.abc import Sequence

from ..generation.rows import Row
from ..models.model import Model

CACHE = 2**30
"""Bytes of the caches of one batch: 1 GiB. The pass itself takes about as much again."""
LOGITS = 2**26
"""Logits held at a time: 256 MB in float32."""


def rows_within(model: Model, rows: Sequence[Row], new: int = 1, most: int | None = None) -> int:
    """How many rows fit a batch, by the bytes of their caches; at least one.

    Args:
        model: whose layers, heads and dtype count.
        rows: what is read; the longest of them counts.
        new: tokens that are read after the prompt and its tail.
        most: an upper limit, the caller's `batch_size`.

    Returns:
        A number of rows.

    >>> import kvsteer_lab as kv
    >>> from kvsteer_lab.generation.rows import Row
    >>> rows_within(kv.load("tiny"), [Row((1,) * 63, (2,), ())], new=1, most=100_000)  # 2 KiB a token
    8065
    """
    longest = max(len(row.prompt_ids) + len(row.tail) for row in rows) + new
    slot = 2 * model.n_layers * model.n_kv_heads * model.head_dim * model.dtype.itemsize
    fit = max(1, CACHE // (longest * slot))
    return fit if most is None else max(1, min(most, fit))


def logits_within(vocabulary: int) -> int:
    """How many distributions over a vocabulary are held at a time; at least one.

    Args:
        vocabulary: its tokens.

    >>> logits_within(49152)
    1365
    """
    return max(1, LOGITS // vocabulary)
