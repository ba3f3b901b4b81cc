"""Each method against its formula, by hand."""

from __future__ import annotations

import pytest
import torch
from random_models import PROMPTS, vectors_for

import kvsteer_lab as kv
from kvsteer_lab.edits.spans import Everything
from kvsteer_lab.vectors.extraction import PairDifferences


def differences_for(model: kv.Model, n: int = 12) -> PairDifferences:
    generator = torch.Generator().manual_seed(3)
    vectors = vectors_for(model)
    shape = (n, *vectors.values.shape)
    keys, values = (torch.randn(shape, generator=generator) + 2 * part for part in (vectors.keys, vectors.values))
    return PairDifferences(keys, values, vectors.card)


def test_every_direction_has_the_means_norm_and_sign(model: kv.Model) -> None:
    differences = differences_for(model)
    mean = kv.methods.mean_difference(differences)
    assert torch.equal(mean.values, differences.mean().values)
    for method in (kv.methods.first_component, kv.methods.whitened, kv.methods.logistic, kv.methods.nearest_pair):
        found = method(differences)
        torch.testing.assert_close(found.values.norm(dim=-1), mean.values.norm(dim=-1))
        assert ((found.keys * mean.keys).sum(-1) >= 0).all()
        assert not torch.allclose(found.values, mean.values, atol=1e-3), method
        assert len(found.card.history) == len(mean.card.history) + 1


def test_directions_are_what_their_formulas_say(model: kv.Model) -> None:
    differences = differences_for(model)
    d = differences.values[:, 1, 0].double()
    mean = d.mean(0)

    def parallel(found: kv.KVVectors, wanted: torch.Tensor) -> None:
        cosine = torch.nn.functional.cosine_similarity(found.values[1, 0].double(), wanted, dim=0)
        assert float(cosine) == pytest.approx(1, abs=1e-5)

    top = torch.linalg.eigh(d.T @ d).eigenvectors[:, -1]
    parallel(kv.methods.first_component(differences), top * (top @ mean).sign())
    spread = (d - mean).T @ (d - mean) / len(d)
    shrunk = 0.7 * spread + 0.3 * spread.trace() / len(mean) * torch.eye(len(mean))
    parallel(kv.methods.whitened(differences, 0.3), torch.linalg.inv(shrunk) @ mean)
    weights = torch.zeros_like(mean, requires_grad=True)
    unit = d / d.pow(2).sum(1).mean().sqrt()
    optimiser = torch.optim.LBFGS([weights], max_iter=200, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        optimiser.zero_grad()
        value = torch.nn.functional.softplus(-(unit @ weights)).mean() + weights.pow(2).sum() / 2
        value.backward()
        return value

    optimiser.step(loss)
    parallel(kv.methods.logistic(differences), weights.detach())


def test_a_projected_out_direction_is_gone(model: kv.Model) -> None:
    one, other = vectors_for(model, 1), vectors_for(model, 2)
    rest = kv.methods.without(one, other)
    assert (rest.keys * other.keys).sum(-1).abs().max() < 1e-4
    torch.testing.assert_close(kv.methods.without(rest, other).values, rest.values, atol=1e-5, rtol=1e-5)


def test_keys_are_projected(model: kv.Model) -> None:
    differences = differences_for(model)
    edit = kv.methods.key_projection(differences, -1.0, rank=2, span=Everything())
    cache = kv.edits.apply(model.prefill(PROMPTS[0]), [edit])
    basis = torch.linalg.svd(differences.keys[:, 2, 1], full_matrices=False).Vh[:2]
    assert (cache.layers[2].keys[0, 1] @ basis.T).abs().max() < 1e-4
    with pytest.raises(ValueError, match="rank=99 must be 1 to 12"):
        kv.methods.key_projection(differences, 1.0, rank=99, span=Everything())


def test_turning_keeps_norms_and_its_dose_is_the_angle(model: kv.Model) -> None:
    vectors, before = vectors_for(model), model.prefill(PROMPTS[0])
    for edit in (kv.methods.norm_preserving(vectors, 0.5, 3.0), kv.methods.turned(vectors, 20.0)):
        after = kv.edits.apply(model.prefill(PROMPTS[0]), [edit])
        for old, new in zip(before.layers, after.layers, strict=True):
            torch.testing.assert_close(old.values.norm(dim=-1), new.values.norm(dim=-1), atol=1e-4, rtol=1e-4)
        x, y = before.layers[1].values[0, :, -1], after.layers[1].values[0, :, -1]
        assert not torch.allclose(x, y)
    angle = torch.rad2deg(torch.acos(torch.nn.functional.cosine_similarity(x, y, dim=-1)))
    torch.testing.assert_close(angle, torch.full_like(angle, 20.0), atol=1e-2, rtol=0)
    assert torch.equal(before.layers[1].keys, after.layers[1].keys)
    with pytest.raises(ValueError, match="degrees=200 must be from 0 to 180"):
        kv.methods.turned(vectors, 200)


def test_the_table_lists_every_method() -> None:
    assert {*kv.methods.table().index, "table"} == set(kv.methods.__all__)
