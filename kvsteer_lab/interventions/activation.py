"""Activation steering: a direction is added to the residual stream, at the prompt's last token once or at many
tokens.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from .._util.later import LATER
from ..edits.residual import ResidualDelta
from ..models.layers import decoder_layers
from ..models.model import Model
from ..models.tokens import offset_token
from ..vectors.activation import ActivationVectors
from ..vectors.indices import check_indices
from ..vectors.randomised import random_like
from .checks import check_coefficient, check_number_of_controls, check_vectors
from .steering import Steering

Scope = Literal["one-shot", "onward", "all tokens", "last position"]
"""The tokens whose residual stream gets the vectors; see `ActivationSteering`."""

_SCOPES = get_args(Scope)


@dataclass(frozen=True)
class ActivationSteering(Steering):
    """Add `coefficient` times a difference of means to the residual stream after one layer: h_l += c r_l (Turner et al.
    2023; Rimsky et al. 2024).

    The scope says which tokens get it. Published tools differ in it, so a comparison has to name it:

        one-shot        the prompt's last token, in the prefill; the slot that cache steering edits
        onward          that token and every later one, generated ones included
        all tokens      every token of the prompt and every later one, as repeng and steering-vectors do by default
        last position   the last position of each pass, where each pass computes all tokens anew: a token is steered
                        while it is the newest, and as later tokens see it, it isn't (steering-vectors with
                        min_token_index=-1 and use_cache=False: the baseline of Belitsky et al. 2025)

    The first three can run with the cache, or with everything computed anew for each token; the texts are the same, the
    cost isn't. Those packages read no offset token after the prompt; `offset=""` leaves it out.

    Args:
        vectors: what to add at coefficient 1.
        layer: after which decoder layer, counted from 0; several, each with its own vector. After the last layer
            nothing attends to it: a one-shot edit there does nothing unless the answer begins right after it, without
            an offset token.
        coefficient: means little by itself: see `vectors.relative_to`.
        every_token: `True` is scope `"onward"`, `False` is `"one-shot"`, unless `scope` is given.
        cache: whether decoding reads the cache; `"last position"` needs `False`.
        offset: the token that follows the prompt: `None`: the run's own, `""`: none, or a text or id of its own.
        name: the label, if it isn't to be made from the settings.
        scope: which tokens get the vectors.

    Raises:
        ValueError: a coefficient that is NaN or infinite, no layer, or one out of range, an unknown scope, or one that
            contradicts `every_token` or `cache`.

    Example:
        >>> import torch
        >>> import kvsteer_lab as kv
        >>> from kvsteer_lab.vectors import Card
        >>> card = Card("m", "llama", "", "torch.float32", None, None, None, 1)
        >>> vectors = kv.ActivationVectors(torch.ones(3, 4), card)
        >>> kv.ActivationSteering(vectors, layer=1, coefficient=4).label
        'activation layer=1 c=4 one-shot cache on'
        >>> kv.ActivationSteering(vectors, layer=1, coefficient=4, scope="all tokens").label
        'activation layer=1 c=4 all tokens cache on'
    """

    vectors: ActivationVectors = field(repr=False)
    layer: int | Iterable[int]
    coefficient: float
    every_token: bool = False
    cache: bool = True
    offset: str | int | None = None
    name: str | None = None
    scope: Scope | None = field(default=None, metadata=LATER)

    def __post_init__(self) -> None:
        remedy = "make them with kv.extract_activations or load them with kv.ActivationVectors.load"
        check_vectors(self.vectors, ActivationVectors, remedy)
        object.__setattr__(self, "coefficient", check_coefficient(self.coefficient))
        layers = tuple(check_indices("layer", self.layer, self.vectors.n_layers))
        if not layers:
            raise ValueError("Activation steering needs a layer; pass layer=12, say, or several.")
        object.__setattr__(self, "layer", layers if len(layers) > 1 else layers[0])
        self._resolve_scope()

    def _resolve_scope(self) -> None:
        """Two of the scopes have another name, `every_token`; a run's identity knows them by that one."""
        if self.scope is None:
            return
        if self.scope not in _SCOPES:
            raise ValueError(f"scope={self.scope!r} is unknown; choose one of: {', '.join(map(repr, _SCOPES))}.")
        if self.every_token and self.scope != "onward":
            raise ValueError(
                f"every_token=True is scope='onward', but scope={self.scope!r} is given; leave every_token out."
            )
        if self.scope == "last position" and self.cache:
            raise ValueError(
                "scope='last position' steers a token only while it is the newest, so all tokens have to be computed"
                " anew for each; pass cache=False. With a cache, the last position of each pass is scope='onward'."
            )
        if self.scope in ("one-shot", "onward"):
            object.__setattr__(self, "every_token", self.scope == "onward")
            object.__setattr__(self, "scope", None)

    @property
    def acts_on(self) -> Scope:
        """The scope by its name, however it was given."""
        return self.scope or ("onward" if self.every_token else "one-shot")

    @property
    def layers(self) -> tuple[int, ...]:
        """The layers whose output is edited."""
        return tuple(check_indices("layer", self.layer, self.vectors.n_layers))

    edited_layers = layers

    @property
    def label(self) -> str:
        if self.name:
            return self.name
        parts = [
            f"activation {self.style or ''}".strip(),
            f"layer={','.join(map(str, self.layers))}",
            f"c={self.coefficient:g}",
        ]
        parts += ["every token" if self.every_token else self.acts_on, f"cache {'on' if self.cache else 'off'}"]
        parts += [] if self.offset is None else ["no offset" if self.offset == "" else f"offset={self.offset!r}"]
        return " ".join(parts)

    @property
    def uses_cache(self) -> bool:
        return self.cache

    def check(self, model: Model) -> None:
        decoder_layers(model.hf)
        super().check(model)

    def offset_id(self, tokenizer: Any, offset: int | None) -> int | None:
        if self.offset is None:
            return offset
        return None if self.offset == "" else offset_token(tokenizer, self.offset)

    def residuals(self, model: Model, lengths: Sequence[int]) -> list[tuple[ResidualDelta, ...]]:
        added = self.coefficient * self.vectors.only(self.layers).residuals
        delta = {
            "one-shot": ResidualDelta(added),
            "onward": ResidualDelta(added, onward=True),
            "all tokens": ResidualDelta(added, slot=0, onward=True),
            "last position": ResidualDelta(added, newest=True),
        }[self.acts_on]
        return [(delta,)] * len(lengths)

    def random_control(self, seed: int) -> ActivationControl:
        return ActivationControl(
            random_like(self.vectors, seed),
            self.layers,
            self.coefficient,
            every_token=self.every_token,
            cache=self.cache,
            offset=self.offset,
            name=f"random {seed} for {self.label}",
            scope=self.scope,
            steering=self.label,
        )


