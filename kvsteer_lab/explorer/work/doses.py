"""The relative strength of a steering, measured at its own slot."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import Tensor

from ...interventions.cache import CacheSteering
from ...models.model import Model
from ...models.prompts import Prompt
from ...vectors.norms import slot_norms
from ..results.dose import Dose
from ..state import ExplorerState
from ..workspace import Workspace

Norms = tuple[Tensor, Tensor]
"""Of a slot's own keys and values, each `[layers]`."""
_REMEMBERED = 64  # slots whose norms are kept


class KnownDoses:
    """Relative strengths of states. The slot's own norms take the model and are measured once a slot; the rest is
    arithmetic.

    Args:
        workspace: the model and what is at hand.
    """

    def __init__(self, workspace: Workspace) -> None:
        self.workspace = workspace
        self._norms: dict[tuple[Any, ...], Norms] = {}

    def knows(self, state: ExplorerState) -> bool:
        """Whether the norms of the state's slot are at hand."""
        return slot_of(state) in self._norms

    def dose(self, state: ExplorerState) -> Dose | None:
        """The relative strength of a state, or `None` if its slot has not been measured.

        Raises:
            ValueError: what `Workspace.steering` refuses.
        """
        norms = self._norms.get(slot_of(state))
        return None if norms is None else find_dose(self.workspace.steering(state), norms)

    def measure(self, state: ExplorerState) -> Iterator[None]:
        """Measure the norms of the state's slot; yields when they are known.

        Raises:
            ValueError: what `Workspace.asked` refuses, or a slot out of range.
        """
        asked = self.workspace.asked(state)
        self.workspace.check_slot([asked], state.slot)
        norms = measure_slot(self.workspace.model, asked.prompt, state.slot)
        self._norms = {**dict(list(self._norms.items())[1 - _REMEMBERED :]), slot_of(state): norms}
        yield


def slot_of(state: ExplorerState) -> tuple[Any, ...]:
    """Which slot of which prompt a state steers."""
    return (*state.asks, state.slot)


def find_dose(steering: CacheSteering, norms: Norms) -> Dose:
    """The relative strength of a steering at a slot.

    At the last slot it is the coefficient times what `KVVectors.relative_to` gives.

    Args:
        steering: what is added.
        norms: the slot's own, from `measure_slot`.

    Raises:
        ValueError: no layers.
    """
    if not steering.edited_layers:
        raise ValueError("No layers are steered, so there is no relative strength; name at least one.")
    own_keys, own_values = norms
    chosen, layers = steering.added, list(steering.edited_layers)
    keys = (abs(steering.ck) * chosen.keys.flatten(1).norm(dim=-1) / own_keys.clamp_min(1e-12))[layers]
    values = (abs(steering.cv) * chosen.values.flatten(1).norm(dim=-1) / own_values.clamp_min(1e-12))[layers]
    return Dose(tuple(layers), tuple(keys.tolist()), tuple(values.tolist()))


def measure_slot(model: Model, prompt: Prompt, slot: int) -> Norms:
    """Norms of a prompt's own keys and values at one slot, per layer; NaN where a sliding window has dropped it."""
    found = slot_norms(model, prompt, slot=slot)
    return found["keys"][0], found["values"][0]
