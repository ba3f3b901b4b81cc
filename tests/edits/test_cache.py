"""Looking at a prompt's cache and editing single slots of it by hand."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import reference
import torch
from random_models import PROMPTS, newline, vectors_for
from torch import Tensor
from transformers import DynamicCache

import kvsteer_lab as kv
from kvsteer_lab.models.prefill import fork_rows


def delta(model: kv.Model, seed: int = 0, slot: int = -1) -> kv.CacheDelta:
    vectors = vectors_for(model, seed)
    return kv.CacheDelta(vectors.keys, vectors.values, slot)


def tensors(cache: DynamicCache) -> tuple[Tensor, Tensor]:
    """Keys and values `[layers, rows, kv_heads, tokens, head_dim]`."""
    return torch.stack([x.keys for x in cache.layers]), torch.stack([x.values for x in cache.layers])


def test_prefill_gives_the_cache_of_the_prompt_without_the_offset(model: kv.Model) -> None:
    ours, theirs = model.prefill(PROMPTS[1]), reference.prefill(model.hf, model.encode(PROMPTS[1]))
    for a, b in zip(tensors(ours), tensors(theirs), strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)
    verbatim = model.prefill("the fox", chat=False)
    assert verbatim.get_seq_length() == len(model.tokenizer("the fox", add_special_tokens=False).input_ids)


@pytest.mark.parametrize("slot", [-1, -3, 0, 4])
def test_an_edit_touches_its_slot_and_nothing_else(slot: int, model: kv.Model) -> None:
    cache = model.prefill(PROMPTS[0])
    before, edit = copy.deepcopy(tensors(cache)), delta(model, slot=slot)
    assert kv.apply(cache, [edit]) is cache
    for old, new, added in zip(before, tensors(cache), (edit.keys, edit.values), strict=True):
        torch.testing.assert_close(new[:, 0, :, slot], old[:, 0, :, slot] + added)
        changed = (new != old).any(-1).any(0).any(0).any(0)
        assert changed.nonzero().flatten().tolist() == [slot % old.shape[3]]


def test_an_edit_by_hand_is_what_steering_does(model: kv.Model, vectors: kv.KVVectors) -> None:
    steered = kv.generate(
        model, PROMPTS[0], kv.CacheSteering(vectors, 1.5, 8.0, layers=range(4)), generation={"max_new_tokens": 8}
    ).token_ids[0]
    cache = kv.apply(model.prefill(PROMPTS[0]), [kv.CacheDelta(1.5 * vectors.keys, 8.0 * vectors.values)])
    ids = torch.tensor([[*model.encode(PROMPTS[0]), newline(model)]])
    given = {model.cache_argument: cache}
    by_hand = model.hf.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=8, do_sample=False, **given)
    assert by_hand[0, ids.shape[1] :].tolist()[: len(steered)] == steered
    assert steered != kv.generate(model, PROMPTS[0], generation={"max_new_tokens": 8}).token_ids[0]


def test_rows_slots_and_sums(model: kv.Model) -> None:
    cache = model.prefill(PROMPTS)  # type: ignore[arg-type]
    lengths = [len(model.encode(p)) for p in PROMPTS]
    before = copy.deepcopy(tensors(cache)[1])
    one, two, first = delta(model, 0), delta(model, 1), delta(model, 2, slot=0)
    kv.apply(cache, [(one, two), (), first], lengths=lengths)
    moved = tensors(cache)[1] - before
    torch.testing.assert_close(moved[:, 0, :, -1], one.values + two.values, atol=1e-5, rtol=1e-5)
    assert not moved[:, 1].any(), "a row without deltas stays as it is"
    torch.testing.assert_close(moved[:, 2, :, -lengths[2]], first.values, atol=1e-5, rtol=1e-5)
    assert moved.any(-1).any(2).any(0).sum(-1).tolist() == [1, 0, 1]


def test_the_same_slot_named_twice_is_one_slot(model: kv.Model) -> None:
    n = len(model.encode(PROMPTS[0]))
    cache, before = model.prefill(PROMPTS[0]), tensors(model.prefill(PROMPTS[0]))[0]
    kv.apply(cache, [(delta(model, slot=-1), delta(model, slot=n - 1))])
    torch.testing.assert_close(tensors(cache)[0][:, 0, :, -1], before[:, 0, :, -1] + 2 * delta(model).keys)


def test_the_sum_is_made_in_float32_and_cast_once(model: kv.Model) -> None:
    cache = model.prefill("fox")
    for layer in cache.layers:
        layer.keys, layer.values = torch.zeros_like(layer.keys).bfloat16(), torch.zeros_like(layer.values).bfloat16()
    shape = (model.n_layers, model.n_kv_heads, model.head_dim)
    big, small = (kv.CacheDelta(torch.full(shape, x), torch.full(shape, x)) for x in (256.0, 0.75))
    kv.apply(cache, [(big, small, small)])
    assert cache.layers[0].keys.dtype == torch.bfloat16
    assert float(cache.layers[0].keys[0, 0, -1, 0]) == 258.0, "added one by one in bfloat16, 256 + 0.75 + 0.75 is 256"


def test_deltas_go_to_each_layer_s_own_device(model: kv.Model) -> None:
    """The meta device stands in for a second GPU: torch refuses to mix it with the CPU just as it does two GPUs."""
    edit = delta(model)
    cache, before = model.prefill("fox"), tensors(model.prefill("fox"))[0]
    there = cache.layers[1]
    there.keys, there.values = there.keys.to("meta"), there.values.to("meta")
    with pytest.raises((RuntimeError, NotImplementedError)):
        there.keys[:, :, -1].index_add_(0, torch.tensor([0]), edit.keys[None, 1])
    fork_rows(cache, torch.tensor([0, 0]))
    kv.apply(cache, [edit, ()])
    assert there.keys.device.type == "meta" and there.keys.shape[0] == 2
    for index in (0, 2, 3):
        keys = cache.layers[index].keys[:, :, -1]
        torch.testing.assert_close(keys[0], before[index, 0, :, -1] + edit.keys[index])
        assert torch.equal(keys[1], before[index, 0, :, -1])


def test_forked_rows_do_not_share_memory(model: kv.Model) -> None:
    cache = model.prefill(PROMPTS[0])
    fork_rows(cache, torch.tensor([0, 0, 0]))
    before = copy.deepcopy(tensors(cache)[0])
    kv.apply(cache, [(), delta(model), ()])
    moved = (tensors(cache)[0] != before).flatten(2).any(-1).any(0)
    assert moved.tolist() == [False, True, False]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: [d, d], r"The cache has 1 rows, but 2 rows of deltas were given; pass one entry a row"),
        (
            lambda d: [kv.CacheDelta(d.keys[:2], d.values[:2])],
            r"The keys of row 0's delta are \(2, 2, 16\), but the cache is \(4, 2, 16\)",
        ),
        (lambda d: [kv.CacheDelta(d.keys, d.values[..., :8])], r"The values of row 0's delta are \(4, 2, 8\)"),
        (
            lambda d: [kv.CacheDelta(d.keys * float("nan"), d.values)],
            r"The keys of row 0's delta hold NaN or infinity; check the coefficients",
        ),
        (lambda d: [kv.CacheDelta(d.keys, d.values / 0)], r"The values of row 0's delta hold NaN or infinity"),
        (
            lambda d: [kv.CacheDelta(d.keys, d.values, 999)],
            r"Slot 999 is out of range for row 0, which has \d+ cached tokens",
        ),
        (lambda d: [kv.CacheDelta(d.keys, d.values, -999)], r"Slot -999 is out of range"),
        (lambda d: [(d, kv.CacheDelta(d.keys, d.values, 999))], r"Slot 999 is out of range"),
    ],
)
def test_a_bad_delta_is_refused_before_anything_is_changed(change: Any, message: str, model: kv.Model) -> None:
    cache = model.prefill("fox")
    before = copy.deepcopy(tensors(cache))
    with pytest.raises(ValueError, match=message):
        kv.apply(cache, change(delta(model)))
    assert all(torch.equal(a, b) for a, b in zip(before, tensors(cache), strict=True))
