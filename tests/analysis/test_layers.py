"""Layers and heads left out: each row against its separate run, planted effects, controls, and one look at the test."""

from typing import Any

import pandas as pd
import pytest
import torch

import kvsteer_lab as kv
from kvsteer_lab.analysis.ablation.masks import head_masks, layer_masks
from kvsteer_lab.evaluation import grids

N, NEW = 6, {"max_new_tokens": 48}
ALL_WAYS = ("single", "leave one out", "from below", "from above", "windows")


@pytest.fixture(scope="module")
def task() -> kv.tasks.Task:
    return kv.tasks.get("tiny-arithmetic")


@pytest.fixture(scope="module")
def own(tiny, task) -> kv.KVVectors:
    return kv.extract(
        tiny, kv.ContrastiveSet.few_shot(task, tiny.tokenizer, style="stepwise", n=32, shots=3), progress=False
    )


@pytest.fixture
def seen(monkeypatch) -> list[kv.Results]:
    """The results that tables are made from, one an evaluation."""
    found: list[kv.Results] = []
    evaluate = grids.evaluate_all
    monkeypatch.setattr(
        grids, "evaluate_all", lambda *given, **settings: found.append(evaluate(*given, **settings)) or found[-1]
    )
    return found


def ablate(what: Any, tiny: kv.Model, task: Any, steering: Any, *given: Any, **settings: Any) -> pd.DataFrame:
    return what(
        tiny, task, steering, *given, **{"n": N, "controls": 0, "generation": NEW, "progress": False, **settings}
    )


def rows(table: pd.DataFrame, way: str, part: str = "values") -> pd.DataFrame:
    return table[(table.way == way) & (table.part == part)]


def test_each_row_is_its_separate_run(tiny, task, own, seen):
    """Keys and values at coefficients where masks differ: of layer 1 alone, only some replies reason."""
    steering = kv.CacheSteering(own, 1.0, 2.0, layers=range(4))
    table = ablate(kv.analysis.ablate_layers, tiny, task, steering, ("single", "leave one out"))
    heads = ablate(
        kv.analysis.ablate_heads, tiny, task, steering, ("single", "single by layer"), ("keys and values", "values")
    )
    for forked, found in zip(list(seen), (table, heads), strict=True):
        for row in found[found.way != "none"].itertuples():
            ck, cv = (1.0 if "keys" in row.part else 0.0), (2.0 if "values" in row.part else 0.0)
            method = kv.CacheSteering(own, ck, cv, layers=row.layers, heads=row.heads)
            if row.part == "keys" and row.way != "single":
                continue  # enough of them
            alone = kv.evaluate(tiny, task, method, n=N, split="dev", generation=NEW, progress=False).of(method.label)
            assert (row.accuracy, row.reasoned, row.tokens) == (
                alone.correct.mean(),
                alone.reasoned.mean(),
                alone.tokens.mean(),
            )
            assert forked.of(method.label).text.tolist() == alone.text.tolist()
            assert (row.low, row.high) == pytest.approx(kv.stats.wilson(int(alone.correct.sum()), N))
    assert table.tokens.nunique() > 1, "the masks must not all do the same"


def test_masks_of_each_nth_layer_leave_the_steering_whole(own):
    steering = kv.CacheSteering(own, 0, 2.0, layers=[0, 1, 2, 3])
    layers = steering.edited_layers
    masks = layer_masks(steering, ALL_WAYS, "values", 2, 2)
    assert [m.kept.layers for m in masks if m.way == "all"] == [layers]
    assert {m.layer for m in masks if m.layer is not None} == set(layers[::2]) < set(layers)
    out = next(m for m in masks if m.way == "leave one out" and m.layer == layers[0])
    assert out.kept.layers == layers[1:]
    heads = head_masks(steering, ("single", "single by layer"), "values", 2)
    assert {m.layer for m in heads if m.way == "single by layer"} == set(layers[::2])
    assert all(m.kept.layers == layers for m in heads if m.way == "single")
    for wrong in (0, True, 1.5):
        with pytest.raises(ValueError, match="picks no layers; pass 1 for all of them"):
            layer_masks(steering, "single", None, 1, wrong)


