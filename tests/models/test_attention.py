"""The handle on attention: looking changes nothing, and a hidden slot is a masked one."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable

import pytest
import torch
from random_models import CONFIGS, PROMPTS, build, newline, vectors_for

import kvsteer_lab as kv
from kvsteer_lab.models.attention import Attention, Watching, query_heads

NEW = 6
LONG = {"max_new_tokens": NEW, "eos_token_id": []}
OWN_CODE = ["falcon", "falcon, alibi", "falcon, new", "bloom", "gptj", "gpt_neo"]
THROUGH = [name for name in CONFIGS if name not in OWN_CODE]
WINDOWED = ["mistral, window 8", "gemma2", "gemma3"]
Load = Callable[[str], kv.Model]
through_the_interface = pytest.mark.parametrize("name", THROUGH)
pytestmark = pytest.mark.filterwarnings("ignore:The steered slot leaves the sliding window")


def padded(model: kv.Model) -> dict[str, torch.Tensor]:
    """Two rows of 14 tokens, the first with three of padding."""
    ids = torch.randint(3, 300, (2, 14), generator=torch.Generator().manual_seed(1))
    mask = torch.ones_like(ids)
    mask[0, :3] = 0
    return (
        model.forward_arguments(ids, mask) | {"logits_to_keep": 0}
        if model.accepts("logits_to_keep")
        else model.forward_arguments(ids, mask)
    )


@through_the_interface
def test_looking_changes_nothing_and_sees_the_eager_weights(name: str, load_random: Load) -> None:
    model = load_random(name)
    given, seen = padded(model), list[Attention]()
    real = given["attention_mask"].bool()
    implementation = model.hf.config._attn_implementation
    with torch.no_grad():
        plain = model.hf(**given).logits
        with Watching(model.hf, 0, seen.append):
            watched = model.hf(**given).logits
    assert model.hf.config._attn_implementation == implementation
    torch.testing.assert_close(watched[real], plain[real], atol=1e-5 * float(plain.abs().max()), rtol=0)
    eager = build(name)
    eager.set_attn_implementation("eager")
    with torch.no_grad():
        expected = eager(**given, output_attentions=True).attentions
    assert [a.layer for a in seen] == list(range(model.n_layers))
    for attention, weights in zip(seen, expected, strict=True):
        at = real[:, None].expand(-1, weights.shape[1], -1)
        torch.testing.assert_close(attention.weights[at], weights[at], atol=1e-5, rtol=1e-5)
        groups = attention.query.shape[1] // attention.keys.shape[1]
        outputs = attention.weights @ attention.values.repeat_interleave(groups, 1)
        torch.testing.assert_close(attention.outputs, outputs, atol=1e-5, rtol=1e-5)
        again, _ = attention.attend(attention.query, attention.keys, 2 * attention.values)
        torch.testing.assert_close(again, 2 * outputs, atol=1e-5, rtol=1e-5)


@through_the_interface
def test_watched_generation_says_the_same(name: str, load_random: Load) -> None:
    model = load_random(name)
    methods = [kv.Nothing(), kv.CacheSteering(vectors_for(model), 1.5, 8.0)]
    seen: list[Attention] = []
    plain = kv.generate(model, PROMPTS, methods, generation=LONG)
    with Watching(model.hf, max(len(model.encode(p)) for p in PROMPTS), seen.append):
        watched = kv.generate(model, PROMPTS, methods, generation=LONG)
    assert watched.token_ids == plain.token_ids
    assert len(seen) == NEW * model.n_layers
    first = max(len(model.encode(p)) for p in PROMPTS)
    for step, attention in enumerate(seen[:: model.n_layers]):
        window = model.shape.windows[0]
        assert attention.column == first + step
        slot = attention.slot_of(first - 1)
        assert slot == (first - 1 if window is None else attention.keys.shape[2] - 2 - step)
    if not any(model.shape.windows):
        steered, unsteered = seen[0].values[1, :, first - 1], seen[0].values[0, :, first - 1]
        assert torch.equal(steered, unsteered), "layer 0 isn't steered"
        assert not torch.equal(seen[1].values[1, :, first - 1], seen[1].values[0, :, first - 1])


@pytest.mark.parametrize("name", [n for n in THROUGH if n not in WINDOWED])
def test_a_slot_hidden_from_everything_is_one_masked_in_a_plain_pass(name: str, load_random: Load) -> None:
    """The oracle: no cache, no handle, every token computed anew under a four-dimensional mask."""
    model = load_random(name)
    found = kv.generate(model, PROMPTS, [kv.Nothing(), kv.HideSlot()], generation=LONG)
    hidden, plain = ([list(r.token_ids) for r in found.of(label)] for label in ("slot hidden", "baseline"))
    for start, tokens in (
        (0, hidden),
        (3, [list(r.token_ids) for r in kv.generate(model, PROMPTS, kv.HideSlot(first=3), generation=LONG)]),
    ):
        assert tokens == [
            masked(model, [*model.encode(p), newline(model)], len(model.encode(p)) - 1, start) for p in PROMPTS
        ]
    scores = [kv.score(model, PROMPTS[0], ["Step 1: add"], m).logprobs[0] for m in (kv.Nothing(), kv.HideSlot())]
    assert hidden != plain or (scores[0] - scores[1]).abs().max() > 1e-3


def masked(model: kv.Model, ids: list[int], slot: int, first: int) -> list[int]:
    """Greedy tokens where the queries from step `first` on don't read `slot`; the last of `ids` is step 0."""
    begin, n = len(ids) - 1 + first, len(ids)
    for _ in range(NEW):
        seen = torch.ones(len(ids), len(ids), dtype=torch.bool).tril()
        seen[begin:, slot] = False
        mask = torch.zeros(seen.shape).masked_fill_(~seen, torch.finfo(torch.float32).min)[None, None]
        with torch.no_grad():
            ids = [
                *ids,
                int(model.hf(torch.tensor([ids]), attention_mask=mask, use_cache=False).logits[0, -1].argmax()),
            ]
    return ids[n:]


