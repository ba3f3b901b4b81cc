"""Vectors from pairs: a planted direction comes back, and batches, padding and memory don't matter."""

from __future__ import annotations

import weakref
from typing import Any

import pytest
import torch
from random_models import build
from torch.nn.functional import cosine_similarity

import kvsteer_lab as kv
from kvsteer_lab.models import prefill as prefill_module

TEXTS = [
    "Step 1: add 2 and 3",
    "the dog",
    "Step 1: first the fox, then the dog, then rest",
    "a quick fox",
    "Step 1: the answer",
    "brown dogs and foxes",
]
OTHERS = [
    "What is 12?",
    "rest, rest, rest",
    "The lazy dog",
    "the fox, then the answer to it",
    "add",
    "a dog and 3 foxes",
]
PAIRS = kv.ContrastiveSet.from_texts(TEXTS, OTHERS)


def test_batches_do_not_matter(model: kv.Model) -> None:
    one, three, all_ = (kv.extract(model, PAIRS, batch_size=n, progress=False) for n in (1, 3, 100))
    assert one.keys.abs().max() > 0.05
    for other in (three, all_):
        torch.testing.assert_close(other.keys, one.keys, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(other.values, one.values, atol=1e-5, rtol=1e-5)


def test_extract_is_the_mean_of_the_pairs(model: kv.Model) -> None:
    vectors, pairs = kv.extract(model, PAIRS, progress=False), kv.extract_pairs(model, PAIRS, progress=False)
    assert pairs.keys.shape == (6, 4, 2, 16) and len(pairs) == 6
    torch.testing.assert_close(pairs.mean().keys, vectors.keys, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(pairs.mean().values, vectors.values, atol=1e-6, rtol=1e-5)
    assert pairs.mean().card == vectors.card
    for i in (0, 4):
        single = kv.extract(model, PAIRS[i : i + 1], progress=False)
        torch.testing.assert_close(pairs.keys[i], single.keys, atol=1e-5, rtol=1e-5)
    part = pairs.take([0, 2])
    assert part.card.n_pairs == 2 and torch.equal(part.values, pairs.values[[0, 2]])


def test_swapping_the_sides_flips_the_sign(model: kv.Model) -> None:
    there = kv.extract(model, PAIRS[:3], progress=False)
    back = kv.extract(model, kv.ContrastiveSet.from_texts(PAIRS.negative[:3], PAIRS.positive[:3]), progress=False)
    torch.testing.assert_close(there.keys, -back.keys, atol=1e-6, rtol=1e-5)
    assert there.values.abs().max() > 0.05


def test_equal_sides_are_refused() -> None:
    with pytest.raises(ValueError, match="same in every pair, so the vectors would be zero: give the two sides"):
        kv.ContrastiveSet.from_texts(TEXTS, TEXTS)
    with pytest.raises(ValueError, match=r"same in 1 of 6 pairs \(the first is 2\)"):
        kv.ContrastiveSet.from_texts(TEXTS, [*OTHERS[:2], TEXTS[2], *OTHERS[3:]])


@pytest.mark.parametrize("layer", [0, 1, 3])
def test_a_planted_direction_is_recovered(layer: int, tokenizer: Any) -> None:
    """At the token that ends the positive prompts, a known direction is added to one layer's keys and values."""
    hf = build("llama")
    generator = torch.Generator().manual_seed(7)
    planted = {name: 10 * torch.randn(32, generator=generator) for name in ("k_proj", "v_proj")}
    mark, other = (tokenizer(sign, add_special_tokens=False).input_ids[0] for sign in "%#")
    with torch.no_grad():
        # nothing but the plant tells them apart
        hf.model.embed_tokens.weight[mark] = hf.model.embed_tokens.weight[other]
    marked: list[torch.Tensor] = []

    class Marking(torch.nn.Embedding):
        def forward(self, ids: torch.Tensor) -> torch.Tensor:
            marked.append(ids == mark)
            return super().forward(ids)

    class Planted(torch.nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x) + marked[-1][..., None] * self.direction

    hf.model.embed_tokens.__class__ = Marking
    for name, direction in planted.items():
        projection = getattr(hf.model.layers[layer].self_attn, name)
        projection.__class__, projection.direction = Planted, direction
    model = kv.load(hf, tokenizer)
    words = "the quick brown fox jumps over lazy dogs and then rests near old trees".split()
    lengths = [(5, 12), (12, 5)] * 20  # long and short on both sides
    sides: list[list[str]] = [[], []]
    for pair in lengths:
        for side, n, sign in zip(sides, pair, "%#", strict=True):
            side.append(
                " ".join(words[i] for i in torch.randint(len(words), (n,), generator=generator).tolist()) + sign
            )
    pairs = kv.ContrastiveSet.from_texts(*sides)
    free = kv.extract(model, pairs, keys="position_free", progress=False)
    rotated = kv.extract(model, pairs, progress=False)

    def cosine(part: torch.Tensor, name: str) -> float:
        return float(cosine_similarity(part.flatten(), planted[name], dim=0))

    assert cosine(free.values[layer], "v_proj") > 0.99 and torch.equal(free.values, rotated.values)
    assert cosine(free.keys[layer], "k_proj") > 0.99
    assert cosine(rotated.keys[layer], "k_proj") < 0.9, "averaged after RoPE, prompts of different length smear it"
    elsewhere = [abs(cosine(free.values[i], "v_proj")) for i in range(4) if i != layer]
    assert max(elsewhere) < 0.6


def test_the_card_says_how_on_what_and_with_which_offset(model: kv.Model) -> None:
    card = kv.extract(model, PAIRS, progress=False).card
    assert (card.model, card.model_type, card.fingerprint, card.dtype) == (
        model.name,
        "llama",
        model.fingerprint,
        "torch.float32",
    )
    assert (card.keys, card.n_pairs, card.recipe, card.version) == (
        "post_rope",
        6,
        {"made": "from_texts"},
        kv.__version__,
    )
    assert model.tokenizer.decode([card.offset_id]) == "\n" and len(str(card.template_hash)) == 16


def test_memory_does_not_grow_with_the_number_of_pairs(model: kv.Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """No batch's slots are alive when the next but one is traced, however many pairs there are."""
    alive: list[Any] = []
    most = [0]
    original = prefill_module.last_slots

    def counting(*arguments: Any) -> Any:
        most[0] = max(most[0], sum(ref() is not None for ref in alive))
        keys, values = original(*arguments)
        alive.append(weakref.ref(keys))
        return keys, values

    monkeypatch.setattr("kvsteer_lab.vectors.extraction.last_slots", counting)
    kv.extract(model, kv.ContrastiveSet.from_texts(TEXTS * 4, OTHERS * 4), batch_size=2, progress=False)
    assert len(alive) == 24 and most[0] <= 2


def test_one_trace_a_batch(model: kv.Model, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    original = prefill_module.last_slots
    monkeypatch.setattr("kvsteer_lab.vectors.extraction.last_slots", lambda *a: calls.append(len(a[1])) or original(*a))
    kv.extract(model, PAIRS, batch_size=5, progress=False)
    assert sorted(calls) == [2, 5, 5]


@pytest.mark.filterwarnings("ignore:Out of memory with [42] rows")
@pytest.mark.parametrize("limit", [1, 3])
def test_out_of_memory_halves_the_batch_says_so_and_goes_on(
    limit: int, model: kv.Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = kv.extract(model, PAIRS, batch_size=8, progress=False)
    original = prefill_module.last_slots

    def small(m: Any, ids: torch.Tensor, mask: torch.Tensor) -> Any:
        if len(ids) > limit:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return original(m, ids, mask)

    monkeypatch.setattr("kvsteer_lab.vectors.extraction.last_slots", small)
    with pytest.warns(UserWarning, match="Out of memory with 8 rows; going on with 4 at a time"):
        halved = kv.extract(model, PAIRS, batch_size=8, progress=False)
    torch.testing.assert_close(halved.keys, whole.keys, atol=1e-5, rtol=1e-5)


def test_a_prompt_beyond_the_context_is_refused(model: kv.Model) -> None:
    pairs = kv.ContrastiveSet.from_texts(["fox"] * 3, ["dog", "dog " * 600, "cat"])
    with pytest.raises(
        ValueError, match=r"The negative prompt of pair 1 has \d+ tokens, but the context of .* is 512; use fewer shots"
    ):
        kv.extract(model, pairs, progress=False)


def test_a_batch_size_below_one_is_refused(model: kv.Model) -> None:
    for size in (0, -1):
        with pytest.raises(ValueError, match=f"batch_size must be at least 1, not {size}"):
            kv.extract(model, PAIRS, batch_size=size, progress=False)


def test_styles_are_extracted_from_the_same_questions_each_as_by_itself(tiny: kv.Model) -> None:
    task = kv.tasks.get("tiny-arithmetic")
    settings = dict(n=5, shots=2, seed=3)
    found = kv.extract_styles(tiny, task, keys="position_free", progress=False, **settings)
    assert list(found) == [style for style in task.styles if style != "direct"] and len(found) == 5
    recipes = [own.card.recipe for own in found.values()]
    assert all(recipe["questions"] == recipes[0]["questions"] for recipe in recipes)
    pairs = kv.ContrastiveSet.few_shot(task, tiny.tokenizer, style="analogical", **settings)
    alone = kv.extract_pairs(tiny, pairs, keys="position_free", progress=False)
    assert torch.equal(found["analogical"].keys, alone.keys) and found["analogical"].card == alone.card
    assert not torch.equal(found["analogical"].values, found["stepwise"].values)


@pytest.mark.parametrize(
    ("styles", "said"), [([], "No style"), (["stepwise", "stepwise"], "named twice"), (["haiku"], "haiku")]
)
def test_styles_that_cannot_be_extracted_are_refused_before_anything_runs(
    styles: list[str], said: str, tiny: kv.Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kvsteer_lab.vectors.styles.extract_pairs", lambda *_, **__: pytest.fail("it ran"))
    with pytest.raises(ValueError, match=said):
        kv.extract_styles(tiny, kv.tasks.get("tiny-arithmetic"), styles)
