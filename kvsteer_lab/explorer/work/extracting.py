"""What is made of contrastive pairs when it is asked for, some pairs at a time, so that it can be stopped."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import torch

from ...vectors.activation import ActivationVectors, extract_activations
from ...vectors.extraction import PairDifferences, extract_pairs, make_card
from ...vectors.pairs import ContrastiveSet
from ..state import ExplorerState
from ..workspace import Bench
from .running import CancelledError

_AT_ONCE = 8


def extract_differences(bench: Bench, name: str, cancelled: threading.Event) -> Iterator[int]:
    """Extract the differences of one set's pairs; they are kept in the bench. Yields how many are done.

    Raises:
        CancelledError: `cancelled` was set.
    """
    pairs = bench.pairs[name]
    mode = bench.vectors[name].card.keys if name in bench.vectors else None
    parts: list[PairDifferences] = []
    for part in _parts(pairs, cancelled):
        parts.append(extract_pairs(bench.model, part, keys=mode or "post_rope", progress=False))
        yield sum(map(len, parts))
    keys, values = (torch.cat([getattr(part, side) for part in parts]) for side in ("keys", "values"))
    bench.differences[name] = PairDifferences(keys, values, make_card(bench.model, pairs, mode or "post_rope"))


def extract_missing_residuals(bench: Bench, state: ExplorerState, cancelled: threading.Event) -> Iterator[None]:
    """Extract vectors of the residual stream for the state's sets that have pairs but no such vectors; they are kept in
    the bench.

    Raises:
        CancelledError: `cancelled` was set.
    """
    for name in [
        name for name, weight in state.mix.items() if weight and name in bench.pairs and name not in bench.activations
    ]:
        pairs, total = bench.pairs[name], torch.tensor(0.0, dtype=torch.float64)
        for part in _parts(pairs, cancelled):
            total = total + len(part) * extract_activations(bench.model, part, progress=False).residuals.double()
            yield
        bench.activations[name] = ActivationVectors((total / len(pairs)).float(), make_card(bench.model, pairs, None))
        bench.extracted.add(name)


def _parts(pairs: ContrastiveSet, cancelled: threading.Event) -> Iterator[ContrastiveSet]:
    for start in range(0, len(pairs), _AT_ONCE):
        if cancelled.is_set():
            raise CancelledError
        yield pairs[start : start + _AT_ONCE]
