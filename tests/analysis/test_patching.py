"""Patching: nothing comes through in front of the edited layer, everything behind it; updates against hooks by hand;
bad input.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import pytest
import reference
import torch
from random_models import CONFIGS, PROMPTS, newline, vectors_for

import kvsteer_lab as kv
from kvsteer_lab.models.layers import decoder_layers

CK, CV, TOKEN = 1.5, 40.0, 5
Load = Callable[[str], kv.Model]


def is_whole(rows: pd.DataFrame, tolerance: float) -> pd.Series:
    """Whether patches do all that the edit does: to a share of the effect, and to the last digits of float32 log-odds
    where the effect is small.
    """
    return (rows.nats - rows.effect).abs() <= tolerance * rows.effect.abs() + 2e-6


@pytest.mark.parametrize("name", list(CONFIGS))
def test_streams_restore_and_remove_all_from_the_edited_layer_on(name: str, load_random: Load) -> None:
    model = load_random(name)
    table = kv.analysis.patch_residuals(model, PROMPTS, kv.CacheSteering(vectors_for(model), CK, CV), TOKEN, controls=0)
    assert (table[table.inject != "all"].nats[table.layer == 0] == 0).all()
    table = table[
        table.effect.abs() > 1e-3
    ]  # granite's layer 2 hardly looks at the slot, and a share of rounding is none
    assert table.inject.nunique() >= 3, "the edit must show"
    alone = table[table.inject != "all"].assign(site=lambda t: t.inject.astype(int))
    stream = alone[alone.patch == "stream"]
    before, after = stream[stream.layer < stream.site], stream[stream.layer >= stream.site]
    assert len(before) and (before.nats == 0).all() and (before.share == 0).all()
    assert is_whole(after, 1e-5).all()
    update = alone[alone.patch == "update"]
    assert (update[update.layer < update.site].nats == 0).all()
    assert is_whole(update[update.layer == update.site], 1e-4).all(), "the edited layer alone reads the slot"
    later = update[update.layer > update.site]
    assert (later.share.abs() > 1e-4).any() and (later.share - 1).abs().max() > 1e-3
    both = table[(table.inject == "all") & (table.patch == "stream")]
    assert is_whole(both[both.layer == model.n_layers - 1], 1e-5).all()
    assert (both[both.layer == 0].nats == 0).all(), "layer 0 is not steered"
    middle = both[both.layer.isin((1, 2))].share
    assert ((middle - 1).abs() > 1e-4).all(), "later layers read the slot as well"


def test_each_cell_is_its_own_run_with_hooks(load_random: Load) -> None:
    """Streams and updates of the edit of all layers, by hand: one prompt, no batch, no nnsight."""
    model = load_random("qwen3")
    steering = kv.CacheSteering(vectors_for(model), CK, CV)
    table = kv.analysis.patch_residuals(model, PROMPTS, steering, TOKEN, controls=0).set_index(
        ["inject", "patch", "way", "layer"]
    )
    layers = decoder_layers(model.hf)

    def run(
        prompt: str, edited: bool, patch: Callable[[int, torch.Tensor, torch.Tensor], torch.Tensor] | None = None
    ) -> tuple[float, list[Any]]:
        cache = model.prefill(prompt)
        if edited:
            kv.apply(cache, steering.deltas(model, [cache.get_seq_length()]))
        seen: list[Any] = []

        def hook(index: int) -> Callable[..., Any]:
            def inner(module: Any, given: Any, output: Any) -> Any:
                hidden = output[0] if isinstance(output, tuple) else output
                if patch is not None:
                    hidden = patch(index, given[0], hidden)
                seen.append((given[0], hidden))
                return (hidden, *output[1:]) if isinstance(output, tuple) else hidden

            return inner

        handles = [layer.register_forward_hook(hook(i)) for i, layer in enumerate(layers)]
        try:
            with torch.no_grad():
                logits = reference.read_on(model.hf, [newline(model)], cache).double()
        finally:
            for handle in handles:
                handle.remove()
        p = logits.softmax(-1)[TOKEN]
        return float(torch.log(p / (1 - p))), seen

    for layer in (1, 2):
        for what in ("stream", "update"):
            changes, effects = [], []
            for prompt in PROMPTS:
                (plain, _), (steered, donor) = run(prompt, False), run(prompt, True)

                changes.append(run(prompt, False, partial(put, *donor[layer], layer, what))[0] - plain)
                effects.append(steered - plain)
            row = table.loc[("all", what, "restored", layer)]
            assert row.effect == pytest.approx(np.mean(effects), abs=1e-4)
            assert row.nats == pytest.approx(np.mean(changes), abs=1e-4)
            assert row.share == pytest.approx(np.mean(changes) / np.mean(effects), abs=1e-4)


def put(
    came: torch.Tensor,
    went: torch.Tensor,
    layer: int,
    what: str,
    index: int,
    before: torch.Tensor,
    hidden: torch.Tensor,
) -> torch.Tensor:
    """Behind `layer`, the donor's stream, or the donor's update on one's own stream."""
    return hidden if index != layer else went if what == "stream" else before + (went - came)


