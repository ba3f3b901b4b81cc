"""Figures draw what their tables hold, and are saved reproducibly."""

import numpy as np
import pandas as pd
import pytest
import torch

import kvsteer_lab as kv
from kvsteer_lab.figures.style import COLORS, TWO_COLUMNS, color_of
from kvsteer_lab.interventions.offset import OtherOffset
from kvsteer_lab.vectors.activation import ActivationVectors
from kvsteer_lab.vectors.cards import Card

CARD = Card("m", "llama", "f", "torch.float32", "post_rope", 1, None, 2)


@pytest.fixture
def vectors():
    return kv.KVVectors(torch.arange(12.0).reshape(3, 2, 2), torch.ones(3, 2, 2), CARD)


@pytest.fixture
def summary():
    rows = {
        "baseline": (10, 0.2, 0.06, 0.5, 0.0),
        "steered": (10, 0.9, 0.6, 0.98, 1.0),
        "40 random vectors": (10, 0.3, 0.2, 0.4, 0.1),
    }
    return pd.DataFrame.from_dict(rows, orient="index", columns=["n", "accuracy", "low", "high", "reasoned"])


def test_norms_are_those_of_the_vectors(vectors):
    figure = kv.figures.plot_norms(vectors)
    shown = figure.axes[0].collections[0].get_array().reshape(3, 2)
    assert np.allclose(shown, vectors.keys.norm(dim=-1).numpy())
    assert figure.axes[0].get_xlabel() == "KV head"


def test_comparison_shows_each_intervention(summary):
    figure = kv.figures.plot_comparison(summary)
    assert [t.get_text() for t in figure.axes[0].get_yticklabels()] == list(summary.index)
    assert [bar.get_width() for bar in figure.axes[1].patches] == summary.reasoned.tolist()


def test_dose_response_draws_the_steered_points_and_the_band():
    rows = [
        (cv, 2 * cv, v, 0.5, r, 3.0, 8)
        for cv in (1.0, 2.0)
        for v, r in (("steering", 0.75), ("random 0", 0.0), ("random 1", 0.5))
    ]
    table = pd.DataFrame(rows, columns=["coefficient", "dose", "vector", "accuracy", "reasoned", "tokens", "n"])
    axis = kv.figures.plot_dose_response(table).axes[0]
    line = axis.lines[0]
    assert line.get_xdata().tolist() == [2.0, 4.0] and line.get_ydata().tolist() == [0.75, 0.75]
    assert axis.get_xlabel().startswith("relative strength")


def test_convergence_and_lengths_and_relative_norms_are_drawn():
    table = pd.DataFrame(
        [(n, r, part, 1 - 0.5 / n) for n in (1, 2) for r in (0, 1) for part in ("keys", "values")],
        columns=["n", "repeat", "part", "cosine"],
    )
    assert kv.figures.plot_convergence(table).axes[0].lines[0].get_ydata().tolist() == [0.5, 0.75]
    lengths = pd.DataFrame({"positive": [10, 12], "negative": [5, 6]})
    assert kv.figures.plot_lengths(lengths).axes[0].get_xlabel() == "tokens in the prompt"
    relative = pd.DataFrame({"layer": [0, 1], "keys": [0.1, 0.2], "values": [0.0, 2.0]})
    assert kv.figures.plot_relative_norms(relative).axes[0].lines[1].get_ydata().tolist() == [0.0, 2.0]


