"""The forms in which a model and a tokenizer are handed over: each works, or is refused in one sentence."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import nnsight
import pytest
import torch
from random_models import PROMPTS, build
from transformers import pipeline

import kvsteer_lab as kv

SHORT = {"max_new_tokens": 6}


def said(model: kv.Model) -> list[list[int]]:
    return kv.generate(model, PROMPTS, generation=SHORT).token_ids


def test_a_pipeline(model: kv.Model) -> None:
    pipe = pipeline("text-generation", model=build("llama"), tokenizer=model.tokenizer)
    assert said(kv.load(pipe)) == said(kv.load(build("llama"), model.tokenizer))


def test_a_model_of_kv_load_itself(model: kv.Model) -> None:
    again = kv.load(model)
    assert said(again) == said(model) and again.hf.lm_head.weight is model.hf.lm_head.weight


@pytest.mark.parametrize("kind", [nnsight.LanguageModel, nnsight.TransformersModel])
def test_an_nnsight_model(kind: Any, model: kv.Model) -> None:
    task = {"task": "text-generation"} if kind is nnsight.TransformersModel else {}
    wrapped = kind(build("llama"), tokenizer=model.tokenizer, **task)
    loaded = kv.load(wrapped)
    assert said(loaded) == said(kv.load(build("llama"), model.tokenizer))
    with wrapped.trace(torch.tensor([[1, 2, 3]])):
        logits = wrapped.lm_head.output.save()
    assert logits.shape[:2] == (1, 3), "the caller's goes on working"


def test_a_tokenizer_by_its_folder_or_name(folder: Path, model: kv.Model) -> None:
    hf = build("llama")
    for place in (folder, str(folder)):
        assert kv.load(hf, place).encode("fox") == model.encode("fox")
    assert kv.load(kv.load("tiny").hf, "tiny").encode("fox") == kv.load("tiny").encode("fox")
    with pytest.raises(ValueError, match=r"^Cannot load the tokenizer 'no/such': .* Give its folder, its hub id, or"):
        kv.load(hf, "no/such")


@pytest.mark.parametrize(
    ("name", "dtype"), [("bf16", torch.bfloat16), ("fp16", torch.float16), ("half", torch.float16)]
)
def test_short_names_of_dtypes(name: str, dtype: torch.dtype, folder: Path) -> None:
    assert kv.load(folder, dtype=name).dtype == dtype
    assert kv.load(folder, dtype=f"torch.{str(dtype)[6:]}").dtype == dtype


def test_an_unknown_dtype_is_refused(folder: Path) -> None:
    with pytest.raises(ValueError, match=r"dtype='bfloat61' is not a dtype of weights; choose 'float32', 'bfloat16'"):
        kv.load(folder, dtype="bfloat61")


def test_a_home_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(folder.parent))
    assert kv.load(f"~/{folder.name}").n_layers == 4


def test_an_adapter_s_folder_is_refused_with_its_base(tmp_path: Path, tokenizer: Any) -> None:
    peft = pytest.importorskip("peft")
    hf = build("llama")
    hf.name_or_path = "someone/base"
    peft.get_peft_model(hf, peft.LoraConfig(target_modules=["q_proj"])).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"holds an adapter for someone/base, not a model; load both with peft\."):
        kv.load(tmp_path)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("", "The model's name is empty"),
        ("https://huggingface.co/org/model/tree/main", r"is an address, .*; give the hub id, 'org/model'"),
        (
            "https://example.com/model.gguf",
            "is an address, and models aren't loaded from one; give the hub id or folder",
        ),
        ("SmolLM2 135M", r"There is no model 'SmolLM2 135M'\. Did you mean 'smollm2-135m'\?"),
        ("smollm2-135m/", r"There is no model 'smollm2-135m/'\. Did you mean 'smollm2-135m'\?"),
        ("no such thing", "There is no folder no such thing: the folder .* holds none of that name"),
    ],
)
def test_a_name_that_nothing_has(name: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        kv.load(name)


@pytest.mark.parametrize("name", ["model.gguf", "model.bin"])
def test_a_file_that_is_not_a_model_is_refused(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"GGUF")
    with pytest.raises(ValueError) as refused:
        kv.load(tmp_path / name)
    assert name in str(refused.value) and "\n" not in str(refused.value)


def test_a_model_without_an_output_layer_is_refused(tokenizer: Any) -> None:
    with pytest.raises(kv.UnsteerableModelError, match=r"LlamaModel has no output layer .* AutoModelForCausalLM"):
        kv.load(build("llama").model, tokenizer)


@pytest.mark.parametrize("kind", ["forward", "forward_pre"])
def test_a_foreign_hook_is_refused(kind: str, tokenizer: Any) -> None:
    hf = build("llama")
    handle = getattr(hf.model.layers[1], f"register_{kind}_hook")(lambda *given: None)
    with pytest.raises(kv.UnsteerableModelError, match=r"a forward hook of \w+ on model\.layers\.1: .*handle\.remove"):
        kv.load(hf, tokenizer)
    handle.remove()
    assert kv.load(hf, tokenizer).n_layers == 4


def test_transformers_own_hooks_are_no_obstacle(tokenizer: Any) -> None:
    hf = build("llama")
    hf(torch.tensor([[1, 2]]), output_hidden_states=True, output_attentions=False)  # installs hooks of its own
    assert said(kv.load(hf, tokenizer)) == said(kv.load(build("llama"), tokenizer))


def test_an_adapter_merged_after_loading_is_noticed(tokenizer: Any) -> None:
    peft = pytest.importorskip("peft")
    adapted = peft.get_peft_model(
        build("llama"), peft.LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False)
    ).eval()
    model = kv.load(adapted, tokenizer)
    before = said(model)
    merged = adapted.merge_and_unload()
    for use in (said, lambda m: kv.extract(m, kv.ContrastiveSet.from_texts(["a"], ["b"]), progress=False)):
        with pytest.raises(ValueError, match=r"was merged or unmerged after the model was loaded; load it anew"):
            use(model)
    assert said(kv.load(merged, tokenizer)) == before


def test_a_pad_token_beyond_the_embeddings(model: kv.Model) -> None:
    tokenizer = copy.deepcopy(model.tokenizer)
    tokenizer.add_tokens([f"<extra{i}>" for i in range(30)])
    tokenizer.add_special_tokens({"pad_token": "[PAD]"})
    loaded = kv.load(build("llama"), tokenizer)
    assert tokenizer.pad_token_id >= loaded.n_tokens > loaded.pad_id
    assert said(loaded) == said(kv.load(build("llama"), model.tokenizer))
    with pytest.raises(ValueError, match=r"holds the token '<extra29>' \(\d+\), for which .* has no embedding"):
        loaded.encode("a <extra29>", chat=False)


def test_a_cache_implementation_in_the_checkpoint_s_settings(tokenizer: Any) -> None:
    hf = build("llama")
    plain = said(kv.load(hf, tokenizer))
    hf.generation_config.cache_implementation = "static"
    model = kv.load(hf, tokenizer)
    assert said(model) == plain
    assert model.hf.generation_config.cache_implementation == "static", "it is set aside, not changed"


def test_the_model_s_own_generation_config_as_settings(tokenizer: Any) -> None:
    hf = build("llama")
    hf.generation_config.update(max_length=20, temperature=0.6, num_beams=1, eos_token_id=[2, 5], bos_token_id=1)
    model = kv.load(hf, tokenizer)
    rows = kv.generate(model, "fox", generation=model.hf.generation_config)
    assert rows.token_ids == kv.generate(model, "fox", generation={"eos_token_id": [2, 5]}).token_ids