def test_a_single_layer_is_that_layer_and_leave_one_out_is_the_rest(own):
    steering = kv.CacheSteering(own, 0.5, 2.0, layers=[0, 1, 3])
    masks = layer_masks(steering, ALL_WAYS, None, 2)
    for mask in masks:
        cut = mask.kept.restrict(steering)
        assert cut.scope == mask.kept.layers and (cut.ck, cut.cv) == (
            0.5 * ("keys" in mask.kept.part),
            2.0 * ("values" in mask.kept.part),
        )
        ((delta,),) = cut.deltas(None, [5])  # type: ignore[arg-type]
        moved = {layer for layer in range(4) if delta.keys[layer].any() or delta.values[layer].any()}
        assert moved <= set(mask.kept.layers) and (moved or not own.only(mask.kept.layers).values.any())
    by_way = {
        way: {m.layer: set(m.kept.layers) for m in masks if m.way == way and m.kept.part == "values"}
        for way in ALL_WAYS
    }
    assert by_way["single"] == {0: {0}, 1: {1}, 3: {3}}
    assert all(by_way["leave one out"][layer] == {0, 1, 3} - {layer} for layer in (0, 1, 3))
    assert by_way["from below"] == {0: {0}, 1: {0, 1}, 3: {0, 1, 3}} and by_way["from above"] == {
        0: {0, 1, 3},
        1: {1, 3},
        3: {3},
    }
    assert by_way["windows"] == {0: {0, 1}, 1: {1, 3}}
    assert {m.kept.part for m in masks} == {"keys and values", "keys", "values"}


def test_single_and_leave_one_out_add_up_to_the_whole(own):
    """Also for heads, one by one and in each layer: what the singles add is what the whole adds."""
    steering = kv.CacheSteering(own, 0.5, 2.0)
    ((whole,),) = steering.deltas(None, [5])  # type: ignore[arg-type]

    def added(masks, way):
        return {
            m: m.kept.restrict(steering).deltas(None, [5])[0][0]
            for m in masks
            if m.way == way and m.kept.part == "keys and values"
        }

    for masks in (layer_masks(steering, "single", None, 1), head_masks(steering, ("single", "single by layer"), None)):
        for way in {m.way for m in masks} - {"all"}:
            assert torch.equal(sum(d.values for d in added(masks, way).values()), whole.values)
            assert torch.equal(sum(d.keys for d in added(masks, way).values()), whole.keys)
    pairs = zip(
        *(
            added(head_masks(steering, ("single", "leave one out"), None), way).items()
            for way in ("single", "leave one out")
        ),
        strict=True,
    )
    for (one, kept), (rest, left) in pairs:
        assert one.head == rest.head and torch.equal(kept.values + left.values, whole.values)


def test_a_planted_layer_and_head_are_found(tiny, task, own):
    """Vectors that are zero elsewhere: a mask that keeps the planted place is the whole, any other the baseline."""
    planted = own.only([1], [0])
    table = ablate(kv.analysis.ablate_layers, tiny, task, kv.CacheSteering(planted, 0, 4, layers=range(4)), ALL_WAYS)
    heads = ablate(
        kv.analysis.ablate_heads,
        tiny,
        task,
        kv.CacheSteering(planted, 0, 4),
        ("single", "leave one out", "single by layer"),
    )
    for found in (table, heads):
        none, whole = (found[found.way == way].iloc[0] for way in ("none", "all"))
        assert none.tokens != whole.tokens, "the planted vectors must do something"
        for row in found.itertuples():
            like = whole if 1 in row.layers and 0 in row.heads else none
            assert (row.accuracy, row.reasoned, row.tokens) == (like.accuracy, like.reasoned, like.tokens)
    kept = {
        way: [row.layer for row in table.itertuples() if row.way == way and row.tokens == whole.tokens]
        for way in ALL_WAYS
    }
    assert kept == {
        "single": [1],
        "leave one out": [0, 2, 3],
        "from below": [1, 2, 3],
        "from above": [0, 1],
        "windows": [0, 1],
    }


def test_tests_are_paired_and_corrected_for_the_distinct_masks(tiny, task, own, seen):
    table = ablate(kv.analysis.ablate_layers, tiny, task, kv.CacheSteering(own, 0, 2.0))
    (results,) = seen
    assert len(results.interventions) == 2 + 7, "of 13 rows, seven keep something else than one another"
    whole, one = (results.of(f"steered stepwise ck=0 cv=2 layers={layers} heads=0,1") for layers in ("1,2,3", "2"))
    row = rows(table, "single").set_index("layer").loc[2]
    assert row.p == kv.stats.mcnemar(one.correct.tolist(), results.of("baseline").correct.tolist())
    assert row.p_all == kv.stats.mcnemar(one.correct.tolist(), whole.correct.tolist())
    distinct = table[table.way != "none"].drop_duplicates("layers")
    assert distinct.p_holm.tolist() == kv.stats.holm(distinct.p.tolist()) and len(distinct) == 7
    parts = distinct[distinct.way != "all"]
    assert parts.p_all_holm.tolist() == kv.stats.holm(parts.p_all.tolist())
    same = table[table.layers == (1,)]
    assert set(same.way) == {"single", "from below"} and same.p_holm.nunique() == 1
    assert table[table.layers == (1, 2, 3)].p_all.isna().all() and table.p[0] != table.p[0]
    assert table.attrs["questions"] == [q.id for q in task.questions("dev", N, 0)]


