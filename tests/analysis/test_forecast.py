"""Forecasts: planted signals give what theory says, noise gives nothing, and correlations see what was planted and no
more.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import product
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

import kvsteer_lab as kv
from kvsteer_lab.analysis.forecasting.forecast import forecast, forecast_values
from kvsteer_lab.analysis.forecasting.trials import PairSet, Place, realised_effects
from kvsteer_lab.analysis.forecasting.validity import forecast_correlations
from kvsteer_lab.analysis.pairs.reliability import split_half
from kvsteer_lab.vectors.cards import Card
from kvsteer_lab.vectors.extraction import PairDifferences
from kvsteer_lab.vectors.norms import slot_norms

CARD = Card("m", "llama", "f", "torch.float32", "post_rope", 1, None, 2)
HEADS, WIDTH = 2, 128  # many directions, so that cosines stand near their means
RATIO = 0.25  # |mu|^2 / tr(cov)


def of(values: torch.Tensor, keys: torch.Tensor | None = None) -> PairDifferences:
    return PairDifferences(
        torch.zeros_like(values) if keys is None else keys, values, replace(CARD, n_pairs=len(values))
    )


def planted(n: int, ratio: float, seed: int, layers: int = 1) -> torch.Tensor:
    """Noise of unit variance around a mean with `ratio` times the noise's squared size."""
    generator = torch.Generator().manual_seed(seed)
    direction = torch.randn(layers, HEADS, WIDTH, generator=generator)
    mean = direction / direction.flatten(1).norm(dim=1)[:, None, None] * (ratio * HEADS * WIDTH) ** 0.5
    return mean + torch.randn(n, layers, HEADS, WIDTH, generator=generator)


def numbers(values: torch.Tensor) -> dict[str, float]:
    return forecast_values(of(values), None, "values")


# --- the forecast -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ratio", [0.05, 0.25, 2.0])
def test_each_statistic_is_what_theory_says(ratio: float) -> None:
    n = 40
    found = pd.DataFrame([numbers(planted(n, ratio, seed)) for seed in range(20)]).mean()
    assert found.agreement == pytest.approx(ratio / (1 + ratio), abs=0.02)
    assert found.stability == pytest.approx(n / 2 * ratio / (1 + n / 2 * ratio), abs=0.02)
    assert found.signal_to_noise == pytest.approx(n * ratio, rel=0.05)


def test_noise_gives_nothing() -> None:
    found = pd.DataFrame([numbers(planted(20, 0.0, seed)) for seed in range(40)])
    assert (found.mean().abs() < [0.004, 0.02, 0.08]).all()
    assert (found.signal_to_noise < 0).any()  # the correction isn't cut off at zero


def test_the_bias_of_a_squared_mean_is_taken_off() -> None:
    """Of pure noise, N |m|^2 / tr(cov) is 1, not 0."""
    points = planted(20, 0.0, 3).flatten(1).double().numpy()
    naive = 20 * np.square(points.mean(0)).sum() / points.var(0, ddof=1).sum()
    assert naive == pytest.approx(1, abs=0.2)
    assert numbers(planted(20, 0.0, 3))["signal_to_noise"] == pytest.approx(naive - 1, abs=1e-6)


def test_identical_pairs_agree_wholly() -> None:
    found = numbers(planted(1, 1.0, 0).expand(7, -1, -1, -1).clone())
    assert found == {"agreement": pytest.approx(1), "stability": pytest.approx(1), "signal_to_noise": float("inf")}


def test_agreement_and_stability_against_plain_loops() -> None:
    values = planted(6, RATIO, 1)
    points = values.flatten(1).double()
    cosines = [float(torch.cosine_similarity(points[i], points[j], dim=0)) for i in range(6) for j in range(i)]
    assert numbers(values)["agreement"] == pytest.approx(np.mean(cosines))
    two = numbers(values[:2])  # halves of one pair each
    assert two["stability"] == pytest.approx(two["agreement"]) == pytest.approx(cosines[0])


def test_size_and_rotation_don_t_matter() -> None:
    values = planted(12, RATIO, 2, layers=3)
    turn = torch.linalg.qr(torch.randn(HEADS * WIDTH, HEADS * WIDTH, generator=torch.Generator().manual_seed(9)))[0]
    sizes = torch.tensor([0.05, 1.0, 20.0])[:, None, None]  # no layer decides by its size
    changed = (sizes * (values.flatten(2) @ turn).view_as(values)).float()
    assert numbers(changed) == pytest.approx(numbers(values), rel=1e-4)


