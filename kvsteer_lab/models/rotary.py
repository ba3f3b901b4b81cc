"""Taking keys out of their rotation and putting them into another, with the model's own rotary embedding.

A key is cached after RoPE, so the same content at two positions differs by about its own norm. Un-rotated keys
can be averaged over prompts of different length and rotated to the slot where they are added.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from .caches import cache_of
from .lock import locked
from .model import Model

MODES = ("none", "half", "interleaved")
"""No rotation; pairs are the two halves (Llama); pairs are neighbours (Cohere, GLM)."""

Keys = Float[Tensor, "rows layers kv_heads head_dim"]


@dataclass(frozen=True)
class Rotary:
    """A model's key rotation.

    Attributes:
        modes: one of `MODES` for each layer.
        embedding: the model's own module that gives the angles.
        layer_types: for embeddings that ask for the layer's type.
        reach: with LongRoPE, the length in tokens from which the whole sequence is rotated by other angles.
    """

    modes: tuple[str, ...]
    embedding: Any = field(repr=False)
    layer_types: tuple[str, ...] | None = None
    reach: int | None = None

    @property
    def rotates(self) -> bool:
        """Whether any layer rotates its keys."""
        return any(mode != "none" for mode in self.modes)

    def unrotate(self, keys: Keys, position: Int[Tensor, " rows"]) -> Keys:
        """Position-free keys from keys cached at `position` (one a row).

        Raises:
            ValueError: a position beyond LongRoPE's reach.
        """
        return self._turn(keys, position, back=True)

    def rotate(self, keys: Keys, position: Int[Tensor, " rows"]) -> Keys:
        """Keys as the cache holds them at `position`, from position-free ones."""
        return self._turn(keys, position, back=False)

    def _turn(self, keys: Keys, position: Int[Tensor, " rows"], *, back: bool) -> Keys:
        if self.reach is not None and int(position.max()) >= self.reach:
            raise ValueError(
                f"LongRoPE rotates sequences of more than {self.reach} tokens by other angles; use shorter prompts or"
                " keys='post_rope'."
            )
        out = keys.clone()
        for layer, mode in enumerate(self.modes):
            if mode != "none":
                cos, sin = self.angles(position, layer, mode)
                out[:, layer] = turn(keys[:, layer], cos, sin, mode, back=back)
        return out

    @locked
    @torch.no_grad()
    def angles(self, position: Int[Tensor, " rows"], layer: int, mode: str) -> tuple[Tensor, Tensor]:
        """Cosines and sines `[rows, 1, rotary_dim]`, float32 on the CPU, with the model's own scaling in them."""
        buffer = next(self.embedding.buffers(), None)
        device = torch.device("cpu") if buffer is None else buffer.device
        arguments: list[Any] = [torch.zeros(1, 1, 1, device=device), position[:, None].to(device)]
        if self.layer_types is not None:
            arguments.append(self.layer_types[layer])
        angles = self.embedding(*arguments)
        if isinstance(angles, Tensor):  # Llama 4 returns complex numbers, one a pair
            cos, sin = (x.repeat_interleave(2, -1) for x in (angles.real, angles.imag))
        else:
            cos, sin = angles
            if mode == "interleaved" and not torch.equal(cos[..., 0::2], cos[..., 1::2]):
                # GLM lists the angles half by half and spreads them over the pairs itself.
                cos, sin = (x[..., : x.shape[-1] // 2].repeat_interleave(2, -1) for x in (cos, sin))
        return cos.float().cpu(), sin.float().cpu()


def turn(keys: Tensor, cos: Tensor, sin: Tensor, mode: str, *, back: bool) -> Tensor:
    """Rotate the first `rotary_dim` entries of each key, forth or back; the others pass through.

    Args:
        keys: `[rows, kv_heads, head_dim]`.
        cos, sin: `[rows, 1, rotary_dim]`. Their common scale (YaRN's attention factor) is undone on the way back.
        mode: which entries form a pair.
        back: undo the rotation.
    """
    width = cos.shape[-1]
    x, rest = keys[..., :width], keys[..., width:]
    if mode == "half":
        crossed = torch.cat((-x[..., width // 2 :], x[..., : width // 2]), -1)
    else:
        crossed = torch.stack((-x[..., 1::2], x[..., ::2]), -1).flatten(-2)
    turned = (x * cos - crossed * sin) / (cos**2 + sin**2) if back else x * cos + crossed * sin
    return torch.cat((turned, rest), -1)


def find_rotary(model: Model) -> Rotary:
    """Find each layer's mode by caching one token at positions 0 and 37: un-rotated, the two must agree.

    One token alone attends to itself only, so nothing but the rotation tells the two runs apart.

    Raises:
        ValueError: keys depend on the position in a way that isn't understood, or that depends on the length
            of the whole sequence (dynamic scaling).
    """
    config = model.hf.config.get_text_config(decoder=True)
    rope = getattr(config, "rope_parameters", None) or {}
    kinds = {str(x.get("rope_type")) for x in (rope, *rope.values()) if isinstance(x, dict)}
    if "dynamic" in kinds:
        raise ValueError(
            f"{model.name} rescales its rotation with the length of the sequence (dynamic RoPE); use keys='post_rope'."
        )
    embedding = next((m for name, m in model.hf.named_modules() if name.split(".")[-1] == "rotary_emb"), None)
    if embedding is None:
        if getattr(config, "rotary_dim", None):
            raise ValueError(
                f"{model.name} rotates its keys inside its attention layers, where they can't be un-rotated; use"
                " keys='post_rope'."
            )
        return Rotary(("none",) * model.n_layers, None)
    takes_layer = "layer_type" in inspect.signature(embedding.forward).parameters
    reach = (
        rope.get("original_max_position_embeddings", getattr(config, "original_max_position_embeddings", None))
        if "longrope" in kinds
        else None
    )
    rotary = Rotary((), embedding, tuple(config.layer_types) if takes_layer else None, reach)
    near, far = (_keys_at(model, p) for p in (0, 37))
    modes = []
    for layer in range(model.n_layers):
        errors = {mode: _disagreement(rotary, near, far, layer, mode) for mode in MODES}
        mode = min(errors, key=lambda m: errors[m])
        # The rotation runs in the model's dtype: half precision leaves an error of some 1e-2.
        if errors[mode] > (1e-4 if model.dtype == torch.float32 else 5e-2):
            raise ValueError(
                f"Layer {layer} of {model.name} places its keys in a way that can't be undone (error"
                f" {errors[mode]:.1g}); use keys='post_rope'."
            )
        modes.append(mode)
    return replace(rotary, modes=tuple(modes))


@locked
@torch.no_grad()
def _keys_at(model: Model, position: int) -> Tensor:
    device = model.device
    output = model.hf(
        input_ids=torch.tensor([[17]], device=device),
        position_ids=torch.tensor([[position]], device=device),
        use_cache=True,
    )
    cache = cache_of(output)
    return torch.stack([x.keys[:, :, -1].float().cpu() for x in cache.layers], 1)


def _disagreement(rotary: Rotary, near: Tensor, far: Tensor, layer: int, mode: str) -> float:
    a, b = near[:, layer], far[:, layer]
    if mode != "none":
        a = turn(a, *rotary.angles(torch.tensor([0]), layer, mode), mode, back=True)
        b = turn(b, *rotary.angles(torch.tensor([37]), layer, mode), mode, back=True)
    return float((a - b).norm() / a.norm().clamp_min(1e-12))
