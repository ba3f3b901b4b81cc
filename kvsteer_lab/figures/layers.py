"""Ablation of a steering by layer or KV head: a heat map of what each mask leaves of it."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.patches import Rectangle

from .._util.terms import measure_name
from .._util.text import for_figure
from ..stats.intervals import wilson
from .columns import check_column
from .style import AMOUNT, COLORS, ONE_COLUMN, TWO_COLUMNS, ink, styled

_MASKS = {
    "single": "this {} alone",
    "leave one out": "all but this {}",
    "from below": "lowest {}s up to this",
    "from above": "this {} and those above",
    "windows": "window from this {} on",
}
_MOST_WRITTEN = 16  # columns whose numbers can still be read


@styled
def plot_layers(table: pd.DataFrame, column: str = "accuracy") -> Figure:
    """Accuracy, or the CoT rate (`"reasoned"`), of each mask: a table of `kv.analysis.ablate_layers` or
    `ablate_heads`.

    A panel per part (keys, values, both), a row per mask, a column per layer or KV head; titles give the baseline and
    the whole steering. A blue frame: at most one in twenty random vectors does as well at that mask (`p_random`). The
    colour bar says how wide a 95% Wilson interval is at most; the table has each.

    Raises:
        ValueError: another column, or a table without masks.

    Example:
        >>> import pandas as pd
        >>> import kvsteer_lab as kv
        >>> ways = [("none", "", None, 0.5), ("all", "values", None, 0.9), ("single", "values", 1, 0.8),
        ...         ("single", "values", 2, 0.6)]
        >>> table = pd.DataFrame(ways, columns=["way", "part", "layer", "accuracy"]).assign(head=None, n=40)
        >>> figure = kv.figures.plot_layers(table.astype({"layer": "Int64", "head": "Int64"}))
        >>> figure.axes[0].get_title(loc="left"), [text.get_text() for text in figure.axes[0].texts]
        ('values: baseline .50, all .90', ['.80', '.60'])
    """
    check_column(column, ("accuracy", "reasoned"))
    masks = table[~table.way.isin(["none", "all"])]
    if masks.empty:
        raise ValueError(
            "The table holds no masks to draw, only the baseline or the whole; pass the one that"
            " kv.analysis.ablate_layers returned."
        )
    masks = masks.assign(mask=_masks(masks), place=masks.layer.where(masks.layer.notna(), masks["head"]))
    parts, units = list(dict.fromkeys(masks.part)), list(dict.fromkeys(masks.layer.isna().map(_unit)))
    grids = {
        (part, unit): masks[(masks.part == part) & (masks.layer.isna().map(_unit) == unit)]
        for part in parts
        for unit in units
    }
    rows = max(own["mask"].nunique() for own in grids.values())
    columns = sum(grids[parts[0], unit].place.nunique() for unit in units)
    width = ONE_COLUMN if columns <= 8 and len(units) == 1 else TWO_COLUMNS
    figure, axes = plt.subplots(
        len(parts),
        len(units),
        figsize=(width, 0.85 + len(parts) * (0.45 + 0.2 * rows)),
        layout="constrained",
        squeeze=False,
    )
    for line, part in zip(axes, parts, strict=True):
        for axis, unit in zip(line, units, strict=True):
            image = _draw(axis, grids[part, unit], column)
            axis.set_xlabel(unit if part == parts[-1] else "")
        line[0].set_title(_title(table, part, column), loc="left")
    what = measure_name(column)
    n = int(masks.n.iloc[0])
    low, high = wilson(n // 2, n)
    figure.colorbar(
        image,
        ax=axes,
        label=f"{what}, {n} questions\n(95% interval: ±{(high - low) / 2:.2f} at most)",
        location="bottom",
        aspect=30,
        pad=0.03,
    )
    return figure


def _unit(by_head: bool) -> str:
    return "KV head" if by_head else "layer"


def _masks(table: pd.DataFrame) -> list[str]:
    return [
        f"head {row.head} of this layer alone"
        if row.way == "single by layer"
        else _MASKS.get(row.way, for_figure(row.way)).format("head" if pd.isna(row.layer) else "layer")
        for row in table.itertuples()
    ]


def _title(table: pd.DataFrame, part: str, column: str) -> str:
    found = {
        name: table[(table.way == way) & (table.part.fillna("") == level)][column]
        for name, way, level in (("baseline", "none", ""), ("all", "all", part))
    }
    told = ", ".join(f"{name} {_write(share.iloc[0])}" for name, share in found.items() if len(share))
    return f"{for_figure(part)}: {told}" if told else for_figure(part)


def _draw(axis: Axes, rows: pd.DataFrame, column: str) -> AxesImage:
    names, places = list(dict.fromkeys(rows["mask"])), sorted(set(rows.place))
    grid = rows.pivot(index="mask", columns="place", values=column).reindex(index=names, columns=places)
    axis.set_facecolor("#f2f2f2")
    shown = grid.to_numpy(float)
    image = axis.imshow(shown, cmap=AMOUNT, vmin=0, vmax=1, aspect="auto", interpolation="nearest")
    if len(places) <= _MOST_WRITTEN:
        for (i, j), share in np.ndenumerate(shown):
            if not np.isnan(share):
                axis.annotate(_write(share), (j, i), ha="center", va="center", fontsize=6, color=ink(share, 0, 1))
    p = "p_random" if column == "accuracy" else f"p_random_{column}"
    for row in rows.itertuples() if p in rows else ():
        if getattr(row, p) <= 0.05:
            corner = (places.index(row.place) - 0.44, names.index(row.mask) - 0.42)
            axis.add_patch(Rectangle(corner, 0.88, 0.84, fill=False, edgecolor=COLORS["random"], linewidth=1.2))
    step = -(-len(places) // _MOST_WRITTEN)
    axis.set(xticks=range(0, len(places), step), xticklabels=[str(place) for place in places[::step]])
    axis.set(yticks=range(len(names)), yticklabels=names)
    axis.tick_params(length=0)
    axis.spines[:].set_visible(False)
    return image


def _write(share: float) -> str:
    return f"{share:.2f}".removeprefix("0")
