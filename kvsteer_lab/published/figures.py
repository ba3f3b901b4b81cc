"""Figures of an audit: each draws one of its tables."""

from __future__ import annotations

import re
from typing import Any

import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, NullFormatter

from .._util.text import for_figure
from ..figures.style import COLORS, ONE_COLUMN, TWO_COLUMNS, styled
from .auditing import Audit
from .comparisons import SEED
from .runs import short_model

_ORDER = ("CoT", "steered", "steered + CoT", "activation", "activation + CoT")
_COLORS = {"CoT": COLORS["prompt"], "steered": COLORS["steered"], "activation": COLORS["activation"]}
_AGAINST = {"baseline": "the baseline", "CoT": "CoT prompting", "activation": "activation steering"}
_RULE_MARKS = "oDs^v<>"
_GREYS = ("black", "#aaaaaa")
MOST = 45
"""Runs that one figure has room for."""

_ROW = 0.17
"""Inches a row."""


def plot_audit(audit: Audit) -> dict[str, Figure]:
    """Every figure that the audit has rows for, by the name of its file. With more than `MOST` runs, the figures of
    runs are one a model.
    """
    tested = audit.comparisons[
        audit.comparisons.gain.notna() & audit.comparisons.group.isin(("steering", "prompting", "activation"))
    ]
    compared = audit.texts[audit.texts.ratio.notna() & audit.texts.group.isin(("steering", "activation"))]
    tables = {
        "gains": (plot_published_gains, tested),
        "rules": (plot_published_rules, audit.extractors[audit.extractors.against == "baseline"]),
        "texts": (plot_published_texts, compared),
        "styles": (plot_published_styles, audit.styles),
        "latency": (plot_published_latency, audit.latency),
    }
    return {label: draw(part) for name, (draw, table) in tables.items() for label, part in _pages(name, table)}


def seed_of(name: str) -> int | None:
    """The seed to stamp on a figure of `plot_audit`: that of the resampled intervals, where it has some.

    Args:
        name: of the figure.

    Returns:
        The seed; `None` where no interval is resampled.
    """
    return SEED if name.startswith("texts") else None


