"""Edits of newly cached slots, banks in chosen layers, gates on what acts before and after, and rows that differ."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import reference
import torch
from random_models import CONFIGS, PROMPTS, build, newline, tokenizer, vectors_for
from torch import Tensor

import kvsteer_lab as kv
from kvsteer_lab.edits import Add, Bank, Erase, Insert, LastSlot, Map, Replace
from kvsteer_lab.edits.base import SlotEdit
from kvsteer_lab.edits.spans import Everything, Slots
from kvsteer_lab.generation.row_edits import look_up

Load = Callable[[str], kv.Model]
NEW = {"max_new_tokens": 5}
architectures = pytest.mark.parametrize("name", CONFIGS)


def said(model: kv.Model, method: kv.Intervention | None, prompt: str = PROMPTS[1], **how: Any) -> list[int]:
    return list(kv.generate(model, prompt, method, generation=NEW, **how).token_ids[0])


@torch.no_grad()
def read_editing(model: kv.Model, edit: SlotEdit, prompt: str, new: int) -> list[int]:
    """By hand: the projections' outputs can't be reached alike everywhere, so each new slot is edited in the cache and
    the token that made it is read once more, from the cache without and with it.
    """
    cache = reference.prefill(model.hf, model.encode(prompt))
    kv.edits.apply(cache, [Add(edit.keys, edit.values, edit.slot)])  # type: ignore[attr-defined]
    token, found = newline(model), []
    for _ in range(new):
        logits = _with_own_slot_edited(model, cache, token, edit)
        token = int(logits.argmax())
        found.append(token)
    return found


def _with_own_slot_edited(model: kv.Model, cache: Any, token: int, edit: SlotEdit) -> Tensor:
    """One more token: its layers' updates are edited by wrapping the cache's own method."""
    plain = type(cache).update

    def update(self: Any, keys: Tensor, values: Tensor, layer: int, *args: Any, **kwargs: Any) -> Any:
        k, v = keys + edit.keys[layer][:, None], values + edit.values[layer][:, None]  # type: ignore[attr-defined]
        return plain(self, k, v, layer, *args, **kwargs)

    type(cache).update = update
    try:
        return reference.read_on(model.hf, [token], cache)
    finally:
        type(cache).update = plain


@architectures
def test_every_new_slot_is_edited_as_it_is_cached(name: str, load_random: Load) -> None:
    model = load_random(name)
    vectors = vectors_for(model)
    edit = Add(vectors.keys, 2 * vectors.values, every=True)
    lasting, once = kv.CacheEdits([edit]), kv.CacheEdits([Add(vectors.keys, 2 * vectors.values)])
    own = said(model, lasting)
    assert own == read_editing(model, edit, PROMPTS[1], 5)
    kl = kv.divergence(model, PROMPTS[1], [own], lasting, once)
    assert kl.totals[0] > 0
    batch = kv.generate(model, PROMPTS, [kv.Nothing(), lasting, once], generation=NEW, batch_size=4)
    for g in batch:  # rows that differ, in batches that rows leave and join
        method = {"baseline": None, lasting.label: lasting, once.label: once}[g.intervention]
        assert list(g.token_ids) == said(model, method, PROMPTS[g.prompt])


def test_every_is_composed_in_order_and_bounded(model: kv.Model) -> None:
    vectors = vectors_for(model)
    add = Add(vectors.keys, 2 * vectors.values, every=True)
    one = kv.CacheEdits([add, Map(0.5, every=True)])
    summed = kv.CacheEdits([Map(0.5, every=True), Add(0.5 * vectors.keys, vectors.values, every=True)])
    other = kv.CacheEdits([Map(0.5, every=True), add])
    texts = [said(model, one)]
    assert kv.divergence(model, PROMPTS[1], texts, one, summed).totals[0] < 1e-6
    assert kv.divergence(model, PROMPTS[1], texts, one, other).totals[0] > 1e-4
    part = Add(vectors.keys, 2 * vectors.values, every=True, layers=[1], heads=[0])
    keys, values = torch.zeros_like(vectors.keys), torch.zeros_like(vectors.values)
    keys[1, 0], values[1, 0] = vectors.keys[1, 0], 2 * vectors.values[1, 0]
    alike = kv.CacheEdits([Add(keys, values, every=True)])
    assert kv.divergence(model, PROMPTS[1], texts, kv.CacheEdits([part]), alike).totals[0] < 1e-6
    fixed = kv.CacheEdits([Replace(Bank.zeros(model), every=True)])
    assert kv.divergence(model, PROMPTS[1], texts, fixed, kv.CacheEdits([Map(0.0, every=True)])).totals[0] < 1e-6
    assert one.label == "add every token, map every token"


def test_every_reads_the_reply_alike_in_generation_and_in_scoring(tiny: kv.Model) -> None:
    vectors = vectors_for(tiny)
    method = kv.CacheEdits([Add(0 * vectors.keys, vectors.values, every=True)])
    text = kv.generate(tiny, PROMPTS[0], method, generation={"max_new_tokens": 8})
    assert kv.score(tiny, PROMPTS[0], [text.token_ids[0]], method).greedy == (True,)
    assert "".join(kv.stream(tiny, PROMPTS[0], method, generation={"max_new_tokens": 8})) == text.texts[0]


@architectures
def test_a_bank_is_read_in_the_chosen_layers_alone(name: str, load_random: Load) -> None:
    model = load_random(name)
    bank = Bank.of(model, "The answer is 19. Step 1", chat=False)
    chosen = [1, 3]
    other = torch.randn(bank.keys.shape, generator=torch.Generator().manual_seed(0))
    mixed = {part: getattr(bank, part).clone() for part in ("keys", "values")}
    for part in mixed.values():
        part[[0, 2]] = 3 * other[[0, 2]]  # what no layer reads
    some = kv.CacheEdits([Insert(bank, layers=chosen)], name="some")
    try:
        some.check(model)
    except kv.UnsteerableModelError:
        return
    every = kv.CacheEdits([Insert(bank, layers=range(4))], name="every")
    whole = kv.CacheEdits([Insert(bank)], name="whole")
    alike = kv.CacheEdits([Insert(Bank(mixed["keys"], mixed["values"], bank.positions), layers=chosen)], name="alike")
    texts = [said(model, whole)]
    assert kv.divergence(model, PROMPTS[1], texts, every, whole).totals[0] < 1e-6
    assert kv.divergence(model, PROMPTS[1], texts, alike, some).totals[0] < 1e-6
    if not all(model.shape.windows):  # in a short window the bank is out of sight
        assert kv.divergence(model, PROMPTS[1], texts, some, whole).totals[0] > 1e-4
    batch = kv.generate(model, PROMPTS, [kv.Nothing(), some, whole], generation=NEW, batch_size=4)
    methods = {"baseline": None, "some": some, "whole": whole}
    for g in batch:
        assert list(g.token_ids) == said(model, methods[g.intervention], PROMPTS[g.prompt])


@pytest.mark.parametrize("name", ["llama", "qwen3", "gemma3", "olmo2"])
def test_a_bank_in_chosen_layers_is_a_prefix_that_the_others_mask(name: str) -> None:
    """The oracle: a plain model that reads the prefix, whose other layers' masks are written over by hooks."""
    model = kv.load(build(name), tokenizer())
    prefix, n, chosen = "The answer is 19.", 0, [1, 3]
    ids = model.encode(prefix, chat=False)
    n, whole = len(ids), ids + model.encode(PROMPTS[0], chat=False) + [newline(model)]

    def barred(module: Any, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        mask = kwargs["attention_mask"].clone()
        mask[:, :, n:, :n] = torch.finfo(mask.dtype).min
        return args, {**kwargs, "attention_mask": mask}

    hooks = [
        layer.self_attn.register_forward_pre_hook(barred, with_kwargs=True)
        for index, layer in enumerate(model.hf.model.layers)
        if index not in chosen
    ]
    model.hf.set_attn_implementation("eager")
    with torch.no_grad():
        wanted = model.hf(torch.tensor([whole])).logits[0, -1].log_softmax(-1)
    for hook in hooks:
        hook.remove()
    method = kv.CacheEdits([Insert(Bank.of(model, prefix, chat=False), layers=chosen)])
    token = int(wanted.argmax())
    found = kv.score(model, PROMPTS[0], [[token]], method, chat=False)
    assert found.totals[0] == pytest.approx(float(wanted[token]), abs=1e-4)
    plain = kv.score(
        model, PROMPTS[0], [[token]], kv.CacheEdits([Insert(Bank.of(model, prefix, chat=False))]), chat=False
    )
    assert plain.totals[0] != pytest.approx(float(wanted[token]), abs=1e-4)


def like_first(model: kv.Model) -> Callable[[LastSlot], bool]:
    wanted = Bank.of(model, PROMPTS[0], Slots(-1)).values[:, :, 0]
    return lambda last: bool((last.values - wanted).abs().max() < 1e-3)


@pytest.mark.parametrize("kind", ["insert", "erase", "every", "half of every", "control of every"])
def test_gates_open_row_by_row_for_what_acts_before_and_after(kind: str, model: kv.Model) -> None:
    gate, vectors = like_first(model), vectors_for(model)

    def edit(when: Any) -> kv.edits.CacheEdit:
        if kind == "insert":
            return Insert(Bank.of(model, "Step 1", chat=False), when=when)
        if kind == "erase":
            return Erase(span=Slots(-2, -3), when=when)
        if kind == "half of every":
            return kv.edits.scale(Replace(Bank.zeros(model), every=True, when=when), 0.5)
        if kind == "control of every":
            return kv.edits.randomise(Map(0.5, every=True, when=when), model, 0)
        return Add(vectors.keys, vectors.values, every=True, when=when)

    gated, always = kv.CacheEdits([edit(gate)], name="gated"), kv.CacheEdits([edit(None)], name="always")
    texts = ["The answer is 5."] * 3
    kl = kv.divergence(model, PROMPTS, texts, gated).totals
    assert kl[0] == pytest.approx(kv.divergence(model, PROMPTS, texts, always).totals[0], rel=1e-3)
    assert kl[0] > 0 and max(kl[1:]) < 1e-9


def test_rows_behind_one_gate_are_given_the_same_objects(model: kv.Model) -> None:
    """So that equal prompts are read once, and rows edited together."""
    bank, ids = Bank.of(model, "Step 1", chat=False), model.encode(PROMPTS[0])
    gated = (Insert(bank, when=lambda last: True), Map(0.5, every=True, when=lambda last: True))
    rows = look_up(model, [gated] * 2, [()] * 2, [ids] * 2, [len(ids)] * 2, ())
    assert rows.banks[0] is rows.banks[1] is not None
    assert [edit.when for edit in rows.lasting[0]] == [None] and rows.lasting[0][0] is rows.lasting[1][0]


def test_rows_of_one_batch_carry_different_programs(model: kv.Model) -> None:
    vectors, bank = vectors_for(model), Bank.of(model, "Step 1", chat=False)
    last = Bank.of(model, PROMPTS[2], Slots(-1))
    programs: Sequence[kv.Intervention] = [
        kv.Nothing(),
        kv.CacheEdits([Add(vectors.keys, vectors.values), Map(0.5, span=Everything()), Replace(last, part="values")]),
        kv.CacheEdits([Insert(bank, layers=[2]), Erase(span=Slots(0)), Map(0.5, every=True)]),
        kv.CacheEdits([Insert(bank), Add(vectors.keys, vectors.values, every=True, heads=[1])]),
        kv.CacheEdits([Erase(span=Slots(1), heads=[0])]),
    ]
    batch = kv.generate(model, PROMPTS, programs, generation=NEW)
    alone = {p.label: p for p in programs}
    assert len({g.token_ids for g in batch}) > 3
    for g in batch:
        assert list(g.token_ids) == said(model, alone[g.intervention], PROMPTS[g.prompt])
