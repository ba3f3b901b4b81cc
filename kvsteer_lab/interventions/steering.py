"""Steering: a method that adds fixed vectors, times a coefficient, to the cache or to the residual stream.

Scaling, relative strengths, random controls and the check that anything is added at all are the same for every such
method, and are written here once. A new kind of steering is a frozen dataclass with the fields `vectors`, `coefficient`
and `name`. It defines its label, says which layers it edits, and overrides the one hook that adds its vectors: `deltas`
for the cache, `residuals` for the residual stream.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Self

import pandas as pd

from ..edits.base import CacheEdit
from ..edits.hiding import HiddenSlot
from ..edits.residual import ResidualDelta
from ..models.model import Model
from ..models.prompts import Prompt
from ..tasks.base import Chat
from ..vectors.activation import ActivationVectors
from ..vectors.kv import KVVectors
from ..vectors.randomised import random_like
from .scaled import Scaled


class Steering(Scaled):
    """A method that adds vectors at a coefficient. Subclass it to add them in a new way.

    Attributes:
        vectors: what is added at coefficient 1, before layers and KV heads are chosen.
        coefficient: what the vectors are multiplied by; of cache steering, the coefficient of the values.
        name: the label, if it isn't made from the settings.

    Example:
        The same value vectors, added to the last two slots of the prompt. Relative strengths and controls come with the
        class.

        >>> from dataclasses import dataclass
        >>> import torch
        >>> import kvsteer_lab as kv
        >>> @dataclass(frozen=True)
        ... class TwoSlots(kv.Steering):
        ...     vectors: kv.KVVectors
        ...     coefficient: float
        ...     name: str | None = None
        ...
        ...     @property
        ...     def label(self):
        ...         return self.name or f"two slots c={self.coefficient:g}"
        ...
        ...     def deltas(self, model, lengths):
        ...         values = self.coefficient * self.added.values
        ...         return [tuple(kv.edits.CacheDelta(0 * values, values, slot) for slot in (-2, -1))] * len(lengths)
        >>> from kvsteer_lab.vectors import Card
        >>> card = Card("m", "llama", "", "torch.float32", "post_rope", None, None, 1)
        >>> vectors = kv.KVVectors(torch.ones(2, 1, 4), torch.ones(2, 1, 4), card)
        >>> steering = TwoSlots(vectors, coefficient=3.0)
        >>> [control.label for control in steering.controls(2)]
        ['random 0 for two slots c=3', 'random 1 for two slots c=3']
        >>> steering.at(0.5).label
        'two slots c=0.5'
    """

    vectors: KVVectors | ActivationVectors
    coefficient: float
    name: str | None

    @property
    @abstractmethod
    def label(self) -> str:
        """The name in tables and figures: `name`, or the settings that tell it from others."""

    @property
    def edited_layers(self) -> tuple[int, ...]:
        """The layers that are edited, in ascending order; by default layer 1 and above, as in the paper."""
        return tuple(range(1, self.vectors.n_layers))

    @property
    def added(self) -> KVVectors | ActivationVectors:
        """What is added at coefficient 1: the vectors, with zeros in all layers and KV heads that are left alone."""
        return self.vectors.only(self.edited_layers)

    @property
    def style(self) -> str | None:
        """The style that the vectors were extracted for, if their card says."""
        return self.vectors.card.recipe.get("style")

    def check(self, model: Model) -> None:
        self.vectors.check_fits(model)

    def check_adds(self) -> None:
        """Refuse a steering that adds nothing at any coefficient.

        Raises:
            ValueError: no layers to edit, or vectors that are zero in all of them.

        Example:
            >>> import torch
            >>> import kvsteer_lab as kv
            >>> from kvsteer_lab.vectors import Card
            >>> card = Card("m", "llama", "", "torch.float32", "post_rope", None, None, 1, {"style": "stepwise"})
            >>> vectors = kv.KVVectors(torch.ones(3, 2, 4), torch.ones(3, 2, 4), card)
            >>> kv.CacheSteering(vectors, ck=0, cv=1, layers=[]).check_adds()
            Traceback (most recent call last):
            ValueError: 'steered stepwise ck=0 cv=1 layers=' edits no layers, so no coefficient does anything; name ...
        """
        if not self.edited_layers:
            raise ValueError(f"{self.label!r} edits no layers, so no coefficient does anything; name at least one.")
        if self.added.is_zero:
            raise ValueError(
                f"The vectors of {self.label!r} are zero in all of its layers and heads, so no coefficient does"
                " anything; extract them anew."
            )

    def at(self, coefficient: float, name: str | None = None) -> Self:
        """The same steering at another coefficient.

        Args:
            coefficient: the new one.
            name: the new label; `None`: one made from the settings.

        Example:
            >>> import torch
            >>> import kvsteer_lab as kv
            >>> from kvsteer_lab.vectors import Card
            >>> card = Card("m", "llama", "", "torch.float32", "post_rope", None, None, 1, {"style": "stepwise"})
            >>> vectors = kv.KVVectors(torch.ones(3, 2, 4), torch.ones(3, 2, 4), card)
            >>> kv.CacheSteering(vectors, ck=0, cv=6).at(3).label
            'steered stepwise ck=0 cv=3'
        """
        return replace(self, coefficient=coefficient, name=name)  # type: ignore[type-var]

    def unit_doses(self, model: Model, prompts: Prompt | Sequence[Prompt]) -> pd.Series:
        """The relative strength at coefficient 1 of each part that is edited: the norm of what is added over the norm
        of what it is added to.

        Args:
            model: the model to be steered.
            prompts: prompts whose steered slot is measured.

        Returns:
            `keys` and `values`, or `residuals`, averaged over the edited layers and the prompts.

        Example:
            >>> import kvsteer_lab as kv
            >>> model, task = kv.load("tiny"), kv.tasks.get("tiny-arithmetic")
            >>> pairs = kv.ContrastiveSet.few_shot(task, model.tokenizer, style="stepwise", n=4, shots=1)
            >>> steering = kv.CacheSteering(kv.extract(model, pairs, progress=False), ck=0, cv=6)
            >>> list(steering.unit_doses(model, "What is 2 + 3?").index)
            ['keys', 'values']
        """
        table = self.vectors.relative_to(model, prompts).set_index("layer")
        return table.loc[list(self.edited_layers)].mean()

    def controls(self, n: int, seed: int = 0) -> Sequence[Steering]:
        return super().controls(n, seed)  # type: ignore[return-value]  # made by `random_control` below

    def random_control(self, seed: int) -> Steering:
        """One matched random control, drawn with `seed`."""
        changed = replace(self, vectors=random_like(self.added, seed))  # type: ignore[type-var]
        return RandomControl(changed, self.label, f"random {seed} for {self.label}")


@dataclass(frozen=True)
class RandomControl(Steering):
    """Any steering with random vectors in place of its own; it acts as that steering does. Made by `Steering.controls`.

    Args:
        changed: the steering, its vectors already replaced.
        steering: the label of what it controls.
        name: its own label.
    """

    changed: Steering = field(repr=False)
    steering: str
    name: str

    @property
    def vectors(self) -> KVVectors | ActivationVectors:  # type: ignore[override]
        return self.changed.vectors

    @property
    def coefficient(self) -> float:  # type: ignore[override]
        return self.changed.coefficient

    @property
    def label(self) -> str:
        return self.name

    @property
    def control_of(self) -> str | None:
        return self.steering

    @property
    def control_kind(self) -> str | None:
        return "random"

    @property
    def edited_layers(self) -> tuple[int, ...]:
        return self.changed.edited_layers

    @property
    def added(self) -> KVVectors | ActivationVectors:
        return self.changed.added

    def at(self, coefficient: float, name: str | None = None) -> Self:
        return replace(self, changed=self.changed.at(coefficient), name=self.name if name is None else name)

    def unit_doses(self, model: Model, prompts: Prompt | Sequence[Prompt]) -> pd.Series:
        return self.changed.unit_doses(model, prompts)

    def check(self, model: Model) -> None:
        self.changed.check(model)

    def chat(self, chat: Chat) -> Chat:
        return self.changed.chat(chat)

    def offset_id(self, tokenizer: Any, offset: int | None) -> int | None:
        return self.changed.offset_id(tokenizer, offset)

    @property
    def sets_tail(self) -> bool:
        return self.changed.sets_tail

    def tail(self, tokenizer: Any, offset: int | None) -> list[int]:
        return self.changed.tail(tokenizer, offset)

    def deltas(self, model: Model, lengths: Sequence[int]) -> list[tuple[CacheEdit, ...]]:
        return self.changed.deltas(model, lengths)

    def residuals(self, model: Model, lengths: Sequence[int]) -> list[tuple[ResidualDelta, ...]]:
        return self.changed.residuals(model, lengths)

    def hidden(self, model: Model, lengths: Sequence[int]) -> list[tuple[HiddenSlot, ...]]:
        return self.changed.hidden(model, lengths)

    @property
    def uses_cache(self) -> bool:
        return self.changed.uses_cache