def test_controls_are_random_vectors_at_the_same_masks(tiny, task, own, seen):
    steering = kv.CacheSteering(own, 0, 4.0)  # large enough for some random vectors to act
    table = ablate(kv.analysis.ablate_layers, tiny, task, steering, "single", controls=12, seed=3)
    for row in rows(table, "single").itertuples():
        method = kv.CacheSteering(own, 0, 4.0, layers=row.layers, heads=(0, 1))
        controls = kv.random_controls(method, 12, 3)
        part = seen[0].rows[seen[0].rows.control_of == method.label]
        assert list(dict.fromkeys(part.intervention)) == [c.label for c in controls]
        each = part.groupby("intervention")[["correct", "reasoned"]].mean()
        assert (row.random_low, row.random_high) == pytest.approx(tuple(each.correct.quantile([0.025, 0.975])))
        assert (row.random_reasoned_low, row.random_reasoned_high) == pytest.approx(
            tuple(each.reasoned.quantile([0.025, 0.975]))
        )
        assert row.p_random == kv.stats.control_p(row.accuracy, each.correct.tolist())
        alone = kv.evaluate(tiny, task, controls[4:6], n=N, split="dev", seed=3, generation=NEW, progress=False).rows
        for control in controls[4:6]:
            assert (
                part.text[part.intervention == control.label].tolist()
                == alone.text[alone.intervention == control.label].tolist()
            )
    assert rows(table, "single").random_reasoned_high.max() > 0, "some control acts, so the comparison can fail"
    by_mask = [
        kv.CacheSteering(own, 0, 4.0, layers=row.layers, heads=(0, 1)).label
        for row in table[table.way != "none"].itertuples()
    ]
    grouped = [
        seen[0].rows[seen[0].rows.control_of == label].groupby("intervention", sort=False).correct.mean().tolist()
        for label in by_mask
    ]
    best = [max(same) for same in zip(*grouped, strict=True)]  # of one random direction, over the masks
    found = table[table.way != "none"]
    assert found.p_random_family.tolist() == [kv.stats.control_p(a, best) for a in found.accuracy]
    assert (found.p_random_family >= found.p_random).all() and (found.p_random_family > found.p_random).any()


def test_the_best_is_confirmed_on_other_questions(tiny, task, own):
    steering = kv.CacheSteering(own.only([1]), 0, 4, layers=range(4))
    table = ablate(kv.analysis.ablate_layers, tiny, task, steering)
    settings = dict(n=N, controls=3, generation=NEW, progress=False)
    results = kv.analysis.confirm_best(tiny, task, steering, table.iloc[::-1], objective="reasoned", **settings)
    best = "steered stepwise ck=0 cv=4 layers=1 heads=0,1"  # among equals the one that keeps least, wherever it stands
    assert (
        results.interventions == ["baseline", "no offset", steering.label, best] and results.settings["split"] == "test"
    )
    assert set(results.rows.control_of.dropna()) == {best} and results.rows.control_of.notna().sum() == 3 * N
    worse = kv.analysis.confirm_best(
        tiny, task, steering, table[table.way == "leave one out"], objective="reasoned", **settings
    )
    assert worse.interventions[-1].endswith("layers=1,2,3 heads=0,1")
    with pytest.raises(ValueError, match=f"{N} questions were used in tuning and are among the test questions"):
        kv.analysis.confirm_best(tiny, task, steering, table, split="dev", n=N)
    heads = ablate(kv.analysis.ablate_heads, tiny, task, steering)
    of_heads = kv.analysis.confirm_best(
        tiny, task, steering, heads[heads.way == "single"], objective="reasoned", **settings
    )
    assert of_heads.interventions[-1] == "steered stepwise ck=0 cv=4 layers=0,1,2,3 heads=0"
    for other in (kv.CacheSteering(own.only([1]), 0, 5, layers=range(4)), kv.CacheSteering(own, 0, 4, layers=range(4))):
        with pytest.raises(ValueError, match="The table is of another steering than 'steered stepwise"):
            kv.analysis.confirm_best(tiny, task, other, table)
    bare = pd.DataFrame(table.to_dict("records"))
    for wrong, message in (
        (dict(table=bare), "The table doesn't say which questions it was made from"),
        (dict(table=table[table.way == "all"]), "holds no mask to choose"),
        (dict(table=table, objective="style"), "choose 'correct' or 'reasoned'"),
    ):
        with pytest.raises(ValueError, match=message):
            kv.analysis.confirm_best(tiny, task, steering, **wrong)


