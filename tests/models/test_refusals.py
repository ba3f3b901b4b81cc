"""What can't be steered is refused when it is loaded, in one sentence that says why."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from random_models import build
from torch import nn
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer, QuantoQuantizedLayer
from unsteerable import CONFIGS

import kvsteer_lab as kv
from kvsteer_lab.models.caches import cache_of


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
        cache_of(output).layers[2].__class__ = QuantoQuantizedLayer

    assert "layer 2 caches a QuantoQuantizedLayer, not plain keys and values" in refusal(
        monkeypatch, tokenizer, quantise
    )


def test_layers_of_different_shapes_are_refused(monkeypatch: pytest.MonkeyPatch, tokenizer: Any) -> None:
    def narrow(output: Any) -> None:
        layer = cache_of(output).layers[3]
        layer.keys, layer.values = layer.keys[..., :8], layer.values[..., :8]

    assert "its layers' keys and values differ in shape" in refusal(monkeypatch, tokenizer, narrow)


def test_keys_and_values_of_different_shapes_are_refused(monkeypatch: pytest.MonkeyPatch, tokenizer: Any) -> None:
    def narrow(output: Any) -> None:
        for layer in cache_of(output).layers:
            layer.values = layer.values[..., :8]

    assert "its layers' keys and values differ in shape" in refusal(monkeypatch, tokenizer, narrow)


def test_layers_without_a_cache_of_their_own_are_refused(monkeypatch: pytest.MonkeyPatch, tokenizer: Any) -> None:
    def drop(output: Any) -> None:
        del cache_of(output).layers[-1]

    assert "some of its layers have no keys and values of their own" in refusal(monkeypatch, tokenizer, drop)


def test_a_model_without_a_cache_is_refused(monkeypatch: pytest.MonkeyPatch, tokenizer: Any) -> None:
    def forget(output: Any) -> None:
        output["cache" if "cache" in output else "past_key_values"] = None

    assert "returns no key/value cache" in refusal(monkeypatch, tokenizer, forget)


def test_a_module_that_is_no_transformers_model_is_refused(tokenizer: Any) -> None:
    with pytest.raises(
        kv.UnsteerableModelError, match="Linear is not a transformers model; load it with AutoModelForCausalLM"
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
