"""What vectors are said to do, as a number that can be measured again in seconds: a shift of log-odds in nats."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np
from pydantic import TypeAdapter, ValidationError

from .._util.json import first_fault
from ..generation.scoring import score
from ..interventions.base import Intervention
from ..interventions.cache import CacheSteering
from ..models.model import Model
from ..stats.significance import control_p
from ..vectors.card_page import CLAIM
from ..vectors.kv import KVVectors

_SHARE, _LEAST = 0.1, 0.05


@dataclass(frozen=True)
class Claim:
    """What one cache steering does on some prompts: how far it shifts log p(target) - log p(against), in nats.

    Made by `Claim.measure`; `on` writes it into the vectors' card, where `KVVectors.push` and `kv.verify` find it.

    Attributes:
        ck, cv, layers, heads, slot: of the steering.
        prompts: what is asked.
        targets, against: beginnings of replies that show the effect, and that don't; one each a prompt.
        nats: the mean shift over prompts.
        random: the same for random vectors of the same size.
        verdict: of a replication, in words.

    Example:
        >>> import kvsteer_lab as kv
        >>> model = kv.load("tiny")
        >>> pairs = kv.behaviours.get("brief").pairs(model.tokenizer, n=2)
        >>> steering = kv.CacheSteering(kv.extract(model, pairs, progress=False), ck=0, cv=4)
        >>> claim = kv.Claim.measure(model, steering, ["What is 2 + 3?"], "Step 1", "The answer", controls=2)
        >>> kv.verify(claim.on(steering.vectors), model, controls=2).same
        True
    """

    ck: float
    cv: float
    layers: tuple[int, ...] | None
    heads: tuple[int, ...] | None
    slot: int
    prompts: tuple[str, ...] = field(repr=False)
    targets: tuple[str, ...] = field(repr=False)
    against: tuple[str, ...] = field(repr=False)
    nats: float
    random: tuple[float, ...] = ()
    verdict: str = ""

    @classmethod
    def measure(
        cls,
        model: Model,
        steering: CacheSteering,
        prompts: str | Sequence[str],
        targets: str | Sequence[str],
        against: str | Sequence[str],
        *,
        controls: int = 19,
        seed: int = 0,
        verdict: str = "",
    ) -> Claim:
        """Measure it. Take prompts that neither the vectors nor the coefficients were chosen on.

        Args:
            model: from `kv.load`.
            steering: what is claimed of its vectors.
            prompts: user messages.
            targets, against: beginnings of replies, one for all prompts or one each.
            controls: random vectors of the same size.
            seed: of these.
            verdict: of a replication, in words.

        Raises:
            ValueError: another intervention, no prompts or controls, targets that don't match the prompts in number or
                that are what they are held against, or what `kv.score` refuses.
        """
        if not isinstance(steering, CacheSteering):
            raise ValueError(
                f"A claim is made of a kv.CacheSteering, whose vectors a card goes with, not of a"
                f" {type(steering).__name__}."
            )
        asked = (prompts,) if isinstance(prompts, str) else tuple(prompts)
        wanted, other = ((side,) * len(asked) if isinstance(side, str) else tuple(side) for side in (targets, against))
        if not asked or not len(wanted) == len(other) == len(asked):
            raise ValueError("A claim needs prompts, and for each a target and what it is held against.")
        if same := next((text for text, other_text in zip(wanted, other, strict=True) if text == other_text), None):
            raise ValueError(f"The target {same!r} is held against itself, so nothing could shift; give another one.")
        if controls < 1:
            raise ValueError(f"A claim needs at least 1 random control to stand beside, not {controls}.")
        made = cls(
            steering.ck,
            steering.cv,
            None if steering.layers is None else tuple(steering.layers),
            None if steering.heads is None else tuple(steering.heads),
            steering.slot,
            asked,
            wanted,
            other,
            nats=math.nan,
            verdict=verdict,
        )
        nats = made.shifts(model, [steering, *steering.controls(controls, seed)])
        return replace(made, nats=nats[0], random=tuple(nats[1:]))

    def on(self, vectors: KVVectors) -> KVVectors:
        """The vectors with this claim on their card.

        Args:
            vectors: those that it was measured of.
        """
        recipe = {**vectors.card.recipe, CLAIM: asdict(self)}
        return replace(vectors, card=replace(vectors.card, recipe=recipe))

    @classmethod
    def of(cls, vectors: KVVectors) -> Claim:
        """The claim on the vectors' card.

        Args:
            vectors: with a card.

        Raises:
            ValueError: none there, or one that can't be read.
        """
        told = vectors.card.recipe.get(CLAIM)
        if told is None:
            raise ValueError(
                "These vectors claim nothing, so there is nothing to verify; measure it where they were made:"
                " kv.Claim.measure(...).on(vectors)."
            )
        try:
            claim = TypeAdapter(cls).validate_python(told)
        except ValidationError as error:
            raise ValueError(f"The claim on the card can't be read: {first_fault(error)}; measure it again.") from error
        if not math.isfinite(claim.nats):
            raise ValueError(f"The claim on the card is of {claim.nats} nats; measure it again.")
        return claim

    def steering(self, vectors: KVVectors) -> CacheSteering:
        """The steering that is claimed of.

        Args:
            vectors: what it adds.
        """
        return CacheSteering(vectors, self.ck, self.cv, self.layers, self.heads, self.slot, name="claimed")

    def shifts(self, model: Model, methods: Sequence[Intervention]) -> list[float]:
        """Each intervention's mean shift over the prompts, in nats.

        Args:
            model: the model.
            methods: interventions.
        """
        asked = [*self.prompts, *self.prompts]
        texts = [*self.targets, *self.against]

        def odds(method: Intervention | None) -> np.ndarray:
            totals = np.array(score(model, asked, texts, method).totals)
            return totals[: len(self.prompts)] - totals[len(self.prompts) :]

        plain = odds(None)
        return [float((odds(method) - plain).mean()) for method in methods]


@dataclass(frozen=True)
class Verification:
    """What `verify` found.

    Attributes:
        claimed, nats: the shift that the card states, and the one measured now.
        random: of random vectors, drawn now.
        p: the share of these (plus one) that shift as far in the claimed direction, which was named beforehand.
        same: whether it is the claimed one, within a tenth (0.05 nats at least).
        other_weights: what is different about the model, empty if nothing is.

    Example:
        >>> Verification(1.0, 1.05, (0.1, -0.2), 1 / 3, True, "").holds
        True
    """

    claimed: float
    nats: float
    random: tuple[float, ...]
    p: float
    same: bool
    other_weights: str = ""

    @property
    def reached(self) -> int:
        """How many random vectors shift as far in the claimed direction."""
        sign = math.copysign(1, self.claimed)
        return sum(sign * one >= sign * self.nats for one in self.random)

    @property
    def holds(self) -> bool:
        """Whether the shift is the claimed one, and farther in its direction than every random vector's."""
        return self.same and self.reached == 0

    @property
    def sentence(self) -> str:
        """All of it in words."""
        verdict = "The claim holds" if self.holds else "The claim does not hold"
        drawn = f"{self.reached} of {len(self.random)} random vectors shift as far that way (p = {self.p:.3f})"
        return f"{verdict}: {self.nats:+.3f} nats where the card says {self.claimed:+.3f}; {drawn}."


