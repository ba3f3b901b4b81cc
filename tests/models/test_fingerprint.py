"""Whatever changes a reply changes the fingerprint, however small; how and where the weights lie does not."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest
import torch
from adapters import lora
from random_models import build, tokenizer
from torch import nn
from transformers import PreTrainedModel

import kvsteer_lab as kv
from kvsteer_lab.models.fingerprint import Checksums, checksum, compare_fingerprints, fingerprint

Change = Callable[[PreTrainedModel], Any]


@pytest.fixture
def hf() -> PreTrainedModel:
    return build("llama")


def silence_a_neuron(hf: PreTrainedModel) -> None:
    hf.model.layers[1].mlp.down_proj.weight[:, 17] = 0


def change_one_value(hf: PreTrainedModel) -> None:
    hf.model.layers[0].self_attn.v_proj.weight[3, 5] += 1e-7


def change_every_second_value(hf: PreTrainedModel) -> None:
    hf.model.layers[2].mlp.up_proj.weight.view(-1)[1::2] += 0.01


def swap_two_values(hf: PreTrainedModel) -> None:
    row = hf.model.layers[2].mlp.up_proj.weight[0]
    row[[0, 1]] = row[[1, 0]]


def write_past_autograd(hf: PreTrainedModel) -> None:
    hf.lm_head.weight.data[7] = 0


def write_through_numpy(hf: PreTrainedModel) -> None:
    hf.model.norm.weight.detach().numpy()[0] = 2


def change_the_epsilon(hf: PreTrainedModel) -> None:
    hf.config.rms_norm_eps = 0.1


def change_rope(hf: PreTrainedModel) -> None:
    hf.config.rope_parameters["rope_theta"] = 7.0


def change_computed_frequencies(hf: PreTrainedModel) -> None:
    hf.model.rotary_emb.inv_freq *= 2


def put_a_tensor_in_its_place(hf: PreTrainedModel) -> None:
    hf.lm_head.weight = nn.Parameter(hf.lm_head.weight.detach() * 2)


CHANGES: list[Change] = [
    silence_a_neuron,
    change_one_value,
    change_every_second_value,
    swap_two_values,
    write_past_autograd,
    write_through_numpy,
    change_the_epsilon,
    change_rope,
    change_computed_frequencies,
    put_a_tensor_in_its_place,
]


@pytest.mark.parametrize("change", CHANGES)
def test_every_change_is_seen(hf: PreTrainedModel, change: Change) -> None:
    model = kv.load(hf, tokenizer())
    before = model.fingerprint
    with torch.no_grad():
        change(model.hf)
    assert model.read_fingerprint() != before
    assert fingerprint(model.hf) == model.fingerprint


@pytest.mark.parametrize("change", [c for c in CHANGES if c not in (write_past_autograd, write_through_numpy)])
def test_what_is_remembered_notices_changes_that_torch_counts(hf: PreTrainedModel, change: Change) -> None:
    known = Checksums()
    before = fingerprint(hf, known)
    assert fingerprint(hf, known) == before
    with torch.no_grad():
        change(hf)
    assert fingerprint(hf, known) == fingerprint(hf) != before


def test_a_tensor_at_the_address_of_another_is_read(hf: PreTrainedModel) -> None:
    known = Checksums()
    for value in (1.0, 2.0, 3.0):
        weight = torch.full((8,), value)  # takes the place of the one that was freed
        assert known.of("weight", weight) == checksum(weight)
        del weight


# --- dtypes and places ----------------------------------------------------------------------------------------


def test_a_dtype_that_loses_nothing_changes_nothing(hf: PreTrainedModel) -> None:
    rounded = hf.to(torch.bfloat16)
    exact = fingerprint(rounded)
    assert fingerprint(rounded.to(torch.float32)) == exact
    half = build("llama").to(torch.float16)
    assert fingerprint(half.to(torch.float32)) == fingerprint(build("llama").to(torch.float16)) != exact


def test_rounding_makes_other_weights(hf: PreTrainedModel) -> None:
    before = fingerprint(hf)
    assert compare_fingerprints(before, fingerprint(hf.to(torch.bfloat16))) == "weights"


def test_layout_and_memory_change_nothing() -> None:
    table = torch.randn(6, 5)
    assert checksum(table.t().contiguous().t()) == checksum(table)
    assert checksum(table) != checksum(table.t())
    assert checksum(torch.ones(4).double()) != checksum(torch.ones(4))
    assert checksum(torch.tensor([True])) != checksum(torch.tensor([1]))
    assert checksum(torch.zeros(0)) == checksum(torch.zeros(0, dtype=torch.float16))


def test_a_folder_and_the_model_that_was_saved_agree(tmp_path, hf: PreTrainedModel) -> None:
    hf.save_pretrained(tmp_path)
    tokenizer().save_pretrained(tmp_path)
    assert kv.load(tmp_path).fingerprint == kv.load(hf, tokenizer()).fingerprint


def test_names_paths_and_pad_tokens_change_nothing(hf: PreTrainedModel) -> None:
    before = fingerprint(hf)
    hf.config.pad_token_id, hf.config._name_or_path, hf.config.use_cache = 3, "elsewhere", False
    assert fingerprint(hf) == before


# --- adapters -------------------------------------------------------------------------------------------------


@pytest.fixture
def adapted() -> Any:
    peft = pytest.importorskip("peft", reason="the adapter tests need peft")
    torch.manual_seed(0)
    model = peft.get_peft_model(build("llama"), lora())
    model.add_adapter("b", lora())
    return model.eval()


def of(adapted: Any) -> str:
    return kv.load(adapted, tokenizer()).fingerprint


def test_only_active_adapters_count(adapted: Any) -> None:
    first = of(adapted)
    adapted.set_adapter("b")
    second = of(adapted)
    assert first != second
    adapted.delete_adapter("default")
    assert of(adapted) == second
    with adapted.disable_adapter():
        assert of(adapted) == kv.load(build("llama"), tokenizer()).fingerprint


def test_scaling_counts(adapted: Any) -> None:
    first = of(adapted)
    for module in adapted.modules():
        if isinstance(getattr(module, "scaling", None), dict):
            module.scaling["default"] *= 2
    assert of(adapted) != first


def test_a_merged_adapter_is_the_merged_model(adapted: Any) -> None:
    adapted.merge_adapter()
    merged = of(adapted)
    assert merged == kv.load(adapted.merge_and_unload(), tokenizer()).fingerprint


# --- comparing ------------------------------------------------------------------------------------------------


def test_comparing_names_what_differs(hf: PreTrainedModel) -> None:
    before = fingerprint(hf)
    assert compare_fingerprints(before, before) == "same"
    change_rope(hf)
    assert compare_fingerprints(before, fingerprint(hf)) == "config"
    assert compare_fingerprints("75a53d28fcb32cb7", before) == "format"
    assert compare_fingerprints("3-" + before[2:], before) == "format"
    assert compare_fingerprints("75a53d28fcb32cb7", "19188fc239919a78") == "weights", "both are of the older format"


@pytest.mark.slow
def test_a_quarter_of_a_billion_weights_take_less_than_two_seconds() -> None:
    weights = torch.randn(1 << 28)
    start = time.perf_counter()
    checksum(weights)
    assert time.perf_counter() - start < 2