def _pages(name: str, table: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    """The parts of a table that are drawn as a figure each, and what the figures are called."""
    if table.empty or "model" not in table or table.file.nunique() <= MOST:
        return [(name, table)] if len(table) else []
    return [
        (f"{name}-{re.sub('[^A-Za-z0-9.]+', '-', short_model(model))[:60]}", part)
        for model, part in table.groupby("model")
    ]


@styled
def plot_published_gains(table: pd.DataFrame) -> Figure:
    """Gains over the baseline, over CoT prompting and over activation steering with 95% intervals, a row a run.

    A full mark means p < 0.05 after Holm's correction over all runs of its family, an open one that it is not below.

    Args:
        table: rows of `Audit.comparisons` that were tested.

    Returns:
        The figure, a panel a reference.
    """
    rows = _rows(table)
    panels = [against for against in _AGAINST if (table.against == against).any()]
    figure, axes = _panels(len(panels), len(rows))
    for axis, against in zip(axes, panels, strict=True):
        axis.axvline(0, color="black", linewidth=0.6)
        for row in table[table.against == against].itertuples():
            y, color, holds = rows[_name(row)], _color(row.kind), row.p_holm < 0.05
            axis.plot([100 * row.low, 100 * row.high], [y, y], color=color, linewidth=1)
            axis.plot(100 * row.gain, y, _mark(row.kind), color=color, markerfacecolor=color if holds else "white")
        axis.set_xlabel(f"points over {_AGAINST[against]}")
    _label(axes[0], rows)
    marks = [
        Line2D([], [], color=_color(kind), marker=_mark(kind), label=kind)
        for kind in _ORDER
        if (table.kind == kind).any()
    ]
    marks += [
        Line2D([], [], color="black", marker="o", linestyle="", markerfacecolor="white", label="p ≥ 0.05 after Holm")
    ]
    figure.legend(handles=marks, loc="outside upper center", ncols=4)
    return figure


@styled
def plot_published_rules(table: pd.DataFrame) -> Figure:
    """The same replies under other rules: gain by each rule with its 95% interval, a row a run.

    Rules that read the whole reply and rules that ask for a stated answer have a panel and an axis each: the latter's
    gains are many times as large, for they count what the reply leaves unsaid as wrong. Rules are told by marks, not by
    colours: these are for kinds of interventions.

    Args:
        table: rows of `Audit.extractors` against one reference.

    Returns:
        The figure.
    """
    rows, rules = _rows(table), list(dict.fromkeys(table.rule))
    stated = table.rule.str.startswith("strict")
    panels = [
        (name, part) for name, part in (("any answer", table[~stated]), ("a stated answer", table[stated])) if len(part)
    ]
    figure, axes = _panels(len(panels), len(rows), sharex=False, row=max(_ROW, min(0.36, 6 / len(rows))))
    against = "the baseline" if (table.against == "baseline").all() else "CoT prompting"
    for axis, (name, part) in zip(axes, panels, strict=True):
        axis.axvline(0, color="black", linewidth=0.6)
        place = _spread(part, rows)
        for i, rule in enumerate(rules):
            own = part[part.rule == rule]
            if len(own):
                y, grey = place[own.index], _GREYS[i % 2]
                axis.hlines(y, 100 * own.low, 100 * own.high, color=grey, linewidth=0.8)
                named: dict[str, Any] = dict(
                    color="black", markerfacecolor=grey, label=for_figure(rule.replace("_", " "))
                )
                axis.plot(100 * own.gain, y, _RULE_MARKS[i % 7], **named)
        axis.set(xlabel=f"points over {against}", title=f"rules that read {name}")
    _label(axes[0], rows)
    figure.legend(loc="outside upper center", ncols=4)
    return figure


def _spread(table: pd.DataFrame, rows: dict[tuple[str, ...], int]) -> pd.Series:
    """The height of each rule's mark: those of one run lie around its row, and do not hide each other."""
    names = [_name(row) for row in table.itertuples()]
    among = pd.Series([str(name) for name in names], index=table.index)
    order, of = among.groupby(among).cumcount(), among.map(among.value_counts())
    height = pd.Series([float(rows[name]) for name in names], index=table.index)
    return height + (0.33 - 0.66 * order / (of - 1).clip(lower=1)).where(of > 1, 0.0)


@styled
def plot_published_texts(table: pd.DataFrame) -> Figure:
    """How much longer replies are than the baseline's, with 95% intervals, and how many of them repeat themselves, with
    95% intervals, too.

    Rows of `Audit.texts` with a ratio.
    """
    rows = _rows(table)
    figure, axes = _panels(2, len(rows), sharex=False)
    axes[0].axvline(1, color="black", linewidth=0.6)
    for row in table.itertuples():
        y, color = rows[_name(row)], _color(row.kind)
        axes[0].plot([row.ratio_low, row.ratio_high], [y, y], color=color, linewidth=1)
        axes[0].plot(row.ratio, y, _mark(row.kind), color=color)
        axes[1].barh(y, 100 * row.half_repeated, color=color, height=0.6, alpha=0.45)
        axes[1].plot(
            [100 * row.half_repeated_low, 100 * row.half_repeated_high], [y + 0.15] * 2, color=color, linewidth=1
        )
        axes[1].plot([100 * row.loop_low, 100 * row.loop_high], [y - 0.15] * 2, color="black", linewidth=0.8)
        axes[1].plot(100 * row.loop, y - 0.15, "|", color="black", markersize=5)
    axes[0].set(xscale="log", xlabel="words / the baseline's")
    axes[0].xaxis.set_major_locator(LogLocator(10, (1, 2, 5)))
    axes[0].xaxis.set_major_formatter("{x:g}")
    axes[0].xaxis.set_minor_formatter(NullFormatter())
    axes[1].set_xlabel("% of replies (bar: half repeated; mark: loops)")
    axes[1].set_xlim(left=0)
    _label(axes[0], rows)
    marks = [
        Line2D([], [], color=_color(kind), marker=_mark(kind), linestyle="", label=kind)
        for kind in _ORDER
        if (table.kind == kind).any()
    ]
    figure.legend(handles=marks, loc="outside upper center", ncols=len(marks))
    return figure


@styled
def plot_published_styles(table: pd.DataFrame) -> Figure:
    """The share of replies in the style that was asked for, with 95% Wilson intervals, and the unsteered share. The
    table `Audit.styles`.
    """
    several = table.model.nunique() * table.task.nunique() > 1
    figure, axis = plt.subplots(figsize=(ONE_COLUMN, 0.7 + 0.22 * len(table)), layout="constrained")
    names = []
    for y, row in enumerate(reversed(list(table.itertuples()))):
        axis.plot([100 * row.low, 100 * row.high], [y, y], color=COLORS["steered"], linewidth=1)
        axis.plot(100 * row.adopted, y, "o", color=COLORS["steered"], label="steered towards it" if y == 0 else None)
        axis.plot(100 * row.without, y, "x", color=COLORS["baseline"], label="baseline" if y == 0 else None)
        names.append(for_figure(row.style.replace("_", " ")) + (f"\n{for_figure(_short(row))}" if several else ""))
    axis.set(
        xlim=(-4, 104),
        xlabel="% of replies in the style",
        yticks=range(len(names)),
        yticklabels=names,
        ylim=(-0.6, len(names) - 0.4),
    )
    figure.legend(loc="outside upper center", ncols=2)
    return figure


@styled
def plot_published_latency(table: pd.DataFrame) -> Figure:
    """Time a token by method, a panel a batch size, with the fastest and slowest run and the ratio to the baseline. The
    table `Audit.latency`.
    """
    batches = sorted(table.batch_size.unique())
    methods = list(dict.fromkeys(table.method))[::-1]
    size = (TWO_COLUMNS, 0.7 + 0.25 * len(methods))
    figure, axes = plt.subplots(1, len(batches), figsize=size, layout="constrained", sharey=True, squeeze=False)
    for axis, batch in zip(axes[0], batches, strict=True):
        for row in table[table.batch_size == batch].itertuples():
            y = methods.index(row.method)
            kind = next((kind for kind in ("baseline", "activation") if row.method.startswith(kind)), "steered")
            axis.barh(y, row.ms_per_token, color=COLORS[kind], height=0.6)
            ratio = "" if pd.isna(row.ratio) else f"×{row.ratio:.3g}"
            axis.plot([row.fastest, row.slowest], [y, y], "|-", color="black", linewidth=0.8, markersize=4)
            axis.annotate(
                ratio,
                (max(row.ms_per_token, row.slowest), y),
                xytext=(3, 0),
                textcoords="offset points",
                va="center",
                fontsize=7,
            )
        axis.set(
            xlabel="ms a token",
            title=for_figure(f"batch {batch}"),
            yticks=range(len(methods)),
            yticklabels=list(map(for_figure, methods)),
        )
        axis.margins(x=0.2)
    return figure


def _panels(n: int, rows: int, sharex: bool = True, row: float = _ROW) -> tuple[Figure, list[Axes]]:
    size = (TWO_COLUMNS, 0.9 + row * rows)
    figure, axes = plt.subplots(1, n, figsize=size, layout="constrained", sharey=True, sharex=sharex, squeeze=False)
    return figure, list(axes[0])


def _rows(table: pd.DataFrame) -> dict[tuple[str, ...], int]:
    """The height of each run: one row a run, those of a model and task together, the first on top."""
    names = sorted(
        {_name(row): None for row in table.itertuples()}, key=lambda name: (*name[:3], _ORDER.index(name[3]), name[4])
    )
    return {name: len(names) - 1 - i for i, name in enumerate(names)}


def _name(row: Any) -> tuple[str, ...]:
    return (row.model, row.task, row.decoding, row.kind, row.setting or "")


def _label(axis: Axes, rows: dict[tuple[str, ...], int]) -> None:
    """The run's settings at each row, and its model and task at the first row of each cell; cells are told apart by a
    line.
    """
    labels, before = [], None
    for name, y in rows.items():
        cell = f"{_model(name[0])}  {name[1].removesuffix('-oai')}" + (
            " (sampled)" if name[2].startswith("sampled") else ""
        )
        setting = (name[4] or name[3]) + (" + CoT" if name[4] and name[3].endswith("+ CoT") else "")
        labels.append(f"{cell}   {setting}" if name[:3] != before else setting)
        if before is not None and name[:3] != before:
            for panel in axis.figure.axes:
                panel.axhline(y + 0.5, color="0.85", linewidth=0.6, zorder=0)
        before = name[:3]
    axis.set_yticks(list(rows.values()), list(map(for_figure, labels)), fontsize=6)
    axis.set_ylim(-0.7, len(rows) - 0.3)


def _model(name: str) -> str:
    return name.rpartition("/")[2].removesuffix("-Instruct")


def _short(row: Any) -> str:
    return f"{_model(row.model)}, {row.task.removesuffix('-oai')}"


def _color(kind: str) -> str:
    return _COLORS.get(kind.removesuffix(" + CoT"), COLORS["steered"])


def _mark(kind: str) -> str:
    return "s" if kind.endswith("+ CoT") else "o"
