"""How much attention the heads pay to the steered slot while each text of a comparison is read."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pandas as pd

from ...analysis.checks import check_edits
from ...analysis.reading.attention import attention_to_slot
from ...interventions.base import Intervention, Nothing
from ..results.attention import ArmAttention, LayerAttention
from ..results.comparison import Comparison
from ..threads import TABLES, Cancelled, CancelledError
from ..workspace import Workspace

STEPS = 8
"""Tokens of each text that are read."""


def read_attention(
    workspace: Workspace, comparison: Comparison, cancelled: Cancelled, on_found: Callable[[list[ArmAttention]], None]
) -> Iterator[None]:
    """Read each text again and measure the attention to the steered slot; yields between the texts.

    Args:
        workspace: the model and what is at hand.
        comparison: the texts.
        cancelled: stops it between two texts.
        on_found: is given one entry an arm, when all texts are read.

    Raises:
        UnsteerableModelError: the model's attention weights cannot be read.
        CancelledError: `cancelled` was set.
    """
    state, found = comparison.state, list[ArmAttention]()
    for own in comparison.arms:
        if cancelled.is_set():
            raise CancelledError
        method = acting(workspace.intervention(own.arm, state))
        with TABLES:
            table = attention_to_slot(
                workspace.model,
                [comparison.asked.prompt],
                method,
                [own.generation.token_ids],
                steps=STEPS,
                slot=state.slot,
                offset=state.offset,
                progress=False,
            )
            found.append(ArmAttention(own.arm, int(table.step.max()) + 1, _by_layer(table)))
        yield
    on_found(found)


def _by_layer(table: pd.DataFrame) -> tuple[LayerAttention, ...]:
    layers = []
    for layer, part in table.groupby("layer"):
        heads = part.groupby("head").attention.mean()
        first = part[part.step == 0].attention.mean()
        means = float(first), float(part.attention.mean()), float(part.other.mean())
        layers.append(
            LayerAttention(int(layer), *means, int(heads.idxmax()), float(heads.max()), tuple(map(float, heads)))
        )
    return tuple(layers)


def acting(method: Intervention) -> Intervention:
    """The method, or nothing where it adds nothing: here a relative strength of 0 is a setting like any other, and
    looks like the baseline.
    """
    try:
        check_edits(method)
    except ValueError:
        return Nothing()
    return method
