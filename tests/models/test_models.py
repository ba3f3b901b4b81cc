"""Loading: what comes in is left as it was, what comes out is what was asked for."""

from __future__ import annotations

import copy
import re
from pathlib import Path
from typing import Any

import pytest
import reference
import torch
from portraits import portrait
from random_models import PROMPTS, build, newline, vectors_for
from timing import takes_less_than
from transformers import AutoModelForCausalLM, AutoTokenizer

import kvsteer_lab as kv

SHORT = {"max_new_tokens": 6}


def test_the_caller_s_model_and_tokenizer_stay_as_they_are(tokenizer: Any) -> None:
    hf = build("llama").train()
    own = copy.deepcopy(tokenizer)
    own.padding_side, own.pad_token = "right", None
    before = portrait(hf), hf.config.to_dict(), hf.generation_config.to_dict(), copy.deepcopy(own.__dict__)
    weights = {k: v.clone() for k, v in hf.state_dict().items()}
    model = kv.load(hf, own)
    rows = kv.generate(model, PROMPTS, [kv.Nothing(), kv.CacheSteering(vectors_for(model), 1, 8)], generation=SHORT)
    kv.extract(model, kv.ContrastiveSet.from_texts(["a dog"], ["fox"]), progress=False)
    assert rows[0].token_ids != rows[1].token_ids
    after = portrait(hf), hf.config.to_dict(), hf.generation_config.to_dict()
    assert after == before[:3]
    assert hf.training and own.padding_side == "right" and own.pad_token is None
    assert {k: str(v) for k, v in own.__dict__.items()} == {k: str(v) for k, v in before[3].items()}
    assert all(torch.equal(v, weights[k]) for k, v in hf.state_dict().items())


def test_weights_are_shared_not_copied(tokenizer: Any) -> None:
    hf = build("llama")
    model = kv.load(hf, tokenizer)
    ours = dict(model.hf.named_parameters())
    assert all(ours[name] is parameter for name, parameter in hf.named_parameters())
    assert all(
        dict(model.traced.named_parameters()).get(name, parameter).data_ptr() == parameter.data_ptr()
        for name, parameter in hf.named_parameters()
    )
    assert model.hf is not hf and not model.hf.training


def test_a_folder_loads_as_transformers_loads_it(folder: Path, model: kv.Model) -> None:
    hf, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    ids = tokenizer.apply_chat_template([{"role": "user", "content": PROMPTS[0]}], add_generation_prompt=True).input_ids
    assert model.encode(PROMPTS[0]) == ids
    found = kv.generate(model, PROMPTS[0], generation=SHORT).token_ids[0]
    assert found == reference.plain(hf, [*ids, newline(model)], 6)[: len(found)]
    assert (model.dtype, model.device.type, model.model_type) == (torch.float32, "cpu", "llama")
    assert (model.n_layers, model.n_kv_heads, model.head_dim, model.context) == (4, 2, 16, 512)


def test_the_dtype_is_the_one_asked_for(folder: Path) -> None:
    assert kv.load(folder, dtype=torch.bfloat16).dtype == torch.bfloat16
    assert kv.load(str(folder), dtype="float16").dtype == torch.float16


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_attention_implementations_agree(attention: str, folder: Path, model: kv.Model) -> None:
    other = kv.load(folder, attn_implementation=attention)
    assert other.hf.config._attn_implementation == attention
    steering = kv.CacheSteering(vectors_for(model), 1, 8)
    rows = [kv.generate(m, PROMPTS, steering, generation=SHORT).token_ids for m in (model, other)]
    assert rows[0] == rows[1] != kv.generate(model, PROMPTS, generation=SHORT).token_ids


@pytest.mark.parametrize("name", ["tiny", "tiny-control"])
def test_the_bundled_models_load_in_float32_and_in_eval_mode(name: str) -> None:
    bundled = kv.load(name)
    assert bundled.dtype == torch.float32 and not bundled.hf.training
    assert bundled.name == name
    assert newline(bundled) == bundled.tokenizer("\n").input_ids[0]
    kv.generate(bundled, "How many?", kv.CacheSteering(vectors_for(bundled), 1, 1), generation={"max_new_tokens": 2})


def test_the_bundled_models_differ(tiny: kv.Model) -> None:
    assert tiny.fingerprint != kv.load("tiny-control").fingerprint


# --- fingerprint ----------------------------------------------------------------------------------------------


def test_the_fingerprint_is_of_the_weights_not_of_where_they_come_from(folder: Path, model: kv.Model) -> None:
    assert re.fullmatch("2-[0-9a-f]{16}-[0-9a-f]{8}", model.fingerprint)
    assert model.fingerprint == kv.load(folder).fingerprint
    assert kv.load(folder, dtype=torch.bfloat16).fingerprint != model.fingerprint, "rounded weights are other weights"


def test_other_weights_have_another_fingerprint(tokenizer: Any) -> None:
    hf = build("llama")
    before = kv.load(hf, tokenizer).fingerprint
    with torch.no_grad():
        hf.model.layers[2].mlp.up_proj.weight[0, 0] += 1
    assert kv.load(hf, tokenizer).fingerprint != before
    assert kv.load(build("llama", seed=1), tokenizer).fingerprint != before


