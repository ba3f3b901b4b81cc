"""The dose of a steering at its own slot: what is added, relative to what is there."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ...interventions.cache import CacheSteering
from ...models.model import Model
from ...models.prompts import Prompt
from ...vectors.norms import slot_norms

Norms = tuple[Tensor, Tensor]  # of a slot's own keys and values, per layer


@dataclass(frozen=True)
class Dose:
    """|c S| / |own| per steered layer, all KV heads of a layer at once; `None` where a part isn't steered."""

    layers: tuple[int, ...]
    keys: tuple[float, ...]
    values: tuple[float, ...]

    @property
    def mean_keys(self) -> float:
        """Averaged over the steered layers."""
        return sum(self.keys) / len(self.keys)

    @property
    def mean_values(self) -> float:
        """Averaged over the steered layers."""
        return sum(self.values) / len(self.values)


def find_dose(steering: CacheSteering, norms: Norms) -> Dose:
    """The dose of a steering at a slot.

    At the last slot it is the coefficient times what `KVVectors.relative_to` gives.

    Args:
        steering: what is added.
        norms: the slot's own, from `measure_slot`.

    Raises:
        ValueError: no layers.
    """
    if not steering.edited_layers:
        raise ValueError("No layers are steered, so there is no dose; name at least one.")
    own_keys, own_values = norms
    chosen, layers = steering.added, list(steering.edited_layers)
    keys = (abs(steering.ck) * chosen.keys.flatten(1).norm(dim=-1) / own_keys.clamp_min(1e-12))[layers]
    values = (abs(steering.cv) * chosen.values.flatten(1).norm(dim=-1) / own_values.clamp_min(1e-12))[layers]
    return Dose(tuple(layers), tuple(keys.tolist()), tuple(values.tolist()))


def measure_slot(model: Model, prompt: Prompt, slot: int) -> Norms:
    """Norms of a prompt's own keys and values at one slot, per layer; NaN where a sliding window has dropped it."""
    found = slot_norms(model, prompt, slot=slot)
    return found["keys"][0], found["values"][0]
