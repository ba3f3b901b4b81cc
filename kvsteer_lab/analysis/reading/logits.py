"""The gradient of a token's logit with respect to the residual stream that leaves the last layer."""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils.hooks import RemovableHandle
from transformers import PreTrainedModel

from ...models.finite import check_logits
from ...models.layers import decoder_layers
from ...models.lock import locked
from ..budget import logits_within


class LastResiduals:
    """A context that keeps what the last decoder layer puts out, pass after pass.

    Args:
        hf: the model that runs.
    """

    def __init__(self, hf: PreTrainedModel) -> None:
        self._layer = decoder_layers(hf)[-1]
        self._found: list[Tensor] = []
        self._handle: RemovableHandle | None = None

    @property
    def stream(self) -> Float[Tensor, "rows time hidden"]:
        """Everything that was put out, in the order of the text."""
        return torch.cat(self._found, 1)

    def __enter__(self) -> LastResiduals:
        self._handle = self._layer.register_forward_hook(
            lambda module, given, output: self._found.append(_hidden(output).detach())
        )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._handle is not None:
            self._handle.remove()


@locked
def logit_directions(
    hf: PreTrainedModel, hidden: Float[Tensor, "n hidden"], tokens: Sequence[int]
) -> Float[Tensor, "n hidden"]:
    """The gradient of each token's logit, less the mean logit, with respect to the residual stream that leaves the last
    layer, at `hidden`; float32.

    One token is run through the model for each, and what the last layer puts out is replaced: so the final norm, the
    unembedding, logit scales and soft-capping are the model's own. A norm's scale is not frozen: the gradient counts
    that it grows with what is added. As many are run together as logits may be held at a time.

    Raises:
        ValueError: logits that are NaN or infinite.
    """
    size = logits_within(hf.get_input_embeddings().weight.shape[0])
    parts = [
        _gradient(hf, hidden[start : start + size], tokens[start : start + size])
        for start in range(0, len(tokens), size)
    ]
    return torch.cat(parts)


@locked
def _gradient(
    hf: PreTrainedModel, hidden: Float[Tensor, "n hidden"], tokens: Sequence[int]
) -> Float[Tensor, "n hidden"]:
    given: list[Tensor] = []

    def put(module: Any, arguments: Any, output: Any) -> Any:
        torch.set_grad_enabled(True)  # nothing below needs a graph; the no_grad around the pass switches it off again
        given.append(hidden[None].to(_hidden(output)).detach().requires_grad_())
        return (given[0], *output[1:]) if isinstance(output, tuple) else given[0]

    handle = decoder_layers(hf)[-1].register_forward_hook(put)
    try:
        with torch.no_grad():
            ids = torch.zeros(1, len(tokens), dtype=torch.long, device=hf.get_input_embeddings().weight.device)
            logits = check_logits(hf(input_ids=ids, use_cache=False).logits[0].float())
            chosen = logits.gather(1, torch.tensor(tokens, device=logits.device)[:, None])[:, 0] - logits.mean(1)
            (gradient,) = torch.autograd.grad(chosen.sum(), given[0])
    finally:
        handle.remove()
    return gradient[0].float()


def _hidden(output: Any) -> Tensor:
    return output[0] if isinstance(output, tuple) else output
