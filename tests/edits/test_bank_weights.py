"""A bank's size is its weight in attention: oracles on every architecture, rows that differ, and what is refused."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from random_models import CONFIGS, PROMPTS

import kvsteer_lab as kv
from kvsteer_lab.edits import Bank, Erase, Insert, Map, scale
from kvsteer_lab.edits.banks import joined
from kvsteer_lab.edits.spans import Slots
from kvsteer_lab.evaluation.identity import describe

Load = Callable[[str], kv.Model]
NEW = {"max_new_tokens": 5}
architectures = pytest.mark.parametrize("name", CONFIGS)


def inserted(bank: Bank, name: str, **how: float) -> kv.CacheEdits:
    return kv.CacheEdits([Insert(bank, **how)], name=name)  # type: ignore[arg-type]


def said(model: kv.Model, method: kv.Intervention | None, prompt: str = PROMPTS[1]) -> list[int]:
    return list(kv.generate(model, prompt, method, generation=NEW).token_ids[0])


@architectures
def test_a_bank_of_weight_two_is_there_twice_and_of_weight_zero_not_at_all(name: str, load_random: Load) -> None:
    model = load_random(name)
    bank = Bank.of(model, "The answer is 19. Step 1", chat=False)
    whole, none, twice = (inserted(bank, f"weight {w}", weight=w) for w in (1.0, 0.0, 2.0))
    texts = [said(model, None)]

    def moved(method: kv.Intervention, other: kv.Intervention | None = None) -> float:
        return kv.divergence(model, PROMPTS[1], texts, method, other).totals[0]

    assert moved(none) == 0
    try:
        twice.check(model)
    except kv.UnsteerableModelError:
        none.check(model)  # what isn't there needs nothing
        with pytest.raises(kv.UnsteerableModelError):
            inserted(bank, "little", weight=0.1).check(model)
        with pytest.raises(kv.UnsteerableModelError):
            whole.at(0.1).check(model)
        return
    assert moved(inserted(bank, "nearly one", weight=1 + 1e-7), whole) < 1e-6
    if not all(model.shape.windows):  # in a short window the bank is out of sight
        assert moved(twice, whole) > 1e-6
    if model.rotary.rotates:  # where positions are learned, those of the prompt matter
        assert moved(inserted(bank, "hardly there", weight=1e-300)) < 1e-6
        if not any(model.shape.windows):  # two banks fill a window sooner than one
            later = bank.at(model, range(len(bank), 2 * len(bank)))
            assert moved(inserted(joined([later, later]), "two"), twice) < 1e-6


@architectures
def test_rows_of_one_batch_weigh_their_banks_each_its_own_way(name: str, load_random: Load) -> None:
    model = load_random(name)
    bank = Bank.of(model, "The answer is 19.", chat=False)
    programs = {w: inserted(bank, str(w), weight=w) for w in (0.0, 0.01, 1.0, 300.0)}
    programs[4.0] = kv.CacheEdits(
        [Insert(bank, layers=[1, 3], weight=4.0), Map(0.5), Erase(span=Slots(-2))], name="4.0"
    )
    programs[5.0] = kv.CacheEdits([Insert(bank, weight=5.0), Insert(bank)], name="5.0")
    try:
        programs[4.0].check(model)
    except kv.UnsteerableModelError:
        return
    batch = kv.generate(model, PROMPTS, [kv.Nothing(), *programs.values()], generation=NEW)
    for g in batch:
        method = None if g.intervention == "baseline" else programs[float(g.intervention)]
        assert list(g.token_ids) == said(model, method, PROMPTS[g.prompt])
    assert {g.token_ids for g in batch if g.intervention == "0.0"} == {
        g.token_ids for g in batch if g.intervention == "baseline"
    }


def test_a_weight_in_chosen_layers_leaves_the_others_barred(model: kv.Model) -> None:
    bank = Bank.of(model, "The answer is 19.", chat=False)
    mixed = {part: getattr(bank, part).clone() for part in ("keys", "values")}
    for part in mixed.values():
        part[[0, 2]] = -part[[0, 2]]  # what no layer reads
    one, other = (
        kv.CacheEdits([Insert(b, layers=[1, 3], weight=3.0)], name=name)
        for b, name in ((bank, "one"), (Bank(mixed["keys"], mixed["values"], bank.positions), "other"))
    )
    texts = [said(model, None)]
    assert kv.divergence(model, PROMPTS[1], texts, one, other).totals[0] < 1e-9
    assert kv.divergence(model, PROMPTS[1], texts, one).totals[0] > 1e-6


def test_a_bank_is_scaled_by_its_weight_and_so_are_its_controls(model: kv.Model) -> None:
    bank = Bank.of(model, "Step 1", chat=False)
    half = kv.CacheEdits([Insert(bank, weight=0.5)]).at(3.0)
    (control,) = half.controls(1)
    for done in (half.done[0], control.deltas(model, [9])[0][0], scale(Insert(bank, weight=0.5), 3.0)):
        assert isinstance(done, Insert) and done.weight == 1.5
    drawn = control.deltas(model, [9])[0][0].bank  # type: ignore[attr-defined]
    torch.testing.assert_close(drawn.keys.norm(dim=-1), bank.keys.norm(dim=-1))
    assert half.label == "insert 3 slots weight=0.5 c=3"
    assert describe(kv.CacheEdits([Insert(bank)])) == describe(kv.CacheEdits([Insert(bank, weight=1.0)]))
    assert describe(kv.CacheEdits([Insert(bank)])) != describe(kv.CacheEdits([Insert(bank, weight=0.5)]))
    # a run that was stored before there was a weight keeps its identity
    assert "weight" not in str(describe(kv.CacheEdits([Insert(bank)])))


@pytest.mark.parametrize("weight", [-0.5, math.nan, math.inf])
def test_a_weight_counts_slots(weight: float, model: kv.Model) -> None:
    with pytest.raises(ValueError, match="it counts slots, so it must be finite and at least 0"):
        Insert(Bank.zeros(model), weight=weight)
    with pytest.raises(ValueError, match="it counts slots"):
        kv.CacheEdits([Insert(Bank.zeros(model))]).at(-1)