def test_layers_are_judged_by_themselves_and_together() -> None:
    values = torch.cat([planted(30, 0.0, 5), planted(30, 2.0, 6)], dim=1)
    table = forecast(of(values, values.flip(1)), flips=99)
    assert len(table) == 3 * 2 * 3 and set(table.measure) == {"agreement", "stability", "signal to noise"}
    agreed = table[table.measure == "agreement"].set_index(["layer", "part"])
    assert agreed.value[1, "values"] == pytest.approx(2 / 3, abs=0.03) and agreed.p[1, "values"] == 0.01
    assert (
        abs(agreed.value[0, "values"]) < 0.02
        and agreed.low[0, "values"] <= agreed.value[0, "values"] <= agreed.high[0, "values"]
    )
    assert agreed.value[0, "keys"] == agreed.value[1, "values"]
    one = forecast(of(values), [1], ["values"], flips=19)
    assert one.value[one.layer.isna()].tolist() == pytest.approx(one.value[one.layer == 1].tolist())


def test_random_signs_leave_no_direction() -> None:
    table = forecast(of(planted(30, 2.0, 7)), flips=199).query("layer == 0").set_index("measure")
    assert (
        abs(table.flipped["agreement"]) < 0.01
        and abs(table.flipped["stability"]) < 0.1
        and abs(table.flipped["signal to noise"]) < 0.3
    )
    assert (table.value > table.high).all() and (table.p == 0.005).all()


def test_p_values_of_noise_are_honest() -> None:
    found = [
        forecast(of(planted(10, 0.0, seed)), flips=19, splits=10).query("layer == 0").set_index("measure").p
        for seed in range(100)
    ]
    assert ((pd.DataFrame(found) <= 0.05).mean() < 0.12).all()


def test_a_swapped_pair_is_seen() -> None:
    values = planted(20, 2.0, 8)
    # 14 against 6: two pairs agree in (14 * 13 + 6 * 5 - 2 * 14 * 6) / (20 * 19) of the cases more than not
    values[:6] *= -1
    assert numbers(values)["agreement"] == pytest.approx(2 / 3 * (182 + 30 - 168) / 380, abs=0.02)


# --- stability against N ----------------------------------------------------------------------------------------


def test_stability_grows_as_spearman_and_brown_say() -> None:
    table = split_half(
        {"planted": of(planted(80, RATIO, 0)), "noise": of(planted(80, 0.0, 1))}, [1, 5, 20, 40]
    ).set_index(["pairs", "n"])
    own = table.loc["planted"]
    assert own.stability.tolist() == pytest.approx([n * RATIO / (1 + n * RATIO) for n in own.index], abs=0.04)
    assert own.extrapolated.tolist() == pytest.approx(own.stability.tolist(), abs=0.04)
    points = planted(80, RATIO, 0).flatten(1).double()
    points /= points.norm(dim=1, keepdim=True)
    assert own.stability[1] == pytest.approx(float((points.sum(0).square().sum() - 80) / (80 * 79)), abs=1e-6), (
        "all pairs of pairs, not a draw of them"
    )
    assert own.extrapolated[5] == pytest.approx(5 * own.stability[1] / (1 + 4 * own.stability[1]))
    assert table.loc["noise"].stability.abs().max() < 0.05 and own.flipped.abs().max() < 0.15
    assert ((table.low <= table.stability) & (table.stability <= table.high)).all()


def test_extrapolation_fails_where_the_noise_lies_along_the_mean() -> None:
    """Swapped labels: a half's mean points forwards or backwards, hardly ever elsewhere. That is no noise in many
    directions, and the table shows it.
    """
    values = planted(80, 20.0, 2)
    values[:26] *= -1
    own = split_half({"swapped": of(values)}, [1, 5, 40], repeats=300).set_index("n")
    assert own.stability[40] - own.extrapolated[40] > 0.15


# --- correlations -----------------------------------------------------------------------------------------------

STYLES, DRAWS, PLACES = ("a", "b", "c", "d"), 8, ("x", "y", "z")


def points(effect: Callable[[pd.DataFrame], Any], seed: int = 0, models: tuple[str, ...] = ("m",)) -> pd.DataFrame:
    """Every set at every place, with forecasts at random."""
    rng = np.random.default_rng(seed)
    rows = [(m, f"{s}{d}", p, s, d) for m, s, d, p in product(models, STYLES, range(DRAWS), PLACES)]
    table = pd.DataFrame(rows, columns=["model", "set", "place", "style", "draw"])
    table["agreement"], table["stability"] = rng.normal(size=(2, len(table)))
    return table.assign(effect=effect(table))


