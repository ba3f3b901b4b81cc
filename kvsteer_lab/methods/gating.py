"""A gate that is fitted: steer only where a prompt asks for it."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch

from ..edits.gates import Similar, show
from ..models.model import Model
from ..models.prompts import Prompt, as_list
from ..vectors.kv import KVVectors


def fit_gate(
    model: Model,
    steered: Prompt | Sequence[Prompt],
    others: Prompt | Sequence[Prompt],
    condition: KVVectors | None = None,
) -> Similar:
    """A gate that tells prompts to be steered from others: the layer and the cosine at which most are told apart, by
    the values of their last slot (after CAST, Lee et al. 2024, arXiv 2409.05907, which compares the residual stream
    with a condition vector; here on the cache). Try it on prompts that it wasn't fitted to, with `kv.edits.opens_on`.
    Cost: one prefill of each prompt.

    Args:
        model: from `kv.load`.
        steered, others: prompts of both kinds.
        condition: what values are compared with; `None`: the mean difference of the two kinds.

    Returns:
        A gate for `when=`.

    Raises:
        ValueError: none of one kind, or a condition of another model.

    Example:
        >>> import kvsteer_lab as kv
        >>> model = kv.load("tiny")
        >>> gate = kv.methods.fit_gate(model, ["What is 2 + 3?", "What is 4 + 5?"], ["Hello.", "Good day."])
        >>> kv.CacheEdits([kv.edits.Map(0.5, when=gate)]).label
        'map gated'
    """
    steered, others = (as_list(prompts) if prompts else [] for prompts in (steered, others))
    if not steered or not others:
        raise ValueError("A gate is fitted to prompts of both kinds; pass at least one to be steered and one other.")
    yes, no = (
        torch.stack([last.values for last in show(model, list(map(model.encode, prompts)))]).flatten(2)
        for prompts in (steered, others)
    )
    wanted = (yes.mean(0) - no.mean(0)) if condition is None else condition.values.flatten(1)
    if wanted.shape != yes.shape[1:]:
        raise ValueError("The condition's values are of another model; extract them from this one.")
    found = []
    for layer in range(model.n_layers):
        there, here = (torch.nn.functional.cosine_similarity(x[:, layer], wanted[layer], dim=-1) for x in (yes, no))
        levels = torch.cat([there, here]).sort().values
        for low, high in pairwise(levels):
            cut = (low + high) / 2
            right = ((there >= cut).float().mean() + (here < cut).float().mean()) / 2
            found.append((float(right), float(high - low), layer, float(cut)))
    _, _, layer, cut_at = max(found)
    return Similar(wanted.view(model.n_layers, model.n_kv_heads, model.head_dim), layer, cut_at)
