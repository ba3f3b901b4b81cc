"""The search for coefficients: equal budgets, edges, ties, and no question in both tuning and test."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd
import pytest

import kvsteer_lab as kv
from kvsteer_lab.evaluation import grids as module

N = 8


@dataclass(frozen=True)
class Dosed(kv.Intervention):
    """Stands for an intervention; only its dose matters."""

    dose: float
    name: str

    @property
    def label(self):
        return self.name


@dataclass(frozen=True)
class Planted(kv.Search):
    """A search over doses only, whose variants are named."""

    name: str = "planted"
    names: tuple[str, ...] = ("a", "b")

    def variants(self, model, prompts):
        return {v: Dosed for v in self.names}

    def controls(self, chosen, n, seed):
        return []


@pytest.fixture
def task():
    return kv.tasks.get("tiny-arithmetic")


@pytest.fixture
def respond(monkeypatch, task):
    """Replace the evaluation by a response: method, variant and dose -> number of right answers."""

    def install(response: Callable[[str, str, float], int]):
        seen = []

        def evaluate(model, task, methods, *, n, split, seed, out, progress, **settings):
            seen.append([m.label for m in methods])
            ids = [q.id for q in task.questions(split, n, seed)]
            rows = []
            for m in methods:
                method, variant, _ = m.label.split(", ")
                right = response(method, variant, m.dose)
                rows += [
                    dict(question=q, intervention=m.label, control_of=None, correct=i < right, reasoned=False, tokens=3)
                    for i, q in enumerate(ids)
                ]
            return kv.Results(pd.DataFrame(rows).assign(sample=0), {})

        monkeypatch.setattr(module, "evaluate_all", evaluate)
        return seen

    return install


def tune(task, searches, **settings):
    return kv.tune(None, task, searches, n=N, progress=False, **{"cells": 6, **settings})


def test_the_best_cell_wins_and_among_equals_the_smallest_dose(respond, task):
    respond(lambda method, variant, dose: 6 if variant == "b" and 0.9 < dose < 5 else 2)
    found = tune(task, Planted(), doses=(0.25, 8.0), cells=12)
    best = found.cells[found.cells.chosen]
    assert len(best) == 1 and best.iloc[0].variant == "b" and best.iloc[0].dose == pytest.approx(1.0)
    assert found.best["planted"] == Dosed(pytest.approx(1.0), "planted") and found.on_edge == ()
    assert len(found.cells) == 12 and found.cells["round"].max() == 0
    assert (best.iloc[0].low, best.iloc[0].high) == pytest.approx(kv.stats.wilson(6, N))


def test_the_range_grows_while_the_best_lies_on_an_edge(respond, task):
    peak = 40.0
    seen = respond(lambda method, variant, dose: round(8 - 1.5 * abs(np.log2(dose / peak))) if variant == "a" else 0)
    found = tune(task, Planted(), doses=(1.0, 4.0), cells=8, extensions=5)
    assert found.cells[found.cells.chosen].dose.iloc[0] == pytest.approx(peak, rel=0.3) and not found.on_edge
    assert found.cells.dose.max() > 40 and len(seen) > 2
    down = tune(task, Planted(names=("a",)), doses=(200.0, 800.0), cells=4, extensions=8)
    assert down.cells[down.cells.chosen].dose.iloc[0] == pytest.approx(peak, rel=0.35) and not down.on_edge


def test_every_method_gets_the_same_number_of_cells(respond, task):
    respond(
        lambda method, variant, dose: round(4 + np.log2(dose)) if method == "rising" else (7 if 1 < dose < 3 else 1)
    )
    with pytest.warns(UserWarning, match="best relative strength of rising lies on an edge"):
        found = tune(
            task, [Planted("rising"), Planted("settled", ("a", "b", "c"))], doses=(0.5, 4.0), cells=12, extensions=1
        )
    assert found.cells.groupby("method").size().tolist() == [15, 15]
    assert found.on_edge == ("rising",)
    settled = found.cells[(found.cells.method == "settled") & (found.cells["round"] == 1)]
    assert settled.dose.between(0.5, 4.0).all() and settled.dose.nunique() == 3  # around its best, not beyond the range


def test_cells_of_a_real_run_are_those_of_separate_runs(tiny, task):
    pairs = kv.ContrastiveSet.few_shot(task, tiny.tokenizer, style="stepwise", n=8, shots=2)
    searches = [kv.CacheSearch(kv.extract(tiny, pairs, progress=False), key_shares=(0.0, 0.2))]
    searches.append(kv.ActivationSearch(kv.extract_activations(tiny, pairs, progress=False), layers=(0, 1)))
    new = {"max_new_tokens": 16}
    found = kv.tune(
        tiny,
        task,
        searches,
        cells=6,
        n=N,
        doses=(0.5, 8.0),
        extensions=1,
        objective="reasoned",
        stop_when_flat=False,
        generation=new,
        progress=False,
    )
    chats = [task.chat(q) for q in task.questions("dev", N, 0)]
    for search in searches:
        own = found.cells[found.cells.method == search.name]
        row = own[own.variant == own.variant.iloc[-1]].iloc[1]
        method = search.variants(tiny, chats)[row.variant](row.dose, "alone")
        alone = kv.evaluate(tiny, task, method, n=N, split="dev", generation=new, progress=False).of("alone")
        assert (row.accuracy, row.reasoned, row.tokens) == (
            alone.correct.mean(),
            alone.reasoned.mean(),
            alone.tokens.mean(),
        )
        unit = kv.unit_dose(tiny, method, chats)
        assert (method.cv if search.name == "cache steering" else method.coefficient) * unit == pytest.approx(
            row.dose, rel=1e-4
        )
    results = found.confirm(n=N, controls=2, progress=False)
    assert set(found.best) <= set(results.interventions) and results.settings["split"] == "test"
    assert results.rows.control_of.dropna().unique().tolist() == list(found.best)
    with pytest.raises(ValueError, match="8 questions were used in tuning"):
        found.confirm(n=N, split="dev", controls=0, progress=False)


@pytest.mark.filterwarnings("ignore:The best relative strength of")
def test_rounds_are_kept_and_one_of_other_cells_is_told(tiny, task, tmp_path, monkeypatch):
    pairs = kv.ContrastiveSet.few_shot(task, tiny.tokenizer, style="stepwise", n=4, shots=1)
    search = kv.tuning.CacheSearch(kv.extract(tiny, pairs, progress=False), key_shares=(0.0,))

    def run(**options):
        settings = dict(cells=3, n=4, doses=(0.01, 0.02), extensions=1, generation={"max_new_tokens": 3}, out=tmp_path)
        settings["stop_when_flat"] = False  # doses so small change nothing
        return kv.tune(tiny, task, search, progress=False, **{**settings, **options})

    first = run()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["round-0", "round-1"]
    with monkeypatch.context() as patch:
        patch.setattr(tiny.hf, "generate", None)
        pd.testing.assert_frame_equal(run().cells, first.cells)
    with pytest.raises(ValueError, match=r"round-0 holds another run: .*settings.generation.max_new_tokens is 3 there"):
        run(generation={"max_new_tokens": 4})
    (tmp_path / "round-1").rename(tmp_path / "elsewhere")
    kv.evaluate(tiny, task, [], n=4, generation={"max_new_tokens": 3}, out=tmp_path / "round-1", progress=False)
    with pytest.raises(ValueError, match=r"round-1 holds a round of other cells .* Delete round-1 and later ones"):
        run()


def test_bad_searches_are_refused(task):
    for arguments, message in [
        (dict(split="test"), "never chosen on test questions"),
        (dict(doses=(2.0, 1.0)), "two positive numbers"),
        (dict(doses=(0.0, 1.0)), "two positive numbers"),
        (dict(doses=(float("nan"), 1.0)), "two positive numbers"),
        (dict(objective="style"), "choose 'correct' or 'reasoned'"),
        (dict(cells=7), "choose a multiple of 2"),
        (dict(extensions=-1), "extensions=-1 leaves out the first round; pass 0 for that round alone"),
        (dict(cells=4), "choose a multiple of 2"),
        (dict(split="train"), "Unknown split"),
    ]:
        with pytest.raises(ValueError, match=message):
            tune(task, Planted(), **arguments)
    with pytest.raises(ValueError, match="The search 'planted' has no variants; give it at least one layer"):
        tune(task, Planted(names=()))
    with pytest.raises(ValueError, match="nothing to tune"):
        tune(task, [])
    with pytest.raises(ValueError, match="same name"):
        tune(task, [Planted(), Planted()])


def test_vectors_that_are_zero_where_they_steer_are_refused(tiny, task):
    pairs = kv.ContrastiveSet.few_shot(task, tiny.tokenizer, style="stepwise", n=4, shots=1)
    vectors = kv.extract(tiny, pairs, progress=False)
    with pytest.raises(ValueError, match="zero in the layers and heads"):
        kv.tune(tiny, task, kv.CacheSearch(vectors.only([3]), layers=[1]), n=4, progress=False)
    activations = kv.extract_activations(tiny, pairs, progress=False)
    with pytest.raises(ValueError, match="There is no layer 99; this model has layers 0 to 3"):
        kv.tune(tiny, task, kv.ActivationSearch(activations, layers=[99]), n=4, progress=False)


def test_any_steering_can_be_searched(tiny, task):
    pairs = kv.ContrastiveSet.few_shot(task, tiny.tokenizer, style="stepwise", n=4, shots=1)
    vectors = kv.extract(tiny, pairs, progress=False)
    chats = [task.chat(q) for q in task.questions("dev", N, 0)]
    variants = {f"slot {slot}": kv.CacheSteering(vectors, 1, 2, slot=slot) for slot in (-1, -2)}
    search = kv.tuning.SteeringSearch(variants, name="slots")
    for name, build in search.variants(tiny, chats).items():
        built = build(3.0, "x")
        assert built.coefficient * kv.unit_dose(tiny, variants[name], chats) == pytest.approx(3.0)
        assert (built.slot, built.label, built.ck) == (variants[name].slot, "x", pytest.approx(built.cv / 2))
    drawn = search.controls(search.variants(tiny, chats)["slot -2"](1.0, "slots"), 2, 0)
    assert [c.control_of for c in drawn] == ["slots"] * 2
    with pytest.raises(ValueError, match="are zero in all of its layers and heads"):
        kv.tuning.SteeringSearch({"zero": kv.CacheSteering(vectors * 0.0, 0, 1)}).variants(tiny, chats)
    with pytest.raises(
        ValueError, match="'CoT prompt' isn't a steering, so it has no random controls; pass controls=0"
    ):
        search.controls(kv.CoTPrompt(), 2, 0)
    layers = kv.ActivationSearch(kv.extract_activations(tiny, pairs, progress=False), layers=np.array([2, 1]))
    assert [*layers.variants(tiny, chats)] == ["layer 1", "layer 2"]


def test_a_flat_objective_stops_with_a_sentence(tiny, task, tmp_path):
    pairs = kv.ContrastiveSet.few_shot(task, tiny.tokenizer, style="stepwise", n=4, shots=1)
    search = kv.CacheSearch(kv.extract(tiny, pairs, progress=False), key_shares=(0.0,))
    asked = dict(cells=3, n=N, generation={"max_new_tokens": 8}, out=tmp_path, progress=False)
    with pytest.warns(UserWarning, match="'accuracy' is flat: none of 3 cells differs from the baseline") as told:
        found = kv.tune(tiny, task, search, doses=(0.001, 0.002), **asked)
    assert len(told) == 1 and found.flat and found.no_better == ("cache steering",)
    assert [path.name for path in tmp_path.iterdir()] == ["round-0"], "it didn't walk on"
    plain = kv.evaluate(tiny, task, [], n=N, split="dev", generation={"max_new_tokens": 8}, progress=False)
    assert found.baseline["accuracy"] == plain.of("baseline").correct.mean()


@pytest.mark.filterwarnings("ignore:The best relative strength of")
def test_too_few_questions_for_a_test_are_no_flat_objective(tiny, task):
    pairs = kv.ContrastiveSet.few_shot(task, tiny.tokenizer, style="stepwise", n=8, shots=2)
    search = kv.CacheSearch(kv.extract(tiny, pairs, progress=False), key_shares=(0.0,))
    asked = dict(cells=3, n=2, extensions=0, generation={"max_new_tokens": 16}, progress=False, objective="reasoned")
    found = kv.tune(tiny, task, search, doses=(0.25, 8.0), **asked)
    assert not found.flat and found.cells.reasoned.max() == 1.0 and found.objective == "reasoned"
    with pytest.warns(UserWarning, match="'reasoned' is flat"):
        assert kv.tune(tiny, task, search, doses=(0.001, 0.002), **asked).flat, "equal on every question"


@pytest.mark.filterwarnings("ignore:The best relative strength of")
def test_an_objective_that_moves_is_not_flat(tiny, task):
    pairs = kv.ContrastiveSet.few_shot(task, tiny.tokenizer, style="stepwise", n=8, shots=2)
    search = kv.CacheSearch(kv.extract(tiny, pairs, progress=False), key_shares=(0.0,))
    asked = dict(cells=3, n=N, doses=(0.25, 8.0), extensions=0, generation={"max_new_tokens": 16}, progress=False)
    found = kv.tune(tiny, task, search, objective="reasoned", **asked)
    assert not found.flat and found.no_better == () and found.cells.reasoned.max() == 1.0


@pytest.mark.filterwarnings("ignore:The best relative strength of", "ignore:The objective")
def test_length_and_kl_are_objectives_and_bounds(tiny, task):
    pairs = kv.ContrastiveSet.few_shot(task, tiny.tokenizer, style="stepwise", n=8, shots=2)
    search = kv.CacheSearch(kv.extract(tiny, pairs, progress=False), key_shares=(0.0,))
    asked = dict(cells=4, n=4, doses=(0.25, 8.0), extensions=0, generation={"max_new_tokens": 16}, progress=False)
    longest = kv.tune(tiny, task, search, objective="tokens", **asked).cells
    assert longest[longest.chosen].tokens.iloc[0] == longest.tokens.max()
    farthest = kv.tune(tiny, task, search, objective="kl", **asked).cells
    assert farthest.kl.is_monotonic_increasing and farthest[farthest.chosen].dose.iloc[0] == 8.0
    most = float(farthest.kl.iloc[1])
    bounded = kv.tune(tiny, task, search, objective="tokens", bounds={"kl": (None, most)}, **asked).cells
    assert bounded.kl.tolist() == farthest.kl.tolist() and bounded[bounded.chosen].kl.iloc[0] <= most
    own = kv.tune(tiny, task, search, objective=kv.outcomes.Outcome("brevity", lambda q, r: -len(r)), **asked).cells
    assert own[own.chosen].brevity.iloc[0] == own.brevity.max()
    with pytest.raises(ValueError, match="No cell of 'cache steering' lies within the bounds"):
        kv.tune(tiny, task, search, bounds={"tokens": (1000, None)}, **asked)
    for bounds, message in (({"nonsense": (0, 1)}, "no outcome 'nonsense'"), ({"kl": (None, None)}, "bounds of 'kl'")):
        with pytest.raises(ValueError, match=message):
            kv.tune(tiny, task, search, bounds=bounds, **asked)