@through_the_interface
def test_rows_that_hide_different_things_are_their_separate_runs(name: str, load_random: Load) -> None:
    model = load_random(name)
    steering = kv.CacheSteering(vectors_for(model), 1.5, 8.0, layers=range(model.n_layers))
    hiding = [
        kv.HideSlot(),
        kv.HideSlot(layers=[0, 2]),
        kv.HideSlot(heads=[(1, 0), (3, 3)]),
        kv.HideSlot(first=2),
        kv.HideSlot(end=1),
        kv.HideSlot(layers=[3], slot=-3),
    ]
    methods = [steering, *(kv.Together(steering, h) for h in hiding)]
    forked = kv.generate(model, PROMPTS, methods, generation=LONG)
    for method in methods:
        alone = [kv.generate(model, p, method, generation=LONG).token_ids[0] for p in PROMPTS]
        assert [list(row.token_ids) for row in forked.of(method.label)] == alone
    scores = {m.label: kv.score(model, PROMPTS, ["Step 1: add"] * 3, m).logprobs for m in methods}
    changed = [
        max(float((a - b).abs().max()) for a, b in zip(scores[m.label], scores[steering.label], strict=True))
        for m in methods[1:]
    ]
    assert min(changed) > 1e-5, "each must show, if only in the scores"


def test_a_hidden_slot_hides_its_edit(model: kv.Model) -> None:
    steering, hide = kv.CacheSteering(vectors_for(model), 1.5, 8.0, layers=range(model.n_layers)), kv.HideSlot()
    both, alone, steered = (
        kv.score(model, PROMPTS, ["Step 1: add"] * 3, m).to_frame().logprob.to_numpy()
        for m in (kv.Together(steering, hide), hide, steering)
    )
    assert abs(both - alone).max() < 1e-5
    assert abs(steered - alone).max() > 0.01


def test_hidden_heads_alone_are_changed(model: kv.Model) -> None:
    """In the first layer with a hidden head, every other head puts out what it did; the hidden one what its other slots
    give.
    """
    seen: dict[str, list[Attention]] = {"plain": [], "hidden": []}
    start = len(model.encode(PROMPTS[0]))
    for name, method in (("plain", None), ("hidden", kv.HideSlot(heads=[(1, 2)]))):
        with Watching(model.hf, start, seen[name].append):
            kv.score(model, PROMPTS[0], [[5]], method)
    plain, hidden = (seen[name][1] for name in ("plain", "hidden"))
    others = [0, 1, 3]
    torch.testing.assert_close(hidden.outputs[:, others], plain.outputs[:, others])
    rest = plain.weights[0, 2, 0].clone()
    rest[start - 1] = 0
    torch.testing.assert_close(hidden.weights[0, 2, 0], rest / rest.sum())
    torch.testing.assert_close(hidden.outputs[0, 2, 0], (rest / rest.sum()) @ plain.values[0, 1])
    assert rest.sum() < 0.999


@pytest.mark.parametrize("name", OWN_CODE)
def test_attention_in_code_of_its_own_is_refused_by_name(name: str, load_random: Load) -> None:
    model = load_random(name)
    if "ALL_ATTENTION_FUNCTIONS" in inspect.getsource(sys.modules[type(model.hf).__module__]):
        pytest.skip(f"since another transformers, {name} attends in the common code, which can be looked into")
    wanted = f"The attention of {model.model_type} can't be looked into: its layers compute it in code of their own"
    with pytest.raises(kv.UnsteerableModelError, match=wanted):
        kv.generate(model, PROMPTS, kv.HideSlot(), generation=LONG)
    assert model.hf.config._attn_implementation in ("sdpa", "eager")


def test_what_was_installed_goes_also_through_an_error(model: kv.Model) -> None:
    def fail(attention: Attention) -> None:
        raise RuntimeError("stop")

    before = model.hf.config._attn_implementation
    with pytest.raises(RuntimeError, match="stop"), Watching(model.hf, 0, fail):
        kv.score(model, PROMPTS[0], ["Step"])
    assert model.hf.config._attn_implementation == before
    assert kv.generate(model, PROMPTS[0], generation=LONG).token_ids
    assert query_heads(model.hf) == 4


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"layers": [1], "heads": [(1, 0)]}, "pass layers or heads, not both"),
        ({"layers": []}, "layers is empty, so nothing would be hidden"),
        ({"heads": []}, "heads is empty, so nothing would be hidden"),
        ({"first": -1}, "There is no step from -1 to before None"),
        ({"first": 3, "end": 3}, "There is no step from 3 to before 3"),
        ({"slot": 0.5}, "must be a whole number"),
        ({"layers": [4]}, "There is no layer 4; this model has layers 0 to 3"),
        ({"heads": [(0, 4)]}, "There is no query head 4; this model has query heads 0 to 3"),
        ({"heads": [(4, 0)]}, "There is no layer 4"),
        ({"heads": [3]}, "heads must be \\(layer, query head\\) pairs"),
        ({"slot": -500}, "Slot -500 is out of range for row 0"),
    ],
)
def test_what_cannot_be_hidden_is_said(model: kv.Model, settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        kv.generate(model, PROMPTS[0], kv.HideSlot(**settings), generation=LONG)


def test_a_slot_is_hidden_from_something_that_reads_it(model: kv.Model) -> None:
    with pytest.raises(ValueError, match="the last slot is hidden, and a token must be left to read it"):
        kv.generate(model, PROMPTS[0], kv.HideSlot(), offset=None, generation=LONG)
