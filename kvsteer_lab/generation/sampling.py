"""Sampling whose noise belongs to the question, not to the batch: reproducible, and shared across interventions."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
from transformers import LogitsProcessor

from ..models.prompts import Prompt, prompt_hash


def noise_key(prompt: Prompt, sample: int) -> str:
    """Which noise a sampled text sees: that of its prompt and number, whatever the intervention.

    Args:
        prompt: as it was given, before an intervention changes it.
        sample: the text's number among those of this prompt and intervention.

    >>> noise_key("2 + 2?", 0) == noise_key("2 + 2?", 1)
    False
    """
    return f"{prompt_hash(prompt)}|{sample}"


class SharedNoise(LogitsProcessor):
    """Add Gumbel noise, so that the greedy choice is a sample (the Gumbel-max trick).

    Row i's noise at step t of its text depends on its key, the seed and t only. Rows with the same key (one prompt and
    sample under several interventions) see the same noise, which pairs them.
    """

    def __init__(self, keys: Sequence[str], seed: int) -> None:
        generators = {key: torch.Generator().manual_seed(_seed(key, seed)) for key in keys}
        self.generators = [generators[key] for key in keys]  # rows that begin together and have one key share theirs
        self.drawn = 0
        self._before: dict[torch.Generator, torch.Tensor] = {}

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        self._before = {g: g.get_state() for g in self.generators}
        noise = {g: -torch.empty(scores.shape[-1]).exponential_(generator=g).log() for g in self._before}
        self.drawn += 1
        return scores.float() + torch.stack([noise[g] for g in self.generators]).to(scores.device)

    def take_back(self, drawn: int) -> None:
        """Undo the last draw if there were more than `drawn`: some devices notice a step late that texts have ended."""
        if self.drawn > drawn:
            for generator, state in self._before.items():
                generator.set_state(state)
        self.drawn = 0

    def keep_rows(self, rows: Sequence[int]) -> None:
        """Go on with these rows only."""
        self.generators = [self.generators[row] for row in rows]

    def join(self, other: SharedNoise) -> None:
        """Go on with another batch's rows below one's own."""
        self.generators += other.generators


def _seed(key: str, seed: int) -> int:
    return int.from_bytes(hashlib.sha256(f"{seed}|{key}".encode()).digest()[:7], "big")