def test_colours_tell_the_kinds_of_interventions(vectors):
    """The labels are those that interventions give themselves, and those of summaries and figures."""
    steered, named = (
        kv.CacheSteering(vectors, 0, 2),
        kv.CacheSteering(vectors, 1, 0, name="vectors for sums, with random pairs"),
    )
    activation = kv.ActivationSteering(ActivationVectors(torch.ones(3, 4), CARD), 1, 2)
    shots = kv.FewShot(({"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}))
    prompts = [
        kv.CoTPrompt(),
        kv.CoTPrefix(),
        kv.ForcedPrefix("Step"),
        kv.ForcedPrefix("random + 'steered' for"),
        shots,
    ]
    hide = [kv.HideSlot(), kv.HideSlot(layers=[1], slot=-3)]
    random = [
        *kv.random_controls(steered, 2),
        *kv.random_activation_controls(activation, 2),
        kv.other_slot(steered, -2),
        kv.sign_flip(named),
    ]
    random += [*kv.layer_shuffle_controls(steered, 1), kv.other_vectors(steered, vectors)]
    found = {
        "baseline": [kv.Nothing(), kv.NoOffset(), OtherOffset(" "), *hide],
        "prompt": [*prompts, *(kv.Together(p, h) for p in prompts for h in hide)],
        "steered": [steered, named, *(kv.Together(named, x) for x in (*prompts, *hide))],
        "activation": [activation, kv.Together(shots, activation)],
        "random": [*random, *(kv.Together(shots, r) for r in random)],
    }
    found = {kind: [method.label for method in methods] for kind, methods in found.items()}
    found["random"] += [
        "40 random vectors",
        "40 random vectors for cache steering",
        "39 label shuffle vectors for steered",
        "label shuffle 3 of mine",
    ]
    found["random"] += ["random control"]
    found["activation"] += [
        "activation, one-shot",
        "activation, every token",
        "activation steering",
        "activation, one-shot, cache off",
    ]
    found["steered"] += ["cache steering", "steered + CoT", "mine"]
    found["prompt"] += [
        "2-shot stepwise",
        "3-shot",
        "CoT",
        "forced prefix",
        "2-shot stepwise + slot hidden from step 1",
    ]
    wrong = {label: kind for kind, labels in found.items() for label in labels if color_of(label) != COLORS[kind]}
    assert not wrong
    assert sum(map(len, found.values())) > 60


def test_knock_outs_have_the_colour_of_what_is_read():
    rows = pd.DataFrame(dict(way=["nothing", "everything", "other slot"], slot=[-1, -1, -4]))
    table = rows.assign(
        intervention="2-shot", layer=None, head=None, step=None, reasoned=0.5, reasoned_low=0.2, reasoned_high=0.8
    )
    strip = kv.figures.plot_knock_out(table).axes[-1]
    assert [bars.lines[0].get_color() for bars in strip.containers] == [
        COLORS["prompt"],
        COLORS["prompt"],
        COLORS["random"],
    ]


def test_what_cannot_be_drawn_is_said_in_one_sentence(summary, vectors):
    """Of every figure function: an empty table, one of something else, and no table."""
    functions = [getattr(kv.figures, name) for name in kv.figures.__all__ if name.startswith("plot_")]
    assert len(functions) > 25
    other = pd.DataFrame({"charm": [1.0, 2.0]})
    for draw in functions:
        two = ("plot_judged", "plot_forecasts", "plot_erasure")
        more = [other] if draw.__name__ in two else [1, "keys"] if draw.__name__ == "plot_components" else []
        for wrong in (other, other[:0], pd.DataFrame(), {"a": other}, {"a": other[:0]}, {}, 3):
            try:
                draw(wrong, *more)
            except ValueError as refused:
                assert "\n" not in str(refused) and str(refused).endswith("."), (draw.__name__, wrong)
            else:
                pytest.fail(f"{draw.__name__} draws {wrong}")
    with pytest.raises(
        ValueError,
        match=r"The table that plot_comparison was given has no column 'n'; pass the table that its docstring names\.",
    ):
        kv.figures.plot_comparison(summary.drop(columns="n"))
    with pytest.raises(ValueError, match="plot_comparison was given no rows, so there is nothing to draw"):
        kv.figures.plot_comparison(summary[:0])
    with pytest.raises(
        ValueError, match=r"plot_comparison draws a pandas table, not a dict; pass the one that its docstring names\."
    ):
        kv.figures.plot_comparison({"a": summary})  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="plot_divergence draws several tables by their names, not a DataFrame"):
        kv.figures.plot_divergence(summary)  # type: ignore[arg-type]
    assert kv.figures.plot_comparison(summary).get_figwidth() == TWO_COLUMNS


def test_a_mistake_in_a_figure_function_is_not_hidden(summary):
    @kv.figures.styled
    def broken(table):
        return table.n.no_such_method()

    with pytest.raises(AttributeError, match="no_such_method"):
        broken(summary)


@pytest.mark.parametrize(
    "draw",
    [
        lambda column: kv.figures.plot_layers(pd.DataFrame({"way": ["single"], column: 0.5}), column),
        lambda column: kv.figures.plot_dose_responses({"steered": pd.DataFrame({column: [0.5]})}, column),
        lambda column: kv.figures.plot_matched(
            pd.DataFrame(columns=["method", "dose", "kl", "vector", column]), column
        ),
        lambda column: kv.figures.plot_extraction({"pairs": pd.DataFrame({column: [0.5]})}, column),
        lambda column: kv.figures.plot_slots({"slot": pd.DataFrame({column: [0.5]})}, column),
        lambda column: kv.figures.plot_coefficient_grid(pd.DataFrame({"task": ["t"], "cell": "cell"}), (column,)),
    ],
    ids=["layers", "doses", "matched", "extraction", "slots", "grid"],
)
def test_a_column_without_a_known_interval_is_not_drawn_under_another_name(draw):
    with pytest.raises(ValueError, match="There is no column 'kl_8' to draw; choose one of: a"):
        draw("kl_8")
