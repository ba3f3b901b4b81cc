"""The geometry of styles: planted clusters are found, noise is not, and mixes are made of the styles' own runs."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.decomposition import PCA
from sklearn.metrics import silhouette_score

import kvsteer_lab as kv
from kvsteer_lab.analysis.pairs.separability import _scores
from kvsteer_lab.tasks.styles import REASONING_STYLES, STYLES
from kvsteer_lab.vectors.cards import Card
from kvsteer_lab.vectors.extraction import PairDifferences

CARD = Card("m", "llama", "f", "torch.float32", "post_rope", 1, None, 2)
N, LAYERS, HEADS, WIDTH = 12, 3, 2, 4


def of(keys: torch.Tensor, values: torch.Tensor, **changes: Any) -> PairDifferences:
    return PairDifferences(keys, values, replace(CARD, n_pairs=len(keys), **changes))


def noise(seed: int, n: int = N) -> torch.Tensor:
    return torch.randn(n, LAYERS, HEADS, WIDTH, generator=torch.Generator().manual_seed(seed))


def recipe(n: int = N) -> dict[str, Any]:
    return {"questions": [f"q{i}" for i in range(n)]}


@pytest.fixture
def planted() -> dict[str, PairDifferences]:
    """Three styles apart in the values of layer 1 alone; their questions are the same."""
    centres = 100 * torch.eye(3, HEADS * WIDTH).view(3, HEADS, WIDTH)
    made = {}
    for i, style in enumerate("abc"):
        values = noise(10 + i)
        values[:, 1] += centres[i]
        made[style] = of(noise(i), values, recipe=recipe())
    return made


# --- principal components ---------------------------------------------------------------------------------------


def test_components_are_those_of_scikit_learn(planted: dict[str, PairDifferences]) -> None:
    table = kv.analysis.style_pca(planted, components=HEADS * WIDTH)
    for (layer, part), own in table.groupby(["layer", "part"]):
        points = np.concatenate([getattr(d, part)[:, layer].flatten(1).double().numpy() for d in planted.values()])
        pca = PCA(svd_solver="full").fit(points)
        found = (
            own.pivot(index=["style", "pair"], columns="component", values="coordinate").loc[["a", "b", "c"]].to_numpy()
        )
        assert np.allclose(found, pca.transform(points))
        explained = own.groupby("component").explained.first()
        assert np.allclose(explained, pca.explained_variance_ratio_) and explained.sum() == pytest.approx(1)
        variance = found.var(axis=0, ddof=1)
        assert np.allclose(explained, variance / points.var(axis=0, ddof=1).sum())


def test_signs_do_not_depend_on_the_order_of_the_styles(planted: dict[str, PairDifferences]) -> None:
    columns = ["layer", "part", "style", "pair", "component"]
    there, back = (
        kv.analysis.style_pca(d).set_index(columns).coordinate.sort_index()
        for d in (planted, dict(reversed(planted.items())))
    )
    assert np.allclose(there, back)


def test_a_part_in_which_nothing_differs_is_left_out(planted: dict[str, PairDifferences]) -> None:
    for style, own in planted.items():
        own.values[:, 0] = 1e-7 * noise(5)[:, 0]  # as rounding leaves it
        planted[style] = own
    found = set(kv.analysis.style_pca(planted)[["layer", "part"]].itertuples(index=False, name=None))
    assert found == {(0, "keys"), (1, "keys"), (2, "keys"), (1, "values"), (2, "values")}
    assert set(kv.analysis.style_pca(planted, layers=[0]).part) == {"keys"}


# --- cosines ----------------------------------------------------------------------------------------------------


def test_cosines_of_a_style_with_itself_its_negative_and_another() -> None:
    base = noise(0) + 3
    turned = of(-base, -base)
    table = kv.analysis.style_cosines(
        {"a": of(base, base), "minus a": turned, "twice a": of(2 * base, 2 * base)}
    ).set_index(["style", "other"])
    for pair, cosine in {("a", "a"): 1, ("a", "minus a"): -1, ("minus a", "a"): -1, ("a", "twice a"): 1}.items():
        assert np.allclose(table.loc[[pair], ["cosine"]], cosine)
    x, y = torch.zeros(2, 1, 1, 2), torch.zeros(2, 1, 1, 2)
    x[..., 0], y[..., 0], y[..., 1] = 1, 1, 1
    exact = kv.analysis.style_cosines({"x": of(x, x), "y": of(y, y)}).set_index(["layer", "part", "style", "other"])
    assert np.allclose(
        exact.loc[(0, "keys", "x", "y"), ["cosine", "low", "high"]].astype(float), np.sqrt(0.5)
    )  # pairs don't scatter


def test_a_shared_negative_alone_makes_vectors_alike() -> None:
    """Unrelated styles minus one negative have cosines around 0.5; with a third style as the negative they are as
    large, unless styles share more.
    """
    wide = [
        torch.randn(1, 1, 1, 4096, generator=torch.Generator().manual_seed(seed)).expand(2, 1, 1, 4096)
        for seed in range(6)
    ]
    negative, shared = wide[4], 2 * wide[5]
    for common, more in ((0, 0.0), (shared, 0.3)):
        made = {
            style: of(point + common - negative, point + common - negative)
            for style, point in zip("abcd", wide, strict=False)
        }
        table = kv.analysis.style_cosines(made)
        others = table[table["style"] != table.other]
        assert np.allclose(others.third, 0.5, atol=0.05) and (others.cosine - others.third > more - 0.05).all()
        assert (
            np.allclose(table[table["style"] == table.other].third, 1)
            and abs(others.cosine.mean() - (0.5 if not more else 5 / 6)) < 0.05
        )
    assert kv.analysis.style_cosines({s: made[s] for s in "ab"}).query("style != other").third.isna().all()


@pytest.mark.parametrize("shared", [True, False])
def test_the_interval_of_a_cosine_covers_the_truth_as_often_as_it_says(shared: bool) -> None:
    truth, covered = np.sqrt(0.5), []
    for seed in range(200):
        a, b = noise(2 * seed, 40)[:, :1], noise(2 * seed + 1, 40)[:, :1]
        b = 0.7 * a + 0.7 * b if shared else b
        a[..., 0, 0] += 8
        b[..., 0, :2] += 8
        note = {"recipe": recipe(40)} if shared else {}
        row = kv.analysis.style_cosines({"a": of(a, a, **note), "b": of(b, b, **note)}).iloc[1]
        covered.append(row.low <= truth <= row.high)
    assert 0.88 <= np.mean(covered) <= 0.99


# --- separability -----------------------------------------------------------------------------------------------


def test_planted_clusters_are_found_where_they_are_and_nowhere_else(planted: dict[str, PairDifferences]) -> None:
    table = kv.analysis.separability(planted, shuffles=199).set_index(["layer", "part", "measure"]).sort_index()
    there = table.loc[(1, "values")]
    assert there.value["silhouette"] > 0.9 and there.value["nearest centroid"] == 1
    assert (there.p == 1 / 200).all() and (there.p_family == 1 / 200).all()
    elsewhere = table.drop((1, "values"))
    assert (elsewhere.p > 0.01).all() and (elsewhere.p_family > 0.05).all()


def test_noise_lies_within_the_band() -> None:
    outside, family = [], []
    for seed in range(30):
        made = {
            style: of(noise(100 * seed + i), noise(100 * seed + 50 + i), recipe=recipe())
            for i, style in enumerate("abc")
        }
        table = kv.analysis.separability(made, shuffles=79, seed=seed)
        outside += ((table.value < table.low) | (table.value > table.high)).tolist()
        family.append(table.p_family.min() <= 0.05)
    assert np.mean(outside) < 0.1  # of 0.05 expected
    assert np.mean(family) <= 0.25  # two families of 0.05 each


def test_what_questions_share_does_not_count_as_style() -> None:
    """Questions that differ widely, and a small shift by style: shuffles within a question see it, free ones would
    not.
    """
    question = 30 * noise(0, 20)
    shifted = [question + 0.1 * noise(1, 20), question + 0.1 * noise(2, 20) + 1]
    together = {s: of(x, x, recipe=recipe(20)) for s, x in zip("ab", shifted, strict=True)}
    apart = {s: of(x, x) for s, x in zip("ab", shifted, strict=True)}
    within, free = (
        kv.analysis.separability(d, shuffles=199).set_index("measure").p["silhouette"].max() for d in (together, apart)
    )
    assert within < 0.02 < free


def test_the_silhouette_is_that_of_scikit_learn() -> None:
    points = noise(3, 24)[:, 0].flatten(1).double().numpy()
    labels = np.stack([np.repeat([0, 1, 2], 8), np.random.default_rng(0).permutation(np.repeat([0, 1, 2], [5, 7, 12]))])
    found = _scores(points, labels, 3)[0]
    assert np.allclose(found, [silhouette_score(points, row) for row in labels])


def test_the_pair_itself_is_left_out_of_its_centroid() -> None:
    """Far apart in directions of their own, all points are nearest to a centroid that holds them, and to none that
    doesn't.
    """
    points = np.eye(8)
    labels = np.repeat([0, 1], [4, 4])
    centroids = np.stack([points[labels == k].mean(0) for k in (0, 1)])
    included = np.linalg.norm(points[:, None] - centroids, axis=2).argmin(1)
    assert (included == labels).all()
    assert _scores(points, labels[None], 2)[1, 0] == 0


def test_leaving_out_is_done_by_the_book() -> None:
    points = noise(4, 20)[:, 0].flatten(1).double().numpy()
    labels = np.random.default_rng(1).permutation(np.repeat([0, 1, 2], [6, 6, 8]))
    hits = []
    for i in range(20):
        others = np.arange(20) != i
        centroids = np.stack([points[others & (labels == k)].mean(0) for k in range(3)])
        hits.append(np.linalg.norm(points[i] - centroids, axis=1).argmin() == labels[i])
    assert _scores(points, labels[None], 3)[1, 0] == pytest.approx(np.mean(hits))


def test_the_same_seed_gives_the_same_table(planted: dict[str, PairDifferences]) -> None:
    first, again, other = (kv.analysis.separability(planted, shuffles=20, seed=seed) for seed in (0, 0, 1))
    pd.testing.assert_frame_equal(first, again)
    assert not first.low.equals(other.low)


# --- the bundled model ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pairs(tiny: kv.Model) -> dict[str, kv.ContrastiveSet]:
    task = kv.tasks.get("tiny-arithmetic")
    return {
        style: kv.ContrastiveSet.few_shot(task, tiny.tokenizer, style=style, n=8, shots=2, seed=3)
        for style in REASONING_STYLES
    }


@pytest.fixture(scope="module")
def differences(tiny: kv.Model, pairs: dict[str, kv.ContrastiveSet]) -> dict[str, PairDifferences]:
    return {style: kv.extract_pairs(tiny, own, progress=False) for style, own in pairs.items()}


def test_one_seed_gives_all_styles_the_same_questions_and_examples(pairs: dict[str, kv.ContrastiveSet]) -> None:
    assert len({own.negative for own in pairs.values()}) == 1  # questions, examples and their order, to the letter
    assert len({tuple(own.recipe["questions"]) for own in pairs.values()}) == 1
    assert len({own.positive for own in pairs.values()}) == len(REASONING_STYLES)


def test_layer_0_holds_rotation_alone(
    tiny: kv.Model, pairs: dict[str, kv.ContrastiveSet], differences: dict[str, PairDifferences]
) -> None:
    assert set(kv.analysis.style_pca(differences).query("layer == 0").part) == {"keys"}
    free = {
        style: kv.extract_pairs(tiny, pairs[style], keys="position_free", progress=False)
        for style in ("stepwise", "analogical")
    }
    assert 0 not in set(kv.analysis.style_pca(free).layer)


@pytest.fixture(scope="module")
def two(differences: dict[str, PairDifferences]) -> tuple[kv.CacheSteering, kv.CacheSteering]:
    a, b = (kv.CacheSteering(differences[style].mean(), ck=0, cv=2) for style in ("stepwise", "causal_chain"))
    return a, b


SETTINGS: dict[str, Any] = dict(n=6, split="dev", generation={"max_new_tokens": 24}, progress=False)


def test_the_ends_are_the_styles_own_runs_row_for_row(
    tiny: kv.Model, two: tuple[kv.CacheSteering, kv.CacheSteering]
) -> None:
    task = kv.tasks.get("tiny-arithmetic")
    mixes = kv.analysis.style_mixes(*two)
    run = kv.evaluate(tiny, task, mixes, **SETTINGS)
    alone = [kv.evaluate(tiny, task, own, **SETTINGS).of(own.label) for own in two]
    for mix, rows in zip((mixes[0], mixes[4]), alone, strict=True):
        assert (
            run.of(mix.label).text.tolist() == rows.text.tolist()
            and run.of(mix.label).question.tolist() == rows.question.tolist()
        )
    assert alone[0].text.tolist() != alone[1].text.tolist() != run.of("baseline").text.tolist()

    table = kv.analysis.style_mixing(tiny, task, *two, controls=3, **SETTINGS)
    shares = table.pivot(index="mix", columns="style", values="share")
    expected = run.style_shares()
    assert np.allclose(shares.loc[expected.index.drop("no offset"), expected.columns], expected.drop("no offset"))
    assert (shares.sum(axis=1) == 1).all() and list(table["style"].unique()) == [*STYLES, "other"]
    assert table.kind.value_counts().to_dict() == {"baseline": 7, "interpolation": 35, "sum": 7, "difference": 14}
    controlled = table[table.kind != "baseline"]
    assert controlled.groupby("mix").random.sum().to_numpy() == pytest.approx(1) and controlled.p.between(0.25, 1).all()
    assert table[table.kind == "baseline"].random.isna().all()


def test_mixes_are_what_they_are_called(two: tuple[kv.CacheSteering, kv.CacheSteering]) -> None:
    (a, b), mixes = [s.vectors for s in two], kv.analysis.style_mixes(*two, weights=[0.25])
    expected = {
        "0.75 stepwise + 0.25 causal_chain": (0.75, 0.25),
        "stepwise + causal_chain": (1, 1),
        "stepwise - causal_chain": (1, -1),
        "causal_chain - stepwise": (-1, 1),
    }
    assert [m.label for m in mixes] == list(expected)
    for mix, (u, v) in zip(mixes, expected.values(), strict=True):
        assert torch.allclose(mix.vectors.values, u * a.values + v * b.values, atol=1e-4) and (mix.ck, mix.cv) == (0, 2)


# --- refusals ---------------------------------------------------------------------------------------------------


ANALYSES = [kv.analysis.style_pca, kv.analysis.style_cosines, kv.analysis.separability]


@pytest.mark.parametrize("analyse", ANALYSES)
def test_degenerate_differences_are_refused(analyse: Any, planted: dict[str, PairDifferences]) -> None:
    a, b = planted["a"], planted["b"]
    zero = of(torch.zeros_like(a.keys), torch.zeros_like(a.keys))
    cases = {
        r"at least two styles, not 1; pass \{style": {"a": a},
        "at least two styles, not 0": {},
        "Style 'b' has 1 pair; how pairs scatter takes at least two": {"a": a, "b": b.take([0])},
        "The chosen layers hold no differences": {"a": zero, "b": zero},
        "'a' and 'b' are of different models, m and other; extract both from one": {
            "a": a,
            "b": replace(b, card=replace(CARD, model="other", fingerprint="g")),
        },
        "'a' and 'b' are of different models": {"a": a, "b": of(b.keys[:, :2], b.values[:, :2])},
        "have post_rope keys, those of 'b' position_free; extract both the same way": {
            "a": a,
            "b": replace(b, card=replace(CARD, keys="position_free")),
        },
        "the differences' values hold NaN": {"a": a, "b": of(b.keys, b.values * float("nan"))},
    }
    cases |= {  # type: ignore[dict-item]
        "Single pairs of each style are compared; pass": {"a": a.mean(), "b": b.mean()},
        "not vectors or a list": [a, b],
    }
    for message, wrong in cases.items():
        with pytest.raises(ValueError, match=f"(?i){message}"):
            analyse(wrong)
    with pytest.raises(ValueError, match="There is no layer 9; this model has layers 0 to 2"):
        analyse(planted, layers=[9])
    with pytest.raises(ValueError, match="The list of layers is empty"):
        analyse(planted, layers=[])
    for own in planted.values():
        own.keys[:, 0], own.values[:, 0] = 0, 0
    with pytest.raises(ValueError, match="Layer 0 holds no differences between the sides of the pairs"):
        analyse(planted, layers=[0, 1])


def test_what_one_analysis_can_t_do_is_refused(planted: dict[str, PairDifferences]) -> None:
    with pytest.raises(ValueError, match="There are 1 to 8 components in 36 differences of width 8, not 9"):
        kv.analysis.style_pca(planted, components=9)
    with pytest.raises(ValueError, match=r"There are 1 to 8 components .*, not 2\.5"):
        kv.analysis.style_pca(planted, components=2.5)  # type: ignore[arg-type]
    ones = of(torch.ones(3, 1, 1, 2), torch.ones(3, 1, 1, 2))
    with pytest.raises(ValueError, match="same difference in layer 0's keys, so there are no components"):
        kv.analysis.style_pca({"a": ones, "b": ones})
    with pytest.raises(ValueError, match="at least one shuffle, not 0"):
        kv.analysis.separability(planted, shuffles=0)
    balanced = of(torch.tensor([1.0, -1.0]).view(2, 1, 1, 1).expand(2, 1, 1, 2), torch.ones(2, 1, 1, 2))
    with pytest.raises(ValueError, match="The mean of style 'b' is zero in layer 0's keys, so it has no direction"):
        kv.analysis.style_cosines({"a": of(torch.ones(2, 1, 1, 2), torch.ones(2, 1, 1, 2)), "b": balanced})


def test_styles_that_can_t_be_mixed_are_refused(two: tuple[kv.CacheSteering, kv.CacheSteering]) -> None:
    a, b = two
    cases = {
        "differ in cv, 2 and 3; mix styles that differ in their vectors only": (a, replace(b, cv=3)),
        r"differ in layers, \(1, 2, 3\) and \(1,\)": (a, replace(b, layers=[1])),
        "different models, tiny and other; extract both from one": (
            a,
            replace(
                b,
                vectors=replace(
                    b.vectors, card=replace(b.vectors.card, model="other", fingerprint="2-0123456789abcdef-01234567")
                ),
            ),
        ),
        "What 'causal_chain' adds is zero in the steered layers; check its vectors": (
            a,
            replace(b, vectors=b.vectors * 0),
        ),
        "add the same, so there is nothing between them; pass two styles": (a, a),
        "Both vectors are of style 'stepwise'; give the steerings names": (a, replace(a, vectors=a.vectors * 0.5)),
    }
    with pytest.raises(ValueError, match=r"Vectors of cache steering are mixed, kv\.CacheSteering, not CoTPrompt"):
        kv.analysis.style_mixes(a, kv.CoTPrompt())  # type: ignore[arg-type]
    for message, (first, second) in cases.items():
        with pytest.raises(ValueError, match=message):
            kv.analysis.style_mixes(first, second)
    for weights in ([], [float("nan")]):
        with pytest.raises(ValueError, match="Weights must be one or more finite numbers"):
            kv.analysis.style_mixes(a, b, weights)


# --- figures ----------------------------------------------------------------------------------------------------


def test_the_pca_figure_draws_every_pair_with_the_explained_shares(planted: dict[str, PairDifferences]) -> None:
    for own in planted.values():
        own.values[:, 0] = 0
    table = kv.analysis.style_pca(planted)
    figure = kv.figures.plot_style_pca(table)
    assert [a.get_title() for a in figure.axes] == [
        f"layer {i}, {part}" for part in ("keys", "values") for i in range(LAYERS)
    ]
    assert figure.axes[3].texts[0].get_text() == "no differences" and not figure.axes[3].collections
    axis, own = figure.axes[4], table.query("layer == 1 and part == 'values'")
    drawn = np.concatenate([np.asarray(c.get_offsets()) for c in axis.collections])
    assert np.allclose(drawn, own.pivot(index=["style", "pair"], columns="component", values="coordinate").to_numpy())
    assert axis.get_xlabel() == f"PC 1 ({own[own.component == 1].explained.iloc[0]:.0%})"
    with pytest.raises(ValueError, match="needs two components"):
        kv.figures.plot_style_pca(table[table.component == 1])


def test_of_many_layers_six_are_drawn() -> None:
    made = {s: of(torch.randn(3, 9, 1, 3), torch.randn(3, 9, 1, 3)) for s in "ab"}
    figure = kv.figures.plot_style_pca(kv.analysis.style_pca(made))
    assert [a.get_title() for a in figure.axes[:6]] == [f"layer {i}, keys" for i in (0, 2, 3, 5, 6, 8)]
    assert len(kv.figures.plot_style_cosines(kv.analysis.style_cosines(made)).axes) == 13  # and the colour bar


def test_the_other_figures_draw_their_tables(planted: dict[str, PairDifferences]) -> None:
    cosines = kv.analysis.style_cosines(planted)
    axis = kv.figures.plot_style_cosines(cosines).axes[0]
    shown = np.asarray(axis.images[0].get_array())
    assert np.allclose(shown.ravel(), cosines.query("layer == 0 and part == 'keys'").cosine)
    table = kv.analysis.separability(planted, shuffles=20)
    silhouette = kv.figures.plot_separability(table).axes[0]
    own = table.query("measure == 'silhouette' and part == 'values'")
    assert np.allclose(silhouette.lines[1].get_ydata(), own.value) and silhouette.get_xlabel() == "layer"


def test_the_mixing_figure_draws_shares_over_weights() -> None:
    shares = {"stepwise": (1.0, 0.5, 0.0), "causal_chain": (0.0, 0.5, 1.0), "other": (0.0, 0.0, 0.0)}
    rows = [
        ("x", "interpolation", w, 1.0, s, v[i], v[i], v[i], 8)
        for s, v in shares.items()
        for i, w in enumerate((0.0, 0.5, 1.0))
    ]
    rows += [("a + b", "sum", float("nan"), 1.9, s, v[0], v[0], v[0], 8) for s, v in shares.items()]
    table = pd.DataFrame(rows, columns=["mix", "kind", "weight", "size", "style", "share", "low", "high", "n"])
    left, right = kv.figures.plot_style_mixing(table).axes
    lines = [line for line in left.lines if len(line.get_xdata()) == 3]
    assert [line.get_ydata().tolist() for line in lines[:2]] == [[1.0, 0.5, 0.0], [0.0, 0.5, 1.0]]
    assert [t.get_text() for t in right.get_yticklabels()] == ["a + b\n(size 1.90)"]
    assert "8 replies" in left.get_ylabel()
