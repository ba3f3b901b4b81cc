"""Labels, tokens and names in figures are drawn as they were written, whatever is in them."""

from __future__ import annotations

import io
import warnings
import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text
from nasty import NASTY, made_up, seen_in_figure

import kvsteer_lab as kv
from kvsteer_lab._util.text import for_figure, visible
from kvsteer_lab.published import figures as published

TABLES = Path(__file__).parents[2] / "figures"
draw = kv.figures


def by(*keys: str) -> Callable[[pd.DataFrame], dict]:
    """The tables that were put together under some keys."""
    return lambda table: {
        key[0] if len(keys) == 1 else key: part.drop(columns=list(keys))
        for key, part in table.groupby(list(keys), sort=False)
    }


def judged(table: pd.DataFrame) -> Figure:
    one = table[table.analysis == table.analysis.iloc[0]]
    single = one.assign(prompt=0, way="one head", slot=-1, first=one.nats)
    wholes = [dict(prompt=0, way="other slot", layer=0, head=0, slot=3, first=0.1)]
    wholes += [wholes[0] | dict(way="everything", first=5.0)]
    named = {name: part[["layer", "head", "value"]] for name, part in table.groupby("analysis", sort=False)}
    prompts = [single, single.assign(prompt=1), pd.DataFrame(wholes)]
    return draw.plot_judged(named, pd.concat(prompts, ignore_index=True))


def forecasts(table: pd.DataFrame) -> Figure:
    found = pd.DataFrame([dict(forecast="agreement", scope=table.model.iloc[0], rho=0.5, low=0.1, high=0.8)])
    return draw.plot_forecasts(table, found)


CASES: list[tuple[str, str, Callable[[pd.DataFrame], Figure]]] = [
    ("00_comparison", "intervention", lambda t: draw.plot_comparison(t.set_index("intervention"))),
    ("04_gains", "intervention", draw.plot_gains),
    ("04_gains", "task", draw.plot_gains),
    ("04_tuning", "method", draw.plot_tuning),
    ("04_tuning", "variant", draw.plot_tuning),
    ("06_cosines", "style", draw.plot_style_cosines),
    ("06_pca", "style", draw.plot_style_pca),
    ("06_mixing", "style", draw.plot_style_mixing),
    ("06_mixing", "mix", draw.plot_style_mixing),
    ("07_doses", "method", lambda t: draw.plot_dose_responses(by("method")(t))),
    ("07_grid", "task", draw.plot_coefficient_grid),
    ("07_nats", "method", draw.plot_matched),
    ("07_robustness", "method", draw.plot_robustness),
    ("07_slots", "token", lambda t: draw.plot_slots({"slot": by("key")(t)["slot"]})),
    ("07_slots", "offset", lambda t: draw.plot_slots({"offset": by("key")(t)["offset"]})),
    ("08_costs", "model", draw.plot_costs),
    ("08_costs", "method", draw.plot_costs),
    ("08_divergence", "method", lambda t: draw.plot_divergence(by("method", "text")(t))),
    ("08_divergence", "text", lambda t: draw.plot_divergence(by("method", "text")(t))),
    ("09a_attention", "intervention", draw.plot_attention),
    ("09a_half_life", "intervention", draw.plot_half_life),
    ("09c_judged", "analysis", judged),
    ("09b_lens", "token", draw.plot_lens),
    ("10_gains", "setting", published.plot_published_gains),
    ("10_gains", "model", published.plot_published_gains),
    ("10_rules", "rule", published.plot_published_rules),
    ("10_texts", "setting", published.plot_published_texts),
    ("10_styles", "style", published.plot_published_styles),
    ("10_latency", "method", published.plot_published_latency),
    ("11_tokens", "arm", draw.plot_tokens),
    ("11_sweep", "row", lambda t: draw.plot_sweep(t, "reasoned", t.row.iloc[1], t.row.iloc[1], t.row.iloc[1])),
    ("12_forecasts", "place", forecasts),
    ("12_forecasts", "model", forecasts),
    ("split_half", "pairs", draw.plot_split_half),
    ("13_turns", "way", draw.plot_turns),
]
KEPT = {"baseline", "plain", "none", "all", "direct"}
"""Values that the functions look for."""


def read(name: str) -> pd.DataFrame:
    """The table of a committed figure."""
    beside = Path(__file__).parent / f"{name}.csv"  # of a figure that no chapter draws
    table = pd.read_csv(beside if beside.is_file() else TABLES / f"{name}.csv")
    return table.fillna({"setting": ""}) if "setting" in table else table


def renamed(table: pd.DataFrame, column: str, strings: list[str]) -> tuple[pd.DataFrame, list[str]]:
    """A table with other values in a column, and these values."""
    values = [value for value in table[column].dropna().unique() if value not in KEPT]
    names = {value: f"{strings[i % len(strings)]}{i}" for i, value in enumerate(values)}
    columns = [column, *(["other"] if column == "style" and "other" in table else [])]
    for each in columns:
        table = table.assign(**{each: [names.get(value, value) for value in table[each]]})
    return table, list(names.values())


def seen(figure: Figure) -> list[str]:
    """What is drawn, after a round through a file that must be well-formed XML."""
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        figure.savefig(file, format="svg")
    ET.fromstring(file.getvalue())
    return [seen_in_figure(text.get_text()) for text in figure.findobj(Text) if text.get_text()]


def bare(text: str) -> str:
    """Without what functions of figures do to a name: underscores become spaces, tokens stand in quotation marks."""
    return visible(text, one_line=True).replace("_", " ").replace("\\\\", "\\")


STRINGS = [string for string in NASTY if "\ud83d" not in string]  # pandas' own strings hold no lone surrogates


@pytest.mark.parametrize(("name", "column", "function"), CASES, ids=[f"{name}-{column}" for name, column, _ in CASES])
def test_names_are_drawn_as_they_were_written(
    name: str, column: str, function: Callable[[pd.DataFrame], Figure]
) -> None:
    for strings in (STRINGS[:6], STRINGS[6:11], STRINGS[11:], made_up(6, seed=len(name))):
        table, names = renamed(read(name), column, strings)
        drawn = [bare(text) for text in seen(function(table))]
        shown = [repr(string)[1:-1][:9] for string in names] if name in ("07_slots", "09b_lens") else names
        missing = [string for string in shown if not any(bare(string) in text for text in drawn)]
        assert not missing if name != "06_mixing" else len(missing) < len(shown), (missing, drawn)


def test_a_label_that_begins_with_an_underscore_is_in_the_legend() -> None:
    table = read("09a_half_life")
    figure = draw.plot_half_life(table.assign(intervention="_mine"))
    assert [seen_in_figure(text.get_text()) for text in figure.legends[0].get_texts()] == ["_mine"]


@pytest.mark.parametrize("string", [*NASTY, *made_up(40)])
def test_a_label_is_one_line_of_text_and_no_formula(string: str) -> None:
    assert seen_in_figure(for_figure(string)) == visible(string, one_line=True)
    assert "\n" not in for_figure(string)
