"""Lengths of the two sides of a contrastive set, in tokens: RoPE turns the last key of a longer prompt further."""

from __future__ import annotations

from typing import Any

import pandas as pd

from ...models.tokens import encode
from ...vectors.pairs import ContrastiveSet


def prompt_lengths(pairs: ContrastiveSet, tokenizer: Any) -> pd.DataFrame:
    """Tokens of each prompt: one row per pair, columns `positive` and `negative`.

    Args:
        pairs: the contrastive set.
        tokenizer: the model's.

    Example:
        >>> import kvsteer_lab as kv
        >>> model, task = kv.load("tiny"), kv.tasks.get("tiny-arithmetic")
        >>> pairs = kv.ContrastiveSet.few_shot(task, model.tokenizer, style="stepwise", n=4, shots=1)
        >>> lengths = kv.analysis.prompt_lengths(pairs, model.tokenizer)
        >>> bool((lengths.positive > lengths.negative).all())  # steps are longer than a bare answer
        True
    """
    return pd.DataFrame(
        {side: [len(encode(tokenizer, text)) for text in getattr(pairs, side)] for side in ("positive", "negative")}
    )