def test_the_fingerprint_takes_less_than_a_second(tokenizer: Any) -> None:
    model = kv.load(build("long llama"), tokenizer)
    assert takes_less_than(1, model.read_fingerprint)


# --- several devices ------------------------------------------------------------------------------------------


def split_map(*places: str) -> dict[str, str]:
    """The embeddings and the head on the first place, the four layers on places of their own."""
    layers = {f"model.layers.{i}": place for i, place in enumerate(places)}
    return {
        "model.embed_tokens": places[0],
        "model.rotary_emb": places[0],
        "model.norm": places[-1],
        "lm_head": places[-1],
        **layers,
    }


def runs_alike(split: kv.Model, whole: kv.Model) -> None:
    """Baseline and steered text, scores and vectors are those of the model on one device."""
    methods = [kv.Nothing(), kv.CacheSteering(vectors_for(whole), 1, 8)]
    rows = [kv.generate(m, PROMPTS, methods, generation=SHORT) for m in (whole, split)]
    assert rows[0].token_ids == rows[1].token_ids
    assert rows[0][0].token_ids != rows[0][1].token_ids
    pairs = kv.ContrastiveSet.from_texts(["Step 1: add", "a dog"], ["What?", "The quick brown fox"])
    one, two = (kv.extract(m, pairs, keys="position_free", progress=False) for m in (whole, split))
    torch.testing.assert_close(two.keys, one.keys, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(two.values, one.values, atol=1e-4, rtol=1e-4)
    scores = [kv.score(m, PROMPTS, ["the fox"] * 3, methods[1]).totals for m in (whole, split)]
    assert scores[0] == pytest.approx(scores[1], abs=1e-3)


@pytest.mark.filterwarnings("ignore:These vectors were extracted from other weights")
def test_a_device_map_with_layers_on_disk(folder: Path, model: kv.Model) -> None:
    """Without a second device, accelerate's hooks still move half of the layers in and out of memory."""
    split = kv.load(
        folder, device_map=split_map("cpu", "cpu", "disk", "disk") | {"model.norm": "cpu", "lm_head": "cpu"}
    )
    assert len(set(split.hf.hf_device_map.values())) == 2
    assert split.device.type == "cpu"
    runs_alike(split, model)


def test_a_dispatched_model_of_the_caller_s_keeps_its_hooks(folder: Path, model: kv.Model) -> None:
    hf = AutoModelForCausalLM.from_pretrained(
        folder, device_map=split_map("cpu", "cpu", "disk", "disk") | {"model.norm": "cpu", "lm_head": "cpu"}
    )
    before = {name: id(m.__dict__.get("_hf_hook")) for name, m in hf.named_modules()}
    loaded = kv.load(hf, model.tokenizer)
    assert (
        kv.generate(loaded, PROMPTS, generation=SHORT).token_ids
        == kv.generate(model, PROMPTS, generation=SHORT).token_ids
    )
    assert {name: id(m.__dict__.get("_hf_hook")) for name, m in hf.named_modules()} == before


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device beside the CPU")
def test_a_model_split_over_gpu_and_cpu(folder: Path) -> None:
    gpu = "cuda:1" if torch.cuda.device_count() > 1 else "cuda:0"
    whole = kv.load(folder, device_map="cpu")
    split = kv.load(folder, device_map=split_map("cpu", "cpu", gpu, gpu))
    cache = split.prefill(PROMPTS[0])
    assert {x.keys.device.type for x in cache.layers} == {"cpu", "cuda"}
    runs_alike(split, whole)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_model_on_the_gpu(folder: Path) -> None:
    whole, gpu = kv.load(folder, device_map="cpu"), kv.load(folder)
    assert gpu.device.type == "cuda"
    runs_alike(gpu, whole)


# --- errors ---------------------------------------------------------------------------------------------------


def test_an_unknown_name_is_refused_with_what_would_do() -> None:
    names = "'tiny', 'tiny-control', 'smollm2-135m', 'gemma3-270m'"
    remedy = rf"Give {names}, a folder written by save_pretrained, a \.gguf file, or a hub id\."
    with pytest.raises(ValueError, match=rf"^Cannot load 'no/such-model': .* {remedy}$") as refused:
        kv.load("no/such-model")
    assert "\n" not in str(refused.value)


def test_a_folder_without_a_config_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"holds no config\.json; give a folder written by save_pretrained"):
        kv.load(tmp_path)


def test_a_folder_without_weights_is_refused(tmp_path: Path, tokenizer: Any) -> None:
    build("llama").config.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"^Cannot load .*safetensors"):
        kv.load(tmp_path)


def test_a_folder_without_a_tokenizer_is_refused(tmp_path: Path) -> None:
    build("llama").save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"^Cannot load .*[Tt]okenizer"):
        kv.load(tmp_path)


def test_a_loaded_model_needs_its_tokenizer() -> None:
    with pytest.raises(ValueError, match=r"No tokenizer was given .* pass tokenizer=AutoTokenizer\.from_pretrained"):
        kv.load(build("llama"))


def test_a_broken_config_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "no_such_kind"}')
    with pytest.raises(ValueError, match=r"^Cannot load .*no_such_kind"):
        kv.load(tmp_path)


def test_truncated_weights_are_refused(tmp_path: Path, tokenizer: Any) -> None:
    build("llama").save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(ValueError, match=r"^Cannot load "):
        kv.load(tmp_path)
