"""All methods from the same pairs, compared and drawn."""

from __future__ import annotations

import pandas as pd
import pytest

import kvsteer_lab as kv
from kvsteer_lab.generation.divergence import divergences


def test_methods_are_made_from_the_same_pairs_and_scale(tiny: kv.Model) -> None:
    task = kv.tasks.get("tiny-arithmetic")
    named = kv.analysis.steering_methods(tiny, task, "stepwise", pairs=4)
    assert next(iter(named)) == "mean difference" and len(named) == 25
    assert [method.label for method in named.values()] == list(named)
    assert {method.style for name, method in named.items() if "residual" not in name} == {"stepwise"}
    chat = task.chat(task.questions("dev", 1)[0])
    text = [kv.generate(tiny, chat).token_ids[0]]
    methods = [each.at(0.5 * each.coefficient, f"half {name}") for name, each in named.items()]
    halves, wholes = (divergences(tiny, chat, text, given) for given in (methods, list(named.values())))
    moved = [(half.totals[0], whole.totals[0]) for half, whole in zip(halves, wholes, strict=True)]
    assert sum(half < whole for half, whole in moved) >= len(moved) - 3  # more is more, nearly everywhere
    gated = named["mean difference, gated"].edits[0].when  # type: ignore[attr-defined]
    asked = [task.chat(question) for question in task.questions("test", 6)]
    assert all(kv.edits.opens_on(gated, tiny, asked))
    everyday = [question.text for question in kv.behaviours.get("french").task.questions("test", 8)]
    assert sum(kv.edits.opens_on(gated, tiny, everyday)) <= 2  # it was fitted to eight prompts, none of these
    assert len(named["learned bank"].edits[0].bank) == 4  # type: ignore[attr-defined]
    for method in named.values():
        (control,) = method.controls(1)
        assert control.control_of == method.label and control.control_kind == "random"


def test_a_figure_counts_what_its_title_says() -> None:
    rows = []
    for name, adopted, p in (("mean difference", 0.9, 0.025), ("every token", 0.1, 0.5), ("keys only", None, None)):
        low, high = (None, None) if adopted is None else (adopted - 0.1, adopted + 0.1)
        row = dict(method=name, nats=0.5, adopted=adopted, adopted_low=low, adopted_high=high, tokens=30.0, matched=39)
        rows.append(row | dict(random_adopted_low=0.0, random_adopted_high=0.1, p_random_adopted=p))
    figure = kv.figures.plot_methods(pd.DataFrame(rows))
    assert (
        figure.axes[0].get_title()
        == "At a total KL of 0.5 nats 1 of 2 methods does\nmore than all of its random controls"
    )
    assert [t.get_text() for t in figure.axes[0].get_yticklabels()] == ["keys only", "every token", "mean difference"]
    both = pd.concat([pd.DataFrame(rows).assign(model="a"), pd.DataFrame(rows[:1]).assign(model="b", matched=19)])
    figure = kv.figures.plot_methods(both)
    axes = figure.axes
    assert figure.get_suptitle() == "Methods that do more than all of their random controls at a total KL of 0.5 nats"
    assert (axes[0].get_title(), axes[2].get_title()) == ("a: 1 of 2", "b: 1 of 1")
    assert axes[2].lines[0].get_xydata().tolist() == [[0.9, 2]]  # beside the first model's, not below it
    with pytest.raises(ValueError, match="The table needs one divergence"):
        kv.figures.plot_methods(pd.concat([pd.DataFrame(rows), pd.DataFrame(rows).assign(nats=1.0)]))
