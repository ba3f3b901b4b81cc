"""Residual edits on the one path: shared batches, hooks that go away, scores and streams, arithmetic, refusals."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from typing import Any

import pytest
import reference
import torch
from random_models import PROMPTS, activations_for, newline, vectors_for
from torch import Tensor, nn

import kvsteer_lab as kv
from kvsteer_lab.edits.residual import LayerEdit, Placed, layer_edits
from kvsteer_lab.generation import filling
from kvsteer_lab.generation.editing import editing
from kvsteer_lab.generation.filling import fill_rows
from kvsteer_lab.generation.rows import make_rows
from kvsteer_lab.models.layers import decoder_layers

ENDLESS = {"max_new_tokens": 8, "eos_token_id": []}
TEXTS = ["the fox", "Step 1: add 2 and 3 to get 5.", "19"]
Load = Callable[[str], kv.Model]


def steering(model: kv.Model, layer: Any = 1, c: float = 4.0, **settings: Any) -> kv.ActivationSteering:
    return kv.ActivationSteering(activations_for(model), layer, c, **settings)


def hooks(model: kv.Model) -> int:
    return sum(
        len(module._forward_hooks) + len(module._forward_pre_hooks)
        for root in (model.hf, model.traced._module)
        for module in root.modules()
    )


@dataclass(frozen=True)
class Raw(kv.Intervention):
    """Any residual deltas, as a method of one's own would add them."""

    delta: kv.ResidualDelta

    @property
    def label(self) -> str:
        return "raw"

    def residuals(self, model: kv.Model, lengths: Any) -> list[tuple[kv.ResidualDelta, ...]]:
        return [(self.delta,)] * len(lengths)


def test_a_method_of_ones_own_may_edit_any_slot(model: kv.Model) -> None:
    ids, added = model.encode(PROMPTS[0]), 3.0 * activations_for(model).residuals
    seen = set()
    for onward, back in product((False, True), (1, 3, 6)):
        expected = reference.activation_steered(
            model.hf, [*ids, newline(model)], added, len(ids) - back, 8, onward=onward
        )
        for slot in (-back, len(ids) - back):
            assert kv.generate(
                model, PROMPTS[0], Raw(kv.ResidualDelta(added, slot, onward)), generation=ENDLESS
            ).token_ids == [expected]
        seen.add(tuple(expected))
    assert len(seen) > 3, "where it is added must show"


# --- one batch ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_methods_of_all_kinds_share_a_run(batch_size: int, model: kv.Model) -> None:
    both = (False, True)
    methods: list[kv.Intervention] = [
        kv.Nothing(),
        kv.NoOffset(),
        kv.CacheSteering(vectors_for(model), 1, 8),
        kv.ForcedPrefix("Step 1"),
    ]
    methods += [
        steering(model, layer, c, every_token=e, cache=cache)
        for layer in (0, 2)
        for c in (-3.0, 6.0)
        for e in both
        for cache in both
    ]
    methods += [steering(model, offset="X"), steering(model, every_token=True, offset="")]
    together = kv.generate(model, PROMPTS, methods, generation=ENDLESS, batch_size=batch_size)
    for method in methods:
        assert [list(r.token_ids) for r in together.of(method.label)] == kv.generate(
            model, PROMPTS, method, generation=ENDLESS
        ).token_ids
    texts = {tuple(r.token_ids for r in together.of(m.label)) for m in methods}
    assert len(texts) == len(methods) - 8, "with and without the cache the texts are the same"


def test_rows_with_the_same_prefill_share_it(model: kv.Model, monkeypatch: pytest.MonkeyPatch) -> None:
    filled: list[int] = []
    original = filling.fill
    monkeypatch.setattr(
        filling, "fill", lambda m, ids, mask, **rest: filled.append(len(ids)) or original(m, ids, mask, **rest)
    )
    sampled = {**ENDLESS, "do_sample": True}
    kv.generate(
        model,
        PROMPTS[:2],
        [kv.Nothing(), kv.CacheSteering(vectors_for(model), 1, 8), steering(model)],
        generation=sampled,
        samples=3,
    )
    assert filled == [4], "two prompts, each as it is and with its residual stream edited"
    filled.clear()
    kv.generate(model, PROMPTS[:2], [kv.NoOffset(), steering(model, offset="")], generation=ENDLESS)
    assert filled == [2], "without an offset the edited token is not in the prefill"


