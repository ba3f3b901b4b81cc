"""The models that are measured: the bundled one, and random Llamas whose speed is that of trained ones."""

from __future__ import annotations

from typing import Any, Literal

import torch
import transformers
from transformers import LlamaConfig, LlamaForCausalLM

import kvsteer_lab as kv
from kvsteer_lab.models.layers import hidden_size
from kvsteer_lab.models.prompts import template_hash
from kvsteer_lab.models.tokens import offset_token
from kvsteer_lab.vectors.activation import ActivationVectors
from kvsteer_lab.vectors.activation_extraction import extract_activations
from kvsteer_lab.vectors.cards import Card

SHAPES: dict[str, dict[str, Any]] = {
    "smoke": dict(layers=2, width=32, heads=2, kv_heads=1, ffn=64, vocab=1000),
    "random-12x512": dict(layers=12, width=512, heads=8, kv_heads=2, ffn=1024, vocab=4000),
    "random-12x512-32k": dict(layers=12, width=512, heads=8, kv_heads=2, ffn=1024, vocab=32000),
    "llama-3.2-1b": dict(layers=16, width=2048, heads=32, kv_heads=8, ffn=8192, vocab=128256),
    "llama-3.2-3b": dict(layers=28, width=3072, heads=24, kv_heads=8, ffn=8192, vocab=128256),
    "llama-3.1-8b": dict(layers=32, width=4096, heads=32, kv_heads=8, ffn=14336, vocab=128256),
}
"""Random Llamas by name. Their tokenizer is the bundled model's; the rest of the vocabulary is there for its cost."""

NAMES = ("tiny", *SHAPES)


def load(name: str, device: str = "cpu", dtype: torch.dtype = torch.float32) -> kv.Model:
    """A model by its name, ready to be measured.

    Raises:
        ValueError: an unknown name.
    """
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    if name not in NAMES:
        raise ValueError(f"There is no model {name!r} to measure; choose one of: {', '.join(NAMES)}.")
    if name == "tiny":
        return kv.load("tiny", device_map=device, dtype=dtype)
    tokenizer = kv.load("tiny", device_map="cpu").tokenizer
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(
            device
        ):  # drawn where they are used: a big model need not fit into the host's memory in float32
            hf = random_llama(**SHAPES[name])
    finally:
        torch.set_default_dtype(before)
    return kv.load(hf, tokenizer)


def random_llama(
    *, layers: int, width: int, heads: int, kv_heads: int, ffn: int, vocab: int, seed: int = 0
) -> LlamaForCausalLM:
    """A Llama of that shape. Weights are drawn wider than is usual: with the usual ones every text is the same."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        intermediate_size=ffn,
        vocab_size=vocab,
        max_position_embeddings=2048,
        initializer_range=0.2 if width < 128 else 0.05,
        tie_word_embeddings=False,  # tied, a random model repeats its last token
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=None,
    )
    return LlamaForCausalLM(config).eval()


def steering(model: kv.Model, name: str) -> kv.CacheSteering:
    """A steering that changes what the model says: extracted from 16 pairs for the bundled model, Gaussian for a random
    one.
    """
    if name == "tiny":
        return kv.CacheSteering(kv.extract(model, pairs(model, 16, shots=3), progress=False), ck=0.1, cv=2.0)
    generator = torch.Generator().manual_seed(0)
    keys, values = (
        torch.randn(model.n_layers, model.n_kv_heads, model.head_dim, generator=generator) for _ in range(2)
    )
    return kv.CacheSteering(kv.KVVectors(keys, values, _card(model, "post_rope")), ck=0.5, cv=8.0)


def activation_steering(model: kv.Model, name: str, *, every_token: bool, cache: bool) -> kv.ActivationSteering:
    """Activation steering behind the layer in the middle, as strong as the residual stream there: at every token it
    changes what the model says.
    """
    layer = model.n_layers // 2
    if name == "tiny":
        vectors = extract_activations(model, pairs(model, 16, shots=3), progress=False)
    else:
        drawn = torch.randn(model.n_layers, hidden_size(model.hf), generator=torch.Generator().manual_seed(0))
        vectors = ActivationVectors(drawn, _card(model, None))
    dose = float(vectors.relative_to(model, prompts(4)).residuals[layer])
    return kv.ActivationSteering(vectors, layer, 1 / dose, every_token, cache)


def _card(model: kv.Model, keys: Literal["post_rope"] | None) -> Card:
    return Card(
        model=model.name,
        model_type=model.model_type,
        fingerprint=model.fingerprint,
        dtype=str(model.dtype),
        keys=keys,
        offset_id=offset_token(model.tokenizer, "\n"),
        template_hash=template_hash(model.tokenizer),
        n_pairs=1,
    )


def pairs(model: kv.Model, n: int, shots: int) -> kv.ContrastiveSet:
    """Contrastive pairs of the bundled model's own task."""
    return kv.ContrastiveSet.few_shot(
        kv.tasks.get("tiny-arithmetic"), model.tokenizer, style="stepwise", n=n, shots=shots
    )


def prompts(n: int, shots: int = 0) -> list[Any]:
    """`n` distinct chats that end in a question; `shots` worked examples come before it."""
    task = kv.tasks.get("tiny-arithmetic")
    asked = task.questions("dev", n, 0)
    examples = task.questions("extraction", max(shots, 1), 0)[:shots]
    before = [
        m for q in examples for m in (*task.chat(q), {"role": "assistant", "content": task.demonstrate(q, "stepwise")})
    ]
    return [[*before, *task.chat(q)] for q in asked]
