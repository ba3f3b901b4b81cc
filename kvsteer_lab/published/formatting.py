"""Numbers and tables of an audit as text that fits a terminal of 80 columns."""

from __future__ import annotations

import math
import textwrap
from typing import Any

import pandas as pd

from .runs import KINDS, short_model, short_task
from .sources import shown

WIDTH = 80
SMALL = 100
"""Runs of fewer questions are marked: their accuracy tells little."""

MARKS = ("†", "°")
"""A small run; limits of new tokens that differ."""

_KINDS = {"steered": "steer", "steered + CoT": "steer+CoT", "activation": "act", "activation + CoT": "act+CoT"}
_WORDS = ("model", "task", "kind", "setting", "style", "method", "family", "test")


def title(text: str) -> str:
    """A heading with a line under it."""
    return f"\n{text}\n{'-' * min(len(text), WIDTH)}"


def wrap(text: str, indent: str = "") -> list[str]:
    """A paragraph as lines; all but the first are indented."""
    return textwrap.wrap(text, WIDTH, subsequent_indent=indent, break_on_hyphens=False)


def table(rows: list[dict[str, Any]]) -> list[str]:
    """Rows as aligned columns; names give way where a row would be too wide."""
    frame = pd.DataFrame(rows).fillna("").astype(str)
    for name in frame:
        marked = frame[name].str.endswith(MARKS)
        if marked.any():  # marks hang out, so that numbers stay in line
            frame[name] = frame[name].where(marked, frame[name] + " ")
    widths = {name: max(len(name), *frame[name].map(len)) for name in frame}
    for name in ("setting", "model", "style", "method", "test"):
        excess = sum(widths.values()) + len(widths) - 1 - WIDTH
        if name in widths and excess > 0:
            widths[name] = max(8, widths[name] - excess)
            frame[name] = [cut(value, widths[name]) for value in frame[name]]
    lines = [frame.columns.tolist(), *frame.to_numpy().tolist()]
    return [
        " ".join(
            c.ljust(widths[n]) if n in _WORDS else c.rjust(widths[n]) for n, c in zip(frame, line, strict=True)
        ).rstrip()
        for line in lines
    ]


def label(row: Any) -> dict[str, str]:
    """The first columns of a run's row: model, task and kind, with ~ before a sampled one's."""
    return {"model": model_of(row.model), "task": task_of(row.task), "kind": wave(row) + _KINDS.get(row.kind, row.kind)}


def wave(row: Any) -> str:
    """~ for sampled replies."""
    return "~" if str(row.decoding).startswith("sampled") else ""


def limit_mark(row: Any) -> str:
    """° where the limits of new tokens of both sides differ."""
    note = getattr(row, "note", None)
    if isinstance(note, str):
        return "°" if "new tokens" in note else ""
    limits = getattr(row, "max_new_tokens", None), getattr(row, "reference_max_new_tokens", None)
    return "" if any(limit is None or pd.isna(limit) for limit in limits) or limits[0] == limits[1] else "°"


def size(n: float) -> str:
    """A number of questions, marked where it is small."""
    return f"{n:.0f}" + ("†" if n < SMALL else "")


def setting_of(row: Any, width: int) -> str:
    """A run's setting or style, with its seed or the number of seeds where the replies were sampled."""
    named = row.style if isinstance(getattr(row, "style", None), str) else row.setting
    seed, seeds = getattr(row, "seed", None), getattr(row, "seeds", None)
    if seed is not None and not pd.isna(seed):
        return f"{cut(named, width)} seed {seed:.0f}".strip()
    if seeds is not None and not pd.isna(seeds):
        return f"{cut(named, width)} {seeds:.0f} seed{'s' if seeds > 1 else ''}".strip()
    return cut(named, width)


def ordered(rows: pd.DataFrame) -> pd.DataFrame:
    """By model, task and decoding; within them the baseline first."""
    rank = {name: i for i, name in enumerate(KINDS)}
    by = ["model", "task", "decoding", "kind"]
    return rows.sort_values(by, key=lambda column: column.map(rank) if column.name == "kind" else column, kind="stable")


def model_of(name: str) -> str:
    """A model's short name, cut to its column."""
    return cut(short_model(name), 14)


def task_of(name: str) -> str:
    """A task's short name, cut to its column."""
    return cut(short_task(name), 8)


def cut(text: str, width: int) -> str:
    """A printable text of at most `width` characters."""
    text = shown(text)
    return text if len(text) <= width else text[: width - 1] + "…"


def points(share: float) -> str:
    """A share in percent; nothing where it is missing."""
    return "" if math.isnan(share) else f"{100 * share:.1f}"


def signed(share: float) -> str:
    """A difference of shares in points, with its sign."""
    return "" if math.isnan(share) else f"{100 * share:+.1f}"


def span(low: float, high: float, with_sign: bool = False) -> str:
    """An interval in percent or in points; nothing where it is missing."""
    if math.isnan(low):
        return ""
    return f"{signed(low)}..{signed(high)}" if with_sign else f"{points(low)}..{points(high)}"


def p_value(p: float) -> str:
    """A p-value, never shown as zero; nothing where it is missing."""
    return "" if math.isnan(p) else "<.0001" if p < 0.0001 else f"{p:.4f}" if p < 0.01 else f"{p:.2f}"
