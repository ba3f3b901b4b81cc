"""Matched random controls of cache edits: what they keep, what they change, and that tables have them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from random_models import PROMPTS, vectors_for
from toy import Toy

import kvsteer_lab as kv
from kvsteer_lab.edits import Add, Bank, CachedPrompt, Erase, Insert, LastSlot, Map, Replace, SlotEdit, randomise, scale
from kvsteer_lab.edits.spans import Everything, Slots
from kvsteer_lab.evaluation.identity import describe

NEW = {"max_new_tokens": 4}


def slots(model: kv.Model, edit: SlotEdit) -> tuple[torch.Tensor, torch.Tensor]:
    """Values of a prompt before and after, `[layers, kv_heads, slots, head_dim]`."""
    before, after = model.prefill(PROMPTS[1]), kv.edits.apply(model.prefill(PROMPTS[1]), [edit])
    return tuple(torch.stack([x.values[0] for x in cache.layers]) for cache in (before, after))  # type: ignore[return-value]


def edits(model: kv.Model) -> dict[str, SlotEdit]:
    vectors = vectors_for(model)
    matrix = torch.randn(model.head_dim, model.head_dim, generator=torch.Generator().manual_seed(1))
    return {
        "add": Add(vectors.keys, vectors.values, layers=[1, 2]),
        "map": Map(matrix, vectors.values, span=Slots(-1, -3)),
        "scalar": Map(0.5, span=Everything()),
        "turn": kv.methods.norm_preserving(vectors, 0.5, 2.0),
    }


@pytest.mark.parametrize("kind", ["add", "map", "scalar", "turn"])
def test_a_control_goes_as_far_in_another_direction(kind: str, model: kv.Model) -> None:
    edit = edits(model)[kind]
    before, own = slots(model, edit)
    drawn = [slots(model, randomise(edit, model, seed))[1] for seed in (0, 0, 1)]  # type: ignore[arg-type]
    assert torch.equal(drawn[0], drawn[1]) and not torch.allclose(drawn[0], drawn[2], atol=1e-3)
    steps = [(new - before) for new in (own, drawn[0])]
    assert ((steps[0].norm(dim=-1) > 1e-5) == (steps[1].norm(dim=-1) > 1e-5)).all()  # the same slots, layers and heads
    if kind == "turn":
        torch.testing.assert_close(drawn[0].norm(dim=-1), before.norm(dim=-1), atol=1e-3, rtol=1e-3)
    else:
        torch.testing.assert_close(steps[0].norm(dim=-1), steps[1].norm(dim=-1), atol=1e-3, rtol=1e-3)
    cosine = torch.nn.functional.cosine_similarity(steps[0].flatten(), steps[1].flatten(), dim=0)
    assert abs(float(cosine)) < 0.6


def test_a_replacement_is_controlled_by_another_prompts_slots(model: kv.Model) -> None:
    edit = Replace(Bank.of(model, PROMPTS[0], Slots(-2, -1)), span=Slots(-2, -1), part="values")
    drawn = randomise(edit, model, 3)
    assert isinstance(drawn, Replace) and drawn.bank.positions == edit.bank.positions and drawn.part == "values"
    assert not torch.allclose(drawn.bank.values, edit.bank.values, atol=1e-2)
    assert torch.equal(drawn.bank.values, randomise(edit, model, 3).bank.values)  # type: ignore[attr-defined]
    norms = [bank.values.norm(dim=-1).mean() for bank in (edit.bank, drawn.bank)]
    assert 0.3 < float(norms[1] / norms[0]) < 3  # a real prompt's slots
    ablated = randomise(Replace(Bank.zeros(model)), model, 0)
    assert ablated.bank.values.any()  # type: ignore[attr-defined]  # removal is held against another content


def test_a_bank_is_controlled_by_one_of_the_same_norms(model: kv.Model) -> None:
    edit = Insert(Bank.of(model, "Step 1", chat=False), layers=[1])
    drawn = randomise(edit, model, 0)
    assert isinstance(drawn, Insert) and drawn.layers == (1,) and drawn.bank.positions == edit.bank.positions
    for part in ("keys", "values"):
        mine, theirs = getattr(edit.bank, part), getattr(drawn.bank, part)
        torch.testing.assert_close(mine.norm(dim=-1), theirs.norm(dim=-1))
        assert not torch.allclose(mine, theirs, atol=1e-2)


def test_an_erased_span_is_controlled_by_as_many_other_slots(model: kv.Model) -> None:
    prompt = CachedPrompt(tuple(range(20)))
    spans = [randomise(Erase(span=Slots(-1, -2)), model, seed).span for seed in range(30)]  # type: ignore[attr-defined]
    drawn = [span.find(prompt) for span in spans]
    assert all(len(each) == 2 and not {0, 18, 19} & set(each) for each in drawn)
    assert len(set(drawn)) > 20
    with pytest.raises(ValueError, match="has only 0 other slots, too few for a control of a span of 20; erase fewer"):
        randomise(Erase(span=Everything()), model, 0).span.find(prompt)  # type: ignore[attr-defined]


@pytest.mark.parametrize("kind", ["add", "map", "scalar", "turn"])
def test_scaled_edits_go_part_of_the_way(kind: str, model: kv.Model) -> None:
    edit = edits(model)[kind]
    before, own = slots(model, edit)
    assert torch.allclose(slots(model, scale(edit, 1.0))[1], own, atol=1e-5)  # type: ignore[arg-type]
    assert torch.allclose(slots(model, scale(edit, 0.0))[1], before, atol=1e-5)  # type: ignore[arg-type]
    half = slots(model, scale(edit, 0.5))[1]  # type: ignore[arg-type]
    if kind != "turn":
        torch.testing.assert_close(half, (before + own) / 2, atol=1e-4, rtol=1e-4)
    mixed = Replace(Bank.of(model, PROMPTS[0], Slots(-1)))
    before, own = slots(model, mixed)
    torch.testing.assert_close(slots(model, scale(mixed, 0.25))[1], 0.75 * before + 0.25 * own)  # type: ignore[arg-type]


def test_controls_go_where_steerings_go(model: kv.Model, tmp_path: Path) -> None:
    vectors = vectors_for(model)
    program = kv.CacheEdits([Add(vectors.keys, vectors.values), Erase(span=Slots(-2))], name="program")
    controls = kv.random_controls(program, 3, seed=5)
    assert [c.label for c in controls] == [f"random {i} for program" for i in (5, 6, 7)]
    assert {c.control_of for c in controls} == {"program"} and {c.control_kind for c in controls} == {"random"}
    results = kv.evaluate(
        model, Toy(4), [program, *controls], generation=NEW, out=tmp_path / "run", progress=False, n=4, split="test"
    )
    assert results.summary().loc["program"].filter(like="p_random").notna().any() or "p_controls" in results.summary()
    assert describe(controls[0]) != describe(controls[1])
    with pytest.raises(ValueError, match="Erase is done or not, it has no size"):
        program.at(0.5)
    with pytest.raises(ValueError, match="Controls are drawn for a steering"):
        kv.random_controls(kv.CoTPrompt(), 1)  # type: ignore[call-overload]


def test_edits_are_compared_at_equal_divergence_with_controls(tiny: kv.Model) -> None:
    task = kv.tasks.get("tiny-arithmetic")
    pairs = kv.ContrastiveSet.few_shot(task, tiny.tokenizer, style="stepwise", n=8, shots=1)
    vectors = kv.extract(tiny, pairs, progress=False)
    steering = kv.CacheSteering(vectors, 0, 6)
    added = kv.CacheEdits([Add(0 * vectors.keys, 6 * vectors.values, layers=[1, 2, 3])], style="stepwise")
    table = kv.analysis.match_divergence(
        tiny, task, {"steering": steering, "edits": added}, [0.5], controls=2, n=4, max_new_tokens=8, progress=False
    ).set_index("method")
    assert table.kl["edits"] == pytest.approx(table.kl["steering"], rel=1e-3)
    assert table.dose["edits"] == pytest.approx(table.dose["steering"], rel=0.02)
    assert table.adopted["edits"] == table.adopted["steering"] and table.matched["edits"] == 2
    assert 0 < table.p_random["edits"] <= 1
    control = added.controls(1)[0]
    assert control.at(0.5).label == control.label and control.at(0.5).control_of == added.label
    one, half = (c.deltas(tiny, [9])[0][0].values for c in (control, control.at(0.5)))  # type: ignore[attr-defined]
    torch.testing.assert_close(half, 0.5 * one)


def test_banks_and_gated_edits_are_compared_at_equal_divergence(tiny: kv.Model) -> None:
    task = kv.tasks.get("tiny-arithmetic")
    chats = [task.chat(question) for question in task.questions("dev", 4, 0)]
    lasts = torch.stack([Bank.of(tiny, chat, Slots(-1)).values[:, :, 0] for chat in chats])
    values = 6 * lasts.mean(0)

    def first_two(last: LastSlot) -> bool:
        return int((lasts - last.values).pow(2).flatten(1).sum(1).argmin()) < 2

    some = kv.CacheEdits([Add(0 * values, values, when=first_two)], name="some")
    assert kv.edits.opens_on(first_two, tiny, chats) == [True, True, False, False]
    bank = kv.CacheEdits([Insert(Bank.of(tiny, "Step 1 is", chat=False))], name="bank")
    given = dict(n=4, max_new_tokens=8, controls=2, span=1024, progress=False)
    table = kv.analysis.match_divergence(tiny, task, {"bank": bank, "some": some}, [0.2], **given)
    assert table.kl.tolist() == pytest.approx([0.2, 0.2], rel=0.03) and set(table.matched) == {2}
    closed = kv.CacheEdits([Add(0 * values, values, when=lambda last: False)], name="closed")
    with pytest.raises(ValueError, match="The gate of 'closed' is closed on all 4 prompts, so no coefficient does"):
        kv.analysis.match_divergence(tiny, task, {"bank": bank, "closed": closed}, [0.2], **given)
    both = kv.CacheEdits([Add(0 * values, values, when=lambda last: False), Map(0.5)], name="both")
    both.check_opens(tiny, chats)  # one of them is done
