"""Controls of cache steering: what they keep, what they change, and what is left of a planted direction."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

import kvsteer_lab as kv
from kvsteer_lab.interventions import controls as module

PAIRS, LAYERS, HEADS, WIDTH = 60, 4, 2, 16


def planted(pairs: int = PAIRS, strength: float = 3.0, seed: int = 0) -> kv.PairDifferences:
    """Differences that share one direction a layer, each with noise of its own."""
    generator = torch.Generator().manual_seed(seed)
    parts = []
    for _ in range(2):
        shared = (
            strength
            * torch.randn(1, LAYERS, HEADS, WIDTH, generator=generator)
            * torch.tensor([1.0, 0.1, 5.0, 2.0])[None, :, None, None]
        )
        parts.append(shared + torch.randn(pairs, LAYERS, HEADS, WIDTH, generator=generator))
    from kvsteer_lab.vectors.cards import Card

    card = Card(
        "planted", "llama", "f", "torch.float32", "post_rope", 1, None, pairs, {"task": "toy", "style": "stepwise"}
    )
    return kv.PairDifferences(parts[0], parts[1], card)


def steering(differences: kv.PairDifferences, **settings: Any) -> kv.CacheSteering:
    return kv.CacheSteering(differences.mean(), **{"ck": 0.5, "cv": 3.0, **settings})


def norms(method: kv.CacheSteering) -> torch.Tensor:
    own = method.vectors.only(method.scope, method.heads)
    return torch.stack([own.keys.flatten(1).norm(dim=-1), own.values.flatten(1).norm(dim=-1)])


def cosine(a: torch.Tensor, b: torch.Tensor) -> float:
    return float(torch.cosine_similarity(a.flatten(), b.flatten(), dim=0))


def made(kind: str, true: kv.CacheSteering, differences: kv.PairDifferences) -> list[kv.Control]:
    if kind == "random":
        return kv.random_controls(true, 5, seed=2)
    if kind == "label shuffle":
        return kv.label_shuffle_controls(true, differences, 5, seed=2)
    if kind == "layer shuffle":
        return kv.layer_shuffle_controls(true, 5 if len(true.scope) > 2 else 1, seed=2)
    if kind == "sign flip":
        return [kv.sign_flip(true)]
    if kind == "other slot":
        return [kv.other_slot(true, -5)]
    return [kv.other_vectors(true, planted(seed=9).mean())]


KINDS = ["random", "label shuffle", "layer shuffle", "sign flip", "other slot", "other vectors"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("scope", [{}, {"layers": [1, 3], "heads": [1]}, {"slot": -2, "layers": range(4)}])
def test_every_control_keeps_size_and_place_and_names_what_it_controls(kind: str, scope: dict[str, Any]) -> None:
    differences = planted()
    true = steering(differences, **scope)
    controls = made(kind, true, differences)
    for control in controls:
        torch.testing.assert_close(norms(control), norms(true), rtol=1e-5, atol=0)
        assert (control.control_of, control.control_kind) == (true.label, kind)
        assert (control.ck, control.cv, control.layers, control.heads) == (true.ck, true.cv, true.layers, true.heads)
        assert control.slot == (-5 if kind == "other slot" else true.slot)
        outside = (
            (control.vectors - control.vectors.only(true.scope, true.heads)).keys
            if kind not in ("sign flip", "other slot")
            else torch.zeros(1)
        )
        assert not outside.any(), "nothing outside the steered layers and heads"
    assert len({c.label for c in controls}) == len(controls) and true.label not in {c.label for c in controls}


def test_what_isn_t_a_control_has_no_kind() -> None:
    true = steering(planted())
    assert true.control_of is None and true.control_kind is None and kv.Nothing().control_kind is None


# --- label shuffle --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pairs", [60, 61])
def test_exactly_half_of_the_pairs_are_exchanged(pairs: int) -> None:
    import random

    for seed in range(20):
        signs = module._balanced_signs(pairs, random.Random(seed))
        assert (signs.count(1), signs.count(-1), signs.count(0)) == (30, 30, pairs - 60)


def test_a_shuffle_is_the_mean_with_signs_by_hand() -> None:
    differences = planted(4)
    true = steering(differences, layers=range(4))
    found = kv.label_shuffle_controls(true, differences, 6)
    assert len(found) == 6
    by_hand = [[1, 1, -1, -1], [1, -1, 1, -1], [1, -1, -1, 1]]
    for signs in by_hand:
        mean = (torch.tensor(signs)[:, None, None, None] * differences.values).mean(0)
        alike = [cosine(mean[2], c.vectors.values[2]) for c in found]
        assert sum(a > 0.9999 for a in alike) == 1 and sum(a < -0.9999 for a in alike) == 1, (
            "each half once, and its complement"
        )


def test_of_a_shared_direction_nothing_is_left_on_average() -> None:
    """Balanced halves cancel it exactly; with independent coins the rescaled mean would be the true vector up to
    sign.
    """
    differences = planted()
    true = steering(differences)
    found = kv.label_shuffle_controls(true, differences, 40)
    cosines = torch.tensor(
        [[cosine(c.vectors.values[layer], true.vectors.values[layer]) for layer in true.scope] for c in found]
    )
    assert cosines.abs().mean() < 0.2 and abs(float(cosines.mean())) < 0.06
    assert len({c.vectors.values[2, 0, 0].item() for c in found}) == 40

    coins = torch.where(torch.rand(40, PAIRS, generator=torch.Generator().manual_seed(0)) < 0.5, 1.0, -1.0)
    naive = torch.einsum("rp,plhd->rlhd", coins, differences.values)
    unbalanced = [
        abs(cosine(mean[2], true.vectors.values[2]))
        for mean, signs in zip(naive, coins, strict=True)
        if signs.sum() != 0
    ]
    assert sum(unbalanced) / len(unbalanced) > 0.7, "the test can tell: a shared direction survives unequal halves"


def test_pairs_that_differ_only_in_how_far_they_go_give_the_direction_back() -> None:
    """What the docstring warns of: rescaling makes the true vector of its remains, once with each sign."""
    differences = planted()
    far = 1 + 0.1 * torch.randn(PAIRS, 1, 1, 1, generator=torch.Generator().manual_seed(3))
    along = replace(differences, keys=far * differences.keys.mean(0), values=far * differences.values.mean(0))
    true = steering(along)
    cosines = [cosine(c.vectors.values[2], true.vectors.values[2]) for c in kv.label_shuffle_controls(true, along, 20)]
    assert all(abs(c) > 0.99 for c in cosines) and 4 < sum(c > 0 for c in cosines) < 16


def test_shuffles_are_fixed_by_their_seed() -> None:
    differences = planted()
    one, again, other = (kv.label_shuffle_controls(steering(differences), differences, 3, seed=s) for s in (1, 1, 2))
    assert all(torch.equal(a.vectors.keys, b.vectors.keys) for a, b in zip(one, again, strict=True))
    assert not torch.equal(one[0].vectors.keys, other[0].vectors.keys)


def test_scaled_and_masked_vectors_may_be_shuffled_too() -> None:
    differences = planted()
    true = kv.CacheSteering(-2 * differences.mean().only([2, 3], [0]), 1, 1)
    for control in kv.label_shuffle_controls(true, differences, 3):
        torch.testing.assert_close(norms(control), norms(true))


def test_it_works_on_differences_that_a_model_gave(tiny: kv.Model) -> None:
    task = kv.tasks.get("tiny-arithmetic")
    pairs = kv.ContrastiveSet.few_shot(task, tiny.tokenizer, style="stepwise", n=8, shots=2)
    differences = kv.extract_pairs(tiny, pairs, progress=False)
    true = kv.CacheSteering(kv.extract(tiny, pairs, progress=False), 0, 4)
    controls = kv.label_shuffle_controls(true, differences, 2)
    assert len(kv.generate(tiny, "Story: Ann has 3 coins.", [true, *controls], generation={"max_new_tokens": 4})) == 3


# --- the others -----------------------------------------------------------------------------------------------


def test_layers_are_permuted_alike_in_keys_and_values() -> None:
    true = steering(planted())
    seen = set()
    for control in kv.layer_shuffle_controls(true, 5):
        order = []
        for layer in true.scope:
            source = [s for s in true.scope if cosine(control.vectors.values[layer], true.vectors.values[s]) > 0.9999]
            assert source == [
                s for s in true.scope if cosine(control.vectors.keys[layer], true.vectors.keys[s]) > 0.9999
            ]
            order += source
        assert sorted(order) == [1, 2, 3] and order != [1, 2, 3]
        seen.add(tuple(order))
    assert len(seen) == 5, "all other orders of three layers"


def test_a_sign_flip_undoes_its_steering(model: kv.Model, vectors: kv.KVVectors) -> None:
    true = kv.CacheSteering(vectors, 0.5, 3)
    ((ours,),), ((flipped,),) = true.deltas(model, [9]), kv.sign_flip(true).deltas(model, [9])
    assert ours.values.any() and not (ours.values + flipped.values).any() and not (ours.keys + flipped.keys).any()


def test_other_slots_and_other_vectors(model: kv.Model) -> None:
    true = steering(planted())
    assert kv.other_slot(true, 0).label.startswith("slot 0 for ")
    other = kv.other_vectors(true, planted(seed=9).mean())
    assert (
        other.label.startswith("toy stepwise for ")
        and abs(cosine(other.vectors.values[2], planted(seed=9).mean().values[2])) > 0.9999
    )
    assert kv.other_vectors(true, planted(seed=9).mean(), "tracking").label.startswith("tracking for ")


# --- bad input ------------------------------------------------------------------------------------------------


def test_impossible_controls_are_refused() -> None:
    differences = planted()
    true = steering(differences)
    for build in (
        kv.random_controls,
        kv.layer_shuffle_controls,
        lambda s, n: kv.label_shuffle_controls(s, differences, n),
    ):
        with pytest.raises(ValueError, match="The number of controls must be at least 1, not 0"):
            build(true, 0)
    few = planted(6)
    with pytest.raises(
        ValueError,
        match="6 pairs have only 20 halves to exchange, too few for 40 label shuffles; extract from more pairs",
    ):
        kv.label_shuffle_controls(steering(few), few, 40)
    with pytest.raises(ValueError, match="1 pairs have only 0 halves"):
        kv.label_shuffle_controls(steering(planted(1)), planted(1), 1)
    with pytest.raises(
        ValueError,
        match=r"The steering's keys aren't the mean of these differences; take kv\.extract_pairs on the same model",
    ):
        kv.label_shuffle_controls(true, planted(seed=5), 3)
    same = replace(
        differences,
        keys=differences.keys[:1].expand(PAIRS, -1, -1, -1),
        values=differences.values[:1].expand(PAIRS, -1, -1, -1),
    )
    with pytest.raises(
        ValueError,
        match="The control has no keys in layer 1, where the steering has some; nothing can be rescaled there",
    ):
        kv.label_shuffle_controls(steering(same), same, 3)
    with pytest.raises(
        ValueError, match="2 steered layers have only 1 other orders, too few for 2 layer shuffles; ask for fewer"
    ):
        kv.layer_shuffle_controls(steering(differences, layers=[1, 2]), 2)
    with pytest.raises(
        ValueError, match=r"Slot -1 is the one that 'steered stepwise ck=0\.5 cv=3' steers; choose another"
    ):
        kv.other_slot(true, -1)
    free = replace(differences.mean(), card=replace(differences.card, keys="position_free"))
    with pytest.raises(
        ValueError,
        match="another architecture, shape or key mode than the steering's; extract them from the same model",
    ):
        kv.other_vectors(true, free)
    with pytest.raises(ValueError, match="The control has no keys in layer 2"):
        kv.other_vectors(true, planted(seed=9).mean().only([1, 3]))
