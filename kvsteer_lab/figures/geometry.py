"""The geometry of styles: pairs in their principal components, cosines between styles, and separability of styles."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from .._util.text import for_figure
from .style import COLORS, ONE_COLUMN, PARTS, STYLES, TWO_COLUMNS, styled

LOOKS = {
    style: (color, marker)
    for (style, color), marker in zip(STYLES.items(), ("P", "^", "o", "s", "D", "v", "x"), strict=True)
}
"""Colour and marker of each style: in grey, the marker tells."""

_MOST = 6  # panels side by side


def look(style: str) -> tuple[str, str]:
    """Colour and marker of a style; one of the reader's own is black."""
    return LOOKS.get(style, ("#000000", "*"))


def words(style: str) -> str:
    """The style's name as it is written in a figure."""
    return for_figure(style.replace("_", " "))


@styled
def plot_style_pca(table: pd.DataFrame) -> Figure:
    """Each pair by its first two principal components, a column of panels a layer: the table that `analysis.style_pca`
    gives.

    Axes carry the share of the variance that is explained. Of more than six layers, six at even distances are shown; a
    part without differences stays empty.

    Raises:
        ValueError: a table of one component only.

    Example:
        >>> import pandas as pd
        >>> import kvsteer_lab as kv
        >>> rows = [(s, p, c, float(p + c)) for s in ("stepwise", "analogical") for p in (0, 1) for c in (1, 2)]
        >>> table = pd.DataFrame(rows, columns=["style", "pair", "component", "coordinate"])
        >>> figure = kv.figures.plot_style_pca(table.assign(layer=2, part="values", explained=0.4))
        >>> figure.axes[0].get_title()
        'layer 2, values'
    """
    if table.component.max() < 2:
        raise ValueError("The picture needs two components; call style_pca with components=2 or more.")
    layers, parts = _some(table.layer.unique()), list(dict.fromkeys(sorted(table.part)))
    width = TWO_COLUMNS if len(layers) > 1 else ONE_COLUMN
    figure, axes = plt.subplots(
        len(parts), len(layers), figsize=(width, 0.4 + 1.75 * len(parts)), layout="constrained", squeeze=False
    )
    for row, part in zip(axes, parts, strict=True):
        for axis, layer in zip(row, layers, strict=True):
            own = table[(table.layer == layer) & (table.part == part)]
            axis.set(title=for_figure(f"layer {layer}, {part}"))
            if own.empty:
                axis.set(xticks=[], yticks=[])
                axis.annotate(
                    "no differences",
                    (0.5, 0.5),
                    xycoords="axes fraction",
                    ha="center",
                    va="center",
                    fontsize=7,
                    color=COLORS["baseline"],
                )
                continue
            share = own.groupby("component").explained.first()
            for style, points in own.groupby("style", sort=False):
                place = points.pivot(index="pair", columns="component", values="coordinate")
                color, marker = look(str(style))
                axis.scatter(place[1], place[2], s=7, color=color, marker=marker, linewidths=0.3, alpha=0.6)
            axis.set(xlabel=f"PC 1 ({share[1]:.0%})", ylabel=f"PC 2 ({share[2]:.0%})")
            axis.tick_params(labelsize=6)
            axis.margins(0.08)
    names = [(str(style), *look(str(style))) for style in dict.fromkeys(table["style"])]
    keys = [
        Line2D([], [], color=color, marker=marker, linestyle="none", markersize=4.5, label=words(style))
        for style, color, marker in names
    ]
    figure.legend(handles=keys, loc="outside upper center", ncols=5, columnspacing=1, handletextpad=0.2)
    return figure


