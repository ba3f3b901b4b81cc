"""Where a model's decoder layers are, and the width of its residual stream."""

from __future__ import annotations

from torch import nn
from transformers import PreTrainedModel

from .architectures import UnsteerableModelError


def hidden_size(hf: PreTrainedModel) -> int:
    """The residual stream's width."""
    return int(hf.config.get_text_config(decoder=True).hidden_size)


def decoder_layers(hf: PreTrainedModel) -> nn.ModuleList:
    """The model's decoder layers in their order; the output of each is the residual stream after it.

    Raises:
        UnsteerableModelError: no list of as many modules as the config has layers, or several.
    """
    return hf.get_submodule(layers_path(hf))


def layers_path(hf: PreTrainedModel) -> str:
    """Where the decoder layers are in the module tree: `model.layers`, `transformer.h` and the like. Errors are those
    of `decoder_layers`.
    """
    n = int(hf.config.get_text_config(decoder=True).num_hidden_layers)
    inside = {id(module) for module in hf.get_decoder().modules()}
    found = [
        name
        for name, module in hf.named_modules()
        if isinstance(module, nn.ModuleList) and len(module) == n and id(module) in inside
    ]
    outermost = [name for name in found if not any(name.startswith(f"{other}.") for other in found)]
    if len(outermost) != 1:
        which = f"several lists of {n} modules ({', '.join(outermost)})" if outermost else f"no list of {n} modules"
        raise UnsteerableModelError(
            f"The residual stream of {hf.config.model_type} can't be steered: it has {which} where its decoder layers"
            " should be."
        )
    return outermost[0]
