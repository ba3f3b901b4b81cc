"""Every label that a reader sees has the field's term: figures, the explorer, tables, the command line, docs, chapters.

Names in Python, columns of stored tables and arguments keep theirs: inline code is left out of what is looked at.
"""

from __future__ import annotations

import doctest
import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import ipywidgets as w
import nbformat
import pandas as pd
import pytest
from explorer_bench import said, walk
from matplotlib.figure import Figure
from matplotlib.text import Text

import kvsteer_lab as kv
from kvsteer_lab._util.terms import in_terms, label_name
from kvsteer_lab.cli.commands import COMMANDS
from kvsteer_lab.explorer.explorer import Explorer

ROOT = Path(__file__).resolve().parent.parent
STATIC = ROOT / "kvsteer_lab" / "explorer" / "static"
with pytest.MonkeyPatch.context() as patch:
    patch.syspath_prepend(str(ROOT / "docs"))
    patch.syspath_prepend(str(ROOT / "tests" / "figures"))
    from extensions.commands import help_of
    from test_labels import CASES, draw, read

OLD = {
    r"\bdos(e|es|ed|ing)\b": "relative strength, or coefficient",
    r"\bforced (prefix(es)?|words?|first|tokens?|openings?)\b|\bforced (?=['\"])": "response prefill",
    r"\bshares? (of replies )?that reasons?\b|\breasoned share\b": "CoT rate",
    r"\bknock-outs?\b": "attention knockout",
    r"\btop alternatives\b": "top-k alternatives",
    r"\bkl\b.{0,20}\b(summed up|in all)\b": "total KL",
}
"""What no reader should meet, and what stands in its place."""
OLD_LABELS = OLD | {
    r"\b(the|steered|another|other|whole) slots?\b|\bslot -?\d|^slot$|\band slot$": "position",
    r"\breasoned\b|\breplies that reason\b": "CoT rate",
    r"\bhidden from\b|\bslot (-?\d+ )?hidden\b": "attention knockout",
    r"\bact\. layer\b|\bbehind layer\b": "after layer",
    r"^(?!held-out )test \(": "held-out test",
    r"^keep$|^save (figure|vectors)$": "export",
}
"""In labels, which are read alone, also words that prose may use."""
NOT_OURS = ("decisions.md", "attacks.md", "style_labels.md")
"""Records of what was done and said at their time."""


def old_terms(texts: Iterable[str], old: dict[str, str] = OLD_LABELS) -> list[str]:
    """What to change, one line each."""
    return sorted(
        {
            f"{found[0]!r} in {text!r}: say {new}"
            for text in texts
            for pattern, new in old.items()
            if (found := re.search(pattern, text, re.IGNORECASE))
        }
    )


def prose(markdown: str) -> list[str]:
    """The lines of a page without its code."""
    text = re.sub(r"^```(?!text).*?^```", "", markdown, flags=re.DOTALL | re.MULTILINE)
    return re.sub(r"``[^`]*``|`[^`]*`|\]\([^)]*\)", "", text).splitlines()


# --- figures --------------------------------------------------------------------------------------------------


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """Every figure that is made from now on."""
    found: list[Figure] = []
    make = Figure.__init__

    def remember(figure: Figure, *args: Any, **kwargs: Any) -> None:
        make(figure, *args, **kwargs)
        found.append(figure)

    monkeypatch.setattr(Figure, "__init__", remember)
    return found


def written(figures: Iterable[Figure]) -> Iterator[str]:
    """All texts of figures: titles, axes, ticks, legends, colour bars."""
    for figure in figures:
        figure.draw_without_rendering()
        yield from (" ".join(text.get_text().split()) for text in figure.findobj(Text) if text.get_text())


def test_figures_of_all_examples(drawn: list[Figure]) -> None:
    homes = {name: sys.modules[getattr(kv.figures, name).__module__] for name in kv.figures.__all__ if "plot" in name}
    for name, home in homes.items():
        example = doctest.DocTestFinder(recurse=False).find(getattr(kv.figures, name), name, module=home)
        failed = sum(doctest.DocTestRunner(verbose=False).run(test, out=lambda _: 0).failed for test in example)
        assert example and not failed, name
    assert len(drawn) >= len(homes) > 25
    assert not old_terms(written(drawn))


OTHERS = {
    "02_relative_norms": draw.plot_relative_norms,
    "03_dose_response": draw.plot_dose_response,
    "05_layers": draw.plot_layers,
    "07_temperature": draw.plot_temperature,
    "09a_few_shot": lambda table: draw.plot_knock_out(table.astype(dict(layer="Int64", head="Int64", step="Int64"))),
    "14_replication": draw.plot_replication,
    "15_methods": draw.plot_methods,
}
STORED = {name: function for name, _, function in CASES} | OTHERS


@pytest.mark.parametrize("name", STORED)
def test_figures_of_stored_tables(name: str) -> None:
    assert not old_terms(written([STORED[name](read(name))]))


