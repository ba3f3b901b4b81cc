"""What is made of contrastive pairs when it is asked for, some pairs at a time, so that it can be stopped."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from ...vectors.activation import ActivationVectors
from ...vectors.activation_extraction import extract_activations
from ...vectors.extraction import PairDifferences, extract_pairs, make_card
from ...vectors.pairs import ContrastiveSet
from ..state import ExplorerState
from ..threads import Cancelled, CancelledError
from ..workspace import Workspace

_AT_ONCE = 8


def extract_differences(workspace: Workspace, name: str, cancelled: Cancelled) -> Iterator[int]:
    """Extract the differences of one set's pairs; they are kept in the workspace. Yields how many are done.

    Raises:
        CancelledError: `cancelled` was set.
    """
    pairs = workspace.pairs[name]
    mode = workspace.vectors[name].card.keys if name in workspace.vectors else None
    parts: list[PairDifferences] = []
    for part in _parts(pairs, cancelled):
        parts.append(extract_pairs(workspace.model, part, keys=mode or "post_rope", progress=False))
        yield sum(map(len, parts))
    keys, values = (torch.cat([getattr(part, side) for part in parts]) for side in ("keys", "values"))
    workspace.differences[name] = PairDifferences(keys, values, make_card(workspace.model, pairs, mode or "post_rope"))


def extract_missing_residuals(workspace: Workspace, state: ExplorerState, cancelled: Cancelled) -> Iterator[None]:
    """Extract vectors of the residual stream for the state's sets that have pairs but no such vectors; they are kept in
    the workspace.

    Raises:
        CancelledError: `cancelled` was set.
    """
    for name in [
        name
        for name, weight in state.mix.items()
        if weight and name in workspace.pairs and name not in workspace.activations
    ]:
        pairs, total = workspace.pairs[name], torch.tensor(0.0, dtype=torch.float64)
        for part in _parts(pairs, cancelled):
            total = total + len(part) * extract_activations(workspace.model, part, progress=False).residuals.double()
            yield
        workspace.activations[name] = ActivationVectors(
            (total / len(pairs)).float(), make_card(workspace.model, pairs, None)
        )
        workspace.extracted.add(name)


def _parts(pairs: ContrastiveSet, cancelled: Cancelled) -> Iterator[ContrastiveSet]:
    for start in range(0, len(pairs), _AT_ONCE):
        if cancelled.is_set():
            raise CancelledError
        yield pairs[start : start + _AT_ONCE]
