"""Spans, gates, programs that take the interventions' one path, and what they refuse."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from random_models import PROMPTS, vectors_for
from toy import Toy

import kvsteer_lab as kv
from kvsteer_lab.edits import Add, Bank, CachedPrompt, Erase, Insert, Map, Replace, Similar
from kvsteer_lab.edits.spans import Everything, Message, SentenceEnds, Slots, Span, Text
from kvsteer_lab.evaluation.identity import describe

CHAT = [
    {"role": "user", "content": "What is 12 + 7? Add 2 to 3."},
    {"role": "assistant", "content": "The answer is 19."},
    {"role": "user", "content": "The answer is 5?"},
]


def words(model: kv.Model, span: Span) -> str:
    ids = model.encode(CHAT)
    return str(model.tokenizer.decode([ids[i] for i in span.find(CachedPrompt.of(model.tokenizer, ids, CHAT))]))


@pytest.mark.parametrize(
    ("span", "text"),
    [
        (Message("user", 0), "What is 12 + 7? Add 2 to 3."),
        (Message("assistant"), "The answer is 19."),
        (Message(number=-1), "The answer is 5?"),
        (Text("answer", 0), "answer"),
        (SentenceEnds(), "?..?"),
        (SentenceEnds(Message("user", 0)), "?."),
    ],
)
def test_spans_find_their_words(span: Span, text: str, model: kv.Model) -> None:
    assert words(model, span).strip() == text


def test_spans_by_index_and_all(model: kv.Model) -> None:
    assert words(model, Everything()) == model.tokenizer.decode(model.encode(CHAT))
    assert Slots(0, -1).find(CachedPrompt((1, 2, 3))) == (0, 2)
    assert len(Text("answer").find(CachedPrompt.of(model.tokenizer, model.encode(CHAT)))) >= 2


def test_layers_heads_and_parts_bound_an_edit(model: kv.Model) -> None:
    cache = model.prefill(PROMPTS[1])
    old = copy.deepcopy(cache)
    kv.edits.apply(cache, [Map(0.0, part="values", layers=[1], heads=[0], span=Slots(2, 3))])
    for index, (layer, before) in enumerate(zip(cache.layers, old.layers, strict=True)):
        assert torch.equal(layer.keys, before.keys)
        moved = (layer.values != before.values).any(-1)[0].nonzero().tolist()
        assert moved == ([[0, 2], [0, 3]] if index == 1 else [])
    vectors = vectors_for(model)
    one = kv.edits.apply(copy.deepcopy(old), [Add(vectors.keys, vectors.values, layers=[1], heads=[0], slot=3)])
    assert [int((x.keys != y.keys).any(-1).sum()) for x, y in zip(one.layers, old.layers, strict=True)] == [0, 1, 0, 0]


def test_a_gate_opens_for_some_rows(model: kv.Model) -> None:
    vectors, cache = vectors_for(model), model.prefill(PROMPTS[0])
    here = torch.stack([layer.values[0, :, -1] for layer in cache.layers])
    gated = kv.CacheEdits([Add(vectors.keys, vectors.values, when=Similar(here, 2, 0.999))])
    always = kv.CacheEdits([Add(vectors.keys, vectors.values)])
    targets = ["The answer is 5."] * 3
    kl = kv.divergence(model, PROMPTS, targets, gated).totals
    assert kl[0] == pytest.approx(kv.divergence(model, PROMPTS, targets, always).totals[0], rel=1e-4)
    assert kl[1:] == [0, 0]
    assert gated.label == "add gated"


def test_a_program_takes_the_one_path(model: kv.Model, tmp_path: Path) -> None:
    vectors = vectors_for(model)
    steering = kv.CacheSteering(vectors, 1.0, 4.0, layers=range(4), name="steering")
    program = kv.CacheEdits([Add(vectors.keys, 4.0 * vectors.values)])
    generation = {"max_new_tokens": 6}
    both = kv.generate(model, PROMPTS, [steering, program], generation=generation)
    found = {(g.prompt, g.intervention): g.token_ids for g in both}
    assert all(found[i, "steering"] == found[i, "add"] for i in range(3))
    assert "".join(kv.stream(model, PROMPTS[0], program, generation=generation)) == both.texts[1]
    results = kv.evaluate(
        model, Toy(4), [kv.Nothing(), program], generation=generation, out=tmp_path / "run", progress=False, n=4
    )
    assert {"baseline", "add"} <= set(results.summary().index)


def test_a_program_is_identified_by_what_it_does(model: kv.Model) -> None:
    one, same = Bank.zeros(model, 2), Bank.zeros(model, 2)
    other = Bank(one.keys + 1, one.values)
    assert describe(kv.CacheEdits([Insert(one)])) == describe(kv.CacheEdits([Insert(same)]))
    assert describe(kv.CacheEdits([Insert(one)])) != describe(kv.CacheEdits([Insert(other)]))
    assert describe(kv.CacheEdits([Map(0.5)])) != describe(kv.CacheEdits([Map(0.5, span=Everything())]))


def test_keys_of_a_bank_move_to_other_positions(model: kv.Model) -> None:
    bank = Bank.of(model, PROMPTS[0])
    there = bank.at(model, [p + 5 for p in bank.positions])
    assert not torch.allclose(there.keys, bank.keys, atol=1e-2)
    torch.testing.assert_close(there.at(model, bank.positions).keys, bank.keys, atol=1e-4, rtol=1e-4)
    assert torch.equal(Bank.mean([bank, bank]).keys, bank.keys)


def failing(last: object) -> bool:
    raise RuntimeError("no probe")


def test_what_is_refused(model: kv.Model, tiny: kv.Model) -> None:
    def run(*edits: kv.edits.CacheEdit, on: kv.Model = model) -> None:
        kv.generate(on, PROMPTS[:1], kv.CacheEdits(edits), generation={"max_new_tokens": 2})

    with pytest.raises(ValueError, match=r"Text\(text='zebra'.* is not found in prompt 0; choose"):
        run(Map(0.5, span=Text("zebra")))
    with pytest.raises(ValueError, match="There are no edits"):
        kv.CacheEdits([])
    with pytest.raises(ValueError, match="The bank is empty"):
        Bank(torch.zeros(4, 2, 0, 16), torch.zeros(4, 2, 0, 16))
    with pytest.raises(ValueError, match=r"The gate .* failed on row 0: no probe; nothing was edited"):
        run(Map(0.5, when=failing))
    with pytest.raises(ValueError, match="gave 1; it must give True or False"):
        run(Map(0.5, when=lambda last: 1))  # type: ignore[arg-type, return-value]
    with pytest.raises(ValueError, match="The map's matrix holds NaN"):
        Map(float("nan"))
    with pytest.raises(ValueError, match="There is no layer 9"):
        run(Map(0.5, layers=[9]))
    with pytest.raises(ValueError, match=r"The bank is .* take a bank of this model"):
        run(Insert(Bank.zeros(tiny)))
    with pytest.raises(ValueError, match="The bank has 2 slots, but the span has 3"):
        run(Replace(Bank.zeros(model, 2), span=Slots(-1, -2, -3)))
    with pytest.raises(ValueError, match="Insert can't be applied to a cache that is there"):
        kv.edits.apply(model.prefill(PROMPTS[0]), [Insert(Bank.zeros(model))])
    with pytest.raises(ValueError, match="only their number is known"):
        kv.edits.apply(model.prefill(PROMPTS[0]), [Map(0.5, span=Text("What"))])
    with pytest.raises(ValueError, match="has no messages"):
        kv.generate(model, PROMPTS[0], kv.CacheEdits([Map(0.5, span=Message())]), chat=False)
    with pytest.raises(ValueError, match="takes no every=True"):
        Erase(every=True)
    with pytest.raises(ValueError, match=r"The gate .* failed on row 0: no probe; nothing was edited"):
        run(Erase(when=failing))
    with pytest.raises(ValueError, match="gave 1; it must give True or False"):
        run(Insert(Bank.zeros(model), when=lambda last: 1))  # type: ignore[arg-type, return-value]
    with pytest.raises(ValueError, match="There is no layer 9"):
        run(Insert(Bank.zeros(model), layers=9))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="every=True replaces each new slot by one, but the bank has 2"):
        Replace(Bank.zeros(model, 2), every=True)
    with pytest.raises(ValueError, match="reaches tokens that aren't cached yet"):
        kv.edits.apply(model.prefill(PROMPTS[0]), [Map(0.5, every=True)])
    with pytest.raises(ValueError, match="needs an offset token"):
        kv.generate(model, PROMPTS[0], kv.CacheEdits([Map(0.5)]), offset=None)
    with pytest.raises(ValueError, match="part='query'"):
        Map(0.5, part="query")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="NaN or infinity"):
        run(Add(torch.full((4, 2, 16), torch.nan), torch.zeros(4, 2, 16)))


def test_a_refused_edit_changes_nothing(model: kv.Model) -> None:
    cache = model.prefill(PROMPTS[:2])  # type: ignore[arg-type]
    before = copy.deepcopy(cache)
    lengths = [len(model.encode(p)) for p in PROMPTS[:2]]
    vectors = vectors_for(model)
    with pytest.raises(ValueError, match="no probe"):
        kv.edits.apply(cache, [Add(vectors.keys, vectors.values), Map(0.5, when=failing)], lengths=lengths)
    assert all(torch.equal(a.keys, b.keys) for a, b in zip(cache.layers, before.layers, strict=True))
