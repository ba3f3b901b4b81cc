"""The explorer's knobs without a browser: every control, what is shown, and errors in one line."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import ipywidgets as w
import pytest
import torch
from explorer_bench import PATIENCE, Made, busy, find, make, said, text_of, walk

import kvsteer_lab as kv
from kvsteer_lab.widgets import running
from kvsteer_lab.widgets.controls import OWN_TEXT
from kvsteer_lab.widgets.explorer import Explorer
from kvsteer_lab.widgets.knobs import slider
from kvsteer_lab.widgets.state import ExplorerState


@pytest.fixture(scope="module")
def made(tiny: kv.Model) -> Made:
    return make(tiny)


@pytest.fixture
def explorer(made: Made, tmp_path: Path) -> Iterator[Explorer]:
    state = made.state(arms=("baseline", "cache steering"))
    explorer = kv.explore(made.model, made.vectors, task=made.task, pairs=made.pairs, state=state, folder=tmp_path)
    assert explorer.wait(PATIENCE)
    yield explorer
    explorer.close()


# --- controls -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("css", "value", "field", "expected"),
    [
        ("kv-task", OWN_TEXT, "task", None),
        ("kv-split", "extraction", "split", "extraction"),
        ("kv-question", 2, "question", 2),
        ("kv-prompt", "Hello", "prompt", "Hello"),
        ("kv-vectors", "analogical", "mix", {"analogical": 1.0}),
        ("kv-vectors", "a mix", "mix", {"stepwise": 1.0, "analogical": 0.0}),
        ("kv-ck", 0.5, "ck", 0.5),
        ("kv-cv", 3.5, "cv", 3.5),
        ("kv-part", "values", "part", "values"),
        ("kv-layer-range", (2, 3), "layers", (2, 3)),
        ("kv-layers-2", False, "layers", (1, 3)),
        ("kv-layers-0", True, "layers", (0, 1, 2, 3)),
        ("kv-heads-0", False, "heads", (1,)),
        ("kv-slot", -2, "slot", -2),
        ("kv-offset", " ", "offset", " "),
        ("kv-arms-CoT-prompt", True, "arms", ("baseline", "CoT prompt", "cache steering")),
        ("kv-arms-baseline", False, "arms", ("cache steering",)),
        ("kv-cot", "Think.", "cot", "Think."),
        ("kv-prefix", "Just", "prefix", "Just"),
        ("kv-activation-layer", 2, "activation_layer", 2),
        ("kv-activation-coefficient", 0.5, "activation_coefficient", 0.5),
        ("kv-every-token", True, "every_token", True),
        ("kv-control-seed", 3, "control_seed", 3),
        ("kv-sample", True, "sample", True),
        ("kv-temperature", 0.5, "temperature", 0.5),
        ("kv-top-p", 0.5, "top_p", 0.5),
        ("kv-seed", 9, "seed", 9),
        ("kv-max-new-tokens", 5, "max_new_tokens", 5),
        ("kv-sweep", "heads", "sweep", "heads"),
        ("kv-sweep-questions", 3, "sweep_questions", 3),
        ("kv-sweep-ck", "0, .5", "sweep_ck", (0.0, 0.5)),
        ("kv-sweep-cv", "1,2", "sweep_cv", (1.0, 2.0)),
        ("kv-measure", "tokens", "measure", "tokens"),
        ("kv-geometry-layer", 2, "geometry_layer", 2),
        ("kv-geometry-part", "keys", "geometry_part", "keys"),
    ],
)
def test_each_control_sets_its_field_and_shows_it(explorer: Explorer, css: str, value: Any, field: str, expected: Any) -> None:
    before = explorer.state
    control = find(explorer, css)
    old = control.value
    control.value = value
    assert getattr(explorer.state, field) == expected
    assert before.difference(explorer.state) == {field}
    assert "Done" in said(explorer) or ("The prompt is empty" in said(explorer) and field == "task"), said(explorer)
    explorer.set(**{field: getattr(before, field)})
    assert control.value == old and explorer.state == before


def test_controls_that_change_texts_run_the_comparison_and_others_do_not(explorer: Explorer) -> None:
    steered, first = text_of(explorer, "cache steering"), explorer.comparison
    find(explorer, "kv-measure").value = "tokens"
    assert explorer.wait(PATIENCE) and explorer.comparison is first
    find(explorer, "kv-cv").value = 0.0
    assert explorer.wait(PATIENCE) and explorer.comparison is not first
    assert text_of(explorer, "cache steering") == text_of(explorer, "baseline") != steered


def test_every_field_has_a_control(explorer: Explorer) -> None:
    classes = {css for widget in walk(explorer.page.ui) for css in getattr(widget, "_dom_classes", ())}
    missing = {f.name for f in fields(ExplorerState)} - {css.removeprefix("kv-").replace("-", "_") for css in classes}
    assert not missing


def test_every_control_is_labelled(explorer: Explorer) -> None:
    for widget in walk(explorer.page.ui):
        if isinstance(widget, (w.Text, w.Textarea, w.IntText, w.FloatText, w.Dropdown, w.Checkbox, w.Button, w.ToggleButton, w.FloatSlider, w.IntRangeSlider)):
            assert widget.description.strip(), widget


def test_weights_of_a_mix(explorer: Explorer) -> None:
    find(explorer, "kv-vectors").value = "a mix"
    stepwise, analogical = (widget for widget in walk(explorer.page.ui) if "kv-weight" in getattr(widget, "_dom_classes", ()))
    assert find(explorer, "kv-mix").layout.display != "none"
    analogical.value = 1.5
    stepwise.value = 0.0
    assert explorer.state.mix == {"stepwise": 0.0, "analogical": 1.5}
    assert text_of(explorer, "cache steering") and "Done" in said(explorer)
    stepwise.value, analogical.value = 0.0, 0.0
    assert "All weights of the mix are zero" in said(explorer)
    find(explorer, "kv-vectors").value = "stepwise"
    assert explorer.state.mix == {"stepwise": 1.0} and "Done" in said(explorer)


def test_a_state_beyond_the_sliders_is_shown(explorer: Explorer) -> None:
    explorer.set(cv=40.0, ck=-7.0)
    assert find(explorer, "kv-cv").value == 40.0 and find(explorer, "kv-ck").value == -7.0


# --- texts --------------------------------------------------------------------------------------------------------


def test_all_arms_are_shown_with_their_facts(explorer: Explorer, made: Made) -> None:
    explorer.set(arms=made.state().arms)
    assert "Done" in said(explorer)
    for own in explorer.comparison.arms:  # type: ignore[union-attr]
        html = find(explorer, f"kv-arm-{own.arm.replace(' ', '-')}").value
        assert text_of(explorer, own.arm) == own.generation.answer.replace("'", "&#x27;")
        assert f"style <b>{own.verdict['style'].replace('_', ' ')}</b>" in html and ("✓ right" in html) == own.verdict["correct"]
        assert f"<b>{len(own.generation.token_ids)}</b> tokens" in html
    assert "kv-up" in find(explorer, "kv-arm-cache-steering").value and "kv-forced" in find(explorer, "kv-arm-forced-prefix").value
    assert find(explorer, "kv-next-tokens").value.count("<table") == 15
    assert find(explorer, "kv-attention").value.count("<table") == 6
    explorer.set(arms=("baseline",))
    assert "Done" in said(explorer) and find(explorer, "kv-arm-random-control").layout.display == "none"


def test_what_was_written_is_escaped(explorer: Explorer, made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    explorer.set(prefix="<img src=x onerror=alert(1)>&", arms=("forced prefix",))
    assert "Done" in said(explorer)
    assert "<img" not in find(explorer, "kv-arm-forced-prefix").value and "&lt;img" in find(explorer, "kv-arm-forced-prefix").value
    explorer.set(task="<script>no</script>")
    assert "&lt;script&gt;" in find(explorer, "kv-status").value or said(explorer)
    assert "<script>" not in find(explorer, "kv-status").value


def test_the_dose_stands_beside_the_coefficients(explorer: Explorer) -> None:
    assert explorer.wait(PATIENCE)
    table = explorer.vectors["stepwise"].relative_to(explorer.model, [explorer.comparison.asked.prompt])  # type: ignore[union-attr]
    mean = 2 * table["values"][1:].mean()
    assert f"values <b>×{mean:.2g}</b>" in explorer.page.controls.dose.html.value
    explorer.set(layers=())
    assert "unknown" in (said(explorer) and explorer.page.controls.dose.html.value)


def test_a_model_whose_attention_is_closed_says_so(explorer: Explorer, monkeypatch: pytest.MonkeyPatch) -> None:
    from kvsteer_lab.widgets import side_by_side

    def refuse(*given: Any, **settings: Any) -> None:
        raise kv.UnsteerableModelError("The attention of this model can't be looked into: it is code of its own.")

    monkeypatch.setattr(side_by_side, "attention_to_slot", refuse)
    explorer.compare()
    assert "Done" in said(explorer)
    assert "can&#x27;t be looked into" in find(explorer, "kv-attention").value
    assert "kv-token" in find(explorer, "kv-arm-cache-steering").value


def test_looks_at_test_questions_are_counted(explorer: Explorer) -> None:
    explorer.set(split="test")
    assert "Done" in said(explorer) and "each look counts" in explorer.page.controls.asked.value and "Looked at so far: 1" in explorer.page.controls.asked.value
    explorer.set(question=1)
    assert "Done" in said(explorer) and "Looked at so far: 2" in explorer.page.controls.asked.value
    explorer.set(question=0)
    assert "Done" in said(explorer) and "Looked at so far: 2" in explorer.page.controls.asked.value


def test_the_asked_question_stands_while_it_is_asked(explorer: Explorer) -> None:
    asked, question = explorer.page.controls.asked, explorer.comparison.asked.question.text  # type: ignore[union-attr]
    assert question in asked.value
    find(explorer, "kv-measure").value = "tokens"
    explorer.look(layer=2)
    find(explorer, "kv-cv").value = 1.0
    assert question in asked.value and "Done" in said(explorer) and question in asked.value
    gate = busy(explorer)
    explorer.set(question=1)
    assert question not in asked.value
    gate.set()
    assert "Done" in said(explorer) and explorer.comparison.asked.question.text in asked.value != question  # type: ignore[union-attr]


def test_a_dev_question_is_no_test_question_after_one_was_looked_at(explorer: Explorer) -> None:
    explorer.set(split="test")
    assert "Done" in said(explorer) and "Looked at so far: 1" in explorer.page.controls.asked.value
    explorer.set(split="dev")
    assert "Done" in said(explorer) and "look" not in explorer.page.controls.asked.value


def test_ones_own_text_is_a_choice_that_the_list_names(explorer: Explorer) -> None:
    explorer.set(task=None, prompt="Hello")
    assert find(explorer, "kv-task").label == "my own text" and "Done" in said(explorer)


def test_texts_of_an_earlier_setting_are_marked(explorer: Explorer) -> None:
    line, steered = find(explorer, "kv-earlier-line"), find(explorer, "kv-arm-cache-steering")
    marked = [steered, find(explorer, "kv-next-tokens"), find(explorer, "kv-attention")]
    assert line.layout.visibility == "hidden" and not any("kv-earlier" in view._dom_classes for view in marked)
    gate = busy(explorer)
    find(explorer, "kv-cv").value = 0.0
    find(explorer, "kv-stop").click()
    gate.set()
    assert said(explorer) == "Cancelled." and line.layout.visibility == "visible"
    assert all("kv-earlier" in view._dom_classes for view in marked), "they stand there with their marks and numbers"
    explorer.set(measure="tokens", geometry_layer=2)
    assert explorer.wait(PATIENCE) and line.layout.visibility == "visible"
    find(explorer, "kv-run").click()
    assert said(explorer) == "Done." and line.layout.visibility == "hidden" and not any("kv-earlier" in view._dom_classes for view in marked)


def test_the_dose_is_never_that_of_another_setting(explorer: Explorer) -> None:
    dose = explorer.page.controls.dose.html
    first = dose.value
    gate = busy(explorer)
    find(explorer, "kv-cv").value = 4.0
    double = dose.value
    assert "values <b>×" in double and double != first, "the slot was measured: it needs no model"
    find(explorer, "kv-slot").value = -2
    assert "not measured yet" in dose.value
    find(explorer, "kv-stop").click()
    gate.set()
    assert explorer.wait(PATIENCE) and "not measured yet" in dose.value
    find(explorer, "kv-run").click()
    assert explorer.wait(PATIENCE) and "Dose, relative to slot -2" in dose.value
    find(explorer, "kv-slot").value = -1
    assert dose.value == double and explorer.wait(PATIENCE) and dose.value == double


# --- errors -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"task": None, "prompt": "  "}, "The prompt is empty"),
        ({"task": None, "prompt": "word " * 3000}, "but the context of tiny is 2048; shorten it"),
        ({"cv": float("nan")}, "The state's cv is nan"),
        ({"layers": ()}, "No layers are chosen"),
        ({"arms": ()}, "The state's arms is ()"),
        ({"task": "gsm9k"}, "There is no task 'gsm9k'"),
        ({"question": 10**6}, "gives at most 5000 questions"),
        ({"offset": "ab cd"}, "not one"),
        ({"mix": {"lost": 1.0}}, "There are no vectors called 'lost' here"),
    ],
)
def test_bad_input_is_one_line_and_the_explorer_lives_on(explorer: Explorer, changes: dict[str, Any], message: str) -> None:
    good = explorer.state
    explorer.move(changes)
    line = said(explorer).replace("&#x27;", "'")
    assert message in line and "\n" not in line and "kv-error" in find(explorer, "kv-status").value
    explorer.set(**{name: getattr(good, name) for name in changes}, seed=1)
    assert "Done" in said(explorer) and text_of(explorer, "cache steering")


def test_an_error_that_is_newer_than_the_work_stays(explorer: Explorer) -> None:
    gate = busy(explorer)
    explorer.set(cv=1.0)
    explorer.move({"question": -1})
    gate.set()
    assert "The state&#x27;s question is -1" in said(explorer) and explorer.comparison.state.cv == 1.0  # type: ignore[union-attr]
    explorer.compare()
    assert said(explorer) == "Done."


def test_no_turn_of_a_knob_is_lost_between_threads(explorer: Explorer) -> None:
    explorer.cancel()
    turns = {name: [float(i) / 10 for i in range(1, 60)] for name in ("ck", "activation_coefficient", "temperature")}

    def turn(name: str) -> None:
        for value in turns[name]:
            explorer.move({name: value})

    threads = [threading.Thread(target=turn, args=(name,)) for name in turns]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    explorer.cancel()
    assert [getattr(explorer.state, name) for name in turns] == [5.9, 5.9, 5.9]


def test_a_control_that_is_moved_while_another_thread_shows_a_state_counts() -> None:
    moved: list[Any] = []
    knob = slider("cv", "c_v", -4.0, 8.0, 0.1, "")
    knob.bind(lambda field, value: moved.append(value))
    began, gate = threading.Event(), threading.Event()

    def slow(change: Any) -> None:
        if threading.current_thread() is not threading.main_thread():
            began.set()
            gate.wait(PATIENCE)

    knob.widget.observe(slow, "value")
    thread = threading.Thread(target=knob.show, args=(ExplorerState(cv=1.0),))
    thread.start()
    assert began.wait(PATIENCE)
    knob.widget.value = 3.0
    gate.set()
    thread.join()
    assert moved == [3.0]


def test_set_by_code_raises_and_changes_nothing(explorer: Explorer) -> None:
    before = explorer.state
    with pytest.raises(ValueError, match="The state's cv is nan"):
        explorer.set(cv=float("nan"), ck=1.0)
    with pytest.raises(ValueError, match="mood"):
        explorer.set(mood=1)
    assert explorer.state == before


def test_out_of_memory_is_one_line(explorer: Explorer, monkeypatch: pytest.MonkeyPatch) -> None:
    plenty = running.decode

    def scarce(*given: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")

    monkeypatch.setattr(running, "decode", scarce)
    explorer.set(sweep_questions=1)
    with pytest.warns(UserWarning, match="Out of memory"):
        explorer.compare()
        line = said(explorer)
    assert line.startswith("Out of memory; ask for fewer new tokens") and text_of(explorer, "cache steering") == ""
    explorer.sweep()
    assert said(explorer, "kv-sweep-status").startswith("Out of memory") and not find(explorer, "kv-sweep-run").disabled
    monkeypatch.setattr(running, "decode", plenty)
    find(explorer, "kv-run").click()
    assert "Done" in said(explorer) and text_of(explorer, "cache steering")


def test_vectors_of_another_model_are_refused_in_one_line(explorer: Explorer, vectors: kv.KVVectors, tmp_path: Path) -> None:
    other = vectors.save(tmp_path / "other.safetensors")
    find(explorer, "kv-load-path").value = str(other)
    find(explorer, "kv-load").click()
    assert "These vectors are of a llama" in said(explorer) and str(other) not in explorer.vectors
    find(explorer, "kv-load-path").value = str(tmp_path / "nothing.safetensors")
    find(explorer, "kv-load").click()
    assert "There are no vectors at" in said(explorer)


def test_loaded_vectors_are_chosen(explorer: Explorer, made: Made, tmp_path: Path) -> None:
    path = str(made.vectors["analogical"].save(tmp_path / "mine.safetensors"))
    explorer.load_vectors(path)
    assert "Done" in said(explorer) and explorer.state.mix == {path: 1.0} and find(explorer, "kv-vectors").value == path
    assert path in explorer.code
    explorer.set(mix={"analogical": 1.0})
    same = text_of(explorer, "cache steering")
    explorer.set(mix={path: 1.0})
    assert explorer.wait(PATIENCE) and text_of(explorer, "cache steering") == same
