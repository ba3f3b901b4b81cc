"""Sweeps and the geometry, without widgets: each cell against its separate run, chunks that are kept, and principal
components.
"""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from explorer_bench import Made, compared, swept
from matplotlib.text import Text

import kvsteer_lab as kv
from kvsteer_lab.explorer.results.sweep import Cell, Grid, Sweep
from kvsteer_lab.explorer.threads import Cancelled, CancelledError
from kvsteer_lab.explorer.work import running, sweeping
from kvsteer_lab.explorer.work.components import agree, find_components, pair_texts
from kvsteer_lab.explorer.work.extracting import extract_differences
from kvsteer_lab.explorer.work.grids import make_grid
from kvsteer_lab.explorer.work.sweeping import run_sweep
from kvsteer_lab.figures.explorer import plot_components, plot_sweep, plot_tokens
from kvsteer_lab.figures.style import ONE_COLUMN, TWO_COLUMNS


@pytest.mark.parametrize(
    "changes",
    [
        {"sweep": "layers"},
        {"sweep": "heads", "layers": (1, 3)},
        {"sweep": "ck x cv", "sweep_ck": (0.0, 2.0), "sweep_cv": (0.5, 1.5, 3.0), "layers": (1, 2)},
    ],
)
def test_each_cell_is_its_separate_run(made: Made, changes: dict[str, Any]) -> None:
    workspace, state = made.workspace(), made.state(sweep_questions=3, max_new_tokens=40, **changes)
    sweep = swept(workspace, state)
    assert sweep.complete and set(sweep.done) == {(cell.row, cell.column) for cell in sweep.grid.cells}
    chats = [made.task.chat(q) for q in made.task.questions("dev", 3)]
    texts = set()
    for cell in sweep.grid.cells:
        own = workspace.steering(state.changed(cell.changes))
        assert (own.ck, own.cv, own.scope, own.heads) == (
            cell.steering.ck,
            cell.steering.cv,
            cell.steering.scope,
            cell.steering.heads,
        )
        alone = kv.generate(made.model, chats, own, generation={"max_new_tokens": 40})
        found = sweep.done[cell.row, cell.column]
        assert [text.generation.token_ids for text in found] == [row.token_ids for row in alone]
        texts.update(text.generation.text for text in found)
    assert len(texts) > 3, "the cells must not all say the same"


def test_measures_are_shares_of_the_texts(made: Made) -> None:
    state = made.state(sweep="ck x cv", sweep_ck=(0.0,), sweep_cv=(0.0, 1.2, 3.0), sweep_questions=4, max_new_tokens=48)
    sweep = swept(made.workspace(), state)
    questions = made.task.questions("dev", 4)
    table = sweep.to_frame().set_index("column")
    for j, cv in enumerate(("0", "1.2", "3")):
        texts = [text.generation for text in sweep.done[0, j]]
        assert table.loc[cv, "accuracy"] == np.mean(
            [made.task.is_correct(q, t.answer) for q, t in zip(questions, texts, strict=True)]
        )
        assert table.loc[cv, "tokens"] == np.mean([len(t.token_ids) for t in texts])
        plain = [text.generation.answer for text in sweep.baseline]
        assert table.loc[cv, "changed"] == np.mean([t.answer != p for t, p in zip(texts, plain, strict=True)])
    assert table.loc["0", "changed"] == 0 < table.loc["3", "changed"]
    assert sweep.values("tokens") == [table.loc[["0", "1.2", "3"], "tokens"].tolist()]


def test_grids_lie_as_they_say(made: Made) -> None:
    layers = make_grid(made.workspace(), made.state(sweep="layers", layers=(1, 2)))
    by_place = {(cell.row, cell.column): cell.steering.scope for cell in layers.cells}
    assert by_place == {(0, 0): (0,), (0, 1): (1,), (0, 2): (2,), (0, 3): (3,), (1, 1): (2,), (1, 2): (1,)}
    assert layers.columns == ("0", "1", "2", "3")
    alone = make_grid(made.workspace(), made.state(sweep="layers", layers=(2,)))
    assert alone.rows == ("this layer alone",) and len(alone.cells) == 4
    heads = make_grid(made.workspace(), made.state(sweep="heads", layers=(1, 3), heads=(1,)))
    assert [(c.row, c.column, c.steering.scope, c.steering.heads) for c in heads.cells] == [
        (0, 0, (1,), (1,)),
        (1, 0, (3,), (1,)),
    ]
    doses = make_grid(
        made.workspace(), made.state(sweep="ck x cv", sweep_ck=(0.0, 1.0, 0.0), sweep_cv=(2.0,), part="values")
    )
    assert [(c.steering.ck, c.steering.cv) for c in doses.cells] == [(0.0, 2.0), (1.0, 2.0)]