TRIED = ("agreement", "stability")


def judged(table: pd.DataFrame, **settings: Any) -> pd.DataFrame:
    return forecast_correlations(table, TRIED, resamples=400, **settings).set_index(["scope", "forecast"])


def test_a_relation_within_styles_is_found_there_and_belongs_to_its_forecast() -> None:
    found = judged(
        points(lambda t: t.agreement.rank() + 1000.0 * t["style"].map(dict(zip(STYLES, (2, 0, 3, 1), strict=True))))
    )
    own = found.loc["within places and style"]
    assert own.rho["agreement"] == pytest.approx(1) and own.p_holm["agreement"] < 0.05
    assert abs(own.rho["stability"]) < 0.4 and own.p["stability"] > 0.05
    assert (own.points == len(STYLES) * DRAWS * len(PLACES)).all()
    assert found.rho["all points", "agreement"] < 0.6


def test_a_contrast_of_places_is_not_sold_as_a_forecast() -> None:
    """Forecast and effect differ by place and are unrelated within: all points correlate, the place explains it, and
    three places prove nothing.
    """
    noise = np.random.default_rng(5).normal(size=len(STYLES) * DRAWS * len(PLACES))
    table = points(lambda t: t.place.map({"x": 0.0, "y": 10.0, "z": 20.0}) + noise)
    table["agreement"] += table.effect.round(-1)
    found = judged(table)
    assert found.rho["all points", "agreement"] > 0.8 and np.isnan(found.p["all points", "agreement"])
    assert found.rho["between places", "agreement"] == pytest.approx(1) and found.p["between places", "agreement"] > 0.2
    assert (
        abs(found.rho["within places and style", "agreement"]) < 0.3
        and found.p["within places and style", "agreement"] > 0.05
    )


def test_a_contrast_of_styles_is_no_relation_within_them() -> None:
    height = dict(zip(STYLES, range(4), strict=True))
    table = points(lambda t: t["style"].map(height) * 10.0 + t.draw)
    table["agreement"] += table["style"].map(height) * 10
    found = judged(table)
    assert found.rho["within places, between style", "agreement"] == pytest.approx(1)
    assert found.points["within places, between style", "agreement"] == len(STYLES) * len(PLACES)
    assert abs(found.rho["within places and style", "agreement"]) < 0.4


def test_spearman_of_a_single_place_is_scipys() -> None:
    from scipy.stats import spearmanr

    table = points(lambda t: t.agreement + np.random.default_rng(1).normal(size=len(t)).round()).query("place == 'x'")
    found = judged(table, strata=())
    assert found.rho["all points", "agreement"] == pytest.approx(spearmanr(table.agreement, table.effect).statistic)
    assert found.rho["within places", "agreement"] == pytest.approx(found.rho["all points", "agreement"])
    assert (
        found.low["within places", "agreement"]
        < found.rho["within places", "agreement"]
        < found.high["within places", "agreement"]
    )


def test_points_that_can_t_be_ranked_are_not_counted() -> None:
    found = judged(points(lambda t: t.agreement.where(t.place == "x", 0.0)))
    own = found.loc["within places and style"]
    assert own.rho["agreement"] == pytest.approx(1) and own.points["agreement"] == len(STYLES) * DRAWS
    assert np.isnan(found.low["between places", "agreement"])  # a third of the resamples hold no place that differs


def test_permutation_p_is_honest_when_a_set_keeps_its_effect_at_all_places() -> None:
    """One number a set, the same at all places: counting its points as independent would reject far too often."""
    rejected = []
    for seed in range(25):
        rng = np.random.default_rng(seed)
        table = points(lambda t: 0.0, seed)
        for column in ("agreement", "effect"):
            table[column] = table.set.map(
                dict(zip(table.set.unique(), rng.normal(size=table.set.nunique()), strict=True))
            )
        rejected.append(forecast_correlations(table, ["agreement"], resamples=99).p.iloc[-1] <= 0.05)
    assert np.mean(rejected) < 0.17


# --- what comes of it -------------------------------------------------------------------------------------------

TASK = "tiny-arithmetic"
SETS = (PairSet("stepwise", 4, 1), PairSet("stepwise", 4, 1, draw=1, noise=30.0), PairSet("causal_chain", 2, 1))
SMALL: dict[str, Any] = dict(n=6, generation={"max_new_tokens": 16}, progress=False)


