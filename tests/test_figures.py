"""Figures draw what their tables hold, and are saved reproducibly."""

import numpy as np
import pandas as pd
import pytest
import torch

import kvsteer_lab as kv
from kvsteer_lab.vectors import Card

CARD = Card("m", "llama", "f", "torch.float32", "post_rope", 1, None, 2)


@pytest.fixture
def vectors():
    return kv.KVVectors(torch.arange(12.0).reshape(3, 2, 2), torch.ones(3, 2, 2), CARD)


@pytest.fixture
def summary():
    rows = {"baseline": (10, 0.2, 0.06, 0.5, 0.0), "steered": (10, 0.9, 0.6, 0.98, 1.0), "40 random vectors": (10, 0.3, 0.2, 0.4, 0.1)}
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
    rows = [(cv, 2 * cv, v, 0.5, r, 3.0, 8) for cv in (1.0, 2.0) for v, r in (("steering", 0.75), ("random 0", 0.0), ("random 1", 0.5))]
    table = pd.DataFrame(rows, columns=["coefficient", "dose", "vector", "accuracy", "reasoned", "tokens", "n"])
    axis = kv.figures.plot_dose_response(table).axes[0]
    line = axis.lines[0]
    assert line.get_xdata().tolist() == [2.0, 4.0] and line.get_ydata().tolist() == [0.75, 0.75]
    assert "slot" in axis.get_xlabel()


def test_convergence_and_lengths_and_relative_norms_are_drawn():
    table = pd.DataFrame([(n, r, part, 1 - 0.5 / n) for n in (1, 2) for r in (0, 1) for part in ("keys", "values")], columns=["n", "repeat", "part", "cosine"])
    assert kv.figures.plot_convergence(table).axes[0].lines[0].get_ydata().tolist() == [0.5, 0.75]
    lengths = pd.DataFrame({"positive": [10, 12], "negative": [5, 6]})
    assert kv.figures.plot_lengths(lengths).axes[0].get_xlabel() == "tokens in the prompt"
    relative = pd.DataFrame({"layer": [0, 1], "keys": [0.1, 0.2], "values": [0.0, 2.0]})
    assert kv.figures.plot_relative_norms(relative).axes[0].lines[1].get_ydata().tolist() == [0.0, 2.0]