@styled
def plot_style_cosines(table: pd.DataFrame) -> Figure:
    """Cosines between the styles' vectors, one panel per layer and part: the table that `analysis.style_cosines` gives.

    Of more than six layers, six at even distances are shown.

    Example:
        >>> import pandas as pd
        >>> import kvsteer_lab as kv
        >>> styles = ["stepwise", "analogical"]
        >>> rows = [(a, b, 1.0 if a == b else 0.4) for a in styles for b in styles]
        >>> table = pd.DataFrame(rows, columns=["style", "other", "cosine"]).assign(layer=2, part="values")
        >>> [text.get_text() for text in kv.figures.plot_style_cosines(table).axes[0].texts]
        ['1', '.40', '.40', '1']
    """
    layers, parts, styles = (
        _some(table.layer.unique()),
        list(dict.fromkeys(sorted(table.part))),
        list(dict.fromkeys(table["style"])),
    )
    width = TWO_COLUMNS if len(layers) > 1 else ONE_COLUMN
    side = min(1.65, (width - 1.75) / len(layers))  # of a panel; the rest is for names and the bar
    size = (width, 1.0 + (side + 0.2) * len(parts))
    figure, axes = plt.subplots(
        len(parts), len(layers), figsize=size, layout="compressed", squeeze=False, sharex=True, sharey=True
    )
    for row, part in zip(axes, parts, strict=True):
        for axis, layer in zip(row, layers, strict=True):
            own = table[(table.layer == layer) & (table.part == part)]
            axis.set(
                title=for_figure(f"layer {layer}, {part}"),
                xticks=range(len(styles)),
                yticks=range(len(styles)),
                aspect="equal",
            )
            axis.set(xlim=(-0.5, len(styles) - 0.5), ylim=(len(styles) - 0.5, -0.5))
            axis.set_xticklabels(map(words, styles), rotation=90, fontsize=6)
            axis.set_yticklabels(map(words, styles), fontsize=6)
            axis.tick_params(length=0)
            axis.spines[:].set_visible(False)
            if own.empty:
                axis.annotate(
                    "no differences",
                    (0.5, 0.5),
                    xycoords="axes fraction",
                    ha="center",
                    va="center",
                    fontsize=7,
                    color=COLORS["baseline"],
                )
                continue
            grid = own.pivot(index="style", columns="other", values="cosine").loc[styles, styles].to_numpy()
            image = axis.imshow(grid, cmap="RdBu_r", vmin=-1, vmax=1)
            for (i, j), cosine in np.ndenumerate(grid):
                text = f"{cosine:.2f}".replace("0.", ".").replace("1.00", "1")
                axis.annotate(
                    text, (j, i), ha="center", va="center", fontsize=6, color="white" if abs(cosine) > 0.6 else "black"
                )
    figure.colorbar(image, ax=axes, label="cosine", shrink=0.6, aspect=25)
    return figure


@styled
def plot_separability(table: pd.DataFrame) -> Figure:
    """Silhouette and nearest centroid per layer, over the bands that hold the middle 95% of shuffled labels: the table
    of `analysis.separability`.

    Example:
        >>> import pandas as pd
        >>> import kvsteer_lab as kv
        >>> measures = [(m, p) for m in ("silhouette", "nearest centroid") for p in ("keys", "values")]
        >>> table = pd.DataFrame(measures, columns=["measure", "part"]).assign(layer=2, value=0.8, low=0.1, high=0.3)
        >>> [axis.get_title() for axis in kv.figures.plot_separability(table).axes]
        ['silhouette', 'nearest centroid']
    """
    figure, axes = plt.subplots(1, 2, figsize=(TWO_COLUMNS, 2.3), layout="constrained")
    names = {"silhouette": "mean over pairs", "nearest centroid": "accuracy, pair left out"}
    for axis, (measure, name) in zip(axes, names.items(), strict=True):
        for part, color, marker, hatch in (
            ("keys", PARTS["keys"], "D", "////"),
            ("values", PARTS["values"], "o", "\\\\\\\\"),
        ):
            own = table[(table.measure == measure) & (table.part == part)].sort_values("layer")
            band = dict(facecolor=color, alpha=0.25, linewidth=0, hatch=hatch, label=f"{part}, shuffled labels")
            axis.fill_between(own.layer, own.low, own.high, **band)
            axis.plot(
                own.layer,
                own.value,
                marker=marker,
                markersize=6 if part == "keys" else 3,
                markerfacecolor="white",
                color=color,
                label=part,
            )
        layers = sorted(table.layer.unique())
        axis.set(
            title=measure,
            xlabel="layer",
            ylabel=name,
            xticks=layers if len(layers) <= 16 else layers[:: len(layers) // 8],
        )
        axis.set_ylim(min(-0.1 if measure == "silhouette" else -0.04, table.low.min() - 0.02), 1.06)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=4)
    return figure


def _some(layers: Sequence[int]) -> list[int]:
    every = sorted(int(layer) for layer in layers)
    return (
        every if len(every) <= _MOST else [every[i] for i in np.linspace(0, len(every) - 1, _MOST).round().astype(int)]
    )
