"""Precision, recall and kappa of labels, against their definitions and scikit-learn."""

import numpy as np
import pytest
from sklearn.metrics import cohen_kappa_score, precision_score, recall_score

import kvsteer_lab as kv


def test_measures_are_those_of_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    labels = rng.choice(["a", "b", "c"], 80, p=[0.5, 0.3, 0.2])
    found = np.where(rng.random(80) < 0.7, labels, rng.choice(["a", "b", "c"], 80))
    table = kv.stats.agreement(list(labels), list(found)).set_index("label")
    for name in "abc":
        mine, theirs = labels == name, found == name
        assert table.precision[name] == pytest.approx(precision_score(mine, theirs))
        assert table.recall[name] == pytest.approx(recall_score(mine, theirs))
        assert table.kappa[name] == pytest.approx(cohen_kappa_score(mine, theirs))
    assert table.kappa["all"] == pytest.approx(cohen_kappa_score(labels, found))
    assert table.recall["all"] == pytest.approx((labels == found).mean())
    for name in ("precision", "recall", "kappa"):
        assert (table[f"{name}_low"] <= table[name]).all() and (table[name] <= table[f"{name}_high"]).all()


def test_intervals_keep_a_width_where_all_agree() -> None:
    row = kv.stats.agreement(["a", "b"] * 5, ["a", "b"] * 5).set_index("label").loc["a"]
    assert row.kappa == row.precision == row.recall == 1 == row.kappa_high
    assert row.kappa_low < 0.9 and row.precision_low < 0.7


def test_kappas_interval_holds_the_true_value_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(1)
    cells = np.array([0.3, 0.1, 0.1, 0.5])
    true = (0.8 - (0.4 * 0.4 + 0.6 * 0.6)) / (1 - (0.4 * 0.4 + 0.6 * 0.6))
    held = 0
    for _ in range(60):
        drawn = rng.choice(4, 60, p=cells)
        labels, found = (["a" if d in ones else "b" for d in drawn] for ones in ((0, 1), (0, 2)))
        row = kv.stats.agreement(labels, found).set_index("label").loc["a"]
        held += row.kappa_low <= true <= row.kappa_high
    assert held >= 52  # of 60; 95% intervals that hold it less often than this are wrong with p > 0.99


def test_what_never_occurs_has_no_share() -> None:
    table = kv.stats.agreement(["a", "a"], ["b", "a"]).set_index("label")
    assert np.isnan(table.recall["b"]) and table.precision["b"] == 0


@pytest.mark.parametrize(("labels", "found"), [([], []), (["a"], ["a", "b"])])
def test_unequal_or_no_labels_are_refused(labels: list[str], found: list[str]) -> None:
    with pytest.raises(ValueError, match="as many of both"):
        kv.stats.agreement(labels, found)
