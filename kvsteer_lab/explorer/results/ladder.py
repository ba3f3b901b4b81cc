"""What the model says as the strength goes up: one prompt under the same steering at several value coefficients."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from ..._util.html import TextTable
from ...generation.outputs import Generation
from ..state import ExplorerState


@dataclass(frozen=True)
class Rung:
    """One strength.

    Attributes:
        cv: the coefficient of the values.
        generation: the text.
        verdict: as in `Compared`.
        nats: KL(steered || baseline) along the text, summed over its tokens.
    """

    cv: float
    generation: Generation
    verdict: Mapping[str, Any]
    nats: float


@dataclass(frozen=True)
class Ladder:
    """The rungs of one state, in the order of its `ladder`."""

    state: ExplorerState
    rungs: tuple[Rung, ...]

    def to_frame(self) -> pd.DataFrame:
        """One row a strength: `cv`, `text`, the verdict, and `kl_total` in nats."""
        rows = [{"cv": r.cv, "text": r.generation.answer, **r.verdict, "kl_total": r.nats} for r in self.rungs]
        return TextTable(rows)
