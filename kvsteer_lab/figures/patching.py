"""Activation patching: a grid of edited by patched layers for each way to patch."""

from __future__ import annotations

import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from .._util.text import for_figure
from .style import AMOUNT, TWO_COLUMNS, ink, styled

_WHAT = {"stream": "stream after layer", "update": "what layer adds"}
_WAY = {"restored": "steered into plain: share restored", "removed": "plain into steered: share removed"}


@styled
def plot_patching(table: pd.DataFrame) -> Figure:
    """Shares of the edit's effect that patches restore or remove: a table of `kv.analysis.patch_residuals`.

    One panel per way to patch; rows are the edited layers with their effect on the token's log-odds, columns the
    patched ones. Hatched: an effect that is not distinguishable from random vectors', which has no share.

    Example:
        >>> import pandas as pd
        >>> import kvsteer_lab as kv
        >>> rows = [(site, layer, float(layer >= int(site))) for site in ("0", "1") for layer in (0, 1)]
        >>> table = pd.DataFrame(rows, columns=["inject", "layer", "share"])
        >>> figure = kv.figures.plot_patching(table.assign(patch="stream", way="restored", effect=2.0))
        >>> [text.get_text() for text in figure.axes[0].texts]
        ['1.00', '1.00', '0.00', '1.00']
    """
    patches, ways = list(dict.fromkeys(table.patch)), list(dict.fromkeys(table.way))
    sites = list(dict.fromkeys(table.inject))
    effects = table.drop_duplicates("inject").set_index("inject").effect
    layers = sorted(set(table.layer))
    size = (TWO_COLUMNS, 0.7 + len(patches) * (0.55 + 0.24 * len(sites)))
    figure, axes = plt.subplots(
        len(patches), len(ways), figsize=size, layout="constrained", sharex=True, sharey=True, squeeze=False
    )
    for line, patch in zip(axes, patches, strict=True):
        for axis, way in zip(line, ways, strict=True):
            grid = (
                table[(table.patch == patch) & (table.way == way)]
                .pivot(index="inject", columns="layer", values="share")
                .reindex(sites)
            )
            axis.set_facecolor("#f2f2f2")
            image = axis.imshow(grid, aspect="auto", cmap=AMOUNT, vmin=0, vmax=1)
            for i, site in enumerate(sites):
                for j, layer in enumerate(layers):
                    share = grid.loc[site, layer]
                    if pd.isna(share):
                        axis.add_patch(
                            plt.Rectangle(
                                (j - 0.5, i - 0.5), 1, 1, fill=False, hatch="////", edgecolor="#bbbbbb", linewidth=0
                            )
                        )
                    elif len(layers) <= 12:
                        text = f"{share:.2f}".replace("-0.00", "0.00")
                        axis.text(j, i, text, ha="center", va="center", fontsize=6, color=ink(share, 0, 1))
            step = -(-len(layers) // 10)
            axis.set(xticks=range(0, len(layers), step), xticklabels=layers[::step], yticks=range(len(sites)))
            axis.set_yticklabels(
                [f"{'layer ' if site != 'all' else ''}{for_figure(site)} ({effects[site]:+.2f})" for site in sites]
            )
            axis.set_xlabel(_WHAT.get(patch, for_figure(patch)))
            axis.xaxis.set_tick_params(labelbottom=True)
            axis.grid(False)
        line[0].set_ylabel("edited (effect, nats)")
    for axis, way in zip(axes[0], ways, strict=True):
        axis.set_title(_WAY.get(way, for_figure(way)))
    figure.colorbar(image, ax=axes, label="share of the effect")
    return figure
