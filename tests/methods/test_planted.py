"""Every method finds what was planted, or does to the cache what its formula says."""

from __future__ import annotations

from dataclasses import replace

import pandas as pd
import pytest
import torch
from random_models import PROMPTS, card_of, vectors_for
from torch import Tensor

import kvsteer_lab as kv
from kvsteer_lab.edits import Add, Bank, Insert, LastSlot
from kvsteer_lab.edits.spans import Everything
from kvsteer_lab.vectors import extract_activation_pairs
from kvsteer_lab.vectors.activation_pairs import ActivationDifferences
from kvsteer_lab.vectors.extraction import PairDifferences

SHAPE = (4, 2, 16)


def unit(seed: int, *shape: int) -> Tensor:
    noise = torch.randn(shape or SHAPE, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.normalize(noise, dim=-1)


def planted(model: kv.Model, n: int = 40) -> tuple[PairDifferences, Tensor]:
    """Differences along one direction, under noise that is strong along another direction."""
    generator = torch.Generator().manual_seed(7)
    truth, nuisance = unit(1), unit(2)
    nuisance = torch.nn.functional.normalize(nuisance - (nuisance * truth).sum(-1, keepdim=True) * truth, dim=-1)
    noise = 4 * torch.randn(n, *SHAPE[:2], 1, generator=generator) * nuisance
    d = 2 * truth + noise + 0.05 * torch.randn(n, *SHAPE, generator=generator)
    return PairDifferences(d.clone(), d, card_of(model, keys="post_rope")), truth


def cosines(found: Tensor, truth: Tensor) -> Tensor:
    return torch.nn.functional.cosine_similarity(found, truth, dim=-1)


def test_a_planted_direction_is_found_where_noise_hides_it_from_the_mean(model: kv.Model) -> None:
    differences, truth = planted(model)
    mean = cosines(differences.mean().values, truth).mean()
    found = {
        "whitened": kv.methods.whitened(differences, 0.01).values,
        "logistic": kv.methods.logistic(differences, penalty=0.001, steps=3000).values,
        "projected": kv.methods.without(
            differences.mean(), replace(differences.mean(), values=_nuisance(truth))
        ).values,
    }
    for name, vectors in found.items():
        assert cosines(vectors, truth).mean() > mean, name
    assert cosines(found["whitened"], truth).min() > 0.98
    assert cosines(found["projected"], truth).min() > 0.99
    # uncentred, the first component is the direction of the largest second moment: here the noise, and it says so
    assert cosines(kv.methods.first_component(differences).values, truth).abs().mean() < 0.5
    calm = PairDifferences(differences.keys, 3 * truth + 0.1 * differences.values, differences.card)
    assert cosines(kv.methods.first_component(calm).values, truth).min() > 0.95


def _nuisance(truth: Tensor) -> Tensor:
    nuisance = unit(2)
    return torch.nn.functional.normalize(nuisance - (nuisance * truth).sum(-1, keepdim=True) * truth, dim=-1)


def test_residual_twins_are_the_same_methods(model: kv.Model) -> None:
    kept, _ = planted(model)
    twin = ActivationDifferences(kept.values.flatten(2), replace(kept.card, keys=None))
    one = PairDifferences(twin.residuals[:, :, None].clone(), twin.residuals[:, :, None], kept.card)
    for method in (
        kv.methods.mean_difference,
        kv.methods.first_component,
        kv.methods.whitened,
        kv.methods.logistic,
        kv.methods.nearest_pair,
    ):
        torch.testing.assert_close(method(twin).residuals, method(one).values[:, 0])
    rest = kv.methods.without(twin.mean(), twin.mean())
    assert rest.residuals.abs().max() < 1e-5
    assert torch.equal(kv.methods.scheduled(twin.mean(), [0, 1, 2, 3]).residuals[2], 2 * twin.mean().residuals[2])
    with pytest.raises(ValueError, match="both must be of one kind and of one model"):
        kv.methods.without(twin.mean(), kept.mean())  # type: ignore[type-var]


def test_residual_pairs_average_to_the_vectors_and_steer_in_three_scopes(tiny: kv.Model) -> None:
    task = kv.tasks.get("tiny-arithmetic")
    pairs = kv.ContrastiveSet.few_shot(task, tiny.tokenizer, style="stepwise", n=6, shots=1)
    differences = extract_activation_pairs(tiny, pairs, progress=False)
    whole = kv.extract_activations(tiny, pairs, progress=False)
    torch.testing.assert_close(differences.mean().residuals, whole.residuals, atol=1e-4, rtol=1e-4)
    vectors = kv.methods.whitened(differences, 0.5)
    scopes = [kv.ActivationSteering(vectors, 1, 3.0, scope=s) for s in ("one-shot", "onward", "all tokens")]  # type: ignore[arg-type]
    texts = kv.generate(tiny, task.chat(task.questions("dev", 1)[0]), scopes, generation={"max_new_tokens": 8})
    assert len({t.token_ids for t in texts}) >= 2


def test_clusters_of_pairs_are_told_apart(model: kv.Model) -> None:
    a, b = 3 * unit(3), 3 * unit(4)
    d = torch.cat([a + 0.1 * unit(i) for i in range(10, 16)] + [b + 0.1 * unit(i) for i in range(20, 24)]).view(
        10, *SHAPE
    )
    found = kv.methods.clustered(PairDifferences(d, d, card_of(model, keys="post_rope")), 2)
    assert [each.card.n_pairs for each in found] == [6, 4]
    assert cosines(found[0].values, a).min() > 0.99 and cosines(found[1].values, b).min() > 0.99
    with pytest.raises(ValueError, match="clusters=11 must be 1 to 10"):
        kv.methods.clustered(PairDifferences(d, d, card_of(model, keys="post_rope")), 11)


def test_the_most_similar_pair_is_retrieved(tiny: kv.Model) -> None:
    task = kv.tasks.get("tiny-arithmetic")
    pairs = kv.ContrastiveSet.few_shot(task, tiny.tokenizer, style="stepwise", n=6, shots=1)
    edit = kv.methods.retrieved(tiny, pairs, 0, 2.0)
    differences = kv.extract_pairs(tiny, pairs, progress=False)
    for i in (0, 3):  # a pair's own negative side retrieves that pair
        _, values = edit.changed(2, torch.zeros(2, 1, 32), edit.own[i, 2][:, None])
        torch.testing.assert_close(values[:, 0] - edit.own[i, 2], 2 * differences.values[i, 2], atol=1e-4, rtol=1e-4)
    assert kv.divergence(tiny, "2 + 3?", "Step 1", kv.CacheEdits([edit])).totals[0] > 0


def test_each_of_several_slots_gets_its_own_vector(tiny: kv.Model) -> None:
    task = kv.tasks.get("tiny-arithmetic")
    pairs = kv.ContrastiveSet.few_shot(task, tiny.tokenizer, style="stepwise", n=4, shots=1)
    edits = kv.methods.several_slots(tiny, pairs, 3, 1.0, 2.0)
    last = kv.extract(tiny, pairs, progress=False)
    assert [edit.slot for edit in edits] == [-3, -2, -1]
    torch.testing.assert_close(edits[-1].values, 2 * last.values, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(edits[-1].keys, last.keys, atol=1e-4, rtol=1e-4)
    assert not torch.allclose(edits[0].values, edits[-1].values, atol=1e-2)
    with pytest.raises(ValueError, match="slots=0 must be 1 to"):
        kv.methods.several_slots(tiny, pairs, 0, 0, 1)


def test_parts_heads_and_schedules_keep_what_they_say(model: kv.Model) -> None:
    vectors = vectors_for(model)
    assert not kv.methods.values_only(vectors).keys.any() and not kv.methods.keys_only(vectors).values.any()
    assert torch.equal(kv.methods.keys_only(vectors).keys, vectors.keys)
    scores = pd.DataFrame(
        {"layer": [0, 1, 3], "kv_head": [1, 0, 1], "logit": [0.1, -3.0, 2.0], "control_of": [None] * 3}
    )
    noise = scores.assign(control_of="x", logit=[99.0, 0, 0])
    kept = kv.methods.best_heads(vectors, pd.concat([scores, noise]), 2)
    assert kept.values.any(-1).nonzero().tolist() == [[1, 0], [3, 1]]
    largest = kv.methods.largest_heads(vectors, 1).values.any(-1)
    assert torch.equal(largest.float().argmax(1), vectors.values.norm(dim=-1).argmax(1)) and largest.sum() == 4
    rising = kv.methods.scheduled(vectors, lambda depth: depth)
    torch.testing.assert_close(rising.keys[1], vectors.keys[1] / 3)
    for wrong in ("one finite weight", [1.0, 2.0]), ("one finite weight", [float("nan")] * 4):
        with pytest.raises(ValueError, match=wrong[0]):
            kv.methods.scheduled(vectors, wrong[1])
    with pytest.raises(ValueError, match="The scores lack kv_head"):
        kv.methods.best_heads(vectors, scores.drop(columns="kv_head"), 1)


def test_keys_that_are_attended_to_are_avoided(model: kv.Model) -> None:
    vectors, focus = vectors_for(model), Bank.of(model, PROMPTS[1])
    found = kv.methods.key_orthogonal(vectors, focus, rank=3)
    basis = torch.linalg.svd(focus.keys[2, 1], full_matrices=False).Vh[:3]
    assert (found.keys[2, 1] @ basis.T).abs().max() < 1e-4 and torch.equal(found.values, vectors.values)
    assert found.keys.norm() < vectors.keys.norm()
    with pytest.raises(ValueError, match="rank=99 must be 1 to 16"):
        kv.methods.key_orthogonal(vectors, focus, rank=99)


def test_values_are_amplified_along_the_gram_direction(model: kv.Model) -> None:
    differences, cached = planted(model)[0], Bank.of(model, PROMPTS[1])
    full = kv.methods.value_gram(differences, cached, 0.5, 16, span=Everything())
    assert cosines(full.directions, differences.mean().values).min() > 0.999  # of full rank: the mean's direction
    edit = kv.methods.value_gram(differences, cached, 0.5, 2, span=Everything())
    basis = torch.linalg.svd(cached.values[1, 0], full_matrices=False).Vh[:2]
    assert float((edit.directions[1, 0] @ basis.T).norm()) == pytest.approx(1, abs=1e-4)
    before, after = model.prefill(PROMPTS[0]), kv.edits.apply(model.prefill(PROMPTS[0]), [edit])
    z, w = (x.layers[1].values[0, 0] @ edit.directions[1, 0] for x in (before, after))
    torch.testing.assert_close(w, z + 0.5 * z.abs(), atol=1e-4, rtol=1e-4)
    lasting = kv.CacheEdits([kv.methods.value_gram(differences, cached, 0.5, 2, span=Everything(), every=True)])
    once = kv.CacheEdits([edit])
    assert kv.divergence(model, PROMPTS[0], "The answer is 19.", lasting, once).totals[0] > 0


def test_a_fitted_gate_opens_for_unseen_prompts_of_its_kind(tiny: kv.Model) -> None:
    one, other = kv.tasks.get("tiny-arithmetic"), kv.tasks.get("tiny-tracking")
    chats = {task: [task.chat(q) for q in task.questions("dev", 12)] for task in (one, other)}
    gate = kv.methods.fit_gate(tiny, chats[one][:6], chats[other][:6])

    def opens(chat: object) -> bool:
        cache = tiny.prefill(chat)  # type: ignore[arg-type]
        keys, values = (torch.stack([getattr(x, p)[0, :, -1] for x in cache.layers]) for p in ("keys", "values"))
        return gate(LastSlot(keys, values))

    right = sum(opens(c) for c in chats[one][6:]) + sum(not opens(c) for c in chats[other][6:])
    assert right >= 10
    with pytest.raises(ValueError, match="prompts of both kinds"):
        kv.methods.fit_gate(tiny, [], chats[other])


def test_a_learned_delta_says_what_a_planted_one_makes_the_model_say(model: kv.Model) -> None:
    planted_delta = kv.CacheEdits([Add(0 * vectors_for(model).keys, 3 * vectors_for(model).values)])
    prompts = [f"What is {a} + {b}?" for a in range(2, 8) for b in (3, 5)]
    replies = list(kv.generate(model, prompts, planted_delta, generation={"max_new_tokens": 4}).texts)
    calm = list(kv.generate(model, PROMPTS, generation={"max_new_tokens": 4}).texts)
    given = dict(neutral=PROMPTS, neutral_replies=calm, steps=40, rate=0.1, seeds=(0, 1))
    delta, how = kv.methods.learned_delta(model, prompts, replies, penalty=0.0, **given)  # type: ignore[arg-type]
    first, best = how.history.groupby("seed").first(), how.history.held_out.min()
    assert set(how.history.seed) == {0, 1} and best < first.held_out.min() - 0.3
    steered = kv.CacheSteering(delta, ck=1, cv=1, layers=range(4))
    gain = torch.tensor(kv.score(model, prompts, replies, steered).totals) - torch.tensor(
        kv.score(model, prompts, replies).totals
    )
    assert gain.mean() > 0
    _, calmer = kv.methods.learned_delta(model, prompts, replies, penalty=50.0, **given)  # type: ignore[arg-type]
    assert calmer.history.kl.max() < how.history.kl.max()
    assert not any(p.grad is not None for p in model.hf.parameters())
    with pytest.raises(ValueError, match="There are 2 prompts and 1 replies"):
        kv.methods.learned_delta(model, prompts[:2], replies[:1])
    with pytest.raises(ValueError, match="1 of 1 texts are too few"):
        kv.methods.learned_delta(model, prompts[:1], replies[:1])


def test_a_learned_bank_begins_as_a_prefix_and_gets_better(model: kv.Model) -> None:
    prompts, replies = PROMPTS + ["What is 2 + 3?"], [" The answer is 19."] * 4
    start = Bank.of(model, "Step 1", chat=False)
    bank, how = kv.methods.learned_bank(model, start, prompts, replies, steps=15, rate=0.05)
    assert bank.positions == start.positions and how.history.held_out.min() < how.history.held_out[0]
    before, after = (
        torch.tensor(kv.score(model, prompts, replies, kv.CacheEdits([Insert(b)])).totals) for b in (start, bank)
    )
    assert after.mean() > before.mean()
    # the path of learning is that of generation: its loss at the start is the score under Insert
    _, one = kv.methods.learned_bank(model, start, prompts, replies, steps=1, rate=1e-9, held_out=0.25)
    order = torch.randperm(4, generator=torch.Generator().manual_seed(0)).tolist()
    asked, said = [prompts[order[0]]], [replies[order[0]]]
    score = kv.score(model, asked, said, kv.CacheEdits([Insert(start)]))
    assert -score.totals[0] / len(score.token_ids[0]) == pytest.approx(one.history.held_out[0], rel=0.02)
