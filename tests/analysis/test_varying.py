"""What else varies: pairs and seeds, temperature, slot, offset token, and doses in nats; each against separate runs."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

import kvsteer_lab as kv
from kvsteer_lab import analysis
from kvsteer_lab.evaluation.measures import share

N, NEW = 5, {"max_new_tokens": 48}
QUICK: dict[str, Any] = dict(n=N, progress=False)


@pytest.fixture(scope="module")
def task() -> kv.tasks.Task:
    return kv.tasks.get("tiny-arithmetic")


@pytest.fixture(scope="module")
def own(tiny, task) -> kv.KVVectors:
    return kv.extract(
        tiny, kv.ContrastiveSet.few_shot(task, tiny.tokenizer, style="stepwise", n=32, shots=2), progress=False
    )


@pytest.fixture(scope="module")
def steering(own) -> kv.CacheSteering:
    return kv.CacheSteering(own, 0.5, 2.0)


def separate(tiny: kv.Model, task: Any, method: Any, **settings: Any) -> kv.Results:
    return kv.evaluate(tiny, task, method, **{"split": "dev", "generation": NEW, **QUICK, **settings})


def test_vectors_extracted_anew_are_compared_at_equal_dose(tiny, task, steering):
    settings = dict(pairs=[1, 4], shots=[2], seeds=[3, 8], generation=NEW, **QUICK)
    table = analysis.vary_extraction(tiny, task, steering, [1.4, 3.0], controls=2, **settings)
    assert table[["dose", "pairs", "vectors"]].to_numpy().tolist() == [[1.4, 1, 2], [1.4, 4, 2], [3, 1, 2], [3, 4, 2]]
    chats = [task.chat(q) for q in task.questions("dev", N, 0)]
    made = {}
    for seed in (3, 8):
        pairs = kv.ContrastiveSet.few_shot(task, tiny.tokenizer, style="stepwise", n=4, shots=2, seed=seed)
        for p in (1, 4):
            vectors = kv.extract(tiny, pairs[:p], progress=False)
            unit = kv.unit_dose(tiny, kv.CacheSteering(vectors, 0, 1), chats)
            made[seed, p] = kv.CacheSteering(vectors, 0.5 / 2 * 1.4 / unit, 1.4 / unit, name=f"{seed} {p}")
    results = separate(tiny, task, list(made.values()))
    for p in (1, 4):
        row = table[(table.dose == 1.4) & (table.pairs == p)].iloc[0]
        parts = [results.of(f"{seed} {p}") for seed in (3, 8)]
        adopted = [(part["style"] == "stepwise").mean() for part in parts]
        assert (row.adopted, row.adopted_min, row.adopted_max) == pytest.approx(
            (np.mean(adopted), min(adopted), max(adopted))
        )
        assert row.accuracy == pytest.approx(np.mean([part.correct.mean() for part in parts]))
        assert (
            row.gain == pytest.approx(row.accuracy - results.of("baseline").correct.mean())
            and row.low <= row.gain <= row.high
        )
        correct, plain = np.stack([part.correct for part in parts]).astype(float), results.of("baseline").correct
        gain = kv.stats.vector_difference(correct, plain.tolist())
        assert (row.low, row.high) == pytest.approx((gain.low, gain.high)) and row.low < row.high
        assert row.cv == pytest.approx(np.mean([made[seed, p].cv for seed in (3, 8)]), rel=1e-5)
        a, b = (
            torch.cat([(m.ck * m.vectors.keys[1:]).flatten(), (m.cv * m.vectors.values[1:]).flatten()])
            for m in (made[3, p], made[8, p])
        )
        assert (
            row.cosine == pytest.approx(float(torch.cosine_similarity(a, b, dim=0)), abs=1e-5)
            and row.cosine_min == row.cosine
        )
    assert table.adopted.nunique() > 1 and table.groupby("dose").random_low.nunique().tolist() == [1, 1]
    first = replace(made[3, 4], name="first")
    drawn = (
        separate(tiny, task, kv.random_controls(first, 2, 0))
        .rows.query("control_of == 'first'")
        .groupby("intervention", sort=False)
    )
    each = drawn.correct.mean().tolist()
    rows = table[table.dose == 1.4]
    assert (rows.random_low - np.quantile(each, 0.025)).abs().max() < 1e-9 and rows.p_random.tolist() == [
        kv.stats.control_p(a, each) for a in rows.accuracy
    ]
    whole = table[table.adopted == 1]
    assert len(whole) and (whole.adopted_low == kv.stats.wilson(N, N)[0]).all(), (
        "where all agree, an interval over questions is left"
    )
    figure = kv.figures.plot_extraction({"pairs": table})
    assert figure.axes[0].get_xlabel() == "pairs" and [t.get_text() for t in figure.axes[0].get_xticklabels()] == [
        "1",
        "4",
    ]


def test_temperature_zero_is_greedy_and_samples_are_clustered_by_question(tiny, task, steering):
    table = analysis.temperature_response(
        tiny, task, steering, [0, 1.5], samples=3, controls=2, max_new_tokens=48, **QUICK
    )
    assert table[["temperature", "vector", "samples"]].to_numpy().tolist() == [
        *([0.0, v, 1] for v in ("baseline", "steering", "random")),
        *([1.5, v, 3] for v in ("baseline", "steering", "random")),
    ]
    greedy = separate(tiny, task, steering).of(steering.label)
    row = table.iloc[1]
    assert (row.accuracy, row.tokens, row.n) == (greedy.correct.mean(), greedy.tokens.mean(), N)
    assert (row.low, row.high) == pytest.approx(kv.stats.wilson(int(greedy.correct.sum()), N))
    hot = dict(do_sample=True, temperature=1.5, top_k=0, top_p=1.0, max_new_tokens=48)
    sampled = separate(tiny, task, steering, generation=hot, samples=3)
    part, row = sampled.of("baseline"), table.iloc[3]
    assert part.reasoned.nunique() == 2, "some samples reason and some don't"
    found = kv.stats.clustered_share(part.reasoned.tolist(), part.question.tolist())
    assert (row.reasoned, row.reasoned_low, row.reasoned_high) == pytest.approx((found.value, found.low, found.high))
    assert len(kv.figures.plot_temperature(table).axes) == 2
    ours, row = sampled.of(steering.label), table.iloc[4]
    gain = kv.stats.paired_difference(ours.correct.tolist(), part.correct.tolist(), clusters=ours.question.tolist())
    assert part[["question", "sample"]].to_numpy().tolist() == ours[["question", "sample"]].to_numpy().tolist()
    assert (row.gain, row.gain_low, row.gain_high) == pytest.approx(
        (gain.value, gain.low, gain.high)
    ) and gain.low < gain.value
    controls = separate(tiny, task, kv.random_controls(steering, 2, 0), generation=hot, samples=3)
    each = controls.rows[controls.rows.control_of == steering.label].groupby("intervention", sort=False).correct.mean()
    assert table.accuracy[5] == pytest.approx(each.mean()) and (table.low[5], table.high[5]) == pytest.approx(
        tuple(each.quantile([0.025, 0.975]))
    )
    assert row.p_random == kv.stats.control_p(row.accuracy, each.tolist()) and table.gain[[0, 2, 3, 5]].isna().all()


def test_where_all_samples_agree_each_question_counts_once():
    questions = pd.Series(["a", "a", "b", "b", "c", "c"])
    for value, hits in ((True, 3), (False, 0)):
        found = share(pd.Series([value] * 6), "x", "", questions)
        assert (found["low"], found["high"]) == pytest.approx(kv.stats.wilson(hits, 3))
    assert all(map(math.isnan, share(pd.Series([math.nan] * 6), "x", "", questions).values()))


def test_each_slot_is_its_separate_run(tiny, task, steering):
    table = analysis.slot_response(tiny, task, steering, [-1, -3], controls=4, generation=NEW, **QUICK)
    assert table.slot.tolist() == [pd.NA, -1, -3] and table.token.tolist() == ["", "\n", "<|im_start|>"]
    results = separate(tiny, task, [replace(steering, slot=s, name=f"at {s}") for s in (-1, -3)])
    chats = [task.chat(q) for q in task.questions("dev", N, 0)]
    for i, s in ((1, -1), (2, -3)):
        own = []
        for chat in chats:
            cache = tiny.prefill(chat)
            for name, size in (("keys", 0.5), ("values", 2.0)):
                added = size * getattr(steering.vectors, name).flatten(1).norm(dim=1)
                own.append(
                    (
                        name,
                        np.mean(
                            [
                                float(added[layer] / getattr(cache.layers[layer], name)[0, :, s].norm())
                                for layer in (1, 2, 3)
                            ]
                        ),
                    )
                )
        for name in ("keys", "values"):
            assert table[f"dose_{name}"][i] == pytest.approx(
                np.mean([dose for kind, dose in own if kind == name]), rel=1e-5
            )
        at = replace(steering, slot=s, name="at")
        assert 2 * kv.unit_dose(tiny, at, chats) == pytest.approx(table.dose_values[i], rel=1e-5)
        drawn = separate(tiny, task, kv.random_controls(at, 4, 0))
        each = drawn.rows[drawn.rows.control_of == "at"].groupby("intervention", sort=False).correct.mean().tolist()
        assert (table.random_low[i], table.random_high[i]) == pytest.approx(tuple(np.quantile(each, [0.025, 0.975])))
        assert table.p_random[i] == kv.stats.control_p(table.accuracy[i], each)
        part = results.of(f"at {s}")
        assert (table.accuracy[i], table.tokens[i]) == (part.correct.mean(), part.tokens.mean())
        assert table.p[i] == kv.stats.mcnemar(part.correct.tolist(), results.of("baseline").correct.tolist())
    assert table.p_holm[1:].tolist() == kv.stats.holm(table.p[1:].tolist()) and table.tokens[1] != table.tokens[2]


def test_each_offset_is_its_separate_run(tiny, task, steering):
    table = analysis.offset_response(tiny, task, steering, ["\n", ".", None], controls=3, generation=NEW, **QUICK)
    assert table.offset.tolist() == ["'\\n'"] * 2 + ["'.'"] * 2 + ["none"] * 2
    for i, offset in ((0, "\n"), (2, ".")):
        results = separate(tiny, task, steering, offset=offset)
        for at, label in ((i, "baseline"), (i + 1, steering.label)):
            assert (table.accuracy[at], table.tokens[at]) == (
                results.of(label).correct.mean(),
                results.of(label).tokens.mean(),
            )
        drawn = separate(tiny, task, kv.random_controls(steering, 3, 0), offset=offset).rows
        each = drawn[drawn.control_of == steering.label].groupby("intervention", sort=False).correct.mean().tolist()
        assert (table.random_low[i + 1], table.random_high[i + 1]) == pytest.approx(
            tuple(np.quantile(each, [0.025, 0.975]))
        )
        assert table.p_random[i + 1] == kv.stats.control_p(table.accuracy[i + 1], each) and math.isnan(
            table.p_random[i]
        )
    assert table.tokens[4] == separate(tiny, task, steering).of("no offset").tokens.mean() and math.isnan(
        table.accuracy[5]
    )
    assert table.note[5] == "no token is left to read the last slot" and set(table.note[:5]) == {""}
    assert table.tokens[0] != table.tokens[2], "the offset token matters"
    figure = kv.figures.plot_slots({"offset": table})
    assert [t.get_text() for t in figure.axes[0].get_xticklabels()] == ["'\\n'", "'.'", "none"]


def test_nats_are_those_of_divergence_and_merge_with_doses(tiny, task, own):
    steering, given = kv.CacheSteering(own, 0, 1.0), [0.5, 2.0]
    nats = analysis.divergence_response(tiny, task, steering, given, controls=1, max_new_tokens=48, **QUICK)
    assert nats[["coefficient", "vector"]].to_numpy().tolist() == [
        [c, v] for c in given for v in ("steering", "random 0")
    ]
    chats = [task.chat(q) for q in task.questions("dev", N, 0)]
    strong = kv.CacheSteering(own, 0, 2.0)
    for column, text, method in (("kl", None, strong), ("kl_own", strong, strong)):
        ids = kv.generate(tiny, chats, text, generation=NEW).token_ids
        assert nats[column][2] == pytest.approx(np.mean(kv.divergence(tiny, chats, ids, method).totals), rel=1e-4)
    assert nats.kl[0] < nats.kl[2] and math.isnan(nats.kl_own[1])
    doses = kv.dose_response(tiny, task, steering, given, controls=1, max_new_tokens=48, **QUICK)
    merged = doses.merge(nats, on=["coefficient", "vector"]).assign(method="cache steering")
    assert len(merged) == 4
    left, right = kv.figures.plot_matched(merged).axes
    assert right.get_xlabel().startswith("total KL") and left.get_xlabel().startswith("relative strength")
    with pytest.raises(ValueError, match="no column 'kl'; merge"):
        kv.figures.plot_matched(doses.assign(method="x"))


def test_what_leaves_nothing_to_vary_is_refused(tiny, task, own, steering):
    with pytest.raises(ValueError, match="needs at least two of them, not 1; ask for more"):
        analysis.vary_extraction(tiny, task, steering, [1.0], pairs=[1], seeds=[0, 1], n=1)
    with pytest.raises(
        ValueError, match="edits slot -2, but it's the last slot, -1, that the offset token reads first"
    ):
        analysis.offset_response(tiny, task, replace(steering, slot=-2))
    zero = kv.CacheSteering(own * 0.0, 0, 2)
    nameless = kv.CacheSteering(replace(own, card=replace(own.card, recipe={})), 0, 2)
    a = analysis
    for call, message in (
        (
            lambda: a.vary_extraction(tiny, task, steering, [2.0], seeds=[1]),
            "two or more are needed, not 1; five are a good number",
        ),
        (lambda: a.vary_extraction(tiny, task, steering, []), "doses is empty"),
        (lambda: a.vary_extraction(tiny, task, steering, [2.0], pairs=[]), "pairs is empty"),
        (lambda: a.vary_extraction(tiny, task, steering, [2.0], shots=[]), "shots is empty"),
        (lambda: a.vary_extraction(tiny, task, steering, [2.0], pairs=[0]), "0 pairs make no vector"),
        (
            lambda: a.vary_extraction(tiny, task, steering, [float("nan")]),
            "There is a dose nan; doses must be positive numbers",
        ),
        (lambda: a.vary_extraction(tiny, task, nameless, [2.0]), "don't say which styles they contrast"),
        (lambda: a.vary_extraction(tiny, task, kv.CacheSteering(own, 1, 0), [2.0]), "edits keys only \\(cv=0\\)"),
        (
            lambda: a.vary_extraction(
                tiny, task, kv.CacheSteering(own, 1, 2, layers=[0]), [2.0], pairs=[1], seeds=[0, 1], **QUICK
            ),
            "so it has no relative strength",
        ),
        (lambda: a.temperature_response(tiny, task, steering, []), "There are no temperatures to try"),
        (lambda: a.temperature_response(tiny, task, steering, [-1.0]), "There is a temperature -1.0"),
        (lambda: a.temperature_response(tiny, task, steering, [float("nan")]), "There is a temperature nan"),
        (lambda: a.temperature_response(tiny, task, steering, [1.0], samples=0), "samples=0 gives no replies"),
        (lambda: a.temperature_response(tiny, task, zero, [1.0]), "no coefficient does anything"),
        (lambda: a.slot_response(tiny, task, steering, []), "There are no slots to steer"),
        (lambda: a.slot_response(tiny, task, steering, [0]), "There is a slot 0; count slots from the prompt's end"),
        (lambda: a.slot_response(tiny, task, zero), "no coefficient does anything"),
        (lambda: a.slot_response(tiny, task, steering, split="test"), "never chosen on test questions"),
        (lambda: a.offset_response(tiny, task, steering, []), "There are no offset tokens to try"),
        (
            lambda: a.offset_response(tiny, task, steering, ["two words"]),
            "not one; choose another text or pass a token id",
        ),
        (lambda: a.offset_response(tiny, task, zero), "no coefficient does anything"),
        (lambda: a.divergence_response(tiny, task, steering, []), "coefficients is empty"),
        (lambda: a.divergence_response(tiny, task, zero, [1.0]), "no coefficient does anything"),
        (lambda: kv.figures.plot_extraction({}), "by what varies in them: 'pairs', 'shots' or both"),
        (lambda: kv.figures.plot_slots({"layer": pd.DataFrame()}), "by 'slot' and 'offset'"),
    ):
        with pytest.raises(ValueError, match=message):
            call()
