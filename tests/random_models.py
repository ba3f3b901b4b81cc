"""Random models of every supported architecture, a tokenizer for them, and vectors that fit.

`initializer_range=0.2`: a model initialised with the default 0.02 is too flat to react to an edit of its cache.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

import kvsteer_lab as kv
from kvsteer_lab.models.layers import hidden_size
from kvsteer_lab.vectors.activation import ActivationVectors
from kvsteer_lab.vectors.cards import Card

VOCABULARY = 320
CHAT_TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
PROMPTS = ["What is 12 + 7?", "The quick brown fox jumps over the lazy dog, and then it rests.", "Add 2 to 3."]
_CORPUS = [
    "The quick brown fox jumps over the lazy dog. Step 1: add 2 and 3 to get 5.\n",
    "system user assistant What is 12 + 7? The answer is 19.\n",
] * 20


def tokenizer(
    special: tuple[str, ...] = ("<|pad|>", "<|im_start|>", "<|im_end|>"),
    template: str | None = CHAT_TEMPLATE,
    **named: str,
) -> Any:
    """Byte-level BPE over a few sentences, so that any text encodes and a lone newline is one token."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY - 20, special_tokens=list(special), initial_alphabet=alphabet, show_progress=False
    )
    bpe.train_from_iterator(_CORPUS, trainer)
    if not named:
        named = {"pad_token": "<|pad|>", "bos_token": "<|im_start|>", "eos_token": "<|im_end|>"}
    fast = PreTrainedTokenizerFast(tokenizer_object=bpe, clean_up_tokenization_spaces=False, **named)
    fast.chat_template = template
    return fast


_SIZES: dict[str, Any] = dict(
    vocab_size=VOCABULARY,
    hidden_size=64,
    num_hidden_layers=4,
    num_attention_heads=4,
    num_key_value_heads=2,
    intermediate_size=128,
    max_position_embeddings=512,
    pad_token_id=0,
    bos_token_id=1,
    eos_token_id=None,
)
_FALCON: dict[str, Any] = dict(
    vocab_size=VOCABULARY,
    hidden_size=64,
    num_hidden_layers=4,
    num_attention_heads=4,
    pad_token_id=0,
    bos_token_id=1,
    eos_token_id=None,
)
_GPT2: dict[str, Any] = dict(
    vocab_size=VOCABULARY,
    n_embd=64,
    n_layer=4,
    n_head=4,
    n_positions=512,
    pad_token_id=0,
    bos_token_id=1,
    eos_token_id=None,
)
_GPT_NEO: dict[str, Any] = dict(
    vocab_size=VOCABULARY,
    hidden_size=64,
    num_layers=4,
    num_heads=4,
    max_position_embeddings=512,
    pad_token_id=0,
    bos_token_id=1,
    eos_token_id=None,
)
_BLOOM: dict[str, Any] = dict(
    vocab_size=VOCABULARY, hidden_size=64, n_layer=4, n_head=4, pad_token_id=0, bos_token_id=1, eos_token_id=None
)
_MOE: dict[str, Any] = dict(num_experts=4, num_experts_per_tok=2, moe_intermediate_size=32)


def _sized(kind: str, drop: tuple[str, ...] = (), **other: Any) -> Callable[[], Any]:
    return lambda: CONFIG_MAPPING[kind](**{k: v for k, v in {**_SIZES, **other}.items() if k not in drop})


def _plain(kind: str, sizes: dict[str, Any], **other: Any) -> Callable[[], Any]:
    return lambda: CONFIG_MAPPING[kind](**sizes, **other)


def _rope(kind: str, **other: Any) -> dict[str, Any]:
    return {"rope_type": kind, "rope_theta": 10000.0, **other}


