"""What every steering can say: what it adds, itself at another coefficient, its dose, its controls; and a new kind in a
few lines.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from random_models import PROMPTS, activations_for, vectors_for

import kvsteer_lab as kv
from kvsteer_lab.evaluation.identity import describe
from kvsteer_lab.interventions import Steering
from kvsteer_lab.interventions.checks import check_adds

ENDLESS = {"max_new_tokens": 8, "eos_token_id": []}


@dataclass(frozen=True)
class TwoSlots(Steering):
    """Value vectors, added to the prompt's last two slots."""

    vectors: kv.KVVectors = field(repr=False)
    coefficient: float
    name: str | None = None

    @property
    def label(self) -> str:
        return self.name or f"two slots c={self.coefficient:g}"

    def deltas(self, model: kv.Model, lengths: Sequence[int]) -> list[tuple[kv.CacheDelta, ...]]:
        values = self.coefficient * self.added.values
        return [tuple(kv.CacheDelta(0 * values, values, slot) for slot in (-2, -1))] * len(lengths)


@pytest.fixture
def steerings(model: kv.Model) -> list[Steering]:
    vectors, activations = vectors_for(model), activations_for(model)
    return [
        kv.CacheSteering(vectors, 0.5, 8.0, layers=[1, 3], heads=[0], slot=-2),
        kv.ActivationSteering(activations, [0, 2], 4.0, every_token=True),
        TwoSlots(vectors, 8.0),
    ]


def test_what_is_added_is_zero_elsewhere(steerings: list[Steering], model: kv.Model) -> None:
    cache, activation, own = (s.added for s in steerings)
    assert torch.equal(cache.keys, vectors_for(model).only([1, 3], [0]).keys) and not cache.values[2].any()
    assert activation.residuals.any(-1).tolist() == [True, False, True, False]
    assert own.values.flatten(1).any(-1).tolist() == [False, True, True, True], "layer 1 and above, as in the paper"
    assert [s.edited_layers for s in steerings] == [(1, 3), (0, 2), (1, 2, 3)]


def test_a_steering_at_another_coefficient(steerings: list[Steering]) -> None:
    cache, activation, own = steerings
    assert [s.coefficient for s in steerings] == [8.0, 4.0, 8.0]
    half = cache.at(4.0, "half")
    assert (half.ck, half.cv, half.name) == (0.25, 4.0, "half") and replace(half, ck=0.5, cv=8.0, name=None) == cache
    assert activation.at(1.0).label == "activation layer=0,2 c=1 every token cache on"
    assert own.at(-1).label == "two slots c=-1" and own.at(8.0) == own
    with pytest.raises(ValueError, match=r"edits keys only \(cv=0\), so it can't be scaled by cv"):
        kv.CacheSteering(cache.vectors, 1, 0).at(2)
    assert kv.CacheSteering(cache.vectors, 0, 0).at(2).cv == 2


def test_doses_are_those_of_the_vectors_at_the_edited_slot(steerings: list[Steering], model: kv.Model) -> None:
    cache, activation, own = steerings
    table = cache.vectors.only(None, [0]).relative_to(model, PROMPTS, slot=-2).loc[[1, 3]].mean()
    assert cache.unit_dose(model, PROMPTS) == pytest.approx(table["values"])
    assert cache.unit_doses(model, PROMPTS)["keys"] == pytest.approx(table["keys"])
    residuals = activation.vectors.relative_to(model, PROMPTS).loc[[0, 2], "residuals"].mean()
    assert activation.unit_dose(model, PROMPTS) == kv.unit_dose(model, activation, PROMPTS) == pytest.approx(residuals)
    assert own.unit_dose(model, PROMPTS) == pytest.approx(
        own.vectors.relative_to(model, PROMPTS).loc[1:, "values"].mean()
    )


def test_controls_are_matched_and_remember_what_they_control(steerings: list[Steering], model: kv.Model) -> None:
    for steering in steerings:
        assert steering.controls(0) == []
        with pytest.raises(ValueError, match="must be 0 or a positive whole number, not -1"):
            steering.controls(-1)
        drawn = steering.controls(3, seed=5)
        assert [c.label for c in drawn] == [f"random {i} for {steering.label}" for i in (5, 6, 7)]
        assert {(c.control_of, c.control_kind, c.coefficient) for c in drawn} == {
            (steering.label, "random", steering.coefficient)
        }
        assert len({str(describe(c)) for c in drawn}) == 3 and describe(drawn[1]) == describe(
            steering.controls(1, 6)[0]
        )
        assert drawn[0].at(2.0, "twice").coefficient == 2.0 and drawn[0].at(2.0, "twice").label == "twice"
        assert drawn[0].unit_dose(model, PROMPTS) == pytest.approx(steering.unit_dose(model, PROMPTS), rel=1e-4)
        check_adds(drawn[0])


def test_a_new_kind_of_steering_takes_the_whole_path(model: kv.Model) -> None:
    own = TwoSlots(vectors_for(model), 8.0)
    methods = [kv.Nothing(), own.at(0.0), own, *own.controls(2, seed=5), kv.Together(own, kv.ForcedPrefix("Step 1"))]
    texts = kv.generate(model, PROMPTS, methods, generation=ENDLESS)
    plain, nothing_added, steered, *drawn, prefixed = ([g.token_ids for g in texts.of(m.label)] for m in methods)
    assert nothing_added == plain != steered and steered not in drawn and drawn[0] != drawn[1] and prefixed != steered
    scored = kv.score(model, PROMPTS, ["the fox"] * 3, own.controls(1, seed=5)[0]).totals
    assert scored != kv.score(model, PROMPTS, ["the fox"] * 3, own).totals
    with pytest.raises(ValueError, match="both set what is read before the answer"):
        kv.Together(kv.ForcedPrefix("a"), kv.CoTPrefix())
    kv.Together(own.controls(1)[0], kv.ForcedPrefix("a"))  # a control sets the tail only where what it controls does


