"""KL along given texts: closed forms, and two caches read by hand."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import reference
import torch
from activation_pairs import layers_of
from random_models import CONFIGS, PROMPTS, activations_for, newline, vectors_for
from torch import Tensor

import kvsteer_lab as kv
import kvsteer_lab.generation.scoring as scoring
from kvsteer_lab.generation.divergence import divergence, divergences, kl
from kvsteer_lab.interventions.offset import OtherOffset

TEXTS = ["the fox", "Step 1: add 2 and 3 to get 5.", "19"]


def encode(model: kv.Model, text: str) -> list[int]:
    return list(model.tokenizer(text, add_special_tokens=False).input_ids)


@torch.no_grad()
def distributions(
    model: kv.Model, ids: Sequence[int], tail: Sequence[int], target: Sequence[int], delta: Any = None
) -> Tensor:
    """Log-probabilities `[steps, vocab]`, token by token from a cache edited by hand."""
    cache = reference.prefill(model.hf, ids)
    for index, layer in enumerate(cache.layers if delta is not None else []):
        layer.keys[0, :, -1] += delta[0][index]
        layer.values[0, :, -1] += delta[1][index]
    found = [reference.read_on(model.hf, [t], cache) for t in [*tail, *target[:-1]]]
    return torch.stack(found[len(tail) - 1 :]).double().log_softmax(-1)


def reference_kl(p: Tensor, q: Tensor) -> Tensor:
    return (p.exp() * (p - q)).sum(-1).float()


@torch.no_grad()
def activated(
    model: kv.Model, ids: Sequence[int], tail: Sequence[int], target: Sequence[int], steering: kv.ActivationSteering
) -> Tensor:
    """Log-probabilities `[steps, vocab]` from one pass over everything, without a cache, while hooks add to the
    residual stream.
    """

    def add(layer: int) -> Any:
        def hook(_module: Any, _given: Any, output: Any) -> Any:
            hidden = (output[0] if isinstance(output, tuple) else output).clone()
            hidden[:, len(ids) - 1 : None if steering.every_token else len(ids)] += (
                steering.coefficient * steering.vectors.residuals[layer]
            )
            return (hidden, *output[1:]) if isinstance(output, tuple) else hidden

        return hook

    handles = [layers_of(model.hf)[layer].register_forward_hook(add(layer)) for layer in steering.layers]
    logits = model.hf(torch.tensor([[*ids, *tail, *target[:-1]]])).logits[0, len(ids) + len(tail) - 1 :]
    for handle in handles:
        handle.remove()
    return logits.double().log_softmax(-1)


@pytest.mark.parametrize("name", list(CONFIGS))
def test_it_is_the_divergence_of_two_caches_read_by_hand(name: str, load_random: Callable[[str], kv.Model]) -> None:
    model = load_random(name)
    vectors = vectors_for(model)
    found = divergence(model, PROMPTS, TEXTS, kv.CacheSteering(vectors, 1, 8, layers=range(model.n_layers)))
    for i, prompt in enumerate(PROMPTS):
        ids, target, tail = model.encode(prompt), encode(model, TEXTS[i]), [newline(model)]
        p = distributions(model, ids, tail, target, (vectors.keys, 8 * vectors.values))
        q = distributions(model, ids, tail, target)
        torch.testing.assert_close(found.kl[i], reference_kl(p, q), atol=1e-5, rtol=1e-3)
        assert (found.kl[i] >= 0).all()
    assert max(found.totals) > 0.005, "steering must show"


@pytest.mark.parametrize("name", list(CONFIGS))
@pytest.mark.parametrize("every_token", [False, True], ids=["one-shot", "every token"])
def test_it_sees_activation_steering(every_token: bool, name: str, load_random: Callable[[str], kv.Model]) -> None:
    """With the cache and without: what is measured doesn't hang on it. Scores, too."""
    model = load_random(name)
    methods = [
        kv.ActivationSteering(activations_for(model), [1, 2], 30, every_token=every_token, cache=cache)
        for cache in (True, False)
    ]
    found, other = (divergence(model, PROMPTS, TEXTS, method) for method in methods)
    against_cache = divergence(model, PROMPTS, TEXTS, methods[0], kv.CacheSteering(vectors_for(model), 0, 0))
    scores = kv.score(model, PROMPTS, TEXTS, methods[0])
    for i, prompt in enumerate(PROMPTS):
        ids, target, tail = model.encode(prompt), encode(model, TEXTS[i]), [newline(model)]
        p, q = activated(model, ids, tail, target, methods[0]), distributions(model, ids, tail, target)
        for measured in (found.kl[i], other.kl[i], against_cache.kl[i]):
            torch.testing.assert_close(measured, reference_kl(p, q), atol=1e-5, rtol=1e-3)
        torch.testing.assert_close(
            scores.logprobs[i], p.gather(-1, torch.tensor([target]).T)[:, 0].float(), atol=2e-4, rtol=1e-3
        )
    assert max(float(row.max()) for row in found.kl) > 5e-5, "steering must show"


