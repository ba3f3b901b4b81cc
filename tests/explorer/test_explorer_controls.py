"""The explorer's fields without a browser: each sets and shows its part of the state; and what else is shown."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import ipywidgets as w
import pytest
from explorer_bench import PATIENCE, Made, busy, find, said, text_of, walk

import kvsteer_lab as kv
from kvsteer_lab.explorer.explorer import Explorer
from kvsteer_lab.explorer.state import ExplorerState
from kvsteer_lab.explorer.views.control_panel import OWN_TEXT

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
def test_each_control_sets_its_field_and_shows_it(
    explorer: Explorer, css: str, value: Any, field: str, expected: Any
) -> None:
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
        if isinstance(
            widget,
            (
                w.Text,
                w.Textarea,
                w.IntText,
                w.FloatText,
                w.Dropdown,
                w.Checkbox,
                w.Button,
                w.ToggleButton,
                w.FloatSlider,
                w.IntRangeSlider,
            ),
        ):
            assert widget.description.strip(), widget


def test_weights_of_a_mix(explorer: Explorer) -> None:
    find(explorer, "kv-vectors").value = "a mix"
    stepwise, analogical = (
        widget for widget in walk(explorer.page.ui) if "kv-weight" in getattr(widget, "_dom_classes", ())
    )
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
    explorer.set(cv=40.0, ck=-7.0, temperature=3.0)
    assert (
        find(explorer, "kv-cv-typed").value == 40.0
        and find(explorer, "kv-ck-typed").value == -7.0
        and find(explorer, "kv-temperature").value == 3.0
    )
    assert (explorer.state.cv, explorer.state.ck) == (40.0, -7.0)


def test_a_coefficient_beyond_the_slider_is_typed_and_the_slider_follows(explorer: Explorer) -> None:
    for name in ("ck", "cv"):
        slider, box = find(explorer, f"kv-{name}"), find(explorer, f"kv-{name}-typed")
        box.value = 99.0
        assert getattr(explorer.state, name) == 99.0 and slider.value == slider.max < 10, (
            "a longer one couldn't be set finely"
        )
        slider.value = 0.5
        assert box.value == 0.5 == getattr(explorer.state, name)
        box.value = 1.32
        assert abs(slider.value - 1.32) < 0.06 and getattr(explorer.state, name) == 1.32
        slider.value = 1.3000000000000007  # what the browser makes of it
        assert getattr(explorer.state, name) == box.value == 1.32, "a slider's rounding is no reader's move"
        slider.value = 1.4000000000000004
        assert getattr(explorer.state, name) == box.value == 1.4
    assert "Done" in said(explorer)


# --- texts --------------------------------------------------------------------------------------------------------


def test_all_arms_are_shown_with_their_facts(explorer: Explorer, made: Made) -> None:
    explorer.set(arms=made.state().arms)
    assert "Done" in said(explorer)
    for own in explorer.comparison.arms:  # type: ignore[union-attr]
        html = find(explorer, f"kv-arm-{own.arm.replace(' ', '-')}").value
        assert text_of(explorer, own.arm) == own.generation.answer.replace("'", "&#x27;")
        assert (
            f"style <b>{own.verdict['style'].replace('_', ' ')}</b>" in html
            and ("✓ right" in html) == own.verdict["correct"]
        )
        assert f"<b>{len(own.generation.token_ids)}</b> tokens" in html
    assert (
        "kv-up" in find(explorer, "kv-arm-cache-steering").value
        and "kv-forced" in find(explorer, "kv-arm-forced-prefix").value
    )
    explorer.page.picking.token = ["cache steering", 2, 1]
    assert find(explorer, "kv-next-tokens").value.count("<table") == 6
    assert not find(explorer, "kv-attention").value, "folded in, nothing is drawn"
    explorer.page.side.details.selected_index = 1
    assert find(explorer, "kv-attention").value.count("<table") == 6
    explorer.set(arms=("baseline",))
    assert "Done" in said(explorer) and find(explorer, "kv-arm-random-control").layout.display == "none"


def test_what_was_written_is_escaped(explorer: Explorer, made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    explorer.set(prefix="<img src=x onerror=alert(1)>&", arms=("forced prefix",))
    assert "Done" in said(explorer)
    assert (
        "<img" not in find(explorer, "kv-arm-forced-prefix").value
        and "&lt;img" in find(explorer, "kv-arm-forced-prefix").value
    )
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
    from kvsteer_lab.explorer.work import attention

    def refuse(*given: Any, **settings: Any) -> None:
        raise kv.UnsteerableModelError("The attention of this model can't be looked into: it is code of its own.")

    monkeypatch.setattr(attention, "attention_to_slot", refuse)
    explorer.compare()
    assert "Done" in said(explorer)
    assert "can&#x27;t be looked into" in find(explorer, "kv-attention").value
    assert "kv-token" in find(explorer, "kv-arm-cache-steering").value


def test_looks_at_test_questions_are_counted(explorer: Explorer) -> None:
    explorer.set(split="test")
    assert (
        "Done" in said(explorer)
        and "each look counts" in explorer.page.controls.asked.value
        and "Looked at so far: 1" in explorer.page.controls.asked.value
    )
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
    marked = [steered, find(explorer, "kv-details")]
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
    assert (
        said(explorer) == "Done."
        and line.layout.visibility == "hidden"
        and not any("kv-earlier" in view._dom_classes for view in marked)
    )


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
    assert explorer.wait(PATIENCE) and "at position -2: " in dose.value
    find(explorer, "kv-slot").value = -1
    assert dose.value == double and explorer.wait(PATIENCE) and dose.value == double
