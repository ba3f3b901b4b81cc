"""What the gate asked for, and whether it was reached: `python -m organisms.verdict GATE.json ...`.

Each file is one run of the gate; the table has a row for each figure and a column for each run.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

Result = dict[str, Any]
Check = tuple[str, str, Callable[[Result], float], Callable[[float], bool]]


def at_least(limit: float) -> Callable[[float], bool]:
    """Whether a figure reaches `limit`."""
    return lambda value: value >= limit


def at_most(limit: float) -> Callable[[float], bool]:
    """Whether a figure stays within `limit`."""
    return lambda value: value <= limit


def any_value(value: float) -> bool:
    """For figures that are reported without a target."""
    return True


def curve_at(result: Result, c_k: str, c_v: float, key: str) -> float:
    """One figure of a steering curve."""
    return float(next(row[key] for row in result["steering"][c_k] if row["c_v"] == c_v))


def view(index: int, key: str) -> Callable[[Result], float]:
    """A figure of few-shot prompts under one view."""
    return lambda result: float(result["mechanism"][index][key])


def edge(result: Result, c_k: str, which: int) -> float:
    """The first (0) or last (-1) dose of a window; NaN without one."""
    window = result["windows"][c_k]
    return float(window[which]) if window else math.nan


def width(c_k: str) -> Callable[[Result], float]:
    """How many doses a window has."""
    return lambda result: float(len(result["windows"][c_k]))


def bound(c_k: str, which: int) -> Callable[[Result], float]:
    """The first (0) or last (-1) dose of a window."""
    return lambda result: edge(result, c_k, which)


def random_worst(result: Result, key: str) -> float:
    """The worst figure of the random vectors at c_k = 0 in the lower half of the window."""
    low, high = edge(result, "0.0", 0), edge(result, "0.0", -1)
    inside = [row[key] for row in result["random"]["0.0"] if low <= row["c_v"] <= (low * high) ** 0.5]
    return float(max(inside, default=math.nan))


def recommended(result: Result) -> float:
    """The dose that the gate recommends at c_k = 0; NaN without a window."""
    return float(result["recommended"][1]) if result["windows"]["0.0"] else math.nan


def random_at_recommended(result: Result) -> float:
    """The random vectors' mean at c_k = 0 and the recommended dose."""
    c_v = recommended(result)
    if math.isnan(c_v):
        return c_v
    return float(next(row["mean"] for row in result["random"]["0.0"] if row["c_v"] == c_v))


def pairs(result: Result, size: int, key: str) -> float:
    """A figure of the vectors from `size` pairs; their adoption is NaN without a window."""
    if key == "adopted" and math.isnan(recommended(result)):
        return math.nan
    return float(next(row[key] for row in result["pairs"] if row["pairs"] == size))


def forced(result: Result, key: str) -> float:
    """The most accurate response prefill."""
    return float(max(row[key] for row in result["baselines"] if row["forced"]))


def checks() -> list[Check]:
    """Every figure with its target in words, where it lies in a result, and its test."""
    views = ("ordinary attention", "later tokens can't read the slot", "the slot can't read earlier turns")
    limits = ((">= 0.95", at_least(0.95)), ("<= 0.10", at_most(0.10)), ("<= 0.10", at_most(0.10)))
    rows: list[Check] = [
        (f"1 few-shot in style, {name}", words, view(i, "in_style"), test)
        for i, (name, (words, test)) in enumerate(zip(views, limits, strict=True))
    ]
    rows += [
        (f"1 few-shot CoT rate, {name}", words, view(i, "reasoned"), test)
        for i, (name, (words, test)) in enumerate(zip(views, limits, strict=True))
    ]
    rows += [
        ("2 zero-shot, direct", "", lambda r: r["baselines"][0]["direct"], any_value),
        ("2 zero-shot, accuracy", "<= 0.40", lambda r: r["baselines"][0]["accuracy"], at_most(0.40)),
        ("2 few-shot, accuracy", ">= 0.85", lambda r: r["mechanism"][0]["accuracy"], at_least(0.85)),
    ]
    for c_k in ("0.0", "0.3"):
        rows += [
            (f"3 window at c_k = {c_k}, points", ">= 6", width(c_k), at_least(6)),
            (f"3 window at c_k = {c_k}, from", "<= 1.26", bound(c_k, 0), lambda x: 0 < x <= 1.26),
            (f"3 window at c_k = {c_k}, to", ">= 3x", bound(c_k, -1), any_value),
        ]
    rows += [
        ("3 (0.3, 6), CoT rate", "", lambda r: curve_at(r, "0.3", 6.0, "reasoned"), any_value),
        ("3 (0.3, 6), accuracy", "", lambda r: curve_at(r, "0.3", 6.0, "accuracy"), any_value),
        ("4 least adopted style", ">= 0.90", lambda r: min(row["adopted"] for row in r["styles"]), at_least(0.90)),
        ("5 random vectors in the lower half, worst mean", "<= 0.05", lambda r: random_worst(r, "mean"), at_most(0.05)),
        ("5 random vectors in the lower half, worst p95", "<= 0.20", lambda r: random_worst(r, "p95"), at_most(0.20)),
        ("recommended c_v, at c_k = 0", "", recommended, any_value),
        ("5 random vectors there, mean", "<= 0.05", random_at_recommended, at_most(0.05)),
        ("6 cosine of 1 pair, values", "", lambda r: pairs(r, 1, "cosine"), any_value),
        ("6 cosine of 100 pairs, values", "", lambda r: pairs(r, 100, "cosine"), any_value),
        ("6 adoption at the edge, 1 pair", "", lambda r: pairs(r, 1, "adopted"), any_value),
        ("6 adoption at the edge, 100 pairs", "", lambda r: pairs(r, 100, "adopted"), any_value),
        ("6 adoption at the edge, 1000 pairs", "", lambda r: pairs(r, 1000, "adopted"), any_value),
        ("7 best response prefill, accuracy", "", lambda r: forced(r, "accuracy"), any_value),
        ("7 best steered, accuracy", "", lambda r: max(x["accuracy"] for x in r["steering"]["0.0"]), any_value),
    ]
    return rows


def table_of(results: dict[str, Result]) -> str:
    """All runs beside each other, as Markdown; what misses its target is bold, what there is not a dash."""
    lines = ["| | target | " + " | ".join(results) + " |", "| --- " * (len(results) + 2) + "|"]
    for name, target, find, test in checks():
        values = [round(find(result), 6) for result in results.values()]
        shown = ["-" if math.isnan(v) else f"{v:.3g}" if test(v) else f"**{v:.3g}**" for v in values]
        lines.append(f"| {name} | {target} | " + " | ".join(shown) + " |")
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m organisms.verdict", description=__doc__)
    parser.add_argument("runs", type=Path, nargs="+", help="files that the gate wrote with --json")
    args = parser.parse_args(arguments)
    print(table_of({path.stem: json.loads(path.read_text()) for path in args.runs}))


if __name__ == "__main__":
    main()
