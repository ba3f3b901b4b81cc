"""What half precision makes of an edit: too large is an error, too small is said."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from random_models import PROMPTS, vectors_for

import kvsteer_lab as kv
from kvsteer_lab.edits.rounding import RoundingWarning, added_to
from kvsteer_lab.models.finite import NotFiniteError

SHORT = {"max_new_tokens": 4}
ignore_other_weights = pytest.mark.filterwarnings("ignore:These vectors were extracted")


@pytest.fixture(scope="module")
def half(folder: Path) -> kv.Model:
    return kv.load(folder, dtype="float16")


@pytest.fixture(scope="module")
def brain(folder: Path) -> kv.Model:
    return kv.load(folder, dtype="bfloat16")


@ignore_other_weights
def test_what_overflows_in_the_cast_is_refused(half: kv.Model) -> None:
    """Before: infinite slots, KL 0.0 and empty texts, in silence."""
    steering = kv.CacheSteering(vectors_for(half), 0, 6e4)
    for use in (
        lambda: kv.generate(half, PROMPTS, steering, generation=SHORT),
        lambda: kv.score(half, PROMPTS, ["fox"] * 3, steering),
        lambda: kv.divergence(half, PROMPTS, ["fox"] * 3, steering),
        lambda: "".join(kv.stream(half, PROMPTS[0], steering, generation=SHORT)),
    ):
        with pytest.raises(
            NotFiniteError, match=r"The values that .*cv=60000' adds reach \d.*, which is infinite in fl"
        ):
            use()


@ignore_other_weights
def test_the_same_dose_is_fine_where_the_dtype_reaches(model: kv.Model, brain: kv.Model) -> None:
    for each in (model, brain):
        steering = kv.CacheSteering(vectors_for(each), 0, 6e4)
        assert kv.divergence(each, PROMPTS, ["fox"] * 3, steering).totals[0] > 0.1


def test_a_sum_that_overflows_is_refused_before_anything_is_changed(half: kv.Model) -> None:
    cache = half.prefill(PROMPTS[0])
    cache.layers[2].values[0, 0, -1, 0] = 60000
    before = [layer.values.clone() for layer in cache.layers]
    added = torch.zeros(4, 2, 16)
    added[2, 0, 0] = 60000
    with pytest.raises(NotFiniteError, match="What is added to the cache makes it infinite in float16"):
        kv.apply(cache, [kv.CacheDelta(torch.zeros(4, 2, 16), added)])
    assert all(torch.equal(layer.values, old) for layer, old in zip(cache.layers, before, strict=True))


@ignore_other_weights
def test_an_edit_that_is_rounded_away_is_said(brain: kv.Model, half: kv.Model, model: kv.Model) -> None:
    slight = kv.CacheSteering(vectors_for(brain), 0, 0.002)
    with pytest.warns(RoundingWarning, match=r"bfloat16, is too coarse for so small an edit: .*kv\.effective_dose"):
        kv.generate(brain, PROMPTS, slight, generation=SHORT)
    with warnings.catch_warnings():
        warnings.simplefilter("error", RoundingWarning)
        kv.generate(brain, PROMPTS, kv.CacheSteering(vectors_for(brain), 0, 1), generation=SHORT)
        kv.generate(model, PROMPTS, kv.CacheSteering(vectors_for(model), 0, 1e-5), generation=SHORT)
        kv.generate(brain, PROMPTS, kv.CacheSteering(vectors_for(brain), 0, 0), generation=SHORT)


@ignore_other_weights
def test_the_dose_that_arrives(brain: kv.Model, model: kv.Model) -> None:
    vectors = vectors_for(model)
    for cv, wrong in ((0.002, True), (1.0, False)):
        steering = kv.CacheSteering(vectors, 0, cv)
        table = kv.effective_dose(brain, PROMPTS, steering)
        assert list(table.part.unique()) == ["values"] and sorted(table.layer.unique()) == [1, 2, 3]
        assert len(table) == 9 and (table.slot == -1).all()
        assert (table.error.max() > 0.1) == wrong
        # by hand, for one row
        old = brain.prefill(PROMPTS[1]).layers[2].values[0, :, -1]
        wanted = cv * vectors.values[2]
        really = (old.float() + wanted.bfloat16().float()).bfloat16().float() - old.float()
        row = table[(table.prompt == 1) & (table.layer == 2)].iloc[0]
        assert row.asked == pytest.approx(float(wanted.norm() / old.float().norm()), rel=1e-4)
        assert row.added == pytest.approx(float(really.norm() / old.float().norm()), rel=1e-4)
    exact = kv.effective_dose(model, PROMPTS, kv.CacheSteering(vectors, 0.5, 0.01))
    np.testing.assert_allclose(exact.asked, exact.added, rtol=1e-4)
    assert set(exact.part) == {"keys", "values"}
    assert kv.effective_dose(model, PROMPTS, kv.Nothing()).empty


def test_what_is_added_to_a_number() -> None:
    old = torch.tensor([1.0, 100.0], dtype=torch.bfloat16)
    assert added_to(old, torch.tensor([0.5, 0.1])).tolist() == [0.5, 0.0]
    assert added_to(old.float(), torch.tensor([0.5, 0.25])).tolist() == [0.5, 0.25]
