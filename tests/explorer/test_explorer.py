"""The explorer without a browser: latest wins, cancelling, cells, pairs, and other architectures."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
import random_models
from explorer_bench import PATIENCE, Made, busy, find, said, until

import kvsteer_lab as kv
from kvsteer_lab.explorer.explorer import Explorer
from kvsteer_lab.explorer.state import ExplorerState
from kvsteer_lab.explorer.views.page import TABS
from kvsteer_lab.explorer.work import running

# --- speed --------------------------------------------------------------------------------------------------------


def test_callbacks_return_at_once_and_a_fast_drag_runs_the_last_value(
    explorer: Explorer, monkeypatch: pytest.MonkeyPatch
) -> None:
    finished: list[float] = []
    whole = explorer.jobs._have_measured
    monkeypatch.setattr(
        explorer.jobs, "_have_measured", lambda comparison: (finished.append(comparison.state.cv), whole(comparison))[1]
    )
    gate, plenty = threading.Event(), running.decode

    def slow(*given: Any) -> Any:
        gate.wait(10)
        return plenty(*given)

    monkeypatch.setattr(running, "decode", slow)
    slider = find(explorer, "kv-cv")
    start = time.perf_counter()
    for value in range(30):
        slider.value = value / 10
    took = time.perf_counter() - start
    gate.set()
    assert explorer.wait(PATIENCE)
    assert took < 3, "thirty callbacks waited for the model"
    assert finished == [2.9] and explorer.comparison.state.cv == 2.9  # type: ignore[union-attr]


def test_cancel_of_a_sweep_takes_less_than_a_second_and_keeps_cells(explorer: Explorer) -> None:
    explorer.set(sweep="ck x cv", sweep_ck=tuple(range(12)), sweep_cv=tuple(range(12)), max_new_tokens=64)
    assert explorer.wait(PATIENCE)
    find(explorer, "kv-sweep-run").click()
    assert find(explorer, "kv-sweep-run").disabled and not find(explorer, "kv-sweep-cancel").disabled
    until(lambda: explorer.swept is not None and len(explorer.swept.done) >= 3)
    start = time.perf_counter()
    find(explorer, "kv-sweep-cancel").click()
    assert explorer.wait(PATIENCE) and time.perf_counter() - start < 1
    done = len(explorer.swept.done)  # type: ignore[union-attr]
    assert said(explorer, "kv-sweep-status") == f"Cancelled: {done} of 144 cells are done and kept." and 3 <= done < 144
    shown = [value for row in explorer.page.ablation.heatmap.values for value in row if value is not None]
    assert (
        len(shown) == done
        and not find(explorer, "kv-sweep-run").disabled
        and find(explorer, "kv-sweep-cancel").disabled
    )
    explorer.set(sweep_ck=(0.0,), sweep_cv=(2.0,))
    find(explorer, "kv-sweep-run").click()
    assert said(explorer, "kv-sweep-status").startswith("Done: 1 cells") and find(explorer, "kv-sweep-bar").value == 1


def test_a_second_click_on_run_leaves_cancel_to_the_sweep_that_runs(explorer: Explorer) -> None:
    explorer.set(sweep="ck x cv", sweep_ck=tuple(range(12)), sweep_cv=tuple(range(12)), max_new_tokens=64)
    assert explorer.wait(PATIENCE)
    run, stop = find(explorer, "kv-sweep-run"), find(explorer, "kv-sweep-cancel")
    run.click()
    run.click()
    until(lambda: explorer.swept is not None and len(explorer.swept.done) >= 3)
    assert run.disabled and not stop.disabled
    stop.click()
    assert said(explorer, "kv-sweep-status").startswith("Cancelled: ") and not run.disabled and stop.disabled


def test_a_sweep_that_never_began_reports_no_cells(explorer: Explorer) -> None:
    explorer.set(sweep="ck x cv", sweep_ck=(0.0,), sweep_cv=(1.0, 2.0), sweep_questions=1)
    explorer.sweep()
    assert said(explorer, "kv-sweep-status").startswith("Done: 2 cells")
    gate = busy(explorer)
    explorer.sweep()
    find(explorer, "kv-sweep-cancel").click()
    gate.set()
    assert said(explorer, "kv-sweep-status") == "Cancelled before it began; the cells are of the sweep before."


def test_a_cell_that_was_picked_shows_its_texts_when_it_is_done(explorer: Explorer) -> None:
    explorer.set(sweep="ck x cv", sweep_ck=(0.0, 1.0, 2.0), sweep_cv=(0.0, 1.0, 2.0), sweep_questions=1)
    explorer.sweep()
    until(lambda: explorer.swept is not None and bool(explorer.swept.baseline))
    gate = busy(explorer)
    if (2, 2) not in explorer.swept.done:  # type: ignore[union-attr]
        explorer.page.ablation.heatmap.picked = [2, 2, 1]
        assert "This cell isn&#x27;t done yet" in find(explorer, "kv-cell-texts").value
    gate.set()
    assert said(explorer, "kv-sweep-status").startswith("Done") and explorer.page.ablation.heatmap.picked[:2] == [2, 2]
    html = find(explorer, "kv-cell-texts").value
    assert "done yet" not in html and explorer.swept.done[2, 2][0].generation.answer in html  # type: ignore[union-attr]


def test_a_comparison_goes_between_the_chunks_of_a_sweep(explorer: Explorer) -> None:
    explorer.set(sweep="ck x cv", sweep_ck=tuple(range(12)), sweep_cv=tuple(range(12)), max_new_tokens=64)
    assert explorer.wait(PATIENCE)
    explorer.sweep()
    until(lambda: explorer.swept is not None and len(explorer.swept.done) >= 3)
    explorer.set(cv=0.0)
    until(lambda: explorer.comparison.state.cv == 0.0)  # type: ignore[union-attr]
    assert not explorer.swept.complete  # type: ignore[union-attr]
    find(explorer, "kv-stop").click()
    assert explorer.wait(PATIENCE)


# --- cells and pairs ----------------------------------------------------------------------------------------------


def test_a_cell_shows_its_texts_and_gives_its_setting(explorer: Explorer) -> None:
    explorer.set(sweep="layers", sweep_questions=3)
    find(explorer, "kv-sweep-run").click()
    assert said(explorer, "kv-sweep-status").startswith("Done: 7 cells")
    heatmap = explorer.page.ablation.heatmap
    assert find(explorer, "kv-cell-use").disabled
    heatmap.picked = [0, 1, 1]
    html = find(explorer, "kv-cell-texts").value
    for text in explorer.swept.done[0, 1]:  # type: ignore[union-attr]
        assert text.generation.answer in html and text.asked.question.text in html  # type: ignore[union-attr]
    assert "layers 1" in html
    find(explorer, "kv-cell-use").click()
    assert explorer.state.layers == (1,) and "Done" in said(explorer)
    first = explorer.swept.done[0, 1][0].generation  # type: ignore[union-attr]
    assert first.text == explorer.comparison["cache steering"].generation.text  # type: ignore[index]
    heatmap.picked = [1, 0, 2]
    assert (
        "no setting at this place" in find(explorer, "kv-cell-texts").value and find(explorer, "kv-cell-use").disabled
    )
    explorer.set(measure="tokens")
    assert heatmap.legend.startswith("mean tokens over 3 prompts; baseline ") and heatmap.high > 1


def test_a_cell_gives_the_setting_that_it_was_made_with(explorer: Explorer, made: Made) -> None:
    explorer.set(sweep="layers", sweep_questions=2, heads=(0,), cv=2.0, max_new_tokens=30)
    explorer.sweep()
    assert said(explorer, "kv-sweep-status").startswith("Done")
    swept = explorer.swept
    explorer.set(
        heads=None,
        cv=6.0,
        ck=1.0,
        part="keys",
        mix={"analogical": 1.0},
        offset=" ",
        split="extraction",
        seed=3,
        max_new_tokens=5,
        sample=True,
    )
    assert explorer.wait(PATIENCE) and swept is not None
    explorer.page.ablation.heatmap.picked = [1, 2, 1]
    find(explorer, "kv-cell-use").click()
    assert explorer.state == swept.state.changed({"layers": (1, 3)}) and "Done" in said(explorer)
    text = swept.done[1, 2][0].generation.text
    assert explorer.comparison["cache steering"].generation.text == text != swept.baseline[0].generation.text  # type: ignore[index]


def test_test_questions_are_not_swept(explorer: Explorer) -> None:
    explorer.set(split="test")
    explorer.sweep()
    assert "never chosen on test questions" in said(explorer, "kv-sweep-status")


def test_the_geometry_tab_draws_when_it_is_opened(explorer: Explorer) -> None:
    scatter = explorer.page.geometry.scatter
    assert not scatter.points
    explorer.page.tabs.selected_index = TABS.index("Geometry")
    assert said(explorer, "kv-geometry-status") == "stepwise, analogical: 24 pairs." and len(scatter.points) == 24
    assert {p["text"] for p in scatter.points} == set(explorer.workspace.pairs["stepwise"].recipe["questions"])
    assert set(scatter.looks) == {"stepwise", "analogical"} and len({shape for _, shape in scatter.looks.values()}) == 2
    agreement = find(explorer, "kv-geometry-agreement").value
    assert agreement.count("<tr>") == 3 and agreement.count("<td") == 8 and "their values" in agreement
    find(explorer, "kv-geometry-layer").value = 0
    assert "there is nothing to see" in said(explorer, "kv-geometry-status") and not scatter.points
    find(explorer, "kv-geometry-part").value = "keys"
    assert (
        len(scatter.points) == 24
        if said(explorer, "kv-geometry-status") == "stepwise, analogical: 24 pairs."
        else not scatter.points
    )


def test_the_same_pairs_are_drawn_anew_when_the_tab_is_opened_again(explorer: Explorer) -> None:
    explorer.look()
    assert explorer.wait(PATIENCE)
    drawn: list[int] = []
    explorer.page.geometry.scatter.observe(lambda change: drawn.append(len(change["new"])), "points")
    explorer.look()
    assert explorer.wait(PATIENCE) and drawn == [0, 24]


def test_without_pairs_the_geometry_tab_says_what_to_pass(made: Made) -> None:
    explorer = kv.explore(made.model, made.vectors["stepwise"])
    explorer.look()
    assert "pass kv.explore pairs=... or differences=..." in said(explorer, "kv-geometry-status")
    explorer.close()


def test_the_code_follows_the_state(explorer: Explorer) -> None:
    explorer.set(cv=3.25)
    assert "cv=3.25" in explorer.page.keep.code.code == explorer.code


# --- other architectures ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "line", "attention"),
    [
        ("gpt2", "Done.", "Mean attention weight"),
        ("gemma3", "Done. The steered slot leaves the sliding window", "Mean attention weight"),
        ("falcon", "Done.", "The attention of falcon can&#x27;t be looked into"),
    ],
)
@pytest.mark.filterwarnings("ignore:The steered slot leaves")
def test_other_architectures_are_explored(
    load_random: Callable[[str], kv.Model], name: str, line: str, attention: str
) -> None:
    model = load_random(name)
    explorer = kv.explore(
        model,
        {"vectors": random_models.vectors_for(model)},
        state=ExplorerState(
            prompt="hello there what", ck=3, cv=20, max_new_tokens=24, arms=("baseline", "cache steering")
        ),
    )
    try:
        assert said(explorer).startswith(line)
        explorer.page.side.details.selected_index = 1
        assert attention in find(explorer, "kv-attention").value
        comparison = explorer.comparison
        assert comparison is not None
        same = kv.generate(
            model,
            ["hello there what"],
            list(explorer.workspace.interventions(explorer.state).values()),
            generation={"max_new_tokens": 24},
        )
        assert [own.generation.token_ids for own in comparison.arms] == [row.token_ids for row in same]
        assert len({row.text for row in same}) == 2, "steering changed nothing"
        explorer.set(sweep="heads", max_new_tokens=4)
        explorer.sweep()
        assert said(explorer, "kv-sweep-status").startswith("Done")
    finally:
        explorer.close()


# --- opening ------------------------------------------------------------------------------------------------------


def test_defaults_fit_the_model_and_the_task(made: Made) -> None:
    explorer = kv.explore(made.model, made.vectors, task=made.task)
    assert (explorer.state.task, explorer.state.split, explorer.state.question) == (made.task.name, "dev", 0)
    assert explorer.state.prefix == kv.ForcedPrefix.of_style(made.task, made.model.tokenizer, "stepwise").text
    assert repr(explorer) == "Explorer(tiny, vectors: stepwise, analogical)"
    assert explorer._repr_mimebundle_()["text/plain"] == repr(explorer)
    explorer.close()


def test_what_is_no_vectors_is_refused(made: Made, model: kv.Model, vectors: kv.KVVectors) -> None:
    for given, message in [
        ({}, "The explorer needs vectors"),
        ({"a": 3}, "vectors must be a kv.KVVectors"),
        (vectors, "extract vectors from this model"),
    ]:
        with pytest.raises(ValueError, match=message):
            kv.explore(made.model, given)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="pairs must be a"):
        kv.explore(made.model, made.vectors, pairs=3)  # type: ignore[arg-type]
    assert not [thread for thread in threading.enumerate() if thread.name == "kvsteer-explorer"]
