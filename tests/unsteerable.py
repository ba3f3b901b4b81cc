"""Configs of models whose cache can't be steered, and the reasons that the refusals give."""

from __future__ import annotations

from typing import Any

from random_models import VOCABULARY

_SMALL: dict[str, Any] = dict(
    vocab_size=VOCABULARY,
    hidden_size=64,
    num_hidden_layers=4,
    num_attention_heads=4,
    num_key_value_heads=2,
    intermediate_size=128,
    pad_token_id=0,
)
_EXPERTS: dict[str, Any] = dict(num_experts=4, num_experts_per_tok=2, moe_intermediate_size=32)
CONFIGS: dict[str, tuple[str, dict[str, Any], str]] = {
    "deepseek_v3": (
        "deepseek_v3",
        {
            **_SMALL,
            "num_key_value_heads": 4,
            "q_lora_rank": 16,
            "kv_lora_rank": 16,
            "qk_rope_head_dim": 8,
            "qk_nope_head_dim": 8,
            "v_head_dim": 16,
        },
        "compressed latent",
    ),
    "mamba": (
        "mamba",
        dict(vocab_size=VOCABULARY, hidden_size=64, num_hidden_layers=4, state_size=8, pad_token_id=0),
        "state",
    ),
    "mamba2": (
        "mamba2",
        dict(
            vocab_size=VOCABULARY,
            hidden_size=64,
            num_hidden_layers=4,
            state_size=8,
            num_heads=4,
            head_dim=32,
            n_groups=1,
        ),
        "state",
    ),
    "jamba": (
        "jamba",
        {**_SMALL, "attn_layer_period": 2, "attn_layer_offset": 1, "num_experts": 2, "use_mamba_kernels": False},
        "recurrent state",
    ),
    "qwen3_next": (
        "qwen3_next",
        {
            **_SMALL,
            **_EXPERTS,
            "head_dim": 16,
            "layer_types": ["linear_attention", "full_attention"] * 2,
            "shared_expert_intermediate_size": 32,
        },
        r"recurrent state .*linear_attention",
    ),
    "gemma3n": (
        "gemma3n_text",
        {
            **_SMALL,
            "head_dim": 16,
            "num_kv_shared_layers": 2,
            "intermediate_size": [128] * 4,
            "layer_types": ["sliding_attention", "full_attention"] * 2,
        }
        | {
            "activation_sparsity_pattern": [0.0] * 4,
            "vocab_size_per_layer_input": VOCABULARY,
            "hidden_size_per_layer_input": 8,
            "laurel_rank": 4,
        },
        "2 of its layers share the keys and values of others",
    ),
    "t5": (
        "t5",
        dict(vocab_size=VOCABULARY, d_model=64, num_layers=2, num_heads=4, d_ff=64, d_kv=16),
        "encoder-decoder",
    ),
}