def test_a_named_steering_keeps_its_name(own):
    steering = kv.CacheSteering(own, 0, 2, name="mine", slot=-2)
    labels = [m.kept.restrict(steering).label for m in layer_masks(steering, "single", None, 1)]
    assert labels[1] == "mine ck=0 cv=2 layers=1 heads=0,1" and len(set(labels)) == 4
    assert all(m.kept.restrict(steering).slot == -2 for m in layer_masks(steering, "single", None, 1))


def test_what_leaves_nothing_to_compare_is_refused(tiny, task, own):
    def layers(steering, *given, **settings):
        return ablate(kv.analysis.ablate_layers, tiny, task, steering, *given, **settings)

    steering = kv.CacheSteering(own, 0, 2)
    zero = own * 0.0
    for call, message in (
        (
            lambda: layers(kv.CacheSteering(own, 0, 2, layers=())),
            "edits no layers, so no coefficient does anything; name at least one",
        ),
        (
            lambda: layers(kv.CacheSteering(own, 0, 2, heads=())),
            "edits no KV heads, so no coefficient does anything; name at least one",
        ),
        (lambda: layers(kv.CacheSteering(own, 0, 2, layers=[4])), "There is no layer 4; this model has layers 0 to 3"),
        (
            lambda: layers(kv.CacheSteering(zero, 1, 2)),
            "are zero in all of its layers and heads, so no coefficient does anything; extract them anew",
        ),
        (
            lambda: layers(kv.CacheSteering(own, 0, 0)),
            "adds is zero in the steered layers; check its vectors, coefficients and layers",
        ),
        (
            lambda: layers(steering, parts="keys"),
            "adds nothing to the keys; give them a coefficient, or leave 'keys' out of parts",
        ),
        (
            lambda: layers(steering, parts="queries"),
            "'queries' is not a part; choose from keys and values, keys, values",
        ),
        (lambda: layers(steering, parts=()), "parts is empty; choose from values"),
        (
            lambda: layers(steering, ("single", "sideways")),
            "'sideways' is not a way of leaving out; choose from single, leave one out",
        ),
        (lambda: layers(steering, ()), "ways is empty; choose from single"),
        (
            lambda: layers(steering, "windows", width=4),
            "A window of 4 layers doesn't fit the 3 steered ones; choose a width of 1 to 3",
        ),
        (lambda: layers(steering, "windows", width=0), "A window of 0 layers"),
        (lambda: layers(steering, "windows", width=1.5), "A window of 1.5 layers"),
        (
            lambda: layers(steering, split="test"),
            "never chosen on test questions; ablate on split='dev' and call confirm_best",
        ),
        (lambda: layers(steering, controls=-1), "The number of controls must be 0 or a positive whole number, not -1"),
        (lambda: layers(kv.CoTPrompt()), "Cache steering is asked for, a kv.CacheSteering, not CoTPrompt"),
        (
            lambda: ablate(kv.analysis.ablate_heads, tiny, task, steering, "from below"),
            "'from below' is not a way of leaving out; choose from single",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            call()


def test_the_figure_draws_what_the_table_holds(tiny, task, own):
    steering = kv.CacheSteering(own, 1.0, 2.0)
    table = ablate(kv.analysis.ablate_layers, tiny, task, steering, ("single", "windows"), controls=2)
    figure = kv.figures.plot_layers(table, "reasoned")
    panels = [axis for axis in figure.axes if axis.images]
    assert [a.get_title(loc="left").split(":")[0] for a in panels] == ["keys and values", "keys", "values"]
    for axis, part in zip(panels, ("keys and values", "keys", "values"), strict=True):
        alone, windows = axis.images[0].get_array().filled(-1).tolist()
        assert alone == rows(table, "single", part).reasoned.tolist()
        assert windows == [*rows(table, "windows", part).reasoned.tolist(), -1]
        whole = rows(table, "all", part).reasoned.iloc[0]
        assert axis.get_title(loc="left").endswith("all " + f"{whole:.2f}".removeprefix("0"))
        better = table[(table.part == part) & table.way.isin(["single", "windows"]) & (table.p_random_reasoned <= 0.05)]
        assert len(axis.patches) == len(better), "framed: what random vectors don't do"
    assert [t.get_text() for t in panels[0].get_xticklabels()] == ["1", "2", "3"]
    assert [t.get_text() for t in panels[0].get_yticklabels()] == ["this layer alone", "window from this layer on"]
    heads = kv.figures.plot_layers(
        ablate(kv.analysis.ablate_heads, tiny, task, kv.CacheSteering(own, 0, 2), "single by layer")
    )
    assert [t.get_text() for t in heads.axes[0].get_xticklabels()] == ["1", "2", "3"]
    assert [t.get_text() for t in heads.axes[0].get_yticklabels()] == [
        "head 0 of this layer alone",
        "head 1 of this layer alone",
    ]
    with pytest.raises(ValueError, match="no masks to draw"):
        kv.figures.plot_layers(table[table.way == "all"])
