"""A fast forward pass over a Llama's parameters, with noise on the slots' keys and values."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import LlamaForCausalLM

from organisms.recipe import Recipe
from organisms.views import Batch


@dataclass
class Noise:
    """Noise for the slots of a batch, as multiples of a layer's mean norm at slots: `[layers, B, S, heads, dim]`."""

    keys: Tensor
    values: Tensor


def draw_noise(slots: Tensor, recipe: Recipe, scale: float, seed: int) -> Noise:
    """Gaussian directions over a layer's heads, of a size drawn for each slot; none at the first layer.

    The first layer's cache holds the slot's own embedding and nothing else, so there is nothing to disturb.

    Args:
        slots: positions `[B, S]`, -1 for none.
        recipe: its `noise_k`, `noise_v` and `clean`.
        scale: a factor on both, for a warm-up.
        seed: of this draw.
    """
    rng = torch.Generator().manual_seed(seed)
    rows, count = slots.shape
    dim = recipe.width // recipe.heads
    shape = (2, recipe.layers, rows, count, recipe.kv_heads, dim)
    direction = torch.randn(shape, generator=rng) / (recipe.kv_heads * dim) ** 0.5
    size = torch.rand((2, 1, rows, count, 1, 1), generator=rng)
    used = (torch.rand((rows, count), generator=rng) >= recipe.clean) & (slots >= 0)
    keys, values = direction * size * used[None, None, :, :, None, None]
    first = torch.arange(recipe.layers).view(-1, 1, 1, 1, 1) > 0
    return Noise(keys * first * recipe.noise_k * scale, values * first * recipe.noise_v * scale)


def slot_mask(seen: Tensor, slots: Tensor) -> Tensor:
    """The additive mask `[B, 1, T, T + S]`: the last S columns are the slots as they were before the noise.

    A slot itself reads those, and every other token reads the noisy ones: an edit of the cache comes after the
    slot was computed.
    """
    length = seen.shape[-1]
    itself = slots[:, None, :] == torch.arange(length)[None, :, None]
    first = seen & ~(torch.eye(length, dtype=torch.bool) & itself.any(-1)[:, None, :])
    allowed = torch.cat([first, itself], -1)
    return torch.zeros(allowed.shape, dtype=torch.bfloat16).masked_fill_(~allowed, float("-inf"))[:, None]


def rotary(positions: int, dim: int, theta: float = 10000.0) -> tuple[Tensor, Tensor]:
    """Cosines and sines `[positions, dim]`."""
    inverse = 1.0 / theta ** (torch.arange(0, dim, 2).float() / dim)
    angle = torch.arange(positions).float()[:, None] * inverse[None]
    return torch.cat([angle.cos()] * 2, -1), torch.cat([angle.sin()] * 2, -1)


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    half = x.shape[-1] // 2
    return x * cos + torch.cat([-x[..., half:], x[..., :half]], -1) * sin


def _disturb(x: Tensor, slots: Tensor, noise: Tensor) -> Tensor:
    """`x` `[B, heads, T, dim]` with noise at the slots, followed by the slots without: `[B, heads, T + S, dim]`."""
    index = slots.clamp(min=0)[:, None, :, None].expand(-1, x.shape[1], -1, x.shape[-1])
    before = x.gather(2, index)
    real = (slots >= 0).float()
    norm = before.detach().float().pow(2).sum((1, 3)).sqrt()
    mean = (norm * real).sum() / real.sum()
    return torch.cat([x.scatter_add(2, index, (noise.transpose(1, 2) * mean).to(x.dtype)), before], 2)


def losses(
    model: LlamaForCausalLM, recipe: Recipe, batch: Batch, noise: Noise | None, tables: tuple[Tensor, Tensor]
) -> tuple[Tensor, Tensor]:
    """Cross-entropy of every token that has a weight, and those weights.

    Matrices are cast to bfloat16 for the pass; gradients reach the model's own parameters.
    """
    bf16 = torch.bfloat16
    heads, kv_heads, dim = recipe.heads, recipe.kv_heads, recipe.width // recipe.heads
    ids, targets, weight = batch.ids[:, :-1], batch.ids[:, 1:].reshape(-1), batch.weight[:, 1:].reshape(-1)
    rows, length = ids.shape
    cos, sin = (table[:length].to(bf16) for table in tables)
    mask = None
    if batch.seen is not None:
        mask = slot_mask(batch.seen[:, :-1, :-1], batch.slots).to(ids.device)
        slots = batch.slots.to(ids.device)
    embedding = model.model.embed_tokens.weight.to(bf16)

    def norm(x: Tensor, scale: Tensor) -> Tensor:
        return F.rms_norm(x, (x.shape[-1],), scale.to(bf16), 1e-5)

    x = F.embedding(ids, embedding)
    for number, layer in enumerate(model.model.layers):
        attention, mlp = layer.self_attn, layer.mlp
        qkv = torch.cat([attention.q_proj.weight, attention.k_proj.weight, attention.v_proj.weight]).to(bf16)
        parts = F.linear(norm(x, layer.input_layernorm.weight), qkv).view(rows, length, -1, dim).transpose(1, 2)
        q, k, v = parts.split([heads, kv_heads, kv_heads], 1)
        q, k = _rotate(q, cos, sin), _rotate(k, cos, sin)
        if mask is not None and noise is not None:
            k, v = _disturb(k, slots, noise.keys[number]), _disturb(v, slots, noise.values[number])
        k, v = (t.repeat_interleave(heads // kv_heads, 1) for t in (k, v))
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=mask is None)
        x = x + F.linear(mixed.transpose(1, 2).reshape(rows, length, -1), attention.o_proj.weight.to(bf16))
        wide = torch.cat([mlp.gate_proj.weight, mlp.up_proj.weight]).to(bf16)
        gate, up = F.linear(norm(x, layer.post_attention_layernorm.weight), wide).chunk(2, -1)
        x = x + F.linear(F.silu(gate) * up, mlp.down_proj.weight.to(bf16))
    chosen = weight.nonzero()[:, 0]
    last = norm(x.reshape(rows * length, -1)[chosen], model.model.norm.weight)
    logits = F.linear(last, embedding).float()
    return F.cross_entropy(logits, targets[chosen], reduction="none"), weight[chosen]