def test_a_scope_without_a_correlation_has_no_row() -> None:
    scopes = [dict(forecast="agreement", scope=scope, rho=rho, low=rho, high=rho) for scope, rho in
              (("all points", 0.5), ("between places", None), ("within places", 0.2))]  # fmt: skip
    points = read("12_rivals")
    figure = draw.plot_forecasts(points, pd.DataFrame(scopes))
    assert [text.get_text() for text in figure.axes[0].get_yticklabels()] == ["all points", "within places"]
    with pytest.raises(ValueError, match="No correlation of the table is defined"):
        draw.plot_forecasts(points, pd.DataFrame(scopes[1:2]).astype({"rho": float}))


# --- explorer -------------------------------------------------------------------------------------------------


def spoken(html: str) -> str:
    """What a page says, to the eye and to the ear: text, hints, names for screen readers."""
    named = re.findall(r'(?:title|aria-label)="([^"]*)"', html)
    return " ".join([*named, re.sub(r"<style>.*?</style>|<[^>]*>", " ", html, flags=re.DOTALL)])


def said_by(widget: w.Widget) -> Iterator[str]:
    for name in ("description", "tooltip", "placeholder", "title", "row_title", "column_title", "measure", "legend"):
        if isinstance(text := getattr(widget, name, None), str):
            yield text
    yield from map(str, getattr(widget, "titles", ()))
    yield from (str(one[0] if isinstance(one, tuple) else one) for one in getattr(widget, "options", ()))
    if isinstance(widget, w.HTML | w.Label):
        yield spoken(widget.value)


def test_the_explorer(explorer: Explorer, made: Any) -> None:
    explorer.set(arms=made.state().arms, sweep="layers", sweep_questions=1, ladder=(0.0, 1.0))
    explorer.page.side.details.selected_index = 1
    explorer.sweep()
    explorer.climb()
    assert "Done" in said(explorer)
    explorer.page.ablation.heatmap.picked = [0, 1, 1]
    explorer.page.picking.token = ["cache steering", 1, 1]
    explorer.page.side.details.selected_index = 2
    assert explorer.wait(60)
    labels = [text for widget in walk(explorer.page.ui) for text in said_by(widget)]
    labels += [spoken(explorer.as_html()), *explorer.page.picking.lines]
    assert len(labels) > 100 and any("Relative strength" in text for text in labels)
    assert not old_terms(labels)


def test_the_explorers_scripts() -> None:
    scripts = {
        path.name: re.findall(r'"([^"\n]* [^"\n]*)"|`([^`]*)`', path.read_text()) for path in STATIC.glob("*.js")
    }
    assert len(scripts) > 3
    texts = [re.sub(r"\$\{.*?\}", "", "".join(pair)) for found in scripts.values() for pair in found]
    assert not old_terms(texts, OLD)


# --- tables and the command line ------------------------------------------------------------------------------


def test_printed_tables() -> None:
    table = pd.DataFrame(dict(reasoned=[0.5], p_random_reasoned=[0.02], dose=[1.2]), index=["slot -3 hidden"])
    for shown in (kv.readable(table), in_terms(table)):
        assert not old_terms([*shown.columns, *shown.index])
    results = kv.evaluate(
        kv.load("tiny"), kv.tasks.get("tiny-arithmetic"), [kv.ForcedPrefix("Step")], n=2, progress=False
    )
    assert "response prefill" in results._repr_html_() and not old_terms([spoken(results._repr_html_())])
    assert list(results.interventions) == ["baseline", "no offset", "forced 'Step'"], "what is stored keeps its name"


def test_words_in_quotation_marks_stay() -> None:
    assert label_name("response prefill 'forced prefix'") == "response prefill 'forced prefix'"
    assert label_name("mine, forced") == "mine, forced"


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_help_of_commands(command: str) -> None:
    shown = re.sub(r"'[^']*'|--?[\w-]+", "", help_of(*command.split()))
    assert len(shown) > 100 and not old_terms([" ".join(shown.split())], OLD)


# --- docs and chapters ----------------------------------------------------------------------------------------

PAGES = [
    path
    for path in [*ROOT.glob("docs/**/*.md"), *ROOT.glob("docs/**/*.rst"), ROOT / "README.md", ROOT / "CONTRIBUTING.md"]
    if path.name not in NOT_OURS
]


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_pages(path: Path) -> None:
    assert not old_terms(prose(path.read_text(encoding="utf-8")), OLD)


def test_the_glossary_defines_each_term_once() -> None:
    entries = re.findall(r"^\*\*([^*]+?)\.?\*\*", (ROOT / "docs" / "glossary.md").read_text(), flags=re.MULTILINE)
    assert len(entries) == len(set(entries)) > 30 and entries == sorted(
        entries, key=lambda e: re.sub(r"\W", "", e).lower()
    )
    wanted = {"Position", "Relative strength", "Coefficient", "Response prefill", "Top-k alternatives", "Total KL"}
    assert wanted | {"CoT rate", "Attention knockout", "After layer l", "Held-out test", "Export"} <= set(entries)


@pytest.mark.parametrize("path", sorted(ROOT.glob("notebooks/*.ipynb")), ids=lambda path: path.stem)
def test_chapters(path: Path) -> None:
    cells = [cell.source for cell in nbformat.read(path, 4).cells if cell.cell_type == "markdown"]
    assert not old_terms([line for cell in cells for line in prose(cell)], OLD)
