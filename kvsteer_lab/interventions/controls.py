"""Controls of a steering: other vectors of the same norm, the same vectors with the opposite sign, or at another slot.

A control runs beside the steering that it controls. If it does as much, the effect isn't the direction's.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import overload

import torch

from ..vectors.extraction import PairDifferences
from ..vectors.kv import KVVectors
from .cache import CacheSteering, Control, as_control
from .checks import check_number_of_controls
from .covariance import in_covariance_of, in_covariance_of_slots
from .matching import match_norms
from .scaled import Scaled
from .steering import Steering

__all__ = [
    "Control",
    "in_covariance_of",
    "in_covariance_of_slots",
    "label_shuffle_controls",
    "layer_shuffle_controls",
    "other_slot",
    "other_vectors",
    "random_controls",
    "sign_flip",
]


@overload
def random_controls(steering: CacheSteering, n: int = 40, seed: int = 0) -> list[Control]: ...
@overload
def random_controls(steering: Steering, n: int = 40, seed: int = 0) -> list[Steering]: ...
@overload
def random_controls(steering: Scaled, n: int = 40, seed: int = 0) -> list[Scaled]: ...
def random_controls(steering: Scaled, n: int = 40, seed: int = 0) -> Sequence[Scaled]:
    """The same steering with random vectors of the same norm, per layer, and for cache steering in keys and in values;
    of `kv.CacheEdits` the same program with something about each operator random (`kv.edits.randomise`).

    A handful passes by luck: with R controls the smallest p-value is 1 / (R + 1), so take at least 39.

    Args:
        steering: what is controlled; its layers, heads, slot and coefficients are kept.
        n: how many.
        seed: control i is drawn with `seed + i`.

    Raises:
        ValueError: fewer than one control, or an intervention that isn't a steering.

    Example:
        >>> import torch
        >>> import kvsteer_lab as kv
        >>> from kvsteer_lab.vectors import Card
        >>> card = Card("m", "llama", "", "torch.float32", "post_rope", None, None, 1)
        >>> vectors = kv.KVVectors(torch.rand(4, 2, 8), torch.rand(4, 2, 8), card)
        >>> steering = kv.CacheSteering(vectors, ck=0, cv=6)
        >>> [control.label for control in kv.random_controls(steering, n=2)]
        ['random 0 for steered ck=0 cv=6', 'random 1 for steered ck=0 cv=6']
    """
    check_number_of_controls(n)
    if not isinstance(steering, Scaled):
        raise ValueError(f"Controls are drawn for a steering, such as kv.CacheSteering, not {type(steering).__name__}.")
    return [steering.random_control(seed + i) for i in range(n)]


def label_shuffle_controls(
    steering: CacheSteering, differences: PairDifferences, n: int = 40, seed: int = 0
) -> list[Control]:
    """The mean over the same pairs with the sides of exactly half of them exchanged, rescaled to the norm of each
    layer's keys and values.

    What all pairs share cancels; what remains is how single pairs differ. Exchanging each pair by an independent coin
    would not serve: with unequal halves some of the true vector stays, and the rescaling brings it back to full size,
    up to its sign. It can come back here, too: pairs that differ mostly in how far they go in the shared direction
    leave that direction, with either sign. So look at the cosine with the true vectors (`control_cosines`), and at
    random controls beside these.

    Args:
        steering: what is controlled; its layers, heads, slot and coefficients are kept.
        differences: from `kv.extract_pairs`, on the pairs and the model that the steering's vectors are of. Of an odd
            number, another pair is left out each time.
        n: how many; no two exchange the same half.
        seed: which halves.

    Raises:
        ValueError: fewer than one control, differences of other vectors, fewer distinct halves than controls, or pairs
            that don't differ from each other.

    Example:
        >>> import kvsteer_lab as kv
        >>> model, task = kv.load("tiny"), kv.tasks.get("tiny-arithmetic")
        >>> pairs = kv.ContrastiveSet.few_shot(task, model.tokenizer, style="stepwise", n=6, shots=1)
        >>> differences = kv.extract_pairs(model, pairs, progress=False)
        >>> steering = kv.CacheSteering(differences.mean(), ck=0, cv=2)
        >>> kv.controls.label_shuffle_controls(steering, differences, n=2)[1].label
        'label shuffle 1 of steered stepwise ck=0 cv=2'
    """
    check_number_of_controls(n)
    own = steering.added
    pairs = len(differences)
    _check_mean(steering.vectors, differences)
    # A half and its complement give the same vector up to sign; they count as two.
    if (most := math.comb(pairs, pairs // 2) if pairs > 1 else 0) < n:
        raise ValueError(
            f"{pairs} pairs have only {most} halves to exchange, too few for {n} label shuffles; extract from more"
            " pairs."
        )
    chosen = _distinct(n, seed, lambda rng: _balanced_signs(pairs, rng))
    return [
        as_control(
            steering, "label shuffle", match_norms(_signed_mean(differences, signs), own), f"label shuffle {i} of"
        )
        for i, signs in enumerate(chosen, seed)
    ]


def layer_shuffle_controls(steering: CacheSteering, n: int = 40, seed: int = 0) -> list[Control]:
    """The steered layers' vectors in another order, keys and values alike, each rescaled to the norms of the layer
    where it lands.

    Args:
        steering: what is controlled; its layers, heads, slot and coefficients are kept.
        n: how many; no two have the same order, and none the true one.
        seed: which orders.

    Raises:
        ValueError: fewer than one control, or fewer other orders than controls.

    Example:
        >>> import torch
        >>> import kvsteer_lab as kv
        >>> from kvsteer_lab.vectors import Card
        >>> card = Card("m", "llama", "", "torch.float32", "post_rope", None, None, 1)
        >>> vectors = kv.KVVectors(torch.rand(4, 2, 8), torch.rand(4, 2, 8), card)
        >>> steering = kv.CacheSteering(vectors, ck=0, cv=6)
        >>> kv.controls.layer_shuffle_controls(steering, n=2)[0].control_kind
        'layer shuffle'
    """
    check_number_of_controls(n)
    own, layers = steering.added, steering.edited_layers
    if math.factorial(len(layers)) - 1 < n:
        raise ValueError(
            f"{len(layers)} steered layers have only {math.factorial(len(layers)) - 1} other orders, too few for {n}"
            " layer shuffles; ask for fewer."
        )
    orders = _distinct(n, seed, lambda rng: tuple(rng.sample(layers, len(layers))), without=tuple(layers))
    made = []
    for i, order in enumerate(orders, seed):
        source = torch.arange(own.n_layers)
        source[list(layers)] = torch.tensor(order)
        moved = replace(
            own,
            keys=own.keys[source],
            values=own.values[source],
            card=own.card.after(f"layers {list(layers)} from {list(order)}"),
        )
        made.append(as_control(steering, "layer shuffle", match_norms(moved, own), f"layer shuffle {i} of"))
    return made


def sign_flip(steering: CacheSteering) -> Control:
    """The same steering with its vectors of the opposite sign.

    Try it on prompts that already make the model reason, few-shot prompts for instance: there is something to undo.

    Args:
        steering: what is controlled.

    Example:
        >>> import torch
        >>> import kvsteer_lab as kv
        >>> from kvsteer_lab.vectors import Card
        >>> card = Card("m", "llama", "", "torch.float32", "post_rope", None, None, 1)
        >>> vectors = kv.KVVectors(torch.rand(4, 2, 8), torch.rand(4, 2, 8), card)
        >>> steering = kv.CacheSteering(vectors, ck=0, cv=6)
        >>> bool((kv.controls.sign_flip(steering).vectors.values == -vectors.values).all())
        True
    """
    return as_control(steering, "sign flip", -steering.vectors, "sign flip of")


def other_slot(steering: CacheSteering, slot: int) -> Control:
    """The same vectors and coefficients, added to another slot of the prompt.

    Args:
        steering: what is controlled.
        slot: where instead; negative counts from the prompt's end.

    Raises:
        ValueError: the slot that is steered anyway.

    Example:
        >>> import torch
        >>> import kvsteer_lab as kv
        >>> from kvsteer_lab.vectors import Card
        >>> card = Card("m", "llama", "", "torch.float32", "post_rope", None, None, 1)
        >>> vectors = kv.KVVectors(torch.rand(4, 2, 8), torch.rand(4, 2, 8), card)
        >>> steering = kv.CacheSteering(vectors, ck=0, cv=6)
        >>> kv.controls.other_slot(steering, -3).slot
        -3
    """
    if slot == steering.slot:
        raise ValueError(f"Slot {slot} is the one that {steering.label!r} steers; choose another.")
    return replace(as_control(steering, "other slot", steering.vectors, f"slot {slot} for"), slot=slot)


def other_vectors(steering: CacheSteering, vectors: KVVectors, name: str | None = None) -> Control:
    """Vectors of another task or style in place of the steering's, rescaled to the norm of each layer's keys and
    values.

    Args:
        steering: what is controlled; its layers, heads, slot and coefficients are kept.
        vectors: of the same model, their keys extracted the same way.
        name: what the label calls them; by default their task and style.

    Raises:
        ValueError: vectors of another shape, architecture or key mode, or with nothing in a layer that is steered.

    Example:
        >>> import torch
        >>> import kvsteer_lab as kv
        >>> from kvsteer_lab.vectors import Card
        >>> card = Card("m", "llama", "", "torch.float32", "post_rope", None, None, 1)
        >>> vectors = kv.KVVectors(torch.rand(4, 2, 8), torch.rand(4, 2, 8), card)
        >>> steering = kv.CacheSteering(vectors, ck=0, cv=6)
        >>> kv.controls.other_vectors(steering, vectors * 3.0, name="three times as large").label
        'three times as large for steered ck=0 cv=6'
    """
    ours, theirs = steering.vectors.card, vectors.card
    if (ours.model_type, ours.keys, steering.vectors.keys.shape) != (
        theirs.model_type,
        theirs.keys,
        vectors.keys.shape,
    ):
        raise ValueError(
            "The other vectors are of another architecture, shape or key mode than the steering's; extract them from"
            " the same model in the same way."
        )
    called = (
        name
        or " ".join(str(theirs.recipe[key]) for key in ("task", "style") if key in theirs.recipe)
        or "other vectors"
    )
    return as_control(
        steering,
        "other vectors",
        match_norms(vectors.only(steering.edited_layers, steering.heads), steering.added),
        f"{called} for",
    )


def _check_mean(vectors: KVVectors, differences: PairDifferences) -> None:
    """Refuse differences whose mean isn't the vectors' direction: shuffling them would control something else."""
    for name in ("keys", "values"):
        mean, own = getattr(differences, name).double().mean(0), getattr(vectors, name).double()
        here = own.norm(dim=-1) > 0  # layers or heads may have been left out of the vectors
        if mean.shape != own.shape or (
            here.any() and torch.cosine_similarity(mean[here].flatten(), own[here].flatten(), dim=0).abs() < 0.99
        ):
            raise ValueError(
                f"The steering's {name} aren't the mean of these differences; take kv.extract_pairs on the same model,"
                " pairs and key mode."
            )


def _balanced_signs(pairs: int, rng: random.Random) -> tuple[int, ...]:
    """Per pair +1, -1 (exchanged), or 0 for the one that an odd number leaves over."""
    signs = [1, -1] * (pairs // 2) + [0] * (pairs % 2)
    rng.shuffle(signs)
    return tuple(signs)


def _signed_mean(differences: PairDifferences, signs: tuple[int, ...]) -> KVVectors:
    weight = torch.tensor(signs, dtype=torch.float64) / sum(map(abs, signs))
    keys, values = (
        torch.einsum("p,plhd->lhd", weight, part.double()).float() for part in (differences.keys, differences.values)
    )
    return KVVectors(keys, values, differences.card.after("half of the labels exchanged"))


def _distinct(
    n: int, seed: int, draw: Callable[[random.Random], tuple[int, ...]], without: tuple[int, ...] | None = None
) -> list[tuple[int, ...]]:
    """`n` distinct draws, none of them `without`; the caller sees to it that there are so many."""
    rng = random.Random(seed)
    found: dict[tuple[int, ...], None] = {}
    while len(found) < n:
        if (drawn := draw(rng)) != without:
            found.setdefault(drawn)
    return list(found)
