"""Who reads the slot: attention to it, what reading is worth in nats and in texts, and for how long."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from random_models import PROMPTS, build, newline, vectors_for
from reference import prefill
from toy import Toy

import kvsteer_lab as kv
from kvsteer_lab.analysis.reading.half_life import halved
from kvsteer_lab.models.caches import cache_argument

CK, CV = 1.5, 8.0
Load = Callable[[str], kv.Model]
pytestmark = pytest.mark.filterwarnings("ignore:The steered slot leaves the sliding window")
TEXTS = [[40, 50, 60, 70], [41, 51, 61], [42, 52, 62, 72]]


@torch.no_grad()
def weights_alone(
    name: str, ids: list[int], read: list[int], keys: torch.Tensor, values: torch.Tensor
) -> list[list[torch.Tensor]]:
    """Plain eager attention, one prompt without padding, a token at a time: `[step][layer]` of `[heads, slots]`."""
    hf = build(name)
    hf.set_attn_implementation("eager")
    cache = prefill(hf, ids)
    for index, layer in enumerate(cache.layers):
        layer.keys[0, :, -1] += keys[index]
        layer.values[0, :, -1] += values[index]
    found = []
    for token in read:
        given = {cache_argument(hf): cache}
        out = hf(input_ids=torch.tensor([[token]]), use_cache=True, output_attentions=True, **given)
        found.append([weights[0, :, 0] for weights in out.attentions])
    return found


@pytest.mark.parametrize("name", ["llama", "gemma2", "gpt2", "mistral, window 8"])
def test_attention_is_that_of_each_prompt_alone_in_eager_attention(name: str, load_random: Load) -> None:
    model = load_random(name)
    vectors = vectors_for(model)
    steering = kv.CacheSteering(vectors, CK, CV, layers=range(model.n_layers), name="steered")
    table = kv.analysis.attention_to_slot(model, PROMPTS, [kv.Nothing(), steering], TEXTS, steps=4)
    for label, size in (("baseline", 0.0), ("steered", 1.0)):
        for prompt, text in enumerate(TEXTS):
            ids = model.encode(PROMPTS[prompt])
            alone = weights_alone(
                name, ids, [newline(model), *text[:-1]], size * CK * vectors.keys, size * CV * vectors.values
            )
            part = table[(table.intervention == label) & (table.prompt == prompt)].set_index(["step", "layer", "head"])
            assert len(part) == len(text) * model.n_layers * 4
            for step, layers in enumerate(alone):
                for layer, weights in enumerate(layers):
                    held = weights.shape[1] - step - 1  # of the prompt
                    own, rest = weights[:, held - 1], weights[:, : held - 1]
                    found = part.loc[step, layer]
                    assert np.allclose(found.attention, own, atol=1e-5)
                    assert np.allclose(found.other, rest.mean(1), atol=1e-5)
                    assert np.allclose(
                        found.share, (weights[:, :held] >= own[:, None]).float().mean(1), atol=1.5 / held
                    )
    gap = (
        table[table.intervention == "steered"].attention.to_numpy()
        - table[table.intervention == "baseline"].attention.to_numpy()
    )
    assert abs(gap).max() > 0.05, "steering must change who looks"


def test_attention_follows_each_ones_own_text_and_another_slot(model: kv.Model, vectors: kv.KVVectors) -> None:
    methods = [kv.Nothing(), kv.CacheSteering(vectors, CK, CV, name="steered"), kv.ForcedPrefix("fox")]
    own = kv.analysis.attention_to_slot(model, PROMPTS, methods, steps=3)
    texts = kv.generate(model, PROMPTS, methods, generation={"max_new_tokens": 3})
    for method in methods[:2]:
        given = kv.analysis.attention_to_slot(
            model, PROMPTS, method, [r.token_ids for r in texts.of(method.label)], steps=3
        )
        assert np.allclose(given.attention, own[own.intervention == method.label].attention, atol=1e-6)
    forced = own[(own.intervention == methods[2].label) & (own.prompt == 0) & (own.layer == 0) & (own["head"] == 0)]
    assert forced.token.tolist()[:2] == [
        "\n",
        model.tokenizer.decode(model.tokenizer("fox", add_special_tokens=False).input_ids[:1]),
    ]
    elsewhere = kv.analysis.attention_to_slot(model, PROMPTS, steps=1, slot=-3)
    assert (
        abs(
            elsewhere.attention.to_numpy()
            - own[(own.intervention == "baseline") & (own.step == 0)].attention.to_numpy()
        ).max()
        > 0.01
    )
    assert kv.analysis.over_prompts(elsewhere, "attention").shape == (16, 9)


def test_batches_change_nothing(model: kv.Model, vectors: kv.KVVectors) -> None:
    steering = kv.CacheSteering(vectors, CK, CV)
    nats = partial(kv.analysis.nats_of_reading, ways=("one layer", "all but one head"))
    for measure in (kv.analysis.attention_to_slot, kv.analysis.attribute_heads, nats):
        one, many = (
            measure(model, PROMPTS, steering, continuations=TEXTS, steps=3, batch_size=size) for size in (1, 64)
        )
        pd.testing.assert_frame_equal(one, many, atol=1e-4, check_exact=False)


def test_nats_are_the_divergence_of_two_separate_runs(model: kv.Model, vectors: kv.KVVectors) -> None:
    steering = kv.CacheSteering(vectors, CK, CV)
    ways = ("everything", "one layer", "all but one head", "from step", "only at step", "other slot")
    table = kv.analysis.nats_of_reading(model, PROMPTS, steering, ways, TEXTS, steps=4, from_steps=(1, 2), others=3)
    everywhere = [(layer, head) for layer in range(4) for head in range(4)]
    for hide, chosen in (
        (kv.HideSlot(), table.way == "everything"),
        (kv.HideSlot(layers=[2]), (table.way == "one layer") & (table.layer == 2)),
        (
            kv.HideSlot(heads=[x for x in everywhere if x != (1, 3)]),
            (table.way == "all but one head") & (table.layer == 1) & (table["head"] == 3),
        ),
        (kv.HideSlot(first=2), (table.way == "from step") & (table.step == 2)),
        (kv.HideSlot(first=1, end=2), (table.way == "only at step") & (table.step == 1)),
    ):
        apart = kv.divergence(model, PROMPTS, TEXTS, steering, kv.Together(steering, hide))
        assert np.allclose(table[chosen].nats, apart.totals, atol=1e-4)
        assert np.allclose(table[chosen]["first"], [row[0] for row in apart.kl], atol=1e-4)
    assert table[table.way == "everything"].nats.min() > 0.01
    others = table[table.way == "other slot"]
    assert others.slot.nunique() == 3 and -1 not in set(others.slot)


def test_a_slot_counted_from_the_start_is_the_same_slot(model: kv.Model, vectors: kv.KVVectors) -> None:
    """No other slot is the hidden one, however it is counted and however long prompts are."""
    prompts = [PROMPTS[0]] * 2
    length = len(model.encode(PROMPTS[0]))
    steering = kv.CacheSteering(vectors, CK, CV)
    ways = ("everything", "one layer", "other slot")
    back, front = (
        kv.analysis.nats_of_reading(model, prompts, steering, ways, TEXTS[:2], others=length - 1, slot=slot)
        for slot in (-1, length - 1)
    )
    pd.testing.assert_frame_equal(back.drop(columns="slot"), front.drop(columns="slot"))
    assert not back[back.way == "other slot"].slot.isin([-1]).any()
    some = kv.analysis.nats_of_reading(model, PROMPTS, steering, ways, TEXTS, slot=2)
    hidden = {2 - len(model.encode(prompt)) for prompt in PROMPTS}
    assert len(hidden) > 1 and not some[some.way == "other slot"].slot.isin(hidden).any()


def test_the_half_life_is_read_off_separate_runs(model: kv.Model, vectors: kv.KVVectors) -> None:
    steering = kv.CacheSteering(vectors, CK, CV, name="steered")
    found = kv.analysis.half_life(model, PROMPTS, [kv.Nothing(), steering], TEXTS, steps=4, others=3)
    steps = found.steps[found.steps.intervention == "steered"].set_index("step")
    left, now = [], []
    for t in range(4):
        apart = (
            kv.divergence(model, PROMPTS, TEXTS, steering, kv.Together(steering, kv.HideSlot(first=t, end=end)))
            for end in (None, t + 1)
        )
        left.append(np.mean(next(apart).totals))
        now.append(np.mean([float(row[t]) for row in next(apart).kl if len(row) > t]))
    assert np.allclose(steps.left, left, atol=1e-4) and np.allclose(steps.now, now, atol=1e-4)
    assert steps.n.tolist() == [3, 3, 3, 2]
    assert np.allclose(steps.share, np.array(left) / left[0], atol=1e-3)
    whole = found.summary.set_index("intervention").loc["steered"]
    assert whole.nats == pytest.approx(left[0], abs=1e-4)
    assert np.isnan(whole.half_life) == (whole.nats <= whole.other)
    if whole.nats > whole.other:
        assert whole.half_life == halved(np.array(left))


def test_where_half_is_left() -> None:
    assert halved(np.array([4.0, 3.0, 2.0, 1.0])) == 2
    assert halved(np.array([4.0, 0.0])) == 1
    assert halved(np.array([4.0, 3.0, 2.5])) == 3, "not within the text"


def test_knocked_out_rows_are_separate_evaluations(model: kv.Model, vectors: kv.KVVectors) -> None:
    steering = kv.CacheSteering(vectors, CK, CV, name="steered")
    settings: dict[str, Any] = dict(n=6, split="dev", generation={"max_new_tokens": 6}, progress=False)
    table = kv.analysis.knock_out_reading(
        model, Toy(), steering, ("everything", "one layer", "from step"), steps=(2,), **settings
    )
    assert table.way.tolist() == ["nothing", "everything", *["one layer"] * 4, "from step"]
    assert table.p.isna().tolist() == [True, *[False] * 6]
    for row, hide in ((1, kv.HideSlot()), (4, kv.HideSlot(layers=[2])), (6, kv.HideSlot(first=2))):
        alone = kv.evaluate(model, Toy(), kv.Together(steering, hide), **settings).of(f"steered + {hide.label}")
        found = table.iloc[row]
        assert (found.accuracy, found.reasoned, found.tokens) == (
            alone.correct.mean(),
            alone.reasoned.mean(),
            alone.tokens.mean(),
        )
    assert len(table.attrs["questions"]) == 6


def test_tinys_few_shot_style_hangs_on_the_slot_and_the_controls_does_not(tiny: kv.Model) -> None:
    """The one thing that training gives: the position of the mechanism."""
    task = kv.tasks.get("tiny-arithmetic")
    settings: dict[str, Any] = dict(ways=("everything", "other slot"), others=3, n=10, progress=False)
    shots = kv.FewShot.of_style(task, "stepwise", 2)
    for model, hidden in ((tiny, 0.1), (kv.load("tiny-control"), 1.0)):
        table = kv.analysis.knock_out_reading(model, task, shots, **settings).set_index("way")
        assert table.loc["nothing", "reasoned"] == 1
        assert (table.loc["other slot", "reasoned"] == 1).all()
        assert (
            (table.loc["everything", "reasoned"] <= hidden)
            if model is tiny
            else (table.loc["everything", "reasoned"] == hidden)
        )


@pytest.mark.parametrize("measure", ["attention_to_slot", "nats_of_reading", "half_life"])
def test_what_cannot_be_read_is_said(measure: str, model: kv.Model, load_random: Load) -> None:
    run = getattr(kv.analysis, measure)
    for settings, message in (
        ({"prompts": []}, "no prompts|prompts"),
        ({"steps": 0}, "steps must be at least 1, not 0"),
        ({"continuations": ["a"]}, "There are 3 prompts but 1 continuations"),
        ({"slot": -900}, "Slot -900 is out of range"),
        ({"slot": "1"}, "The slot is '1'; it must be a whole number"),
        ({"slot": 1.5}, r"The slot is 1\.5; it must be a whole number"),
    ):
        with pytest.raises(ValueError, match=message):
            run(model, **{"prompts": PROMPTS, **settings})
    with pytest.raises(kv.UnsteerableModelError, match="The attention of bloom can't be looked into"):
        run(load_random("bloom"), PROMPTS)


def test_a_steering_that_edits_nothing_is_refused_by_every_analysis(model: kv.Model, vectors: kv.KVVectors) -> None:
    measures = (kv.analysis.attention_to_slot, kv.analysis.nats_of_reading, kv.analysis.half_life)
    for steering, message in (
        (
            kv.CacheSteering(vectors, 0, 0, name="nil"),
            "What 'nil' adds is zero in the steered layers; check its vectors, coefficients and layers",
        ),
        (kv.CacheSteering(vectors * 0.0, CK, CV, name="nil"), "What 'nil' adds is zero"),
        (
            kv.CacheSteering(vectors, CK, CV, layers=[], name="nil"),
            r"'nil' steers no layer; name one, layers=\[1\] say",
        ),
    ):
        for method in (steering, kv.Together(kv.CoTPrompt(), steering)):
            for measure in measures:
                with pytest.raises(ValueError, match=message):
                    measure(model, PROMPTS, method)
            with pytest.raises(ValueError, match=message):
                kv.analysis.knock_out_reading(model, Toy(), method)
    for wrong in ("x", 3):
        with pytest.raises(ValueError, match=f"{wrong!r} is not an intervention; use"):
            kv.analysis.knock_out_reading(model, Toy(), wrong)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="batch_size must be at least 1, not 0"):
        kv.analysis.nats_of_reading(model, PROMPTS, continuations=TEXTS, batch_size=0)


def test_knock_outs_that_cannot_be_are_said(model: kv.Model) -> None:
    for settings, message in (
        ({"ways": ()}, "ways is empty; choose from everything"),
        ({"ways": "some"}, "'some' is not a way of hiding a slot"),
        ({"ways": "from step", "from_steps": ()}, "steps must be one or more steps"),
        ({"ways": "from step", "from_steps": (-1,)}, "steps must be one or more steps"),
        ({"others": 900}, "so 900 others can't be drawn; choose 1 to"),
        (
            {"prompts": ["a"], "chat": False},
            "No slot beside the hidden one is in every prompt, .*; pass longer prompts",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            kv.analysis.nats_of_reading(model, **{"prompts": PROMPTS, **settings})  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="An interval needs at least two prompts"):
        kv.analysis.half_life(model, PROMPTS[0])
    for slot in ("1", 1.5):
        with pytest.raises(ValueError, match="it must be a whole number"):
            kv.analysis.knock_out_reading(model, Toy(), None, "other slot", slot=slot)
    with pytest.raises(ValueError, match="'some' is not a way"):
        kv.analysis.knock_out_reading(model, Toy(), None, "some")


def test_means_stand_beside_their_controls(model: kv.Model, vectors: kv.KVVectors) -> None:
    steering = kv.CacheSteering(vectors, CK, CV, name="steered")
    table = kv.analysis.attention_to_slot(model, PROMPTS, [steering, *kv.random_controls(steering, 4)], TEXTS, steps=2)
    means = kv.analysis.over_prompts(table, "attention").set_index(["step", "layer", "head"])
    assert set(means.intervention) == {"steered"} and len(means) == 2 * 16
    part = table[(table.step == 1) & (table.layer == 2) & (table["head"] == 3)]
    own, others = (
        part[part.control_of.isna()].attention,
        part[part.control_of.notna()].groupby("intervention").attention.mean(),
    )
    row = means.loc[(1, 2, 3)]
    assert row.attention == pytest.approx(own.mean())
    assert (row.random_low, row.random_high) == pytest.approx(tuple(np.quantile(others, [0.025, 0.975])))
    assert row.p_random == pytest.approx((1 + (others >= own.mean()).sum()) / 5)
    anywhere = (
        table[table.control_of.notna()]
        .groupby(["intervention", "step", "layer", "head"])
        .attention.mean()
        .groupby("intervention")
        .max()
    )
    assert row.p_family == pytest.approx((1 + (anywhere >= own.mean()).sum()) / 5)
    assert (means.p_family >= means.p_random).all() and (means.p_family > means.p_random).any()
    for wrong, message in (
        ((table, "step"), "no values 'step'"),
        ((table, "nats"), "no values 'nats'"),
        ((table[:0], "attention"), "no rows"),
        ((table[table.prompt == 0], "attention"), "An interval needs at least two prompts"),
    ):
        with pytest.raises(ValueError, match=message):
            kv.analysis.over_prompts(*wrong)