@dataclass(frozen=True)
class ActivationControl(ActivationSteering):
    """Activation steering with a random direction. Made by `kv.random_activation_controls`.

    Args:
        steering: the label of what it controls.
    """

    steering: str = ""

    @property
    def control_of(self) -> str | None:
        return self.steering

    @property
    def control_kind(self) -> str | None:
        return "random"


def random_activation_controls(steering: ActivationSteering, n: int = 40, seed: int = 0) -> list[ActivationControl]:
    """The same activation steering with random directions of the same norm at each layer.

    A handful passes by luck: with R controls the smallest p-value is 1 / (R + 1), so take at least 39.

    Args:
        steering: what is controlled; all but its vectors is kept.
        n: how many.
        seed: control i is drawn with `seed + i`.

    Raises:
        ValueError: fewer than one control.

    Example:
        >>> import torch
        >>> import kvsteer_lab as kv
        >>> from kvsteer_lab.vectors import Card
        >>> card = Card("m", "llama", "", "torch.float32", None, None, None, 1)
        >>> vectors = kv.ActivationVectors(torch.ones(3, 4), card)
        >>> steering = kv.ActivationSteering(vectors, layer=1, coefficient=4, name="mine")
        >>> [control.label for control in kv.random_activation_controls(steering, n=2)]
        ['random 0 for mine', 'random 1 for mine']
    """
    check_number_of_controls(n)
    return [steering.random_control(seed + i) for i in range(n)]