def test_patched_layers_are_named_in_the_picture() -> None:
    rows = [(layer, float(layer > 1)) for layer in (1, 15, 29)]
    table = pd.DataFrame(rows, columns=["layer", "share"]).assign(inject="1", patch="stream", way="removed", effect=2.0)
    (panel, _) = kv.figures.plot_patching(table).axes
    assert [text.get_text() for text in panel.get_xticklabels()] == ["1", "15", "29"]


@pytest.mark.filterwarnings("ignore:With 3 random vectors")
def test_flips_are_counted_and_controls_stand_beside(tiny: kv.Model) -> None:
    task = kv.tasks.get("tiny-arithmetic")
    pairs = kv.ContrastiveSet.few_shot(task, tiny.tokenizer, style="stepwise", n=4, shots=2)
    steering = kv.CacheSteering(kv.extract(tiny, pairs, progress=False), ck=0, cv=3)
    chats = [task.chat(q) for q in task.questions("dev", 6, 0)]
    first = kv.generate(tiny, chats, [steering, kv.Nothing()], generation={"max_new_tokens": 1})
    flipped = sum(a.text != b.text for a, b in zip(first.of(steering.label), first.of("baseline"), strict=True))
    with pytest.warns(UserWarning, match=r"With 3 random vectors no p-value is below 0.25, so no share .* take 19"):
        table = kv.analysis.patch_residuals(tiny, chats, steering, controls=3, batch_size=50)
    rows = table[(table.inject == "all") & (table.patch == "stream")].set_index(["way", "layer"])
    assert set(table.inject) == {"1", "2", "3", "all"} and set(rows.flipped) == {flipped}
    for way in ("restored", "removed"):
        assert rows.loc[(way, 0)].flips == 0 and rows.loc[(way, 3)].flips == flipped
    pd.testing.assert_frame_equal(table, kv.analysis.patch_residuals(tiny, chats, steering, controls=3), atol=1e-4)
    assert (table.random_low <= table.random_high).all()
    assert table[table.p_effect > 0.05].share.isna().all(), "three controls can't show an effect"
    nothing, shares = (
        kv.figures.plot_patching(table),
        kv.figures.plot_patching(kv.analysis.patch_residuals(tiny, chats, steering, controls=0)),
    )
    panels = [[axis for axis in figure.axes if axis.get_images() and axis.get_xlabel()] for figure in (nothing, shares)]
    assert [len(p) for p in panels] == [4, 4]
    assert [sum(len(axis.patches) for axis in p) for p in panels] == [64, 0], "what has no share is hatched"
    assert [sum(len(axis.texts) for axis in p) for p in panels] == [0, 64]


def test_effects_of_less_than_a_thousandth_of_a_nat_are_not_ranked(tiny: kv.Model) -> None:
    """Their order is rounding, and another on another processor; a larger dose is ranked."""
    task = kv.tasks.get("tiny-arithmetic")
    pairs = kv.ContrastiveSet.few_shot(task, tiny.tokenizer, style="stepwise", n=4, shots=2)
    vectors = kv.extract(tiny, pairs, progress=False)
    chats = [task.chat(q) for q in task.questions("dev", 2, 0)]
    smallest = {}
    for cv in (0.004, 0.4):
        given = dict(steering=kv.CacheSteering(vectors, ck=0, cv=cv), controls=19, progress=False)
        patched = kv.analysis.patch_residuals(tiny, chats, **given)
        said = kv.analysis.logit_lens(tiny, chats, **given).tokens
        assert patched.effect.abs().max() > 1e-4 and said.change.abs().max() > 1e-4, "it is felt"
        smallest[cv] = patched.p_effect.min(), said.p_random.min()
    assert smallest[0.004] == (1, 1) and max(smallest[0.4]) < 1


def test_bad_input(model: kv.Model, vectors: kv.KVVectors) -> None:
    steering = kv.CacheSteering(vectors, CK, CV)
    cases: list[tuple[dict[str, Any], str]] = [
        (dict(prompts=[]), "There are no prompts"),
        (dict(prompts=PROMPTS[:1]), "at least two prompts, not one"),
        (
            dict(steering=replace(steering, vectors=vectors * 0.0, name="nil")),
            "What 'nil' adds is zero in the steered layers",
        ),
        (dict(steering=replace(steering, layers=[])), r"steers no layer; name one, layers=\[1\] say"),
        (dict(steering=kv.Nothing()), "'baseline' is not cache steering"),
        (dict(token="a word"), r"'a word' is \d tokens for this tokenizer, not one"),
        (dict(token=True), "True is not a token; pass a text that is one token, or a token id"),
        (dict(token=1.5), "1.5 is not a token"),
        (dict(token=-1), r"Token -1 is outside the vocabulary"),
    ]
    cases += [
        (dict(steering=None), "'baseline' is not cache steering, so there is no edited slot"),
        (dict(batch_size=0), "batch_size must be at least 1, not 0"),
    ]
    for changes, message in cases:
        with pytest.raises(ValueError, match=message):
            kv.analysis.patch_residuals(model, **{**dict(prompts=PROMPTS, steering=steering, token=5), **changes})
