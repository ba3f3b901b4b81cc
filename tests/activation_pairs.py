"""Pairs of raw texts for activation vectors, and where a model's decoder layers are, found without the library."""

from __future__ import annotations

from typing import Any

import kvsteer_lab as kv

POSITIVE = ["The quick brown fox.", "Step 1: add 2 and 3 to get 5. Then rest over the lazy dog", "What is 12", "dog"]
NEGATIVE = ["lazy", "The answer is 19.", "fox jumps over the dog, and then it rests", "12 + 7"]
PAIRS = kv.ContrastiveSet.from_texts(POSITIVE, NEGATIVE)


def layers_of(hf: Any) -> Any:
    inner = hf.get_decoder()
    return next(getattr(inner, name) for name in ("layers", "h") if hasattr(inner, name))
