"""How long the two sides of a contrastive set are: after RoPE, a longer prompt turns the extracted key further."""

from __future__ import annotations

from typing import Any

import pandas as pd

from ...models.prompts import encode
from ...vectors.pairs import ContrastiveSet


def prompt_lengths(pairs: ContrastiveSet, tokenizer: Any) -> pd.DataFrame:
    """Tokens of each prompt: one row per pair, columns `positive` and `negative`."""
    return pd.DataFrame(
        {side: [len(encode(tokenizer, text)) for text in getattr(pairs, side)] for side in ("positive", "negative")}
    )