@pytest.fixture(scope="module")
def table(tiny: kv.Model) -> pd.DataFrame:
    return realised_effects(
        tiny, kv.tasks.get(TASK), SETS, [Place(), Place("values", (1,)), Place("keys", (0,))], 2.5, **SMALL
    )


def test_a_row_a_point_at_one_dose(tiny: kv.Model, table: pd.DataFrame) -> None:
    assert len(table) == 9 and set(table.columns) >= {
        "agreement",
        "stability",
        "signal_to_noise",
        "norm",
        "effect",
        "low",
        "high",
        "gain",
        "gain_low",
        "gain_high",
    }
    assert np.allclose(table.coefficient * table.norm, 2.5)
    assert ((table.low <= table.effect) & (table.effect <= table.high) & (table.low < table.high)).all()
    assert len(table.attrs["questions"]) == 6 and (table.n == 6).all()


def test_a_point_is_its_own_separate_run(tiny: kv.Model, table: pd.DataFrame) -> None:
    task = kv.tasks.get(TASK)
    pairs = kv.ContrastiveSet.few_shot(task, tiny.tokenizer, style="stepwise", n=8, shots=1, seed=0)
    differences = kv.extract_pairs(tiny, pairs, progress=False).take(range(4))
    row = table.iloc[1]
    assert row.agreement == pytest.approx(forecast(differences, [1], ["values"], flips=1).value[0])
    own = slot_norms(tiny, [task.chat(q) for q in task.questions("dev", 6, 0)])["values"][:, 1]
    vectors = differences.mean()
    c = 2.5 / float((vectors.values[1].norm() / own).mean())
    assert row.coefficient == pytest.approx(c, rel=1e-4)
    alone = kv.evaluate(tiny, task, kv.CacheSteering(vectors, ck=0, cv=c, layers=[1]), split="dev", **SMALL).rows
    steered, plain = (alone[alone.intervention == label] for label in (alone.intervention.iloc[-1], "baseline"))
    assert row.adopted == (steered["style"] == "stepwise").mean()
    assert row.effect == row.adopted - (plain["style"] == "stepwise").mean()
    assert row.gain == pytest.approx(steered.correct.mean() - plain.correct.mean())


def test_planted_noise_is_foretold(table: pd.DataFrame) -> None:
    plain, noisy = (table[table.place == "values, layers 1+"].iloc[i] for i in (0, 1))
    assert plain.agreement > 0.9 and abs(noisy.agreement) < 0.3
    assert plain.effect == 1 and noisy.effect == 0


def test_swapped_pairs_have_their_sides_exchanged(tiny: kv.Model) -> None:
    task = kv.tasks.get(TASK)
    found = realised_effects(
        tiny, task, [PairSet("stepwise", 4, 1), PairSet("stepwise", 4, 1, swapped=0.25)], [Place()], 2.5, **SMALL
    )
    assert found.agreement[0] > 0.95 and abs(found.agreement[1]) < 0.05  # (3 * 2 - 2 * 3) / (4 * 3) = 0
    assert found.norm[1] == pytest.approx(found.norm[0] / 2, rel=0.1)


def test_pictures_show_all_points(table: pd.DataFrame) -> None:
    correlations = forecast_correlations(table, ("agreement", "pairs"), resamples=50)
    figure = kv.figures.plot_forecasts(table, correlations)
    forest, inset = figure.axes
    dots = [dots for dots in inset.collections if hasattr(dots, "get_sizes") and len(dots.get_sizes())]
    assert sum(len(own.get_offsets()) for own in dots) == len(table) == 9
    assert forest.get_yticklabels()[0].get_text() == "all points"
    defined = correlations.dropna(subset="rho")
    shown = [float(line.get_xdata()[0]) for line in forest.lines if line.get_linestyle() == "None"]
    assert shown == pytest.approx(defined.rho.tolist())
    intervals = [list(line.get_xdata()) for line in forest.lines if line.get_linestyle() == "-"]
    known = defined.dropna(subset="low")
    assert all(list(pair) in intervals for pair in zip(known.low, known.high, strict=True)) and len(known)
    halves = split_half({"a": of(planted(8, 1.0, 0)), "b": of(planted(8, 0.1, 1))}, [1, 4], repeats=20)
    assert [axis.get_title() for axis in kv.figures.plot_split_half(halves).axes] == ["values"]


# --- bad input --------------------------------------------------------------------------------------------------