def test_nothing_moves_nothing(load_random: Callable[[str], kv.Model]) -> None:
    for name in ("llama", "gemma3", "gpt2"):
        model = load_random(name)
        zero = kv.CacheSteering(vectors_for(model), 0, 0)
        for one, other in [
            (zero, None),
            (None, zero),
            (None, None),
            (kv.CacheSteering(vectors_for(model), 1, 8), kv.CacheSteering(vectors_for(model), 1, 8)),
        ]:
            assert max(row.max() for row in divergence(model, PROMPTS, TEXTS, one, other).kl) < 1e-6


def test_the_two_directions_differ(model: kv.Model) -> None:
    steering = kv.CacheSteering(vectors_for(model), 1, 8)
    there, back = divergence(model, PROMPTS, TEXTS, steering), divergence(model, PROMPTS, TEXTS, None, steering)
    assert max(abs(a - b) for a, b in zip(there.totals, back.totals, strict=True)) > 0.01


@pytest.mark.parametrize("batch_size", [1, 2])
def test_batches_and_steps_taken_together_do_not_matter(
    batch_size: int, model: kv.Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    steering = kv.CacheSteering(vectors_for(model), 1, 8)
    whole = divergence(model, PROMPTS, TEXTS, steering)
    monkeypatch.setattr(scoring, "_LOGITS", 3 * batch_size * model.hf.config.vocab_size)  # three steps at a time
    sizes: list[int] = []
    original = scoring.Reading.read
    monkeypatch.setattr(
        scoring.Reading, "read", lambda self, tokens: sizes.append(tokens.numel()) or original(self, tokens)
    )
    for one, other in zip(divergence(model, PROMPTS, TEXTS, steering, batch_size=batch_size).kl, whole.kl, strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-3)
    assert max(sizes) == 3 * batch_size, "memory must not grow with the text"
    monkeypatch.setattr(scoring, "_LOGITS", 1)
    assert kv.score(model, PROMPTS, TEXTS, steering).totals == pytest.approx(
        kv.score(model, PROMPTS, TEXTS, steering, batch_size=1).totals, abs=1e-3
    )


def test_each_side_keeps_its_own_chat_and_tail(model: kv.Model) -> None:
    """The continuation is what follows the tail, the same on both sides; the words before it are each side's own."""
    prompt, target, tail = PROMPTS[0], encode(model, TEXTS[1]), [newline(model)]
    ids = model.encode(prompt)
    baseline = distributions(model, ids, tail, target)
    cases: list[tuple[kv.Intervention, Tensor]] = [
        (kv.CoTPrompt(), distributions(model, model.encode(f"{prompt}\nLet's think step by step."), tail, target)),
        (kv.ForcedPrefix("Step 1"), distributions(model, ids, [*tail, *encode(model, "Step 1")], target)),
        (kv.NoOffset(), distributions(model, ids[:-1], ids[-1:], target)),
    ]
    for method, own in cases:
        found = divergence(model, [prompt, PROMPTS[1]], [TEXTS[1], TEXTS[0]], method, kv.Nothing())
        torch.testing.assert_close(found.kl[0], reference_kl(own, baseline), atol=2e-5, rtol=1e-3)
        assert found.totals[0] > 0.1
        back = divergence(model, prompt, TEXTS[1], None, method)
        torch.testing.assert_close(back.kl[0], reference_kl(baseline, own), atol=2e-5, rtol=1e-3)


def test_the_offset_is_not_taken_for_the_steering(model: kv.Model) -> None:
    """Steering by next to nothing is next to nothing, whatever the method's own offset; against the run's baseline the
    offset shows.
    """
    weak = [kv.ActivationSteering(activations_for(model), 1, 1e-6, offset=offset) for offset in ("", "a", None)]
    alone = [kv.NoOffset(), kv.Together(weak[2], kv.NoOffset()), kv.Together(weak[2], OtherOffset("a"))]
    for method in (*weak, *alone):
        assert max(divergence(model, PROMPTS, TEXTS, method).totals) < 1e-5, method.label
    for method in (*weak[:2], *alone):
        assert max(divergence(model, PROMPTS, TEXTS, method, kv.Nothing()).totals) > 0.1, method.label
    strong = kv.ActivationSteering(activations_for(model), 1, 30, offset="")
    assert max(divergence(model, PROMPTS, TEXTS, strong).totals) > 0.01, "steering must show"
    for one, other in zip(
        divergence(model, PROMPTS, TEXTS, strong).kl,
        divergence(model, PROMPTS, TEXTS, strong, kv.NoOffset()).kl,
        strict=True,
    ):
        torch.testing.assert_close(one, other)
    forced = kv.Together(weak[0], kv.ForcedPrefix("Step 1"))
    for one, other in zip(
        divergence(model, PROMPTS, TEXTS, forced).kl,
        divergence(model, PROMPTS, TEXTS, forced, kv.NoOffset()).kl,
        strict=True,
    ):
        torch.testing.assert_close(one, other)  # forced words are compared with none


def test_closed_forms() -> None:
    p, q = torch.tensor([[0.5, 0.25, 0.25]]).log(), torch.tensor([[0.25, 0.25, 0.5]]).log()
    assert float(kl(p, q)) == pytest.approx(0.25 * torch.tensor(2.0).log().item(), rel=1e-6)
    assert float(kl(p + 3, q - 5)) == pytest.approx(float(kl(p, q)), rel=1e-6), "logits are free up to a constant"
    never = torch.tensor([[0.0, -float("inf"), 0.0]])
    assert float(kl(never, p)) == pytest.approx(
        float((never.softmax(-1)[:, [0, 2]] * (never.log_softmax(-1) - p)[:, [0, 2]]).sum()), rel=1e-6
    )
    assert float(kl(p, never)) == float("inf")
    assert float(kl(p.bfloat16(), p.bfloat16())) == 0


def test_tables(model: kv.Model) -> None:
    found = divergence(model, PROMPTS, TEXTS, kv.CacheSteering(vectors_for(model), 1, 8))
    table = found.to_frame()
    assert list(table.columns) == ["prompt", "step", "token_id", "token", "kl"]
    assert table.groupby("prompt").kl.sum().tolist() == pytest.approx(found.totals, rel=1e-5)
    assert ["".join(rows) for _, rows in table.groupby("prompt").token] == TEXTS
    summary = found.summary()
    assert list(summary.columns) == ["prompt", "tokens", "kl_1", "kl_8", "kl_32", "kl_total"]
    assert summary.tokens.tolist() == [len(encode(model, t)) for t in TEXTS]
    assert summary.kl_1.tolist() == pytest.approx([float(row[0]) for row in found.kl])
    assert summary.kl_8.tolist() == pytest.approx([float(row[:8].sum()) for row in found.kl])
    assert summary.kl_total.tolist() == pytest.approx(found.totals)
    assert (summary.kl_1 < summary.kl_8).all() and summary.kl_8[1] < summary.kl_total[1]
    means = found.means()
    assert list(means.index) == ["kl_1", "kl_8", "kl_32", "kl_total"] and set(means.n) == {3}
    assert means.nats.tolist() == pytest.approx([summary[name].mean() for name in means.index])
    assert (means.low < means.nats).all() and (means.nats < means.high).all() and means.low.min() >= summary.kl_1.min()
    ids = [encode(model, t) for t in TEXTS]
    assert divergence(model, PROMPTS, ids, kv.CacheSteering(vectors_for(model), 1, 8)).totals == found.totals


def test_bad_requests_are_refused(model: kv.Model) -> None:
    with pytest.raises(ValueError, match="There are 3 prompts but 1 continuations; pass one for each"):
        divergence(model, PROMPTS, "fox", None)
    with pytest.raises(ValueError, match="Continuation 1 is empty; there is nothing to score"):
        divergence(model, PROMPTS, ["a", "", "b"], None)
    with pytest.raises(ValueError, match=r"need \d+ slots, but the context of .* is 512"):
        divergence(model, "fox", "dog " * 500, None)
    with pytest.raises(ValueError, match="is not an intervention; use"):
        divergence(model, "fox", "dog", "steered")  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["llama", "mistral, window 8", "gpt2", "gemma3"])
@pytest.mark.parametrize("batch_size", [1, 4, 64])
def test_several_interventions_are_measured_as_each_alone(
    load_random: Callable[[str], kv.Model], name: str, batch_size: int
) -> None:
    """Their tails differ, and so do the baselines that they are held against."""
    model = load_random(name)
    steering = kv.CacheSteering(vectors_for(model), 0.5, 1.0)
    methods = [
        steering,
        None,
        kv.ForcedPrefix("the fox"),
        kv.NoOffset(),
        *kv.random_controls(steering, 2),
        OtherOffset("."),
    ]
    found = divergences(model, PROMPTS, TEXTS, methods, batch_size=batch_size)
    for method, several in zip(methods, found, strict=True):
        alone = divergence(model, PROMPTS, TEXTS, method, batch_size=1)
        assert several.token_ids == alone.token_ids and several.tokens == alone.tokens
        for a, b in zip(several.kl, alone.kl, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-3, atol=2e-5)
    totals = [sum(each.totals) for each in found]
    assert len({round(total, 3) for total in totals}) > 3 and totals[1] == pytest.approx(0, abs=1e-4)
    with pytest.raises(ValueError, match="There are no interventions to measure"):
        divergences(model, PROMPTS, TEXTS, [])
