"""Random controls that vary as the model's own slots do: drawn from a covariance, not from all directions alike.

A direction drawn from all alike lies mostly where nothing that the model caches ever lies. So it may do less than a
vector of the same norm that lies among the model's own slots, whatever its direction there.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from .._util.batching import in_batches
from ..models.model import Model
from ..models.prefill import last_slots
from ..models.prompts import Prompt, as_list
from ..models.tokens import pad_left
from ..vectors.extraction import PairDifferences
from ..vectors.kv import KVVectors
from .cache import CacheSteering, Control, as_control
from .checks import check_number_of_controls
from .matching import match_norms

Samples = Float[Tensor, "samples layers kv_heads head_dim"]


def in_covariance_of(
    steering: CacheSteering, differences: PairDifferences, n: int = 40, seed: int = 0
) -> list[Control]:
    """The same steering with random vectors drawn from the covariance of single pairs' differences, rescaled to the
    norm of each layer's keys and values.

    Each is a Gaussian combination of the differences less their mean, one combination for all layers, so that layers
    vary together as they do in the pairs.

    Args:
        steering: what is controlled; its layers, heads, slot and coefficients are kept.
        differences: from `kv.extract_pairs`.
        n: how many.
        seed: control i is drawn with `seed + i`.

    Raises:
        ValueError: fewer than one control, fewer than three differences, of another shape or key mode than the
            steering's vectors, or without variance.

    Example:
        >>> import kvsteer_lab as kv
        >>> model, task = kv.load("tiny"), kv.tasks.get("tiny-arithmetic")
        >>> pairs = kv.ContrastiveSet.few_shot(task, model.tokenizer, style="stepwise", n=6, shots=1)
        >>> differences = kv.extract_pairs(model, pairs, progress=False)
        >>> steering = kv.CacheSteering(differences.mean(), ck=0, cv=2)
        >>> kv.controls.in_covariance_of(steering, differences, n=2)[1].label
        'in covariance of differences 1 for steered stepwise ck=0 cv=2'
    """
    if differences.card.keys != steering.vectors.card.keys:
        raise ValueError(
            f"The differences' keys are {differences.card.keys}, the steering's {steering.vectors.card.keys}; extract"
            " both with the same keys=..."
        )
    return _drawn(steering, differences.keys, differences.values, n, seed, "differences")


def in_covariance_of_slots(
    steering: CacheSteering,
    model: Model,
    prompts: Prompt | list[Prompt],
    n: int = 40,
    seed: int = 0,
    *,
    batch_size: int = 16,
) -> list[Control]:
    """The same steering with random vectors drawn from the covariance of what prompts have in their last cached slot,
    rescaled to the norm of each layer's keys and values.

    Args:
        steering: what is controlled; its layers, heads, slot and coefficients are kept.
        model: the model to be steered.
        prompts: three or more, the development questions' chats say.
        n: how many.
        seed: control i is drawn with `seed + i`.
        batch_size: prompts read together; halved where memory runs out.

    Raises:
        ValueError: as `in_covariance_of`, or vectors of another model.

    Example:
        >>> import kvsteer_lab as kv
        >>> model, task = kv.load("tiny"), kv.tasks.get("tiny-arithmetic")
        >>> pairs = kv.ContrastiveSet.few_shot(task, model.tokenizer, style="stepwise", n=4, shots=1)
        >>> steering = kv.CacheSteering(kv.extract(model, pairs, progress=False), ck=0, cv=2)
        >>> chats = [task.chat(question) for question in task.questions("dev", 8)]
        >>> kv.controls.in_covariance_of_slots(steering, model, chats, n=1)[0].control_kind
        'in covariance of slots'
    """
    steering.vectors.check_fits(model)
    rows = [model.encode(prompt) for prompt in as_list(prompts)]
    rotary = model.rotary if steering.vectors.card.keys == "position_free" else None

    def read(batch: list[list[int]]) -> tuple[Tensor, Tensor]:
        ids, mask = pad_left(batch, model.pad_id, model.device)
        keys, values = last_slots(model, ids, mask)
        return (keys if rotary is None else rotary.unrotate(keys, mask.sum(-1).cpu() - 1)), values

    found = [part for _, part in in_batches(rows, batch_size, lambda batch: read(list(batch)))]
    keys, values = (torch.cat(side) for side in zip(*found, strict=True))
    return _drawn(steering, keys, values, n, seed, "slots")


def _drawn(steering: CacheSteering, keys: Samples, values: Samples, n: int, seed: int, of: str) -> list[Control]:
    check_number_of_controls(n)
    own = steering.added
    if keys.shape[1:] != own.keys.shape:
        raise ValueError(
            f"The {of} have the shape {tuple(keys.shape[1:])}, the steering's vectors {tuple(own.keys.shape)}; take"
            " both from the same model."
        )
    if len(keys) < 3:
        raise ValueError(f"A covariance of {len(keys)} {of} has next to no directions; take three or more.")
    spread = [part.double() - part.double().mean(0) for part in (keys, values)]
    made = []
    for i in range(seed, seed + n):
        weight = torch.randn(len(keys), generator=torch.Generator().manual_seed(i), dtype=torch.float64)
        drawn = [torch.einsum("p,plhd->lhd", weight, part).float() for part in spread]
        vectors = KVVectors(
            drawn[0], drawn[1], own.card.after(f"drawn from the covariance of {len(keys)} {of}, seed {i}")
        )
        kind = f"in covariance of {of}"
        made.append(as_control(steering, kind, match_norms(vectors, own), f"{kind} {i} for"))
    return made
