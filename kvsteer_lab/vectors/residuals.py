"""The residual stream at the last token of prompts, and its norms."""

from __future__ import annotations

from collections.abc import Sequence

import nnsight
import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..models.layers import layers_path
from ..models.lock import locked
from ..models.model import Model
from ..models.prompts import Prompt, as_list
from ..models.tokens import pad_left


@locked
@torch.no_grad()
def last_residuals(
    model: Model, ids: Int[Tensor, "prompts time"], mask: Int[Tensor, "prompts time"]
) -> Float[Tensor, "prompts layers hidden"]:
    """The residual stream after each decoder layer at each prompt's last token, float32 on the CPU, from one nnsight
    trace.
    """
    layers = model.traced.get(layers_path(model.hf))
    found: list[Tensor] = []
    with model.traced.trace(**model.forward_arguments(ids, mask), use_cache=False):
        for layer in layers:
            output = layer.output
            hidden = output[0] if isinstance(output, tuple) else output
            found.append(hidden[:, -1].float().cpu())
        nnsight.save(found)
    return torch.stack(found, 1)


def residual_norms(
    model: Model, prompts: Prompt | Sequence[Prompt], *, chat: bool = True, batch_size: int = 16
) -> Float[Tensor, "prompts layers"]:
    """Norms of the residual stream after each decoder layer, at the prompts' last token.

    Args:
        model: the model.
        prompts: prompts to measure.
        chat: as in `kv.generate`.
        batch_size: prompts traced together.

    Example:
        >>> import kvsteer_lab as kv
        >>> tuple(residual_norms(kv.load("tiny"), ["What is 2 + 3?", "How many?"]).shape)
        (2, 4)
    """
    rows = [model.encode(p, chat=chat) for p in as_list(prompts)]
    found = []
    for start in range(0, len(rows), batch_size):
        ids, mask = pad_left(rows[start : start + batch_size], model.pad_id, model.device)
        found.append(last_residuals(model, ids, mask).norm(dim=-1))
    return torch.cat(found)
