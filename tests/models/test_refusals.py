"""What can't be steered is refused when it is loaded, in one sentence that says why."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from random_models import VOCABULARY, build
from torch import nn
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer, QuantoQuantizedLayer

import kvsteer_lab as kv

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


@pytest.mark.parametrize("name", list(CONFIGS))
def test_a_checkpoint_is_refused_by_its_config_alone(name: str, tmp_path: Path) -> None:
    kind, settings, reason = CONFIGS[name]
    CONFIG_MAPPING[kind](**settings).save_pretrained(tmp_path)  # no weights: none may be needed
    with pytest.raises(
        kv.UnsteerableModelError, match=rf"^\w+ can't be steered: .*{reason}.*\. Choose a decoder-only transformer"
    ) as refused:
        kv.load(tmp_path)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("name", ["mamba", "jamba", "qwen3_next", "t5"])
def test_a_loaded_model_is_refused_too(name: str, tokenizer: Any) -> None:
    kind, settings, reason = CONFIGS[name]
    config = CONFIG_MAPPING[kind](**settings)
    if name == "t5":
        from transformers import T5ForConditionalGeneration

        hf: Any = T5ForConditionalGeneration(config)
    else:
        hf = AutoModelForCausalLM.from_config(config)
    with pytest.raises(kv.UnsteerableModelError, match=reason):
        kv.load(hf, tokenizer)


def refusal(monkeypatch: pytest.MonkeyPatch, tokenizer: Any, change: Any) -> str:
    """What loading says of a Llama whose output was changed."""
    hf: PreTrainedModel = build("llama")
    original = type(hf).forward

    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        output = original(self, *args, **kwargs)
        change(output)
        return output

    monkeypatch.setattr(type(hf), "forward", forward)
    with pytest.raises(kv.UnsteerableModelError) as refused:
        kv.load(hf, tokenizer)
    return str(refused.value)


def test_a_quantised_cache_layer_is_refused_by_its_exact_type(monkeypatch: pytest.MonkeyPatch, tokenizer: Any) -> None:
    assert issubclass(QuantoQuantizedLayer, DynamicLayer)

    def quantise(output: Any) -> None:
        output.past_key_values.layers[2].__class__ = QuantoQuantizedLayer

    assert "layer 2 caches a QuantoQuantizedLayer, not plain keys and values" in refusal(
        monkeypatch, tokenizer, quantise
    )


def test_layers_of_different_shapes_are_refused(monkeypatch: pytest.MonkeyPatch, tokenizer: Any) -> None:
    def narrow(output: Any) -> None:
        layer = output.past_key_values.layers[3]
        layer.keys, layer.values = layer.keys[..., :8], layer.values[..., :8]

    assert "its layers' keys and values differ in shape" in refusal(monkeypatch, tokenizer, narrow)


def test_keys_and_values_of_different_shapes_are_refused(monkeypatch: pytest.MonkeyPatch, tokenizer: Any) -> None:
    def narrow(output: Any) -> None:
        for layer in output.past_key_values.layers:
            layer.values = layer.values[..., :8]

    assert "its layers' keys and values differ in shape" in refusal(monkeypatch, tokenizer, narrow)


def test_layers_without_a_cache_of_their_own_are_refused(monkeypatch: pytest.MonkeyPatch, tokenizer: Any) -> None:
    def drop(output: Any) -> None:
        del output.past_key_values.layers[-1]

    assert "some of its layers have no keys and values of their own" in refusal(monkeypatch, tokenizer, drop)


def test_a_model_without_a_cache_is_refused(monkeypatch: pytest.MonkeyPatch, tokenizer: Any) -> None:
    def forget(output: Any) -> None:
        output.past_key_values = None

    assert "returns no key/value cache" in refusal(monkeypatch, tokenizer, forget)


def test_a_module_that_is_no_transformers_model_is_refused(tokenizer: Any) -> None:
    with pytest.raises(
        kv.UnsteerableModelError, match="Linear is no transformers model; load it with AutoModelForCausalLM"
    ):
        kv.load(nn.Linear(2, 2), tokenizer)


def test_a_prompt_learning_adapter_is_refused(tokenizer: Any) -> None:
    peft = pytest.importorskip("peft", reason="the adapter tests need peft")
    settings = peft.PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4)
    with pytest.raises(kv.UnsteerableModelError, match="writes into the cache itself; merge it or load the base model"):
        kv.load(peft.get_peft_model(build("llama"), settings), tokenizer)


def test_what_is_steerable_is_not_refused(tokenizer: Any) -> None:
    model = kv.load(build("llama"), tokenizer)
    assert type(model.prefill("fox")) is DynamicCache
    assert torch.isfinite(model.prefill("fox").layers[0].keys).all()