def test_own_text_is_the_only_prompt(made: Made) -> None:
    sweep = swept(made.workspace(), made.state(task=None, prompt="Ann has 3 apples, gets 4. How many?", sweep="layers"))
    assert len(sweep.asked) == 1 and sweep.value(sweep.baseline, "accuracy") is None
    assert sweep.values("reasoned")[0][0] is not None


def test_nothing_is_chosen_on_test_questions(made: Made) -> None:
    with pytest.raises(ValueError, match="never chosen on test questions"):
        swept(made.workspace(), made.state(split="test"))


def test_what_cannot_be_swept_is_refused_before_anything_runs(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running, "decode", lambda *given: pytest.fail("something was decoded"))
    for changes, message in [
        ({"layers": ()}, "No layers"),
        ({"offset": "a b c"}, "not one"),
        ({"max_new_tokens": 3000}, "context"),
        ({"slot": 700}, "There is no position 700: the shortest prompt has"),
    ]:
        with pytest.raises(ValueError, match=message):
            swept(made.workspace(), made.state(sweep="layers", **changes))


def test_cancel_takes_less_than_a_second_and_keeps_whole_cells(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    state = made.state(
        sweep="ck x cv", sweep_ck=tuple(range(12)), sweep_cv=tuple(range(12)), sweep_questions=8, max_new_tokens=64
    )
    cancelled, chunks, pressed = Cancelled(), [], []

    def seen(sweep: Sweep) -> None:
        chunks.append(len(sweep.done))
        if len(sweep.done) >= 3 and not pressed:
            pressed.append(time.perf_counter())
            threading.Timer(0.02, cancelled.set).start()  # while the next chunk is decoded
            kept.append(sweep)

    kept: list[Sweep] = []
    with pytest.raises(CancelledError):
        for _ in run_sweep(made.workspace(), state, cancelled, seen):
            pass
    assert time.perf_counter() - pressed[0] < 1
    assert 3 <= len(kept[0].done) < 144 and not kept[0].complete
    assert all(len(texts) == 8 for texts in kept[0].done.values()) and kept[0].remaining is not None
    assert len(kept[0].to_frame()) == len(kept[0].done) + 1


def test_chunks_grow_until_they_take_long(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    decode = sweeping._decode

    def timed(workspace: Any, state: Any, asked: Any, methods: Any, cancelled: Any, *told: Any) -> Any:
        sizes.append(len(methods))
        clock[0] += 10.0 if len(methods) > 3 else 0.01
        return decode(workspace, state, asked, methods, cancelled, *told)

    clock = [0.0]
    monkeypatch.setattr(sweeping, "_decode", timed)
    monkeypatch.setattr(sweeping.time, "perf_counter", lambda: clock[0])
    swept(
        made.workspace(),
        made.state(
            sweep="ck x cv",
            sweep_ck=(0.0, 1.0, 2.0),
            sweep_cv=(1.0, 2.0, 3.0, 4.0),
            sweep_questions=1,
            max_new_tokens=4,
        ),
    )
    assert sizes == [1, 1, 2, 4, 4, 1]


def test_a_chunk_makes_way_for_more_urgent_work_and_is_done_later(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    state = made.state(sweep="layers", sweep_questions=2, max_new_tokens=8)
    whole, decode = swept(made.workspace(), state), sweeping._decode
    cancelled, calls = Cancelled(), list[int]()

    def once(workspace: Any, state: Any, asked: Any, methods: Any, stop: Any, *told: Any) -> Any:
        calls.append(len(methods))
        if len(calls) == 3:
            cancelled.urgent.set()  # as the worker does when a slider moves
        return decode(workspace, state, asked, methods, stop, *told)

    monkeypatch.setattr(sweeping, "_decode", once)
    found: list[Sweep] = []
    done: list[int] = []
    for _ in run_sweep(made.workspace(), state, cancelled, found.append):
        done.append(len(found[-1].done))
        cancelled.urgent.clear()
    assert calls[2] == calls[3], "the same chunk began anew"
    assert found[-1].values("tokens") == whole.values("tokens") and found[-1].complete


def test_many_columns_come_coarse_to_fine(made: Made) -> None:
    grid = Grid("Layers", "", "layer", ("alone",), tuple(map(str, range(16))), ())
    cells = [Cell(0, column, made.workspace().steering(made.state()), {}) for column in range(16)]
    order = [cell.column for cell in sorted(cells, key=lambda cell: sweeping._coarse(cell, grid))]
    assert order == [0, 8, 4, 12, 2, 6, 10, 14, 1, 3, 5, 7, 9, 11, 13, 15]
    few = Grid("Layers", "", "layer", ("alone",), ("0", "1"), ())
    assert {sweeping._coarse(cell, few) for cell in cells} == {0}


@pytest.mark.parametrize("device", ["gpu", "cpu"])
def test_out_of_memory_halves(made: Made, monkeypatch: pytest.MonkeyPatch, device: str) -> None:
    state = made.state(sweep="layers", sweep_questions=3)
    whole, plenty = swept(made.workspace(), state), running.decode

    def scarce(model: Any, rows: Any, *rest: Any) -> Any:
        if len(rows) > 2 and device == "gpu":
            raise torch.OutOfMemoryError("CUDA out of memory")
        if len(rows) > 2:
            torch.empty(10**15)  # what a CPU says is no OutOfMemoryError
        return plenty(model, rows, *rest)

    monkeypatch.setattr(running, "decode", scarce)
    with pytest.warns(UserWarning, match="Out of memory with"):
        assert swept(made.workspace(), state).values("tokens") == whole.values("tokens")


# --- geometry -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def differences(made: Made) -> dict[str, kv.PairDifferences]:
    workspace = made.workspace()
    for name in made.pairs:
        assert list(extract_differences(workspace, name, threading.Event())) == [8, 12]
    return workspace.differences


def test_differences_in_parts_are_the_whole(made: Made, differences: dict[str, kv.PairDifferences]) -> None:
    whole = kv.extract_pairs(made.model, made.pairs["stepwise"], progress=False)
    torch.testing.assert_close(differences["stepwise"].values, whole.values, atol=1e-4, rtol=1e-4)
    assert differences["stepwise"].card == whole.card


def test_components_are_those_of_style_pca(differences: dict[str, kv.PairDifferences]) -> None:
    found = find_components(differences, 2, "keys", {})
    table = kv.analysis.style_pca(differences, [2])
    wide = (
        table[table.part == "keys"]
        .pivot(index=["style", "pair"], columns="component", values="coordinate")
        .loc[list(differences)]
    )
    np.testing.assert_allclose(found.points[["x", "y"]].to_numpy(), wide.to_numpy(), atol=1e-8)
    assert found.explained == pytest.approx(tuple(table[table.part == "keys"].groupby("component").explained.first()))
    assert found.points["set"].tolist() == ["stepwise"] * 12 + ["analogical"] * 12


def test_agreement_is_that_with_the_other_pairs(differences: dict[str, kv.PairDifferences]) -> None:
    found = find_components(differences, 2, "values", {})
    own = differences["stepwise"].values[:, 2].double().flatten(1)
    rest = [torch.cat([own[:i], own[i + 1 :]]).mean(0) for i in range(len(own))]
    cosines = torch.nn.functional.cosine_similarity(own, torch.stack(rest))
    assert found.agreement["stepwise"][2] == pytest.approx(float(cosines.mean()), abs=1e-9)
    assert [len(row) for row in found.agreement.values()] == [4, 4]
    assert np.isnan(found.agreement["stepwise"][0]), "in layer 0 the sides have the same values"
    noise = np.random.default_rng(0).normal(size=(40, 1, 400))
    assert abs(agree(noise)[0]) < 0.02, "noise agrees with nothing"
    assert agree(noise + 3.0)[0] > 0.9


def test_one_set_will_do_and_too_little_is_refused(differences: dict[str, kv.PairDifferences]) -> None:
    one = {"stepwise": differences["stepwise"]}
    assert len(find_components(one, 1, "values", {}).points) == 12
    for given, layer, message in [
        ({}, 1, "There are no pairs to look at"),
        (one, 0, "In layer 0 the sides of the pairs have the same values"),
        (one, 9, "There is no layer 9 of values"),
        ({"a": differences["stepwise"].take([0, 1])}, 1, "at least three pairs, not 2"),
        ({"a": differences["stepwise"].take([0, 0, 0])}, 1, "nothing to see"),
    ]:
        with pytest.raises(ValueError, match=message):
            find_components(given, layer, "values", {})


def test_texts_of_pairs_are_their_questions(made: Made, differences: dict[str, kv.PairDifferences]) -> None:
    own = differences["stepwise"]
    assert pair_texts(own, None, None) == own.card.recipe["questions"]
    nameless = kv.PairDifferences(own.keys, own.values, replace(own.card, recipe={}))
    for text, question in zip(
        pair_texts(nameless, made.pairs["stepwise"], None), own.card.recipe["questions"], strict=True
    ):
        assert question in text
    assert pair_texts(nameless, None, None) == [""] * 12


# --- figures ------------------------------------------------------------------------------------------------------


def test_figures_draw_what_was_found(made: Made, differences: dict[str, kv.PairDifferences]) -> None:
    sweep = swept(made.workspace(), made.state(sweep="layers", sweep_questions=2))
    drawn = plot_sweep(sweep.to_frame(), "tokens", "Layers", "", "layer").axes[0]
    image = drawn.images[0].get_array().filled(np.nan)  # type: ignore[union-attr]
    np.testing.assert_array_equal(image, np.array(sweep.values("tokens"), dtype=float))
    comparison = compared(made.workspace(), made.state(arms=("baseline", "cache steering")))
    lines = plot_tokens(comparison.tokens()).axes[1].lines
    own = comparison["cache steering"].measured
    assert own is not None and lines[0].get_ydata()[-1] == pytest.approx(own.nats())  # type: ignore[index]
    points = find_components(differences, 1, "values", {}).table()
    assert sum(len(c.get_offsets()) for c in plot_components(points, 1, "values").axes[0].collections) == len(points)


@pytest.mark.parametrize(
    "changes",
    [
        {"sweep": "heads"},
        {"sweep": "heads", "layers": (2,), "heads": (1,)},
        {"sweep": "layers"},
        {"sweep": "ck x cv", "sweep_ck": (0.0, 1.0), "sweep_cv": (0.0, 1.0, 1.5, 2.0, 4.0)},
        {"sweep": "ck x cv", "sweep_ck": (-12.25, 0.0), "sweep_cv": tuple(x / 4 for x in range(12))},
    ],
)
@pytest.mark.parametrize("measure", ["changed", "tokens"])
def test_a_sweeps_figure_is_as_wide_as_a_column_and_cuts_no_word_off(
    made: Made, changes: dict[str, Any], measure: str
) -> None:
    sweep = swept(made.workspace(), made.state(sweep_questions=1, max_new_tokens=4, **changes))
    grid = sweep.grid
    figure = plot_sweep(sweep.to_frame(), measure, grid.title, grid.row_title, grid.column_title)
    assert figure.get_figwidth() in (ONE_COLUMN, TWO_COLUMNS)
    for _ in range(6):
        figure.draw_without_rendering()
    words = [text for text in figure.findobj(Text) if text.get_text().strip() and text.get_visible()]
    boxes = {text.get_text(): text.get_window_extent() for text in words}
    assert any(grid.title in said for said in boxes)
    for said, box in boxes.items():
        assert (
            figure.bbox.x0 <= box.x0
            and box.x1 <= figure.bbox.x1
            and figure.bbox.y0 <= box.y0
            and box.y1 <= figure.bbox.y1
        ), said
    inside = [text.get_window_extent() for text in figure.axes[0].texts]
    cell = figure.axes[0].get_window_extent().width / len(grid.columns)
    assert all(box.width < cell for box in inside), "numbers run into one another"


def test_figures_of_nothing_are_refused() -> None:
    with pytest.raises(ValueError, match="no finished cell of the sweep has the measure 'accuracy'"):
        plot_sweep(pd.DataFrame({"row": ["baseline"], "column": [""], "n": [1], "accuracy": [1.0]}), "accuracy")
    with pytest.raises(ValueError, match="There are no texts to draw"):
        plot_tokens(pd.DataFrame(columns=["arm", "step", "change", "kl"]))