def test_what_adds_nothing_is_refused(model: kv.Model) -> None:
    vectors, activations = vectors_for(model), activations_for(model)
    zero = "are zero in all of its layers and heads, so no coefficient does anything; extract them anew"
    for wrong, message in (
        (kv.CacheSteering(vectors * 0.0, 0, 1), zero),
        (kv.CacheSteering(vectors.only([2]), 0, 1, layers=[1]), zero),
        (kv.ActivationSteering(activations.only([2]), 1, 1.0), zero),
        (TwoSlots(vectors.only([0]), 1.0), zero),
        (kv.CacheSteering(vectors, 0, 1, layers=[]), "edits no layers, so no coefficient does anything; name at least"),
        (
            kv.CacheSteering(vectors, 0, 1, heads=[]),
            "edits no KV heads, so no coefficient does anything; name at least",
        ),
        (kv.CoTPrompt(), r"A steering is asked for, a kv\.CacheSteering or kv\.ActivationSteering, not CoTPrompt"),
    ):
        with pytest.raises(ValueError, match=message):
            check_adds(wrong)
    check_adds(kv.CacheSteering(vectors, 0, 0))  # a coefficient of 0 can be changed


@pytest.mark.parametrize("value", ["1", None, True, [1.0], 1j, float("inf"), torch.ones(2), np.array(2.0)])
def test_a_coefficient_is_a_finite_number(value: Any, model: kv.Model) -> None:
    for build in (
        lambda: kv.CacheSteering(vectors_for(model), 0, value),
        lambda: kv.ActivationSteering(activations_for(model), 1, value),
    ):
        with pytest.raises(ValueError, match=r"The coefficient( cv)? is .+; it must be a finite number\."):
            build()


@pytest.mark.parametrize("value", [2, 2.0, np.float32(2), np.int64(2), torch.tensor(2.0), Fraction(2)])
def test_numbers_of_any_library_are_coefficients(value: Any, model: kv.Model) -> None:
    steering = kv.CacheSteering(vectors_for(model), 0, value)
    assert type(steering.cv) in (int, float) and describe(steering) == describe(
        kv.CacheSteering(vectors_for(model), 0, 2)
    )
    assert steering.label == "steered ck=0 cv=2"


def test_other_things_than_vectors_and_numbers_are_refused_in_a_sentence(model: kv.Model) -> None:
    vectors, activations = vectors_for(model), activations_for(model)
    for build, message in (
        (
            lambda: kv.CacheSteering("v.safetensors", 0, 1),
            "The vectors are of type str, not KVVectors; make them with kv.extract",
        ),
        (
            lambda: kv.CacheSteering(activations, 0, 1),
            "The vectors are of type ActivationVectors, not KVVectors; make them",
        ),
        (
            lambda: kv.ActivationSteering(vectors, 1, 1.0),
            "of type KVVectors, not ActivationVectors; make them with kv.extract_act",
        ),
        (lambda: kv.CacheSteering(vectors, 0, 1).controls(2.5), "must be 0 or a positive whole number, not 2.5"),
        (
            lambda: kv.random_controls(kv.CoTPrompt(), 2),
            "Controls are drawn for a steering, such as kv.CacheSteering, not CoT",
        ),
        (lambda: kv.FewShot("abc"), "Few-shot examples are messages of the user and the assistant in turn"),
        (lambda: kv.FewShot(None), "Few-shot examples are messages of the user and the assistant in turn"),
        (lambda: kv.generate(model, "a", kv.ForcedPrefix(5)), "A response prefill needs some text, not 5"),
        (lambda: kv.HideSlot(layers=[1.5]), "Layers and heads are named by whole numbers, not by 1.5"),
        (lambda: kv.HideSlot(first="a"), "first='a' is not a step; steps are whole numbers, counted from 0"),
        (lambda: kv.evaluate(model, kv.tasks.get("tiny-arithmetic"), None, n=1), "None is not an intervention; use"),
    ):
        with pytest.raises(ValueError, match=message):
            build()


def test_steering_of_a_style_is_extraction_from_its_pairs() -> None:
    model, task = kv.load("tiny"), kv.tasks.get("tiny-arithmetic")
    pairs = kv.ContrastiveSet.few_shot(task, model.tokenizer, style="analogical", n=6, shots=2, seed=4)
    steering = kv.CacheSteering.of_style(
        model, task, "analogical", ck=0.5, cv=2, n=6, shots=2, seed=4, name="by style", progress=False
    )
    vectors = kv.extract(model, pairs, progress=False)
    assert (steering.ck, steering.cv, steering.label) == (0.5, 2.0, "by style")
    assert torch.equal(steering.vectors.keys, vectors.keys) and torch.equal(steering.vectors.values, vectors.values)
    assert steering.vectors.card == vectors.card and vectors.values.abs().max() > 0.05


def test_steering_of_a_style_refuses_a_bad_coefficient_before_anything_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kvsteer_lab.interventions.cache.extract", lambda *_, **__: pytest.fail("it ran"))
    model, task = kv.load("tiny"), kv.tasks.get("tiny-arithmetic")
    with pytest.raises(ValueError, match="ck"):
        kv.CacheSteering.of_style(model, task, "stepwise", ck=float("nan"), cv=2)
    with pytest.raises(ValueError, match="haiku"):
        kv.CacheSteering.of_style(model, task, "haiku", ck=0, cv=2)
