"""Sampling: the noise belongs to the question and the sample, not to the batch or the intervention."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from random_models import PROMPTS, build, newline, vectors_for

import kvsteer_lab as kv
from kvsteer_lab.generation.sampling import SharedNoise

SAMPLED = {"max_new_tokens": 8, "do_sample": True, "eos_token_id": []}


def test_a_seed_reproduces_and_another_differs(model: kv.Model) -> None:
    one, again, other = (kv.generate(model, PROMPTS, generation=SAMPLED, samples=3, seed=s) for s in (1, 1, 2))
    assert one == again
    assert all(a != b for a, b in zip(one.token_ids, other.token_ids, strict=True))
    assert len({row.token_ids for row in one}) == 9, "samples and prompts have noise of their own"


@pytest.mark.parametrize("batch_size", [1, 4, 7])
def test_the_batch_does_not_matter(batch_size: int, model: kv.Model) -> None:
    methods = [kv.Nothing(), kv.CacheSteering(vectors_for(model), 1, 4)]
    rows = kv.generate(model, PROMPTS, methods, generation=SAMPLED, samples=2, batch_size=batch_size)
    assert rows == kv.generate(model, PROMPTS, methods, generation=SAMPLED, samples=2)


def test_a_prompt_s_noise_does_not_depend_on_its_neighbours(model: kv.Model) -> None:
    together = kv.generate(model, PROMPTS, generation=SAMPLED)
    assert [kv.generate(model, p, generation=SAMPLED).token_ids[0] for p in PROMPTS] == together.token_ids
    assert kv.generate(model, PROMPTS[::-1], generation=SAMPLED).token_ids[::-1] == together.token_ids
    first = kv.generate(model, PROMPTS, generation=SAMPLED, samples=3)
    assert [list(r.token_ids) for r in first if r.sample == 0] == together.token_ids, (
        "more samples leave the first as it is"
    )


def test_interventions_are_paired(model: kv.Model) -> None:
    vectors = vectors_for(model)
    methods = [kv.Nothing(), kv.CacheSteering(vectors, 0, 0, name="zero"), kv.CacheSteering(vectors, 1, 8, name="real")]
    rows = kv.generate(model, PROMPTS, methods, generation=SAMPLED, samples=2)
    baseline, zero, real = ([r.token_ids for r in rows.of(m.label)] for m in methods)
    assert baseline == zero, "an edit by zero sees the baseline's noise"
    assert baseline != real


def test_an_almost_empty_edit_changes_few_samples(model: kv.Model) -> None:
    """Common random numbers: a small edit leaves most samples token for token, where independent noise would leave
    none.
    """
    methods = [kv.Nothing(), kv.CacheSteering(vectors_for(model), 0, 1e-4, name="slight")]
    rows = kv.generate(model, PROMPTS, methods, generation=SAMPLED, samples=4)
    alike = sum(a.token_ids == b.token_ids for a, b in zip(rows.of("baseline"), rows.of("slight"), strict=True))
    assert alike >= 10


@pytest.mark.parametrize("asked", [{}, {"top_k": 0}, {"top_p": 0.6}, {"min_p": 0.02, "top_k": 200}])
def test_samples_follow_transformers_distribution(asked: dict[str, float], model: kv.Model) -> None:
    """The same settings give the same distribution as transformers' own: unless told otherwise, of 50 tokens."""
    n = 400
    settings = {**SAMPLED, "max_new_tokens": 1, "temperature": 2.0, **asked}
    rows = kv.generate(model, PROMPTS[0], generation=settings, samples=n, batch_size=n)
    drawn = torch.bincount(torch.tensor([row.token_ids[0] for row in rows]), minlength=model.hf.config.vocab_size) / n
    ids = torch.tensor([[*model.encode(PROMPTS[0]), newline(model)]])
    found = model.hf.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        output_scores=True,
        return_dict_in_generate=True,
        **{**settings, "eos_token_id": None},
    )
    expected = found.scores[0][0].softmax(-1)
    assert int((expected > 0).sum()) == 50 or asked
    spread = (expected * (1 - expected) / n).sqrt()
    assert ((drawn - expected).abs() <= 5 * spread + 1 / n).all()
    assert not (drawn[expected == 0] > 0).any()
    assert drawn.count_nonzero() > 5