def verify(source: KVVectors | str | Path, model: Model, *, controls: int = 19, seed: int = 0) -> Verification:
    """A quick test: do these vectors do on this model what their card says?

    Args:
        source: vectors, or a file, folder or hub repository with them.
        model: from `kv.load`.
        controls: random vectors of the same size, drawn anew.
        seed: of these.

    Returns:
        The claimed shift and today's, in nats, with the random vectors'.

    Raises:
        ValueError: no claim on the card, vectors that don't fit the model, or fewer than one control.

    Example:
        >>> import torch
        >>> import kvsteer_lab as kv
        >>> from kvsteer_lab.vectors import Card
        >>> card = Card("m", "llama", "f", "torch.float32", "post_rope", 1, None, 2)
        >>> kv.verify(kv.KVVectors(torch.ones(2, 1, 4), torch.ones(2, 1, 4), card), kv.load("tiny"))
        Traceback (most recent call last):
        ValueError: These vectors claim nothing, so there is nothing to verify; measure it where they were made: ...
    """
    if controls < 1:
        raise ValueError(f"Verifying needs at least 1 random control, not {controls}.")
    vectors = source if isinstance(source, KVVectors) else KVVectors.load(source)
    claim = Claim.of(vectors)
    steering = claim.steering(vectors)
    nats, *drawn = claim.shifts(model, [steering, *steering.controls(controls, seed)])
    sign = math.copysign(1, claim.nats)
    return Verification(
        claim.nats,
        nats,
        tuple(drawn),
        control_p(sign * nats, [sign * one for one in drawn]),
        abs(nats - claim.nats) <= max(_SHARE * abs(claim.nats), _LEAST),
        vectors.card.tell_of_other_weights(model),
    )