def test_a_run_without_edits_installs_nothing(model: kv.Model) -> None:
    seen = []
    others = hooks(model)  # transformers leaves some behind where hidden states were asked for
    handle = model.hf.register_forward_hook(lambda *_: seen.append(hooks(model) - others))
    try:
        kv.generate(model, PROMPTS, steering(model), generation=ENDLESS)
        assert set(seen) == {1}, "a one-shot edit is over when decoding begins"
        seen.clear()
        kv.generate(model, PROMPTS, [kv.Nothing(), steering(model, [0, 2], every_token=True)], generation=ENDLESS)
        assert set(seen) == {3}
    finally:
        handle.remove()


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
@pytest.mark.filterwarnings("ignore:Interrupted")
def test_nothing_is_left_behind(error: type[BaseException], model: kv.Model) -> None:
    before = kv.generate(model, PROMPTS, generation=ENDLESS).token_ids
    method = steering(model, every_token=True)
    others = hooks(model)

    def fail(*given: Any) -> None:
        raise error("on purpose")

    handle = model.hf.register_forward_hook(fail)
    try:
        if error is RuntimeError:
            with pytest.raises(RuntimeError, match="on purpose"):
                kv.generate(model, PROMPTS, method, generation=ENDLESS)
        else:
            assert not kv.generate(model, PROMPTS, method, generation=ENDLESS).complete
    finally:
        handle.remove()
    assert hooks(model) == others
    assert kv.generate(model, PROMPTS, generation=ENDLESS).token_ids == before
    assert kv.generate(model, PROMPTS, method, generation=ENDLESS).token_ids != before


# --- the other ways through the path --------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["llama", "mistral, window 8", "gpt2", "falcon, alibi", "gemma3"])
@pytest.mark.parametrize("cache", [True, False])
@pytest.mark.parametrize(("every_token", "offset"), [(False, None), (True, None), (True, ""), (False, "")])
def test_scores_see_the_edit(name: str, cache: bool, every_token: bool, offset: str | None, load_random: Load) -> None:
    model = load_random(name)
    method = steering(model, 0, every_token=every_token, cache=cache, offset=offset)
    plain, steered = (
        kv.score(model, PROMPTS, TEXTS, m, offset="\n" if offset is None else None) for m in (None, method)
    )
    for i, prompt in enumerate(PROMPTS):
        ids, target = model.encode(prompt), model.tokenizer(TEXTS[i], add_special_tokens=False).input_ids
        full = [*ids, *([newline(model)] if offset is None else []), *target]
        logits = _forward_edited(model, full, 4.0 * method.vectors.residuals[0], len(ids) - 1, every_token)
        expected = logits[-len(target) - 1 : -1].log_softmax(-1).gather(-1, torch.tensor([target]).T)[:, 0]
        torch.testing.assert_close(steered.logprobs[i], expected, atol=2e-4, rtol=1e-3)
    assert max((a - b).abs().max() for a, b in zip(plain.logprobs, steered.logprobs, strict=True)) > 0.01


@torch.no_grad()
def _forward_edited(model: kv.Model, ids: list[int], vector: Tensor, slot: int, onward: bool) -> Tensor:
    def add(module: nn.Module, given: Any, output: Any) -> Any:
        hidden = output[0] if isinstance(output, tuple) else output
        hidden[:, slot : None if onward else slot + 1] += vector
        return output

    handle = decoder_layers(model.hf)[0].register_forward_hook(add)
    logits = model.hf(torch.tensor([ids]), use_cache=False).logits[0]
    handle.remove()
    return logits