CONFIGS: dict[str, Callable[[], Any]] = {
    "llama": _sized("llama"),
    "mistral": _sized("mistral", sliding_window=None),
    "mistral, window 8": _sized("mistral", sliding_window=8),
    "qwen2": _sized("qwen2"),
    "qwen3": _sized("qwen3", head_dim=16),
    "qwen3_moe": _sized("qwen3_moe", head_dim=16, **_MOE),
    "gemma2": _sized("gemma2", head_dim=16, sliding_window=8, query_pre_attn_scalar=16),
    "gemma3": _sized(
        "gemma3_text",
        head_dim=16,
        sliding_window=8,
        query_pre_attn_scalar=16,
        layer_types=["sliding_attention"] * 3 + ["full_attention"],
    ),
    "phi3": _sized("phi3"),
    "gpt2": _plain("gpt2", _GPT2),
    "gpt_neox": _sized("gpt_neox", drop=("num_key_value_heads",)),
    "olmo2": _sized("olmo2"),
    "smollm3": _sized("smollm3", no_rope_layers=[1, 1, 1, 0]),
    "falcon": _plain("falcon", _FALCON, multi_query=True, new_decoder_architecture=False, alibi=False),
    "falcon, alibi": _plain("falcon", _FALCON, multi_query=True, new_decoder_architecture=False, alibi=True),
    "falcon, new": _plain("falcon", _FALCON, num_kv_heads=2, new_decoder_architecture=True, alibi=False),
    "granite": _sized("granite"),
    "starcoder2": _sized("starcoder2"),
    "cohere": _sized("cohere"),
    "glm4": _sized("glm4", head_dim=16),
}
"""Architectures that are steered: every oracle is tested on each."""

ROTATED: dict[str, Callable[[], Any]] = {
    **{
        name: CONFIGS[name]
        for name in (
            "llama",
            "qwen3",
            "gemma3",
            "gpt_neox",
            "olmo2",
            "smollm3",
            "granite",
            "starcoder2",
            "cohere",
            "glm4",
        )
    },
    "llama, yarn": _sized("llama", rope_parameters=_rope("yarn", factor=4.0, original_max_position_embeddings=128)),
    "llama, llama3": _sized(
        "llama",
        rope_parameters=_rope(
            "llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=64
        ),
    ),
    "llama, linear": _sized("llama", rope_parameters=_rope("linear", factor=4.0)),
    "phi3, half rotated": _sized("phi3", rope_parameters=_rope("default", partial_rotary_factor=0.5)),
}
"""Ways to rotate keys: scaled, partial, interleaved, per layer, on some layers only."""

OTHERS: dict[str, Callable[[], Any]] = {
    "llama, dynamic": _sized("llama", rope_parameters=_rope("dynamic", factor=4.0)),
    "phi3, longrope": _sized(
        "phi3",
        original_max_position_embeddings=128,
        rope_parameters=_rope("longrope", short_factor=[1.0] * 8, long_factor=[4.0] * 8, factor=4.0),
    ),
    "gptj": _plain("gptj", _GPT2, rotary_dim=8),
    "gpt_neo": _plain("gpt_neo", _GPT_NEO, attention_types=[[["global", "local"], 2]], window_size=8),
    "bloom": _plain("bloom", _BLOOM),
    "long llama": _sized(
        "llama", num_hidden_layers=12, hidden_size=256, num_attention_heads=8, max_position_embeddings=2048
    ),
}


def build(name: str, seed: int = 0, **changes: Any) -> PreTrainedModel:
    """A random model in float32 that never ends a text by itself."""
    torch.manual_seed(seed)
    config = {**CONFIGS, **ROTATED, **OTHERS}[name]()
    config.initializer_range = 0.2
    config.tie_word_embeddings = False  # tied, a random model mostly repeats its last token
    for key, value in changes.items():
        setattr(config, key, value)
    hf = AutoModelForCausalLM.from_config(config).eval()
    hf.generation_config.eos_token_id = None
    hf.generation_config.pad_token_id = 0
    return hf


def card_of(model: kv.Model, **changes: Any) -> Card:
    """A card of vectors that fit `model`."""
    own: dict[str, Any] = dict(
        model=model.name,
        model_type=model.model_type,
        fingerprint=model.fingerprint,
        dtype=str(model.dtype),
        keys="post_rope",
        offset_id=newline(model),
        template_hash=None,
        n_pairs=1,
    )
    return Card(**{**own, **changes})


def vectors_for(model: kv.Model, seed: int = 0, **changes: Any) -> kv.KVVectors:
    """Random vectors that fit `model`."""
    generator = torch.Generator().manual_seed(seed)
    shape = (model.n_layers, model.n_kv_heads, model.head_dim)
    return kv.KVVectors(
        torch.randn(shape, generator=generator), torch.randn(shape, generator=generator), card_of(model, **changes)
    )


def activations_for(model: kv.Model, seed: int = 0, **changes: Any) -> ActivationVectors:
    """Random directions of the residual stream that fit `model`."""
    shape = (model.n_layers, hidden_size(model.hf))
    return ActivationVectors(
        torch.randn(shape, generator=torch.Generator().manual_seed(seed)), card_of(model, keys=None, **changes)
    )


def newline(model: kv.Model) -> int:
    """The id of the offset token."""
    (token,) = model.tokenizer("\n", add_special_tokens=False).input_ids
    return int(token)
