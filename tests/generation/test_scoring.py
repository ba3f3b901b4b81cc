"""Scores: log-probabilities of given texts, read from the same edited cache."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import reference
import torch
from random_models import CONFIGS, PROMPTS, newline, vectors_for
from torch import Tensor

import kvsteer_lab as kv

TEXTS = ["the fox", "Step 1: add 2 and 3 to get 5.", "19"]


@torch.no_grad()
def forward_logprobs(model: kv.Model, ids: Sequence[int], target: Sequence[int]) -> Tensor:
    """From one plain forward pass over everything."""
    logits = model.hf(torch.tensor([[*ids, *target]])).logits[0, len(ids) - 1 : -1]
    return logits.log_softmax(-1).gather(-1, torch.tensor([list(target)]).T)[:, 0]


@torch.no_grad()
def steered_logprobs(
    model: kv.Model, ids: Sequence[int], target: Sequence[int], keys: Tensor, values: Tensor
) -> Tensor:
    """Token by token from a cache that was edited by hand."""
    cache = reference.prefill(model.hf, ids)
    for index, layer in enumerate(cache.layers):
        layer.keys[0, :, -1] += keys[index]
        layer.values[0, :, -1] += values[index]
    found = []
    for token, wanted in zip([newline(model), *target[:-1]], target, strict=True):
        logits = reference.read_on(model.hf, [token], cache)
        found.append(logits.log_softmax(-1)[wanted])
    return torch.stack(found)


@pytest.mark.parametrize("name", list(CONFIGS))
def test_scores_are_those_of_a_plain_forward_pass_and_of_an_edited_cache(
    name: str, load_random: Callable[[str], kv.Model]
) -> None:
    model = load_random(name)
    vectors = vectors_for(model)
    targets = [model.tokenizer(t, add_special_tokens=False).input_ids for t in TEXTS]
    plain = kv.score(model, PROMPTS, TEXTS)
    steered = kv.score(model, PROMPTS, TEXTS, kv.CacheSteering(vectors, 1, 8, layers=range(model.n_layers)))
    for i, prompt in enumerate(PROMPTS):
        ids = model.encode(prompt)
        torch.testing.assert_close(
            plain.logprobs[i], forward_logprobs(model, [*ids, newline(model)], targets[i]), atol=2e-4, rtol=1e-3
        )
        by_hand = steered_logprobs(model, ids, targets[i], vectors.keys, 8 * vectors.values)
        torch.testing.assert_close(steered.logprobs[i], by_hand, atol=2e-4, rtol=1e-3)
        assert (plain.logprobs[i] - steered.logprobs[i]).abs().max() > 0.01, "steering must show"


def test_sums_and_tables(model: kv.Model) -> None:
    scores = kv.score(model, PROMPTS, TEXTS)
    assert scores.totals == pytest.approx([float(row.sum()) for row in scores.logprobs])
    table = scores.to_frame()
    assert list(table.columns) == ["prompt", "step", "token_id", "token", "logprob"]
    assert table.groupby("prompt").logprob.sum().tolist() == pytest.approx(scores.totals, rel=1e-5)
    assert ["".join(rows) for _, rows in table.groupby("prompt").token] == TEXTS
    assert all(total < 0 for total in scores.totals)


def test_a_greedy_text_is_the_likeliest_at_each_step(model: kv.Model) -> None:
    steering = kv.CacheSteering(vectors_for(model), 1, 8)
    ids = kv.generate(model, PROMPTS, steering, generation={"max_new_tokens": 6, "eos_token_id": []}).token_ids
    own, other = kv.score(model, PROMPTS, ids, steering), kv.score(model, PROMPTS, ids)
    assert all(row.exp().min() > 1 / model.hf.config.vocab_size for row in own.logprobs)
    assert sum(own.totals) > sum(other.totals), "the steered text is likelier under steering"


@pytest.mark.parametrize("batch_size", [1, 2])
def test_batches_do_not_matter(batch_size: int, model: kv.Model) -> None:
    steering = kv.CacheSteering(vectors_for(model), 1, 8)
    one, other = (kv.score(model, PROMPTS, TEXTS, steering, batch_size=n) for n in (batch_size, 32))
    assert one.totals == pytest.approx(other.totals, abs=1e-3)


def test_texts_and_their_ids_score_alike_and_one_prompt_needs_no_list(model: kv.Model) -> None:
    ids = [model.tokenizer(t, add_special_tokens=False).input_ids for t in TEXTS]
    assert kv.score(model, PROMPTS, ids).totals == kv.score(model, PROMPTS, TEXTS).totals
    assert kv.score(model, PROMPTS[0], TEXTS[0]).totals == pytest.approx(
        kv.score(model, PROMPTS, TEXTS).totals[:1], abs=1e-3
    )


def test_offsets_prefixes_and_verbatim_prompts(model: kv.Model) -> None:
    ids, target = model.encode(PROMPTS[0]), model.tokenizer("fox", add_special_tokens=False).input_ids
    forced = model.tokenizer("Step 1", add_special_tokens=False).input_ids
    verbatim = model.tokenizer("a dog", add_special_tokens=False).input_ids
    cases: list[tuple[Any, list[int]]] = [
        (kv.score(model, PROMPTS[0], "fox", offset=None), ids),
        (kv.score(model, PROMPTS[0], "fox", kv.NoOffset()), ids),
        (kv.score(model, PROMPTS[0], "fox", kv.ForcedPrefix("Step 1")), [*ids, newline(model), *forced]),
        (kv.score(model, "a dog", "fox", chat=False), [*verbatim, newline(model)]),
    ]
    for found, context in cases:
        torch.testing.assert_close(found.logprobs[0], forward_logprobs(model, context, target), atol=2e-4, rtol=1e-3)
    assert len({round(found.totals[0], 3) for found, _ in cases}) == 3, "only the first two are the same question"


def test_out_of_memory_halves_the_batch(model: kv.Model, monkeypatch: pytest.MonkeyPatch) -> None:
    import kvsteer_lab.generation.scoring as scoring

    whole, original = kv.score(model, PROMPTS, TEXTS), scoring._score

    def small(m: Any, rows: Any, targets: Any) -> Any:
        if len(rows) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return original(m, rows, targets)

    monkeypatch.setattr(scoring, "_score", small)
    with pytest.warns(UserWarning, match="Out of memory with 3 rows; going on with 1 at a time"):
        assert kv.score(model, PROMPTS, TEXTS).totals == pytest.approx(whole.totals, abs=1e-3)


def test_bad_requests_are_refused(model: kv.Model) -> None:
    with pytest.raises(ValueError, match="There are 3 prompts but 1 continuations; pass one for each"):
        kv.score(model, PROMPTS, "fox")
    with pytest.raises(ValueError, match="Continuation 1 is empty; there is nothing to score"):
        kv.score(model, PROMPTS, ["a", "", "b"])
    with pytest.raises(ValueError, match=r"need \d+ slots, but the context of .* is 512"):
        kv.score(model, "fox", "dog " * 500)
