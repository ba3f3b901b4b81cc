"""Earlier comparisons, their differences, the static page, and the layers of deep models as text."""

from __future__ import annotations

from pathlib import Path

import ipywidgets as w
import pytest
from explorer_bench import Made, compared, find, said
from nasty import NASTY, seen_in_html

import kvsteer_lab as kv
from kvsteer_lab.explorer.explorer import Explorer
from kvsteer_lab.explorer.results.history import MOST, added, describe, difference
from kvsteer_lab.explorer.views.control_panel import ControlPanel
from kvsteer_lab.explorer.views.fields import read_layers, write_layers
from kvsteer_lab.explorer.views.history import difference_html


def test_every_comparison_is_kept_once_and_two_can_be_compared(explorer: Explorer) -> None:
    for cv in (0.0, 3.0, 0.0):
        explorer.set(cv=cv)
        assert "Done" in said(explorer)
    history = explorer.page.side.history
    assert [own.state.cv for own in history.kept] == [2.0, 3.0, 0.0], "the same setting again takes the older's place"
    assert "cv 3," in find(explorer, "kv-history").options[1][0]
    find(explorer, "kv-history").value = (1, 2)
    shown = find(explorer, "kv-history-difference").value
    assert "<del" in shown and "<ins" in shown
    find(explorer, "kv-history").value = (1,)
    assert "Choose two rows" in find(explorer, "kv-history-difference").value


def test_the_history_ends_somewhere(made: Made) -> None:
    first = compared(made.workspace(), made.state(arms=("baseline", "cache steering"), max_new_tokens=2))
    history: tuple = ()
    for seed in range(MOST + 3):
        history = added(history, type(first)(made.state(control_seed=seed), first.asked, first.arms))
    assert len(history) == MOST and history[-1].state.control_seed == MOST + 2
    assert "KL" in describe(first) and "2 tokens" in describe(first)


@pytest.mark.parametrize("text", NASTY)
def test_a_difference_shows_both_texts(text: str) -> None:
    pieces = difference(text, f"{text} more")
    assert "".join(words for kind, words in pieces if kind != "second") == text
    assert "".join(words for kind, words in pieces if kind != "first") == f"{text} more"
    assert seen_in_html(difference_html((0, 1), text, text)).endswith(seen_in_html(f"<p>{_escaped(text)}</p>"))


def _escaped(text: str) -> str:
    from kvsteer_lab._util.text import for_html

    return for_html(text)


def test_a_page_shows_what_the_explorer_showed_without_a_kernel(explorer: Explorer, tmp_path: Path) -> None:
    explorer.set(cv=3.0)
    explorer.climb()
    assert "Done" in said(explorer) and said(explorer, "kv-ladder-status") == "Done."
    find(explorer, "kv-html-path").value = str(tmp_path / "page.html")
    find(explorer, "kv-save-html").click()
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "leaves the baseline" in page and "Strength ladder" in page and 'data-arm="cache steering"' in page
    assert "<script" not in page and "http" not in page.replace("http://www.w3.org/2000/svg", "")
    find(explorer, "kv-save-html").click()
    assert "exists" in said(explorer, "kv-keep-status")
    bundle = explorer._repr_mimebundle_()
    assert "leaves the baseline" in bundle["text/html"] and "application/vnd.jupyter.widget-view+json" in bundle


def test_a_saved_cell_shows_the_first_texts(made: Made) -> None:
    fresh = kv.explore(made.model, {"stepwise": made.vectors["stepwise"]}, task=made.task)
    try:
        assert "kv-text" in fresh._repr_mimebundle_()["text/html"]
    finally:
        fresh.close()


def test_layers_of_deep_models_are_written() -> None:
    panel = ControlPanel(30, 3, [], lambda name, value: moved.append((name, value)), lambda source: None)
    moved: list = []
    field = next(field for field in panel.where if isinstance(field.widget, w.Text) and field.name == "layers")
    assert not hasattr(field.widget, "children"), "no wall of buttons"
    field.widget.value = "1-3, 9"
    assert moved == [("layers", (1, 2, 3, 9))]
    assert write_layers(None) == "" and write_layers((1, 2, 3, 9)) == "1-3, 9"
    assert read_layers("one") == "one" and read_layers("") is None and read_layers("4 - 5") == (4, 5)
