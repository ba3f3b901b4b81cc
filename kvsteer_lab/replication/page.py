"""The page of a replication: what was compared, the table of each task, the cells that were tried."""

from __future__ import annotations

import json
from collections.abc import Hashable, Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, StrictUndefined

from .._util.files import write_atomically
from .._util.json import read_json
from .._util.terms import label_name
from .._util.text import visible
from .sentences import describe_table


def write_page(out: Path, table: pd.DataFrame, cells: pd.DataFrame) -> Path:
    """Write `index.html`.

    Args:
        out: folder of the replication.
        table: from `comparison_table`.
        cells: that were tried on development questions.
    """
    settings = read_json(out / "settings.json", what=str(out / "settings.json"))
    template = Environment(
        autoescape=True, finalize=visible, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    ).from_string(files(__package__).joinpath("page.html.j2").read_text(encoding="utf-8"))
    tasks = [
        dict(
            name=task,
            rows=[_shown(row) for row in part.to_dict("records")],
            findings=describe_table(part),
            chosen=_chosen(cells, str(task), out / str(task) / "chosen.json"),
            cost=_cost(out / str(task)),
        )
        for task, part in table.groupby("task", sort=False)
    ]
    page = template.render(settings=settings, tasks=tasks, sizes=json.dumps(settings["asked"]))
    return write_atomically(out / "index.html", lambda file: file.write_text(page, encoding="utf-8"))


def _known(value: object) -> bool:
    return value is not None and not pd.isna(value)


def _shown(row: Mapping[Hashable, Any]) -> dict[str, str]:
    """A row of the table as it is printed."""

    def number(name: str, form: str = ".2f") -> str:
        return format(row[name], form) if _known(row.get(name)) else ""

    def interval(name: str, low: str, high: str, form: str) -> str:
        if not _known(row.get(name)):
            return ""
        ends = f" [{number(low, form)}, {number(high, form)}]" if _known(row.get(low)) else ""
        return number(name, form) + ends

    return dict(
        method=label_name(str(row["intervention"])),
        n=number("n", ".0f"),
        accuracy=interval("accuracy", "low", "high", ".2f"),
        gain=interval("gain", "gain_low", "gain_high", "+.2f"),
        p=number("p", ".3g"),
        p_holm=number("p_holm", ".3g"),
        tokens=number("tokens", ".0f"),
        longer=interval("longer", "longer_low", "longer_high", "+.0f"),
        cut=number("cut"),
        loops=number("loops"),
        repetition=number("repetition"),
        direct=number("direct"),
        reasoned=number("reasoned"),
        connectives=number("connectives"),
        enumerates=number("enumerates"),
        kl=number("kl_32"),
        time=number("time"),
    )


def _chosen(cells: pd.DataFrame, task: str, place: Path) -> list[str]:
    """What tuning chose, the baseline's own accuracy first: a search that never passes it has found nothing."""
    if cells.empty or not place.is_file():
        return []
    plain = read_json(place, what=str(place))["baseline"]
    best = cells[(cells.task == task) & cells.chosen]
    return [
        f"baseline: accuracy {plain['accuracy']:.2f} on {plain['n']} development questions",
        *(
            f"{row.method}: {row.variant}, relative strength {row.dose:.3g}, accuracy {row.accuracy:.2f} on {row.n}"
            " development questions"
            for row in best.itertuples()
        ),
    ]


def _cost(folder: Path) -> str:
    found = [read_json(file, what=str(file)) for file in sorted((folder / "test").glob("*.cost.json"))]
    if not found:
        return ""
    replies, tokens, cpu = (sum(cost[name] for cost in found) for name in ("replies", "tokens", "cpu_s"))
    return f"{replies:,} test replies with {tokens:,} tokens took {cpu / 60:.0f} minutes of one core"
