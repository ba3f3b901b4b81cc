"""The states that must always hold, on a random model of every architecture: float32, exact tokens.

Each test also shows that a real edit changes something, for an oracle that compares two unedited runs proves nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import product
from pathlib import Path

import pytest
import reference
import torch
from random_models import CONFIGS, PROMPTS, activations_for, newline, vectors_for

import kvsteer_lab as kv
from kvsteer_lab.generation.decoding import decode
from kvsteer_lab.generation.rows import Row, group_rows
from kvsteer_lab.generation.settings import resolve

NEW = 8
LONG = {"max_new_tokens": NEW, "eos_token_id": []}
CK, CV = 1.5, 8.0

pytestmark = pytest.mark.filterwarnings("ignore:The steered slot leaves the sliding window")
every_architecture = pytest.mark.parametrize("name", list(CONFIGS))
Load = Callable[[str], kv.Model]


def grid(model: kv.Model) -> list[kv.Intervention]:
    """Rows of different vectors, coefficients, layers and heads."""
    one, two = vectors_for(model, 0), vectors_for(model, 1)
    return [
        kv.Nothing(),
        kv.CacheSteering(one, CK, CV),
        kv.CacheSteering(two, -CK, 2 * CV, layers=[0, 2]),
        kv.CacheSteering(two, 0, 3 * CV, heads=[0]),
        kv.CacheSteering(one, 0.0, 0.0),
    ]


@every_architecture
def test_zero_coefficients_are_plain_generation(name: str, load_random: Load) -> None:
    model = load_random(name)
    vectors = vectors_for(model)
    nothing = kv.generate(
        model, PROMPTS, kv.CacheSteering(vectors, 0, 0, layers=range(model.n_layers)), generation=LONG
    )
    real = kv.generate(model, PROMPTS, kv.CacheSteering(vectors, CK, CV), generation=LONG)
    plain = [reference.plain(model.hf, [*model.encode(p), newline(model)], NEW) for p in PROMPTS]
    assert nothing.token_ids == plain
    assert real.token_ids != plain


@every_architecture
def test_a_padded_batch_is_each_row_alone(name: str, load_random: Load) -> None:
    model = load_random(name)
    steering = kv.CacheSteering(vectors_for(model), CK, CV)
    together = kv.generate(model, PROMPTS, steering, generation=LONG)
    alone = [kv.generate(model, p, steering, generation=LONG).token_ids[0] for p in PROMPTS]
    unsteered = kv.generate(model, PROMPTS, generation=LONG)
    assert len({len(model.encode(p)) for p in PROMPTS}) == len(PROMPTS), "the rows must need padding"
    assert together.token_ids == alone
    assert together.token_ids != unsteered.token_ids


@pytest.mark.parametrize("name", [*CONFIGS, "gpt_neo", "bloom", "gptj"])
def test_tails_of_different_length_share_a_batch(name: str, load_random: Load) -> None:
    model = load_random(name)
    settings = resolve(model, LONG, chat=True)
    says = ["fox", "Step 1: add 2 and 3 to get 5.", ""]
    tails = [(newline(model), *model.tokenizer(text, add_special_tokens=False).input_ids) for text in says] + [()]
    vectors = vectors_for(model)
    deltas = [(kv.CacheDelta(CK * vectors.keys, c * vectors.values),) for c in (CV, -CV)]
    rows = [
        Row(tuple(model.encode(p)), tail, d)
        for p in PROMPTS[:2]
        for tail in tails
        for d in deltas
        if tail or d is deltas[0]
    ]
    rows = [row if row.tail else replace(row, deltas=()) for row in rows]
    groups = group_rows(model, rows)
    assert sorted(i for group in groups for i in group) == list(range(len(rows)))
    counts_slots = any(model.shape.windows) or name in ("gpt_neo", "bloom")
    assert len(groups) == (3 if counts_slots else 1), "where attention counts slots, a hole would shift it"
    together = {
        i: ids
        for group in groups
        for i, ids in zip(group, decode(model, [rows[i] for i in group], settings, 0), strict=True)
    }
    assert [together[i] for i in range(len(rows))] == [decode(model, [row], settings, 0)[0] for row in rows]
    plain = [reference.plain(model.hf, [*row.prompt_ids, *row.tail], NEW) for row in rows]
    changed = [together[i] != plain[i] for i in range(len(rows))]
    assert [c for c, row in zip(changed, rows, strict=True) if not row.deltas] == [False, False]
    assert sum(changed) >= len(rows) // 2, "the edits must show"


@every_architecture
def test_a_forked_grid_is_its_separate_runs(name: str, load_random: Load) -> None:
    model = load_random(name)
    methods = grid(model)
    forked = kv.generate(model, PROMPTS[:2], methods, generation=LONG)
    for method in methods:
        separate = kv.generate(model, PROMPTS[:2], method, generation=LONG)
        assert [list(row.token_ids) for row in forked.of(method.label)] == separate.token_ids
    distinct = {row.token_ids for row in forked if row.prompt == 0}
    assert len(distinct) == len(methods) - 1, "every edit but the one by zero must show"


@every_architecture
def test_the_edit_is_that_of_the_plain_reference(name: str, load_random: Load) -> None:
    model = load_random(name)
    vectors = vectors_for(model)
    ours = kv.generate(model, PROMPTS, kv.CacheSteering(vectors, CK, CV, layers=range(model.n_layers)), generation=LONG)
    theirs = [
        reference.steered(model.hf, model.encode(p), newline(model), CK * vectors.keys, CV * vectors.values, NEW)
        for p in PROMPTS
    ]
    unedited = [
        reference.steered(model.hf, model.encode(p), newline(model), 0 * vectors.keys, 0 * vectors.values, NEW)
        for p in PROMPTS
    ]
    assert ours.token_ids == theirs
    assert theirs != unedited


@every_architecture
def test_activation_steering_is_a_plain_hook_on_generate(name: str, load_random: Load) -> None:
    """One-shot and at every token, with the cache and without, with the offset and without, all beside cache steering
    in one call.
    """
    model = load_random(name)
    vectors, layer, c = activations_for(model), 0, 4.0
    ways = list(product((False, True), (True, False), (None, "")))
    methods = {way: kv.ActivationSteering(vectors, layer, c, *way) for way in ways}
    found = kv.generate(
        model, PROMPTS, [kv.Nothing(), kv.CacheSteering(vectors_for(model), CK, CV), *methods.values()], generation=LONG
    )
    added = torch.zeros_like(vectors.residuals)
    added[layer] = c * vectors.residuals[layer]
    for (every_token, _, offset), method in methods.items():
        for prompt, row in zip(PROMPTS, found.of(method.label), strict=True):
            ids = model.encode(prompt)
            full = ids if offset == "" else [*ids, newline(model)]
            assert list(row.token_ids) == reference.activation_steered(
                model.hf, full, added, len(ids) - 1, NEW, onward=every_token
            ), method.label
    texts = {
        label: tuple(r.token_ids for r in found.of(label))
        for label in ("baseline", *(m.label for m in methods.values()))
    }
    assert texts[methods[True, True, None].label] not in (
        texts["baseline"],
        texts[methods[False, True, None].label],
    ), "steering every token must show"
    assert texts[methods[False, True, ""].label] != texts[methods[True, True, ""].label]
    one_shot = methods[False, True, None]
    plain, steered = (kv.score(model, PROMPTS, ["Step 1"] * 3, m) for m in (None, one_shot))
    assert any((a - b).abs().max() > 0.01 for a, b in zip(plain.logprobs, steered.logprobs, strict=True)), (
        "a single edit must show, if only in the scores"
    )


@every_architecture
def test_activation_steering_by_zero_is_the_baseline(name: str, load_random: Load) -> None:
    model = load_random(name)
    zero = kv.ActivationSteering(activations_for(model), range(model.n_layers), 0.0, every_token=True)
    real = kv.ActivationSteering(activations_for(model), range(model.n_layers), 2.0, every_token=True)
    found = kv.generate(model, PROMPTS, [kv.Nothing(), zero, real], generation=LONG)
    texts = [[r.token_ids for r in found.of(m.label)] for m in (kv.Nothing(), zero, real)]
    assert texts[0] == texts[1] != texts[2]


@every_architecture
def test_saving_and_loading_change_nothing(name: str, load_random: Load, tmp_path: Path) -> None:
    model = load_random(name)
    vectors = vectors_for(model)
    again = kv.KVVectors.load(vectors.save(tmp_path / "vectors.safetensors"))
    assert torch.equal(again.keys, vectors.keys) and torch.equal(again.values, vectors.values)
    assert again.card == vectors.card
    before, after = (
        kv.generate(model, PROMPTS[:1], kv.CacheSteering(v, CK, CV), generation=LONG) for v in (vectors, again)
    )
    assert before.token_ids == after.token_ids
    assert before.token_ids != kv.generate(model, PROMPTS[:1], generation=LONG).token_ids


@every_architecture
def test_extraction_is_the_mean_over_single_prompts(name: str, load_random: Load) -> None:
    model = load_random(name)
    positive = [
        "Step 1: add 2 and 3. What is 12 + 7?",
        "Step 1: first the fox, then the dog, step by step.",
        "a quick dog",
    ]
    negative = ["What is 12 + 7?", "the fox, then the dog", "The lazy dog and the quick brown fox."]
    vectors = kv.extract(model, kv.ContrastiveSet.from_texts(positive, negative), batch_size=4, progress=False)
    ids = [[model.tokenizer(t, add_special_tokens=False).input_ids for t in side] for side in (positive, negative)]
    keys, values = reference.mean_difference(model.hf, *ids)
    assert keys.abs().max() > 0.1 and values.abs().max() > 0.1
    torch.testing.assert_close(vectors.keys, keys, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(vectors.values, values, atol=1e-5, rtol=1e-5)


def test_the_oracles_hold_on_the_bundled_model(tiny: kv.Model) -> None:
    vectors = vectors_for(tiny)
    layers = range(tiny.n_layers)
    prompts = ["Tom has 5 apples and buys 3 more. How many apples does Tom have?", "How many?"]
    methods = [kv.CacheSteering(vectors, 0, 0), kv.CacheSteering(vectors, CK, CV, layers=layers)]
    rows = kv.generate(tiny, prompts, methods, generation={"max_new_tokens": 16, "eos_token_id": []})
    zero, real = ([list(row.token_ids) for row in rows.of(m.label)] for m in methods)
    no_end = {"eos_token_id": tiny.hf.config.vocab_size}
    assert zero == [reference.plain(tiny.hf, [*tiny.encode(p), newline(tiny)], 16, **no_end) for p in prompts]
    assert real == [
        reference.steered(tiny.hf, tiny.encode(p), newline(tiny), CK * vectors.keys, CV * vectors.values, 16)
        for p in prompts
    ]
    assert real != zero
