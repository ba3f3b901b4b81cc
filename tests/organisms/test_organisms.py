"""The analyses of reading on both bundled models: they see the mechanism that training gave to one, and invent none in
the other.
"""

from __future__ import annotations

import pytest

import kvsteer_lab as kv

CONTROLS, ALARM = 40, 0.05


@pytest.fixture(scope="module", params=["tiny", "tiny-control"])
def steered(request: pytest.FixtureRequest) -> tuple[kv.Model, kv.CacheSteering, list, bool]:
    """A model, a steering of it, questions, and whether there is something to be found."""
    model, task = kv.load(request.param), kv.tasks.get("tiny-arithmetic")
    pairs = kv.ContrastiveSet.few_shot(task, model.tokenizer, style="stepwise", n=30, shots=3)
    steering = kv.CacheSteering(kv.extract(model, pairs, progress=False), 0, 2, name="steered")
    return model, steering, [task.chat(q) for q in task.questions("dev", 8, 0)], request.param == "tiny"


def test_the_lens_tells_them_apart(steered: tuple) -> None:
    model, steering, chats, there = steered
    lens = kv.analysis.logit_lens(model, chats, steering, controls=CONTROLS)
    last = model.n_layers - 1
    p = [table[table.layer == last].p_random.min() for table in (lens.tokens, lens.divergence)]
    assert all((each <= ALARM) == there for each in p), p


def test_patching_tells_them_apart(steered: tuple) -> None:
    model, steering, chats, there = steered
    table = kv.analysis.patch_residuals(model, chats, steering, controls=CONTROLS)
    edits = table.drop_duplicates("inject").set_index("inject")
    assert (edits.p_effect <= ALARM).any() == there and (edits.loc["all"].p_effect <= ALARM) == there
    assert table.share.notna().any() == there and (edits.flipped.sum() > 0) == there
    assert ((edits.effect_low <= edits.effect) & (edits.effect <= edits.effect_high)).all()


def test_attribution_tells_them_apart_once_all_heads_count(steered: tuple) -> None:
    model, steering, chats, there = steered
    heads = kv.analysis.over_prompts(kv.analysis.attribute_heads(model, chats, steering, controls=CONTROLS), "logit")
    assert (heads.p_family.min() <= ALARM) == there


def test_no_head_says_words_that_random_vectors_do_not_say_somewhere(steered: tuple) -> None:
    """Nor does it in the model that steering works in. One look at each head alone raises a false alarm in the
    other.
    """
    model, steering, _, there = steered
    said = kv.analysis.unembed_values(model, steering, 1, controls=CONTROLS)
    assert said.p_family.min() > ALARM and (said.p_family >= said.p_random).all()
    assert there or said.p_random.min() <= ALARM


def test_knocking_the_slot_out_changes_the_style_of_one(steered: tuple) -> None:
    model, steering, _, there = steered
    task = kv.tasks.get("tiny-arithmetic")
    table = kv.analysis.knock_out_reading(
        model, task, steering, ("everything", "one layer"), n=8, progress=False
    ).set_index("way")
    whole = table.loc["everything"]
    assert (whole.same_style, whole.same_style_low) == ((0, 0) if there else (1, pytest.approx(0.676, abs=0.001)))
    assert (whole.same_style_high == 1) != there and (table.loc["one layer"].same_style == 1).all()
