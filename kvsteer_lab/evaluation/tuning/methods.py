"""What is searched for each method: its variants, and how a relative strength becomes a coefficient."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from ...interventions.activation import ActivationSteering, Scope
from ...interventions.base import Intervention
from ...interventions.cache import CacheSteering
from ...interventions.scaled import Scaled
from ...models.model import Model
from ...models.prompts import Prompt
from ...vectors.activation import ActivationVectors
from ...vectors.indices import check_indices
from ...vectors.kv import KVVectors

Build = Callable[[float, str], Intervention]
"""From a relative strength and a name to an intervention. A relative strength is the norm of what is added over the
norm of what it is added to.
"""


class Search(ABC):
    """One method's grid: named variants, each of which takes a relative strength. Subclass it to tune a method of your
    own.

    Attributes:
        name: the method's name in tables.
    """

    name: str

    @abstractmethod
    def variants(self, model: Model, prompts: Sequence[Prompt]) -> Mapping[str, Build]:
        """The variants by name.

        Args:
            model: the model to be steered.
            prompts: development prompts, on which norms are measured.

        Raises:
            ValueError: vectors that don't fit the model, or that are zero where they should steer.
        """

    def controls(self, chosen: Intervention, n: int, seed: int) -> Sequence[Intervention]:
        """Random controls of the chosen point.

        Raises:
            ValueError: a chosen point that isn't a steering; such a search defines its own controls.
        """
        if not isinstance(chosen, Scaled):
            raise ValueError(f"{chosen.label!r} isn't a steering, so it has no random controls; pass controls=0.")
        return chosen.controls(n, seed)


@dataclass(frozen=True)
class CacheSearch(Search):
    """Cache steering. A relative strength is c_v |S^V| / |V|, averaged over the layers that are edited. A relative
    strength of keys that were extracted as cached is largely one of rotation (`kvsteer_lab.vectors.key_norms`).

    Args:
        vectors: what is added.
        key_shares: the variants: the relative strength of the keys as a share of the values'.
        layers, heads: as in `CacheSteering`.
        name: the method's name in tables.

    Example:
        >>> import kvsteer_lab as kv
        >>> model, task = kv.load("tiny"), kv.tasks.get("tiny-arithmetic")
        >>> pairs = kv.ContrastiveSet.few_shot(task, model.tokenizer, style="stepwise", n=4, shots=1)
        >>> search = kv.CacheSearch(kv.extract(model, pairs, progress=False), key_shares=(0, 0.5))
        >>> list(search.variants(model, ["What is 2 + 3?"]))
        ['keys x0', 'keys x0.5']
    """

    vectors: KVVectors = field(repr=False)
    key_shares: Sequence[float] = (0.0, 0.05, 0.2, 1.0)
    layers: Iterable[int] | None = None
    heads: Iterable[int] | None = None
    name: str = "cache steering"

    def variants(self, model: Model, prompts: Sequence[Prompt]) -> Mapping[str, Build]:
        doses = CacheSteering(self.vectors, 0, 0, self.layers, self.heads).unit_doses(model, prompts)
        keys, values = float(doses["keys"]), float(doses["values"])
        if values == 0 or (keys == 0 and any(self.key_shares)):
            raise ValueError(
                f"The vectors of {self.name!r} are zero in the layers and heads that are searched; choose others, or"
                " key_shares=(0,)."
            )

        def build(share: float) -> Build:
            return lambda dose, name: CacheSteering(
                self.vectors, share * dose / keys if share else 0.0, dose / values, self.layers, self.heads, name=name
            )

        return {f"keys x{share:g}": build(share) for share in self.key_shares}


@dataclass(frozen=True)
class SteeringSearch(Search):
    """Any kind of steering. A relative strength is the coefficient times the steering's own `unit_dose`.

    Args:
        steerings: the variants by name; their coefficients are replaced.
        name: the method's name in tables.

    Example:
        >>> import kvsteer_lab as kv
        >>> model, task = kv.load("tiny"), kv.tasks.get("tiny-arithmetic")
        >>> pairs = kv.ContrastiveSet.few_shot(task, model.tokenizer, style="stepwise", n=4, shots=1)
        >>> vectors = kv.extract(model, pairs, progress=False)
        >>> search = SteeringSearch({f"slot {slot}": kv.CacheSteering(vectors, 0, 1, slot=slot) for slot in (-1, -2)})
        >>> chats = [task.chat(question) for question in task.questions("dev", 2)]
        >>> steering = search.variants(model, chats)["slot -2"](2.0, "twice the slot's own values")
        >>> round(steering.coefficient * steering.unit_dose(model, chats), 3)
        2.0
    """

    steerings: Mapping[str, Scaled]
    name: str = "steering"

    def variants(self, model: Model, prompts: Sequence[Prompt]) -> Mapping[str, Build]:
        def build(steering: Scaled) -> Build:
            steering.check_adds()
            unit = steering.unit_dose(model, prompts)
            if unit == 0:
                raise ValueError(f"What {steering.label!r} adds is zero where it is measured; choose other vectors.")
            return lambda dose, name: steering.at(dose / unit, name)

        return {name: build(steering) for name, steering in self.steerings.items()}


@dataclass(frozen=True)
class ActivationSearch(Search):
    """Activation steering. A relative strength is c |r_l| / |h_l| at the layer that is edited.

    Args:
        vectors: what is added.
        layers: variants; `None`: four, evenly spread over the depth.
        offsets: variants: the token after the edited one, `None` for the run's own, `""` for none.
        every_token, cache, scope: as in `ActivationSteering`.
        name: the method's name in tables.

    Example:
        >>> import kvsteer_lab as kv
        >>> model, task = kv.load("tiny"), kv.tasks.get("tiny-arithmetic")
        >>> pairs = kv.ContrastiveSet.few_shot(task, model.tokenizer, style="stepwise", n=4, shots=1)
        >>> search = kv.ActivationSearch(kv.extract_activations(model, pairs, progress=False), offsets=(None, ""))
        >>> list(search.variants(model, ["What is 2 + 3?"]))[:3]
        ['layer 0', 'layer 0, no offset', 'layer 1']
    """

    vectors: ActivationVectors = field(repr=False)
    layers: Sequence[int] | None = None
    offsets: Sequence[str | None] = (None,)
    every_token: bool = False
    cache: bool = True
    name: str = "activation steering"
    scope: Scope | None = None

    def variants(self, model: Model, prompts: Sequence[Prompt]) -> Mapping[str, Build]:
        # What is added once after the last layer is read by no later token.
        once = not self.every_token and self.scope in (None, "one-shot")
        last = max(0, self.vectors.n_layers - (2 if once else 1))
        spread = sorted({round(i * last / 3) for i in range(4)})
        layers = spread if self.layers is None else check_indices("layer", self.layers, self.vectors.n_layers)
        table = self.vectors.relative_to(model, prompts).set_index("layer")["residuals"]
        if (table.loc[layers] == 0).any():
            raise ValueError(f"The vectors of {self.name!r} are zero in one of the layers {layers}; choose others.")

        def build(layer: int, offset: str | None) -> Build:
            unit = 1 / float(table[layer])
            return lambda dose, name: ActivationSteering(
                self.vectors,
                layer,
                dose * unit,
                every_token=self.every_token,
                cache=self.cache,
                offset=offset,
                name=name,
                scope=self.scope,
            )

        def called(layer: int, offset: str | None) -> str:
            return f"layer {layer}" + (
                "" if offset is None else ", no offset" if offset == "" else f", offset {offset!r}"
            )

        return {called(layer, offset): build(layer, offset) for layer in layers for offset in self.offsets}
