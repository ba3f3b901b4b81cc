"""Figures of reading draw what their tables hold."""

from __future__ import annotations

import warnings

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex
from matplotlib.container import BarContainer
from random_models import PROMPTS
from toy import Toy

import kvsteer_lab as kv
from kvsteer_lab.figures.style import COLORS, data_of

CK, CV = 0.7, 4.0
KEYS = ["prompt", "layer", "head"]


@pytest.fixture(scope="module")
def steering(vectors: kv.KVVectors) -> kv.CacheSteering:
    return kv.CacheSteering(vectors, CK, CV, name="steered")


def test_attention_is_a_panel_an_intervention(model: kv.Model, steering: kv.CacheSteering) -> None:
    table = kv.analysis.attention_to_slot(
        model, PROMPTS, [kv.Nothing(), steering, *kv.random_controls(steering, 2)], steps=3
    )
    figure = kv.figures.plot_attention(table)
    panels = [axis for axis in figure.axes if axis.images]
    assert [axis.get_title() for axis in panels] == ["baseline", "steered"]
    own = table[(table.intervention == "steered") & (table.layer == 2) & (table["head"] == 1) & (table.step == 1)]
    drawn = panels[1].images[0].get_array()
    assert drawn.shape == (16, 3) and drawn[9, 1] == pytest.approx(own.attention.mean())
    with pytest.raises(ValueError, match="only controls"):
        kv.figures.plot_attention(table[table.control_of.notna()])


def test_attribution_stacks_the_parts_of_the_heads_that_change_most(
    model: kv.Model, steering: kv.CacheSteering
) -> None:
    table = kv.analysis.attribute_heads(model, PROMPTS, steering, controls=2)
    figure = kv.figures.plot_attribution(table, most=5)
    left, right = figure.axes
    assert len(left.get_yticks()) == 5
    widths = np.array([[bar.get_width() for bar in group] for group in left.containers[:3]])
    means = table[table.control_of.isna()].groupby(["layer", "head"]).change.mean().nlargest(5).sort_index()
    assert np.allclose(widths.sum(0), means)
    assert {"value", "reweighting", "indirect", "whole"} <= set(left.get_legend_handles_labels()[1])
    assert "logit" in right.get_xlabel()
    with pytest.raises(ValueError, match="The table has no step 3; it has 0"):
        kv.figures.plot_attribution(table, 3)


def test_knock_outs_are_maps_of_layers_and_a_strip_of_controls(model: kv.Model, steering: kv.CacheSteering) -> None:
    ways = ("everything", "one layer", "all but one layer", "from step", "other slot")
    table = kv.analysis.knock_out_reading(
        model,
        Toy(),
        steering,
        ways,
        steps=(1,),
        others=2,
        n=4,
        split="dev",
        generation={"max_new_tokens": 3},
        progress=False,
    )
    figure = kv.figures.plot_knock_out(table, "accuracy")
    one, others, strip = figure.axes[:3]
    assert [axis.get_title() for axis in (one, others)] == ["attention knockout in one", "in all but one"]
    for axis, way in ((one, "one layer"), (others, "all but one layer")):
        shown = axis.images[0].get_array()[:, 0].tolist()
        assert shown == table[table.way == way].sort_values("layer").accuracy.tolist()
    labels = [label.get_text() for label in strip.get_yticklabels()]
    assert labels[:3] == ["no knockout", "knocked out in all layers", "from token 1 on"] and len(labels) == 5
    drawn = [bars.lines[0].get_xdata()[0] for bars in strip.containers]
    kinds = ["nothing", "everything", "from step", "other slot"]
    assert drawn == [share for way in kinds for share in table[table.way == way].accuracy]
    assert to_hex(strip.containers[-1].lines[0].get_color()) == COLORS["random"]
    with pytest.raises(ValueError, match="no knock-outs to draw"):
        kv.figures.plot_knock_out(table[table.way == "nothing"])


def test_half_lives_are_bars_of_what_is_left(model: kv.Model, steering: kv.CacheSteering) -> None:
    found = kv.analysis.half_life(model, PROMPTS, [kv.Nothing(), steering], steps=3, others=2)
    axis = kv.figures.plot_half_life(found.steps, found.summary).axes[0]
    groups = [group for group in axis.containers if isinstance(group, BarContainer)]
    bars = {group.get_label(): [bar.get_height() for bar in group] for group in groups}
    assert set(bars) == {"baseline", "steered"}
    assert np.allclose(bars["steered"], found.steps[found.steps.intervention == "steered"].left)
    shown = [
        line.get_ydata()[0]
        for line in axis.lines
        if len(line.get_ydata()) == 2 and "withStroke" in str(line.get_path_effects())
    ]
    assert np.allclose(shown, found.summary.other), "what another slot is worth"


def test_the_judged_are_drawn_against_the_cost_of_each_head(model: kv.Model, steering: kv.CacheSteering) -> None:
    nats = kv.analysis.nats_of_reading(model, PROMPTS, steering, steps=2, others=3)
    table = kv.analysis.attribute_heads(model, PROMPTS, steering)[[*KEYS, "change"]]
    worth = nats.assign(first=nats["first"].where(nats.way != "everything", 100.0))
    figure = kv.figures.plot_judged({"change": table}, worth, k=2)
    data = data_of(figure)
    assert data is not None and len(data) == 16 and list(data.columns)[:3] == ["analysis", "layer", "head"]
    assert list(data.columns)[3:] == [name + end for name in ("value", "nats") for end in ("", "_low", "_high")]
    costs = kv.analysis.over_prompts(worth[worth.way == "one head"], "first")
    assert (
        data.nats_low.tolist() == pytest.approx(costs.low.tolist())
        and data.value.between(data.value_low, data.value_high).all()
    )
    across, up = (lines.get_segments() for lines in figure.axes[0].collections)
    assert [s[:, 0].tolist() for s in across] == [pytest.approx([r.value_low, r.value_high]) for r in data.itertuples()]
    assert [s[:, 1].tolist() for s in up] == [pytest.approx([r.nats_low, r.nats_high]) for r in data.itertuples()]
    legend = [text.get_text() for text in figure.legends[0].get_texts()]
    assert legend == ["the 2 heads that cost most", "other heads", "another position, all heads knocked out"]
    below = kv.figures.plot_judged({"falls": table.assign(change=-table.change)}, worth, k=2)
    pd.testing.assert_frame_equal(data_of(below).drop(columns="analysis"), data.drop(columns="analysis"))
    filled = [
        line for line in figure.axes[0].lines if line.get_marker() == "o" and line.get_markerfacecolor() != "white"
    ]
    assert sorted(filled[0].get_ydata()) == pytest.approx(sorted(data.nats.nlargest(2)))
    nothing = nats.assign(first=nats["first"].where(nats.way != "everything", 0.0))
    empty = kv.figures.plot_judged({"change": table}, nothing, k=2)
    assert not empty.axes[0].texts, "in a null no head is named"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        empty.draw_without_rendering()
    with pytest.raises(ValueError, match="There is no analysis to draw"):
        kv.figures.plot_judged({}, nats)
