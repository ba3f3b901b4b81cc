"""Random vectors made as large as it takes to move the model as far as a steering does."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from ..generation.divergence import divergences
from ..interventions.base import Nothing
from ..interventions.cache import Control
from ..models.model import Model
from ..models.prompts import Prompt

_WITHIN = 0.2
"""How far, as a share, the divergence that is reached may be from the one asked for."""
KIND = "random, equal KL"


def match_controls(
    model: Model,
    chats: Sequence[Prompt],
    texts: Sequence[Sequence[int]],
    nats: float,
    controls: Sequence[Control],
    *,
    rounds: int = 6,
    batch_size: int = 64,
) -> dict[str, float]:
    """The factor by which each control's coefficients must grow or shrink until KL(control || plain) is `nats`.

    The divergence of a small edit goes with its square, so each round multiplies by the root of what is missing; once
    both sides are known, the next factor lies between them, evenly in logarithms.

    Args:
        model: the model.
        chats: prompts; development questions.
        texts: the token ids along which the divergence is summed, one a prompt.
        nats: the mean over prompts that is asked for.
        controls: random vectors at the steering's own coefficients.
        rounds: how often all of them are measured.
        batch_size: as in `kv.generate`.

    Returns:
        Label -> factor; a control that is not within a fifth of `nats` in any round is left out.
    """
    tried: dict[str, list[tuple[float, float]]] = {control.label: [] for control in controls}
    for _ in range(rounds):
        open_ = [c for c in controls if not _reached(tried[c.label], nats)]
        if not open_:
            break
        now = [_next(tried[c.label], nats) for c in open_]
        scaled = [c.at(f * c.coefficient, c.label) for c, f in zip(open_, now, strict=True)]
        found = divergences(model, chats, texts, scaled, Nothing(), batch_size=batch_size)
        for control, factor, each in zip(open_, now, found, strict=True):
            tried[control.label].append((factor, max(float(np.mean(each.totals)), 1e-9)))
    reached = {label: _reached(seen, nats) for label, seen in tried.items()}
    return {label: factor for label, factor in reached.items() if factor is not None}


def scaled_controls(controls: Sequence[Control], factors: dict[str, float]) -> list[Control]:
    """The controls that were matched, at their new coefficients, as controls of another kind.

    Args:
        controls: at the steering's own coefficients.
        factors: from `match_controls`.
    """
    return [
        replace(
            control.at(factors[control.label] * control.coefficient, f"{control.label}, equal KL"),
            kind=KIND,
        )
        for control in controls
        if control.label in factors
    ]


def _reached(seen: Sequence[tuple[float, float]], nats: float) -> float | None:
    """The factor that came nearest, if it came near enough."""
    best = min(seen, key=lambda pair: abs(math.log(pair[1] / nats)), default=None)
    return best[0] if best is not None and abs(best[1] / nats - 1) <= _WITHIN else None


def _next(seen: Sequence[tuple[float, float]], nats: float) -> float:
    if not seen:
        return 1.0
    below = [pair for pair in seen if pair[1] < nats]
    above = [pair for pair in seen if pair[1] >= nats]
    if below and above:
        (f, low), (g, high) = max(below, key=lambda pair: pair[1]), min(above, key=lambda pair: pair[1])
        share = math.log(nats / low) / math.log(high / low)
        return math.exp(math.log(f) + share * math.log(g / f))
    factor, reached = seen[-1]
    return factor * min(8.0, max(1 / 8, math.sqrt(nats / reached)))
