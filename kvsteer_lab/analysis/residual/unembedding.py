"""Residual streams and their logits: reading the stream after each decoder layer while tokens read an edited cache, and
turning a stream into logits with the model's own final norm and unembedding.

Everything here runs the model and holds the lock meanwhile.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import nnsight
import torch
from jaxtyping import Float, Int
from torch import Tensor

from ...generation.filling import fill_rows
from ...generation.rows import Row
from ...models.architectures import UnsteerableModelError
from ...models.finite import check_logits
from ...models.layers import layers_path
from ...models.lock import locked
from ...models.model import Model
from ...models.tokens import positions


@locked
@torch.no_grad()
def unembed(model: Model, hidden: Float[Tensor, "rows n hidden"]) -> Float[Tensor, "rows n vocab"]:
    """Logits of residual streams as if each had left the last decoder layer (the logit lens; nostalgebraist 2020).

    A token is run through the model, and what its last layer puts out is replaced by `hidden`: so the final norm, the
    unembedding, logit scales and softcapping are the model's own, whatever they are called.

    Raises:
        ValueError: logits that are NaN or infinite.
    """
    last = model.traced.get(layers_path(model.hf))[-1]
    one = torch.ones(1, 1, dtype=torch.long, device=model.device)
    with model.traced.trace(input_ids=one, attention_mask=one, use_cache=False):
        last.output = _put(last.output, hidden)
        logits = nnsight.save(model.traced.output.logits)
    return check_logits(logits.reshape(*hidden.shape[:-1], logits.shape[-1]))


@locked
def check_unembedding(model: Model) -> None:
    """Run three tokens and refuse a model whose logits are not a function of what its last layer puts out for the same
    token.

    Raises:
        UnsteerableModelError: such a model, or one whose decoder layers aren't found.
        ValueError: logits that are NaN or infinite.
    """
    ids = torch.tensor([[1, 2, 3]], device=model.device)
    hidden, logits = _read(model, dict(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False), 1, None)
    again = unembed(model, hidden[:, -1])
    if again.shape != logits.shape or not torch.allclose(
        again.float(), logits.float(), rtol=1e-2, atol=1e-3 * float(logits.float().abs().max())
    ):
        raise UnsteerableModelError(
            f"{model.model_type} has no logit lens: its logits are not made from what the last decoder layer puts out"
            " for the same token; choose a model with decoder layers, a final norm and an unembedding, such as Llama"
            " or Qwen."
        )


@locked
def read_residuals(
    model: Model,
    rows: Sequence[Row],
    following: Int[Tensor, "rows steps"] | None = None,
    layers: Sequence[int] | None = None,
) -> tuple[Float[Tensor, "rows layers steps hidden"], Float[Tensor, "rows steps vocab"]]:
    """The residual stream after decoder layers where the rows' last tail token and `following` are read from the
    edited caches, and the logits there.

    Args:
        model: the model.
        rows: with tails of one length. What they add to the residual stream is not supported here: only their cache
            deltas count.
        following: tokens that are read after the tails.
        layers: whose streams are returned, in ascending order; `None`: all.

    Raises:
        ValueError: logits that are NaN or infinite.
    """
    cache, ids, mask = fill_rows(model, rows)
    start, steps = cache.get_seq_length(), 1
    if following is not None:
        ids, mask = torch.cat([ids, following], 1), torch.cat([mask, torch.ones_like(following)], 1)
        steps += following.shape[1]
    arguments: dict[str, Any] = {
        "input_ids": ids[:, start:],
        "attention_mask": mask,
        model.cache_argument: cache,
        "use_cache": True,
    }
    if model.accepts("position_ids"):
        arguments["position_ids"] = positions(mask)[:, start:]
    return _read(model, arguments, steps, layers)


@locked
@torch.no_grad()
def _read(model: Model, arguments: dict[str, Any], steps: int, chosen: Sequence[int] | None) -> tuple[Tensor, Tensor]:
    if model.accepts("logits_to_keep"):
        arguments = {**arguments, "logits_to_keep": steps}
    layers = model.traced.get(layers_path(model.hf))
    found: list[Tensor] = []
    with model.traced.trace(**arguments):
        for index in range(len(layers)) if chosen is None else chosen:
            output = layers[index].output
            hidden = output[0] if isinstance(output, tuple) else output
            found.append(hidden[:, -steps:].to(model.device))
        logits = model.traced.output.logits[:, -steps:]
        nnsight.save(found)
        nnsight.save(logits)
    return torch.stack(found, 1), check_logits(logits)


def _put(output: Any, hidden: Tensor) -> Any:
    """A layer's output with another residual stream in it, where the layer runs."""
    if isinstance(output, tuple):
        return (hidden.to(output[0]), *output[1:])
    return hidden.to(output)
