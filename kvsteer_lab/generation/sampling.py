"""Sampling whose noise belongs to the question, not to the batch: reproducible, and shared across interventions."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
from transformers import LogitsProcessor


class SharedNoise(LogitsProcessor):
    """Add Gumbel noise, so that the greedy choice is a sample (the Gumbel-max trick).

    Row i's noise at step t depends on its key, the seed and t only. Rows with the same key (one prompt and sample under
    several interventions) see the same noise, which pairs them.
    """

    def __init__(self, keys: Sequence[str], seed: int) -> None:
        self.keys = list(keys)
        self.generators = {key: torch.Generator().manual_seed(_seed(key, seed)) for key in self.keys}

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        noise = {
            key: -torch.empty(scores.shape[-1]).exponential_(generator=g).log() for key, g in self.generators.items()
        }
        return scores.float() + torch.stack([noise[key] for key in self.keys]).to(scores.device)


def _seed(key: str, seed: int) -> int:
    return int.from_bytes(hashlib.sha256(f"{seed}|{key}".encode()).digest()[:7], "big")
