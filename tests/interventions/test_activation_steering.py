"""Activation steering as a method: what it adds and where, its offset token, its label, its controls."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import reference
import torch
from random_models import PROMPTS, activations_for, newline, vectors_for
from torch import Tensor, nn

import kvsteer_lab as kv
from kvsteer_lab.generation.filling import fill_rows
from kvsteer_lab.generation.rows import make_rows
from kvsteer_lab.models.layers import decoder_layers

ENDLESS = {"max_new_tokens": 8, "eos_token_id": []}
Load = Callable[[str], kv.Model]


def steering(model: kv.Model, layer: Any = 1, c: float = 4.0, **settings: Any) -> kv.ActivationSteering:
    return kv.ActivationSteering(activations_for(model), layer, c, **settings)


# --- planted directions ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["llama", "gpt2", "gpt_neox", "falcon"])
@pytest.mark.parametrize("layer", [0, 2])
def test_a_delta_changes_the_steered_slot_of_later_layers_only(name: str, layer: int, load_random: Load) -> None:
    model = load_random(name)
    ids = [model.encode(p) for p in PROMPTS]
    with torch.no_grad():
        plain, edited = (
            fill_rows(model, make_rows(model, m, ids, newline(model)))[0]
            for m in (kv.Nothing(), steering(model, layer))
        )
    for index, (before, after) in enumerate(zip(plain.layers, edited.layers, strict=True)):
        for one, other in ((before.keys, after.keys), (before.values, after.values)):
            torch.testing.assert_close(one[:, :, :-1], other[:, :, :-1])
            moved = (one[:, :, -1] - other[:, :, -1]).abs().amax((1, 2))
            assert (moved > 0.01).all() if index > layer else (moved == 0).all()


def test_the_last_layer_is_read_only_where_it_is_added(model: kv.Model) -> None:
    """Behind the last layer a token's own row of the output matrix makes the model say that token; nothing attends to
    it there.
    """
    token, last = 77, model.n_layers - 1
    planted = torch.zeros_like(activations_for(model).residuals)
    planted[last] = model.hf.lm_head.weight[token].detach()
    vectors = replace(activations_for(model), residuals=planted)
    ways = {"always": (True, None), "never": (False, None), "first": (False, "")}
    found = {
        name: (
            kv.generate(
                model, PROMPTS, kv.ActivationSteering(vectors, last, 1e4, every, offset=offset), generation=ENDLESS
            ).token_ids
        )
        for name, (every, offset) in ways.items()
    }
    baseline = kv.generate(model, PROMPTS, generation=ENDLESS).token_ids
    assert found["always"] == [[token] * 8] * 3
    assert found["never"] == baseline
    after = [
        reference.plain(model.hf, [*model.encode(p), token], 7, eos_token_id=model.hf.config.vocab_size)
        for p in PROMPTS
    ]
    assert found["first"] == [[token, *rest] for rest in after]


def test_the_search_leaves_out_the_layer_where_one_shot_does_nothing(model: kv.Model) -> None:
    vectors = activations_for(model)
    assert [*kv.ActivationSearch(vectors).variants(model, PROMPTS)] == ["layer 0", "layer 1", "layer 2"]
    assert [*kv.ActivationSearch(vectors, every_token=True).variants(model, PROMPTS)] == [
        "layer 0",
        "layer 1",
        "layer 2",
        "layer 3",
    ]


def test_several_layers_each_get_their_own_vector(model: kv.Model) -> None:
    method = steering(model, [2, 0], every_token=True)
    added = 4.0 * method.vectors.residuals * torch.tensor([1.0, 0.0, 1.0, 0.0])[:, None]
    ids = model.encode(PROMPTS[0])
    expected = reference.activation_steered(model.hf, [*ids, newline(model)], added, len(ids) - 1, 8, onward=True)
    assert kv.generate(model, PROMPTS[0], method, generation=ENDLESS).token_ids == [expected]
    assert method.label == "activation layer=0,2 c=4 every token cache on"


def test_steering_on_both_sides_at_once(model: kv.Model) -> None:
    """The prefill is edited first, then its cache; both by hand and by the library."""
    vectors, activations = vectors_for(model), activations_for(model)
    parts = (
        kv.CacheSteering(vectors, 1.0, 8.0, layers=range(model.n_layers)),
        kv.ActivationSteering(activations, 0, 4.0),
    )
    ids = model.encode(PROMPTS[0])
    layer = decoder_layers(model.hf)[0]

    def add(module: nn.Module, given: Any, output: Tensor) -> Tensor:
        output[:, -1] += 4.0 * activations.residuals[0]
        return output

    handle = layer.register_forward_hook(add)
    cache = reference.prefill(model.hf, ids)
    handle.remove()
    token, expected = newline(model), []
    for index, cached in enumerate(cache.layers):
        cached.keys[0, :, -1] += vectors.keys[index]
        cached.values[0, :, -1] += 8.0 * vectors.values[index]
    for _ in range(8):
        with torch.no_grad():
            token = int(reference.read_on(model.hf, [token], cache).argmax())
        expected.append(token)
    texts = [kv.generate(model, PROMPTS[0], m, generation=ENDLESS).token_ids[0] for m in (kv.Together(*parts), *parts)]
    assert texts[0] == expected and expected not in texts[1:]


def test_the_bundled_model_runs_all_ways_alike(tiny: kv.Model) -> None:
    prompts = ["Tom has 5 apples and buys 3 more. How many apples does Tom have?", "How many?"]
    ways = [(e, c) for e in (False, True) for c in (True, False)]
    methods = [steering(tiny, 1, 6.0, every_token=e, cache=c) for e, c in ways]
    found = kv.generate(tiny, prompts, [kv.Nothing(), *methods], generation={"max_new_tokens": 16, "eos_token_id": []})
    texts = [[r.token_ids for r in found.of(m.label)] for m in (kv.Nothing(), *methods)]
    assert texts[1] == texts[2] and texts[3] == texts[4]
    assert texts[0] != texts[3] != texts[1]


# --- settings and controls ------------------------------------------------------------------------------------


def test_an_offset_token_of_its_own(model: kv.Model) -> None:
    ids = model.encode(PROMPTS[0])
    (other,) = model.tokenizer("X", add_special_tokens=False).input_ids
    added = torch.zeros_like(activations_for(model).residuals)
    added[1] = 4.0 * activations_for(model).residuals[1]
    for own, run, tail in (
        ("X", "\n", [other]),
        (other, None, [other]),
        ("", "\n", []),
        (None, "X", [other]),
        (None, None, []),
    ):
        (row,) = kv.generate(model, PROMPTS[0], steering(model, offset=own), offset=run, generation=ENDLESS)
        assert list(row.token_ids) == reference.activation_steered(
            model.hf, [*ids, *tail], added, len(ids) - 1, 8, onward=False
        )
        assert row.forced == "", "an offset token is no part of the answer"
    prefixed = kv.Together(steering(model, offset="X"), kv.ForcedPrefix("Step 1"))
    assert kv.generate(model, PROMPTS[0], prefixed, offset=None, generation=ENDLESS)[0].forced == "Step 1"


def test_the_label_says_how_it_runs(model: kv.Model) -> None:
    labels = [steering(model, every_token=e, cache=c).label for e in (False, True) for c in (True, False)]
    assert labels == [
        "activation layer=1 c=4 one-shot cache on",
        "activation layer=1 c=4 one-shot cache off",
        "activation layer=1 c=4 every token cache on",
        "activation layer=1 c=4 every token cache off",
    ]
    assert [steering(model, offset=o).label.partition("cache on ")[2] for o in ("", "X", 5)] == [
        "no offset",
        "offset='X'",
        "offset=5",
    ]
    vectors = activations_for(model, recipe={"style": "stepwise"})
    assert kv.ActivationSteering(vectors, 1, 4).label.startswith("activation stepwise layer=1")
    assert steering(model, name="mine").label == "mine"


def test_random_controls_keep_the_norm_of_each_layer(model: kv.Model) -> None:
    vectors = activations_for(model)
    vectors = replace(vectors, residuals=vectors.residuals * torch.tensor([1.0, 5.0, 0.0, 2.0])[:, None])
    method = kv.ActivationSteering(vectors, [1, 3], 2.5, every_token=True, cache=False, offset="X")
    controls = kv.random_activation_controls(method, n=5, seed=3)
    assert len({c.label for c in controls}) == 5 and controls[0].label == f"random 3 for {method.label}"
    for control in controls:
        assert (control.control_of, control.control_kind) == (method.label, "random")
        kept = [(m.layers, m.coefficient, m.every_token, m.cache, m.offset) for m in (control, method)]
        assert kept[0] == kept[1]
        torch.testing.assert_close(control.vectors.residuals.norm(dim=-1), vectors.residuals.norm(dim=-1))
        assert torch.cosine_similarity(control.vectors.residuals[1], vectors.residuals[1], dim=0).abs() < 0.6
    assert torch.equal(
        kv.random_activation_controls(method, n=1, seed=4)[0].vectors.residuals, controls[1].vectors.residuals
    )
    assert method.control_of is None and method.control_kind is None


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (dict(coefficient=float("nan")), "The coefficient is nan; it must be a finite number"),
        (dict(layer=4), "There is no layer 4; this model has layers 0 to 3"),
        (dict(layer=-1), "There is no layer -1; this model has layers 0 to 3"),
        (dict(layer=[]), "Activation steering needs a layer; pass layer=12"),
    ],
)
def test_settings_that_make_no_sense(settings: dict[str, Any], message: str, model: kv.Model) -> None:
    with pytest.raises(ValueError, match=message):
        kv.ActivationSteering(**{"vectors": activations_for(model), "layer": 1, "coefficient": 1.0, **settings})
