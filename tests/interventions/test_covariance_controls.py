"""Controls that vary as the model's own slots do, and the commonest openings."""

import warnings

import pytest
import torch
from test_controls import cosine, norms, planted, steering

import kvsteer_lab as kv
from kvsteer_lab.interventions.prompt import openings


def test_they_keep_norms_and_lie_where_the_differences_vary():
    differences = planted(pairs=40)
    axis = torch.zeros_like(differences.keys[0])
    axis[..., 3] = 1.0  # everything varies along one axis only
    flat = kv.PairDifferences(
        differences.mean().keys + torch.randn(40, 1, 1, 1) * axis,
        differences.mean().values + torch.randn(40, 1, 1, 1) * axis,
        differences.card,
    )
    true = steering(flat)
    for control in kv.controls.in_covariance_of(true, flat, 4, seed=3):
        assert torch.allclose(norms(control), norms(true), rtol=1e-4)
        for layer in true.scope:
            assert abs(cosine(control.vectors.values[layer], axis[layer])) > 0.999
        assert control.control_kind == "in covariance of differences" and control.control_of == true.label


def test_draws_have_the_covariance_of_the_samples():
    differences = planted(pairs=30, strength=0.0)
    drawn = kv.controls.in_covariance_of(steering(differences, layers=[2]), differences, 400)
    values = torch.stack([c.vectors.values[2].flatten() for c in drawn])
    mine, theirs = torch.cov(values.T), torch.cov(differences.values[:, 2].flatten(1).T)
    assert cosine(mine, theirs) > 0.9
    isotropic = torch.stack([c.vectors.values[2].flatten() for c in steering(differences, layers=[2]).controls(400)])
    assert cosine(torch.cov(isotropic.T), theirs) < cosine(mine, theirs) - 0.05


@pytest.mark.parametrize("keys", ["post_rope", "position_free"])
def test_slots_of_real_prompts(keys):
    tiny = kv.load("tiny", dtype=torch.float64)  # in float32 what another batch rounds off can exceed the bound below
    task = kv.tasks.get("tiny-arithmetic")
    pairs = kv.ContrastiveSet.few_shot(task, tiny.tokenizer, style="stepwise", n=4, shots=1)
    true = kv.CacheSteering(kv.extract(tiny, pairs, keys=keys, progress=False), ck=0.5, cv=2.0)
    chats = [task.chat(q) for q in task.questions("dev", 12)]
    controls = kv.controls.in_covariance_of_slots(true, tiny, chats, 3)
    assert len({c.label for c in controls}) == 3 and torch.allclose(norms(controls[0]), norms(true), rtol=1e-4)
    again = kv.controls.in_covariance_of_slots(true, tiny, chats, 1, seed=2, batch_size=5)
    assert torch.allclose(again[0].vectors.values, controls[2].vectors.values, atol=1e-4)
    with pytest.raises(ValueError, match="next to no directions"):
        kv.controls.in_covariance_of_slots(true, tiny, chats[:2])


def test_what_does_not_fit_is_refused():
    differences = planted()
    true = steering(differences)
    with pytest.raises(ValueError, match="number of controls must be at least 1"):
        kv.controls.in_covariance_of(true, differences, 0)
    with pytest.raises(ValueError, match="from the same model"):
        kv.controls.in_covariance_of(
            true, kv.PairDifferences(differences.keys[:, :2], differences.values[:, :2], differences.card)
        )


class Mixed(kv.tasks.Task):
    """Replies with several openings."""

    name, styles = "mixed", ("direct", "stepwise")

    def questions(self, split, n=None, seed=None):
        first = ["The", "The", "Step", "Step", "Step", "Not", "If", "If", "Ann", "So"]
        found = [
            kv.tasks.Question(str(i), f"{i}?", "1", {"direct": "1", "stepwise": f"{word} one is"})
            for i, word in enumerate(first)
        ]
        return found[:n]

    def read_answer(self, text):
        return None


def test_a_rare_commonest_opening_is_told_with_its_share(tiny):
    with pytest.warns(UserWarning, match=r"Only 30% of the replies in style 'stepwise' begin with 'Step'"):
        assert kv.ForcedPrefix.of_style(Mixed(), tiny.tokenizer, "stepwise").text == "Step"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        kv.ForcedPrefix.of_style(kv.tasks.get("tiny-arithmetic"), tiny.tokenizer, "stepwise")


def test_the_commonest_openings(tiny):
    found = kv.ForcedPrefix.commonest(Mixed(), tiny.tokenizer, "stepwise", k=3)
    shares = dict.fromkeys(["Step"], "30%") | dict.fromkeys(["The", "If"], "20%")
    assert {p.text: p.label for p in found} == {t: f"forced {t!r} ({s})" for t, s in shares.items()}
    assert found[0].text == "Step" and found[0].tail(tiny.tokenizer, None) == tiny.tokenizer("Step").input_ids
    assert sum(share for _, share in openings(Mixed(), tiny.tokenizer, "stepwise")) == pytest.approx(1.0)
    with pytest.raises(ValueError, match="At least 1 opening"):
        kv.ForcedPrefix.commonest(Mixed(), tiny.tokenizer, "stepwise", k=0)