def test_the_checkpoint_s_own_sampling_settings_are_the_default(tokenizer: Any) -> None:
    hf = build("llama")
    hf.generation_config.top_k = 3
    settings = {**SAMPLED, "max_new_tokens": 1, "temperature": 5.0}
    own = kv.generate(kv.load(hf, tokenizer), PROMPTS[0], generation=settings, samples=100)
    assert len({row.token_ids for row in own}) == 3
    ours = kv.generate(kv.load(hf, tokenizer), PROMPTS[0], generation={**settings, "top_k": 2}, samples=100)
    assert len({row.token_ids for row in ours}) == 2


def test_a_setting_that_can_t_be_honoured_is_refused(tokenizer: Any) -> None:
    hf = build("llama")
    hf.generation_config.typical_p = 0.9
    model = kv.load(hf, tokenizer)
    kv.generate(model, PROMPTS[0], generation={"max_new_tokens": 1})
    with pytest.raises(ValueError, match=r"say typical_p=0\.9, which can't be done here; set .*typical_p = None"):
        kv.generate(model, PROMPTS[0], generation=SAMPLED)
    with pytest.raises(ValueError, match="temperature must be above 0"):
        kv.generate(kv.load("tiny"), "a", generation={**SAMPLED, "temperature": 0.0})
    with pytest.warns(UserWarning, match="top_k does nothing in greedy decoding; add 'do_sample': True"):
        kv.generate(kv.load("tiny"), "a", generation={"max_new_tokens": 1, "top_k": 5})


def test_a_low_temperature_and_top_k_one_are_greedy(model: kv.Model) -> None:
    greedy = kv.generate(model, PROMPTS, generation={"max_new_tokens": 8, "eos_token_id": []}).token_ids
    assert kv.generate(model, PROMPTS, generation={**SAMPLED, "temperature": 1e-4}).token_ids == greedy
    assert kv.generate(model, PROMPTS, generation={**SAMPLED, "top_k": 1}).token_ids == greedy
    assert kv.generate(model, PROMPTS, generation={**SAMPLED, "top_p": 1e-6}).token_ids == greedy
    assert kv.generate(model, PROMPTS, generation={**SAMPLED, "min_p": 0.999}).token_ids == greedy
    assert kv.generate(model, PROMPTS, generation=SAMPLED).token_ids != greedy


def test_nothing_global_is_touched(model: kv.Model) -> None:
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    kv.generate(model, PROMPTS[0], generation=SAMPLED, seed=9)
    assert torch.equal(torch.rand(3), expected), "torch's own generator goes on as if nothing had been drawn"


def test_streams_see_the_same_noise(model: kv.Model) -> None:
    for seed in (0, 5):
        text = kv.generate(model, PROMPTS[1], generation=SAMPLED, seed=seed).texts[0]
        assert "".join(kv.stream(model, PROMPTS[1], generation=SAMPLED, seed=seed)) == text


def test_noise_is_gumbel_and_belongs_to_its_key_and_step() -> None:
    scores = torch.zeros(3, 20_000)
    noise = SharedNoise(["a", "b", "a"], seed=0)
    first, second = noise(torch.zeros(3, 1), scores), noise(torch.zeros(3, 2), scores)
    assert (
        torch.equal(first[0], first[2]) and not torch.equal(first[0], first[1]) and not torch.equal(first[0], second[0])
    )
    assert float(first[0].mean()) == pytest.approx(0.5772, abs=0.05) and float(first[0].std()) == pytest.approx(
        1.2825, abs=0.05
    )
    assert torch.equal(SharedNoise(["a"], seed=0)(torch.zeros(1, 1), scores[:1])[0], first[0])
    assert torch.isfinite(first).all()


def test_several_samples_need_sampling(model: kv.Model) -> None:
    for samples in (0, 2):
        with pytest.raises(
            ValueError,
            match=(
                rf"samples={samples} needs generation=\{{'do_sample': True\}}: greedy decoding gives the same text each"
                r" time"
            ),
        ):
            kv.generate(model, "fox", samples=samples)