def test_readings_of_two_methods_may_take_turns(model: kv.Model) -> None:
    """Passes that are wrapped one by one go on where the last one ended, whatever ran in between."""
    rows = {
        c: make_rows(model, steering(model, 1, c, every_token=True), [model.encode(PROMPTS[0])], newline(model))
        for c in (2.0, -2.0)
    }
    follow = model.tokenizer(TEXTS[1], add_special_tokens=False).input_ids
    with torch.no_grad():
        caches = {c: fill_rows(model, r)[0] for c, r in rows.items()}
        edits = {c: editing(model, r) for c, r in rows.items()}
        logits: dict[float, list[Tensor]] = {c: [] for c in rows}
        for token in (newline(model), *follow):
            for c in rows:
                with edits[c]:
                    logits[c].append(reference.read_on(model.hf, [token], caches[c]))
    for c in rows:
        scores = kv.score(model, PROMPTS[0], [follow], steering(model, 1, c, every_token=True)).logprobs[0]
        by_hand = torch.stack([x.log_softmax(-1)[t] for x, t in zip(logits[c], follow, strict=False)])
        torch.testing.assert_close(scores, by_hand, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("cache", [True, False])
def test_a_stream_is_the_text(cache: bool, model: kv.Model) -> None:
    method = steering(model, every_token=True, cache=cache)
    whole = kv.generate(model, PROMPTS[0], method, generation=ENDLESS).texts[0]
    assert (
        "".join(kv.stream(model, PROMPTS[0], method, generation=ENDLESS))
        == whole
        != kv.generate(model, PROMPTS[0], generation=ENDLESS).texts[0]
    )


# --- arithmetic and bad input ---------------------------------------------------------------------------------


def test_sums_are_made_in_float32_and_cast_once() -> None:
    small = torch.full((1, 4), 2.0**-8)
    edit = layer_edits(
        [
            Placed(0, 2, kv.ResidualDelta(small)),
            Placed(0, 2, kv.ResidualDelta(small)),
            Placed(1, 1, kv.ResidualDelta(small, onward=True)),
        ]
    )[0]
    hidden = torch.ones(3, 4, 4, dtype=torch.bfloat16)
    changed = edit(hidden, 0)
    assert changed.dtype == torch.bfloat16 and torch.equal(hidden, torch.ones_like(hidden)), (
        "the output itself stays as it is"
    )
    assert changed[0, 2].tolist() == [1 + 2.0**-7] * 4, "each half alone would be rounded away"
    changed[0, 2] = 1
    assert torch.equal(changed, hidden), "the other row's are rounded away"
    exact = edit(hidden.float(), 0)
    assert exact[1].tolist() == [[1.0] * 4, *[[1 + 2.0**-8] * 4] * 3] and torch.equal(exact[2], torch.ones(4, 4))
    assert torch.equal(edit((hidden.float()[:, :1], "kept"), 7)[0][:, 0, 0], torch.tensor([1.0, 1 + 2.0**-8, 1.0]))
    assert layer_edits([Placed(0, 0, kv.ResidualDelta(torch.zeros(3, 4)))]) == {} == layer_edits([])
    assert isinstance(edit, LayerEdit)


def test_what_does_not_fit_is_refused_before_anything_runs(
    model: kv.Model, load_random: Load, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(filling, "fill", lambda *_, **__: pytest.fail("nothing may be computed"))
    good = torch.ones(model.n_layers, 64)
    wrong = {
        r"A residual delta is \(4, 32\), but .* has \(4, 64\) \(layers, hidden width\); use vectors of this model": (
            kv.ResidualDelta(good[:, :32])
        ),
        r"A residual delta is \(3, 64\), but": kv.ResidualDelta(good[:3]),
        "A residual delta holds NaN or infinity, or is infinite in float32; check the coefficient": kv.ResidualDelta(
            good * float("inf")
        ),
        "Slot 999 is out of range for row 0": kv.ResidualDelta(good, 999),
    }
    for message, delta in wrong.items():
        with pytest.raises(ValueError, match=message):
            kv.generate(model, PROMPTS[0], Raw(delta), generation=ENDLESS)
    with pytest.raises(ValueError, match=r"These vectors are of a gpt2 .* the model is a llama"):
        kv.generate(model, PROMPTS[0], steering(load_random("gpt2")), generation=ENDLESS)
    both = kv.Together(kv.CacheSteering(vectors_for(model), 1, 8), steering(model, cache=False))
    with pytest.raises(ValueError, match="edits the cache, so decoding must read it; don't turn the cache off"):
        kv.generate(model, PROMPTS[0], both, generation=ENDLESS)
    with pytest.raises(ValueError, match="ask for different offset tokens; give them the same one"):
        kv.generate(
            model, PROMPTS[0], kv.Together(steering(model, offset="X"), steering(model, offset="")), generation=ENDLESS
        )
    with pytest.raises(ValueError, match="The number of controls must be at least 1, not 0"):
        kv.random_activation_controls(steering(model), n=0)


def test_a_model_whose_decoder_layers_are_not_found_is_refused_by_name(model: kv.Model) -> None:
    other = type(model.hf)(model.hf.config)
    other.model.twins = nn.ModuleList(nn.Identity() for _ in range(4))
    with pytest.raises(
        kv.UnsteerableModelError,
        match=r"residual stream of llama .* several lists of 4 modules \(model.layers, model.twins\)",
    ):
        decoder_layers(other)
    other.model.layers, other.model.twins = nn.ModuleList(), nn.ModuleList()
    with pytest.raises(
        kv.UnsteerableModelError, match="residual stream of llama can't be steered: it has no list of 4 modules"
    ):
        decoder_layers(other)
