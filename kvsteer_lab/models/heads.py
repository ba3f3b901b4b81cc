"""What single heads write into the residual stream: their outputs through the attention's output projection, found by
looking which module takes them.
"""

from __future__ import annotations

from itertools import chain
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import PreTrainedModel

from .architectures import UnsteerableModelError
from .attention import Attention, Watching, attention_modules, query_heads
from .lock import locked

_FOUND: WeakKeyDictionary[nn.Module, tuple[nn.Module, ...]] = WeakKeyDictionary()


_WIDTHS: WeakKeyDictionary[nn.Module, int] = WeakKeyDictionary()
"""Of what the projections take: the outputs of all heads side by side."""


@locked
@torch.no_grad()
def head_writes(
    hf: PreTrainedModel, layer: int, head: int, outputs: Float[Tensor, "... head_dim"]
) -> Float[Tensor, "... hidden"]:
    """What one query head's outputs become after the output projection W_O of its layer, without W_O's bias, float32
    on the CPU.

    A sum over heads and the bias is what the attention block puts out. Norms after the attention (Gemma 2 and 3, OLMo
    2, GLM 4) and factors on the residual stream (Granite) come later and are not in it.

    Raises:
        UnsteerableModelError: as `output_projections`.
    """
    projection = output_projections(hf)[layer]
    device = next(chain(projection.parameters(), projection.buffers())).device
    width = outputs.shape[-1]
    flat = outputs.reshape(-1, width)
    # the last row is empty: the bias
    placed = torch.zeros(len(flat) + 1, query_heads(hf) * width, dtype=hf.dtype, device=device)
    placed[:-1, head * width : (head + 1) * width] = flat.to(placed)
    written = projection(placed[None])[0].float().cpu()
    return (written[:-1] - written[-1]).reshape(*outputs.shape[:-1], -1)


@locked
@torch.no_grad()
def head_matrices(hf: PreTrainedModel, layer: int) -> Float[Tensor, "heads head_dim hidden"]:
    """The part of the output projection W_O of a layer that each query head's outputs go through, float32 on the CPU:
    `outputs @ head_matrices(hf, layer)[head]` is what `head_writes` gives.

    Raises:
        UnsteerableModelError: as `output_projections`.
    """
    projection = output_projections(hf)[layer]
    device = next(chain(projection.parameters(), projection.buffers())).device
    heads = query_heads(hf)
    if type(projection) is nn.Linear:  # quantised ones are subclasses, and hold no plain weight
        weight = projection.weight.T.float().cpu()
    else:
        width = _WIDTHS[hf]
        basis = torch.eye(width + 1, width, dtype=hf.dtype, device=device)  # the last row is empty: the bias
        written = projection(basis[None])[0].float().cpu()
        weight = written[:-1] - written[-1]
    return weight.unflatten(0, (heads, -1))


def output_projections(hf: PreTrainedModel) -> tuple[nn.Module, ...]:
    """Each layer's module that takes the outputs of all heads side by side, and is linear: found by a forward pass over
    two tokens.

    Raises:
        UnsteerableModelError: attention that can't be looked into, or that does something else to the heads' outputs
            first (a gate, a norm).
    """
    if hf not in _FOUND:
        _FOUND[hf] = _find(hf)
    return _FOUND[hf]


@locked
@torch.no_grad()
def _find(hf: PreTrainedModel) -> tuple[nn.Module, ...]:
    seen: list[Attention] = []
    taken: dict[nn.Module, Tensor] = {}

    def note(module: nn.Module, given: tuple[object, ...]) -> None:
        if given and isinstance(given[0], Tensor):
            taken[module] = given[0].detach()

    modules = attention_modules(hf)
    handles = [
        part.register_forward_pre_hook(note) for module in modules for part in module.modules() if part is not module
    ]
    try:
        with Watching(hf, 0, seen.append):
            hf(input_ids=torch.tensor([[1, 2]], device=hf.get_input_embeddings().weight.device), use_cache=False)
    finally:
        for handle in handles:
            handle.remove()
    found = []
    for attention, module in zip(seen, modules, strict=True):
        outputs = attention.outputs.transpose(1, 2).flatten(2)
        takers = (
            part
            for part in module.modules()
            if part in taken and taken[part].shape == outputs.shape and torch.equal(taken[part], outputs)
        )
        projection = next(takers, None)
        if projection is None or not _is_linear(projection, outputs):
            raise UnsteerableModelError(
                f"What single heads of {hf.config.model_type} write can't be told apart: in layer {attention.layer} no"
                " linear module takes their outputs as they are; use a model with a plain output projection, such as"
                " Llama, Qwen, Mistral, Gemma or GPT-2."
            )
        found.append(projection)
        _WIDTHS[hf] = outputs.shape[-1]
    return tuple(found)


def _is_linear(module: nn.Module, x: Tensor) -> bool:
    """Whether two outputs and the sum's differ by the bias alone, up to rounding."""
    one, other, both, none = (module(value) for value in (x, x.flip(1), x + x.flip(1), torch.zeros_like(x)))
    return torch.allclose(
        (one + other - none).float(), both.float(), rtol=0.05, atol=0.05 * float(both.float().abs().max())
    )
