"""Norms of the keys and values cached at a prompt's slot."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from ..edits.slots import slot_from_end
from ..models.model import Model
from ..models.prefill import last_slots
from ..models.prompts import Prompt, as_list
from ..models.tokens import pad_left


def slot_norms(
    model: Model, prompts: Prompt | Sequence[Prompt], *, slot: int = -1, chat: bool = True, batch_size: int = 16
) -> dict[str, Float[Tensor, "prompts layers"]]:
    """Norms of one cached slot of each prompt: `{"keys": [prompts, layers], "values": [prompts, layers]}`.

    NaN where a layer's sliding window has dropped the slot.

    Raises:
        ValueError: a prompt without such a slot.
    """
    if slot != -1:
        return _norms_at(model, as_list(prompts), slot, chat)

    rows = [model.encode(p, chat=chat) for p in as_list(prompts)]
    found: dict[str, list[Tensor]] = {"keys": [], "values": []}
    for start in range(0, len(rows), batch_size):
        ids, mask = pad_left(rows[start : start + batch_size], model.pad_id, model.device)
        slots = last_slots(model, ids, mask)
        for name, part in zip(found, slots, strict=True):
            found[name].append(part.flatten(2).norm(dim=-1))
    return {name: torch.cat(parts) for name, parts in found.items()}


def _norms_at(
    model: Model, prompts: Sequence[Prompt], slot: int, chat: bool
) -> dict[str, Float[Tensor, "prompts layers"]]:
    found: dict[str, list[Tensor]] = {"keys": [], "values": []}
    for row, prompt in enumerate(prompts):
        cache = model.prefill(prompt, chat=chat)
        back = slot_from_end(slot, cache.get_seq_length(), row)
        for name, rows in found.items():
            parts = [getattr(layer, name)[0] for layer in cache.layers]
            rows.append(
                torch.tensor(
                    [float(part[:, -back].float().norm()) if back <= part.shape[1] else float("nan") for part in parts]
                )
            )
    return {name: torch.stack(rows) for name, rows in found.items()}
