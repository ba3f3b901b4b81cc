"""What steering towards a chunk does to its answer, and what is left of a chunk that was erased."""

from __future__ import annotations

import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from .._util.text import for_figure
from ..stats.intervals import paired_bootstrap
from ..stats.significance import holm
from .style import COLORS, PARTS, TWO_COLUMNS, styled

ALPHA = 0.05


@styled
def plot_chunk_steering(table: pd.DataFrame) -> Figure:
    """How much likelier a chunk's answer becomes, a row for each thing that is done.

    Lines are 95% bootstrap intervals over prompts. The pale bar holds the middle 95% of the random controls of equal
    size, the diamond is their mean. The title names what moves the answer, either way: beyond that bar, and by paired
    tests against no steering and against the mean control, both Holm-corrected over the table.

    Args:
        table: what is done -> `kv.analysis.summarise_chunk_steering`, one row each.

    Example:
        >>> import pandas as pd
        >>> import kvsteer_lab as kv
        >>> row = dict(n=16, effect=1.1, low=0.8, high=1.5, p=0.001, p_beyond=0.001)
        >>> row |= dict(random=0.1, random_low=-0.2, random_high=0.3)
        >>> kv.figures.plot_chunk_steering(pd.DataFrame([row], index=["values doubled"])).axes[0].get_title()
        'What moves the answer: values doubled'
    """
    figure, axis = plt.subplots(figsize=(TWO_COLUMNS, 0.9 + 0.32 * len(table)), layout="constrained")
    moved, corrected = [], [holm(table[p].tolist()) for p in ("p", "p_beyond")]
    for place, (label, row) in enumerate(zip(table.index, table.to_dict("records"), strict=True)):
        y = len(table) - 1 - place
        axis.plot(
            [row["random_low"], row["random_high"]],
            [y, y],
            color=COLORS["random"],
            linewidth=7,
            alpha=0.35,
            solid_capstyle="butt",
        )
        axis.plot(row["random"], y, "D", color=COLORS["random"], markersize=4)
        axis.plot([row["low"], row["high"]], [y, y], color=COLORS["steered"], linewidth=1)
        axis.plot(row["effect"], y, "o", color=COLORS["steered"])
        outside = not row["random_low"] <= row["effect"] <= row["random_high"]
        if outside and max(p[place] for p in corrected) < ALPHA:
            moved.append(str(label))
    axis.axvline(0, color="black", linewidth=0.6, linestyle="--", zorder=0)
    axis.set(
        title=for_figure(f"What moves the answer: {'; '.join(moved) or 'nothing that was tried'}"),
        xlabel="change of the chunk's answer against the others', nats of log-odds",
        ylim=(-0.6, len(table) - 0.4),
        yticks=range(len(table)),
        yticklabels=[for_figure(str(label)) for label in table.index[::-1]],
    )
    return figure


@styled
def plot_erasure(erasure: pd.DataFrame, notes: pd.DataFrame) -> Figure:
    """What is left of a chunk that was erased: divergences from models that never read it, and where the slots behind
    it keep notes of it.

    Lines are 95% bootstrap intervals over prompts. The titles say how much of the chunk's effect erasing leaves, and
    where later slots are furthest from what they would be.

    Args:
        erasure: from `kv.analysis.measure_erasure`, at least two prompts.
        notes: from `kv.analysis.notes_of_chunks`, of the same prompts.

    Example:
        >>> import pandas as pd
        >>> import kvsteer_lab as kv
        >>> rows = [dict(prompt=p, chunk=0, whole=4.0, left=1.0, notes=0.9, moved=0.2) for p in (0, 1)]
        >>> far = [dict(prompt=p, chunk=0, layer=0, keys=0.0, values=0.0) for p in (0, 1)]
        >>> kv.figures.plot_erasure(pd.DataFrame(rows), pd.DataFrame(far)).axes[0].get_title()
        'Erasing leaves 25% of what the chunk does'
    """
    figure, (left, right) = plt.subplots(
        1, 2, figsize=(TWO_COLUMNS, 2.4), layout="constrained", gridspec_kw={"width_ratios": [1.15, 1]}
    )
    said = {
        "whole": "chunk there vs chat without it",
        "left": "chunk erased vs chat without it",
        "notes": "chunk erased vs never read, same positions",
        "moved": "never read, same positions vs chat without it",
    }
    for y, name in enumerate(reversed(said)):
        each = erasure.groupby("prompt")[name].mean().tolist()
        found = paired_bootstrap(each, [0.0] * len(each), n=1000)
        left.plot([found.low, found.high], [y, y], color=COLORS["baseline"], linewidth=1)
        left.plot(found.value, y, "o", color=COLORS["baseline"])
    share = erasure.left.sum() / erasure.whole.sum()
    left.set(
        title=f"Erasing leaves {share:.0%} of what the chunk does",
        xlabel="KL along the reply, nats",
        yticks=range(len(said)),
        yticklabels=list(reversed(said.values())),
        ylim=(-0.5, len(said) - 0.5),
    )
    left.set_xlim(left=0)
    mean = notes.groupby("layer")[[*PARTS]].mean()
    for part, color in PARTS.items():
        line = mean[part]
        right.plot(line.index, line, color=color, label=part, marker="o" if part == "keys" else "s", markersize=3)
    most = str(mean.max().idxmax())
    right.set(
        title=f"Notes: most in {most}, layer {mean[most].idxmax()}",
        xlabel="layer",
        ylabel="relative distance",
        ylim=(0, None),
    )
    right.legend()
    return figure