def test_pairs_that_foretell_nothing_are_refused() -> None:
    two, empty = planted(2, 1.0, 0), torch.zeros(3, 2, HEADS, WIDTH)
    with pytest.raises(ValueError, match=r"can't be seen in 1 pair; take at least two"):
        forecast(of(two[:1]))
    with pytest.raises(
        ValueError,
        match=(
            "The chosen layers hold no differences between the sides of the pairs in keys or values; choose layers"
            " above"
        ),
    ):
        forecast(of(empty))
    with pytest.raises(ValueError, match="Layer 0 holds no differences"):
        forecast(of(torch.cat([empty[:2, :1], two], dim=1)), [0, 1])
    with pytest.raises(ValueError, match="The list of layers is empty"):
        forecast(of(two), [])
    with pytest.raises(ValueError, match="There is no layer 7"):
        forecast(of(two), [7])
    with pytest.raises(ValueError, match="NaN or infinity"):
        forecast(of(two * float("nan")))
    with pytest.raises(ValueError, match="Parts are 'keys' and 'values', not 'queries'"):
        forecast(of(two), None, ["queries"])
    with pytest.raises(ValueError, match="at least one split and one choice of signs, not 0 and 199"):
        forecast(of(two), splits=0)
    with pytest.raises(ValueError, match="All pairs have the same difference in some layer, so there is no noise"):
        forecast(of(two[:1].repeat(4, 1, 1, 1)))
    for wrong in (of(two).mean(), [two]):
        with pytest.raises(ValueError, match=r"pass what kv.extract_pairs returned, not \w+"):
            forecast(wrong)  # type: ignore[arg-type]


def test_halves_that_aren_t_there_are_refused() -> None:
    with pytest.raises(ValueError, match="There are no pairs to split"):
        split_half({}, [1])
    with pytest.raises(ValueError, match="between 1 and 2, half of the 4 pairs of the smallest set"):
        split_half({"a": of(planted(9, 1.0, 0)), "b": of(planted(4, 1.0, 0))}, [1, 4])
    with pytest.raises(ValueError, match="at least one split, not 0"):
        split_half({"a": of(planted(4, 1.0, 0))}, [1], repeats=0)
    for size in (1.5, float("nan"), 0):
        with pytest.raises(ValueError, match="Sizes must be whole numbers between 1 and 2"):
            split_half({"a": of(planted(4, 1.0, 0))}, [size])  # type: ignore[list-item]


def test_points_that_make_no_sense_are_refused(tiny: kv.Model) -> None:
    task, place = kv.tasks.get(TASK), Place()

    def run(sets: Any = None, places: Any = (place,), dose: float = 1.0) -> None:
        realised_effects(tiny, task, [PairSet("stepwise", 2, 1)] if sets is None else sets, places, dose, **SMALL)

    with pytest.raises(ValueError, match="A forecast takes at least two pairs, not 1"):
        PairSet("stepwise", 1)
    with pytest.raises(ValueError, match="swapped is a share from 0 to 1"):
        PairSet("stepwise", 2, swapped=1.5)
    with pytest.raises(ValueError, match="The part is 'both'; choose 'keys' or 'values'"):
        Place("both")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="There are no sets of pairs to look at"):
        run(sets=())
    with pytest.raises(ValueError, match="There are no places to look at"):
        run(places=())
    with pytest.raises(ValueError, match="Two of the places are the same"):
        run(places=(place, place))
    with pytest.raises(ValueError, match="The dose must be positive and finite, not 0"):
        run(dose=0)
    with pytest.raises(ValueError, match="has no layers; name at least one"):
        run(places=(Place("values", ()),))
    with pytest.raises(
        ValueError, match="The chosen layers hold no differences between the sides of the pairs in values"
    ):
        run(places=(Place("values", (0,)),))
    with pytest.raises(ValueError, match="rhyme"):
        run(sets=(PairSet("rhyme", 2, 1),))


def test_tables_without_a_correlation_are_refused() -> None:
    good = points(lambda t: t.agreement)
    with pytest.raises(ValueError, match=r"The column 'effect' is 0\.5 at all points, so nothing correlates with it"):
        forecast_correlations(good.assign(effect=0.5), TRIED)
    with pytest.raises(ValueError, match="has no column 'signal_to_noise'"):
        forecast_correlations(good)
    with pytest.raises(ValueError, match="Name at least one forecast"):
        forecast_correlations(good, ())
    with pytest.raises(ValueError, match="at least three points, not 2"):
        forecast_correlations(good.head(2), TRIED)
    with pytest.raises(ValueError, match="Every set must be there once at every place of every model"):
        forecast_correlations(good.drop(index=4), TRIED)
    with pytest.raises(ValueError, match="need resamples, not 0"):
        forecast_correlations(good, TRIED, resamples=0)
