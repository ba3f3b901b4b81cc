"""Oracles of the cache operators, on every architecture that is steered."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import reference
import torch
from random_models import CONFIGS, PROMPTS, newline, vectors_for
from torch import Tensor
from transformers import DynamicCache

import kvsteer_lab as kv
from kvsteer_lab.edits import Add, Bank, Erase, Insert, Map, Replace
from kvsteer_lab.edits.spans import Everything, Slots

Load = Callable[[str], kv.Model]
NEW = {"max_new_tokens": 6}
architectures = pytest.mark.parametrize("name", CONFIGS)


def tensors(cache: DynamicCache) -> tuple[list[Tensor], list[Tensor]]:
    return [x.keys.clone() for x in cache.layers], [x.values.clone() for x in cache.layers]


def assert_equal(one: DynamicCache, other: DynamicCache, **tolerance: float) -> None:
    for a, b in zip(tensors(one), tensors(other), strict=True):
        for x, y in zip(a, b, strict=True):
            torch.testing.assert_close(x, y, **(tolerance or {"atol": 0, "rtol": 0}))


@architectures
def test_what_changes_nothing(name: str, load_random: Load) -> None:
    model = load_random(name)
    cache = model.prefill(PROMPTS[1])
    before = copy.deepcopy(cache)
    own, n = Bank.of(model, PROMPTS[1]), cache.get_seq_length()
    kv.edits.apply(cache, [Map(1.0, span=Everything())])
    kv.edits.apply(cache, [Map(torch.eye(model.head_dim), span=Everything())])
    assert_equal(cache, before)
    kv.edits.apply(cache, [Replace(own, span=Everything())])
    assert_equal(cache, before, atol=1e-5, rtol=1e-5)
    last = Bank(own.keys[:, :, -1:], own.values[:, :, -1:], (n - 1,))
    kv.edits.apply(cache, [Replace(last)])
    assert_equal(cache, before, atol=1e-5, rtol=1e-5)


@architectures
def test_a_map_with_a_shift_alone_adds_and_sums_commute(name: str, load_random: Load) -> None:
    model = load_random(name)
    a, b = vectors_for(model, 1), vectors_for(model, 2)
    plain = model.prefill(PROMPTS[0])
    added = kv.edits.apply(copy.deepcopy(plain), [Add(a.keys, a.values)])
    mapped = kv.edits.apply(copy.deepcopy(plain), [(Map(1, a.keys, part="keys"), Map(1.0, a.values, part="values"))])
    assert_equal(added, mapped)
    one = kv.edits.apply(copy.deepcopy(plain), [(Add(a.keys, a.values), Add(b.keys, b.values))])
    two = kv.edits.apply(copy.deepcopy(plain), [(Add(b.keys, b.values), Add(a.keys, a.values))])
    assert_equal(one, two)
    halved = kv.edits.apply(copy.deepcopy(plain), [(Add(a.keys, a.values), Map(0.5))])
    first = kv.edits.apply(copy.deepcopy(plain), [(Map(0.5), Add(a.keys, a.values))])
    with pytest.raises(AssertionError):
        assert_equal(halved, first, atol=1e-3, rtol=1e-3)  # other operators are done in their order


@architectures
def test_a_span_of_another_prompt_is_patched_as_by_hand(name: str, load_random: Load) -> None:
    model = load_random(name)
    donor, span = reference.prefill(model.hf, model.encode(PROMPTS[0])), Slots(-3, -2, -1)
    edit = kv.CacheEdits([Replace(Bank.of(model, PROMPTS[0], span), span=span)])
    cache = reference.prefill(model.hf, model.encode(PROMPTS[1]))
    for mine, theirs in zip(cache.layers, donor.layers, strict=True):
        mine.keys[:, :, -3:], mine.values[:, :, -3:] = theirs.keys[:, :, -3:], theirs.values[:, :, -3:]
    assert said(model, edit, PROMPTS[1]) == read_greedily(model, cache, len(said(model, edit, PROMPTS[1])))
    batch = kv.generate(model, PROMPTS, [kv.Nothing(), edit], generation=NEW)  # rows with and without, padded
    found = {(g.prompt, g.intervention): list(g.token_ids) for g in batch}
    assert found[1, edit.label] == said(model, edit, PROMPTS[1])
    assert found[1, "baseline"] == said(model, kv.Nothing(), PROMPTS[1])


@architectures
def test_an_inserted_prefix_is_a_prefix_in_the_prompt(name: str, load_random: Load) -> None:
    model = load_random(name)
    prefix = "The answer is 19. Step 1"
    edit = kv.CacheEdits([Insert(Bank.of(model, prefix, chat=False))], name="bank")
    for prompt in PROMPTS:
        whole = model.encode(prefix, chat=False) + model.encode(prompt, chat=False)
        cache = reference.prefill(model.hf, whole)
        targets = read_greedily(model, cache, 6)
        got = kv.generate(model, prompt, edit, chat=False, generation=NEW)
        assert list(got.token_ids[0]) == targets
    batch = kv.generate(model, PROMPTS, [kv.Nothing(), edit], chat=False, generation=NEW)
    for g in batch:
        alone = kv.generate(
            model, PROMPTS[g.prompt], edit if g.intervention == "bank" else None, chat=False, generation=NEW
        )
        assert list(g.token_ids) == list(alone.token_ids[0])


@architectures
def test_erasing_a_span_hides_its_slots(name: str, load_random: Load) -> None:
    model = load_random(name)
    erased = kv.CacheEdits([Erase(span=Slots(-2, -3))])
    hidden = kv.Together(kv.HideSlot(slot=-2), kv.HideSlot(slot=-3))
    try:
        erased.check(model)
    except kv.UnsteerableModelError:
        with pytest.raises(kv.UnsteerableModelError):
            hidden.check(model)
        return
    targets = [kv.generate(model, PROMPTS[1], generation=NEW).token_ids[0]]
    assert max(kv.divergence(model, PROMPTS[1], targets, erased, hidden).totals) == 0
    assert kv.divergence(model, PROMPTS[1], targets, erased).totals[0] > 0


def said(model: kv.Model, method: kv.Intervention, prompt: str) -> list[int]:
    return list(kv.generate(model, prompt, method, generation=NEW).token_ids[0])


@torch.no_grad()
def read_greedily(model: kv.Model, cache: DynamicCache, new: int) -> list[int]:
    token, found = newline(model), []
    for _ in range(new):
        token = int(reference.read_on(model.hf, [token], cache).argmax())
        found.append(token)
    return found
