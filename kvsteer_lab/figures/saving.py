"""Saving a figure: PDF, SVG and PNG with their provenance inside, and the plotted data beside them."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence
from pathlib import Path

from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from matplotlib.text import Text

from .._util.files import write_together
from .._util.locks import one_writer
from .._util.text import visible
from ..models.model import Model
from .stamp import SUFFIXES, Stamp, stamp
from .style import SHEET, data_of

_DIGITS = 9  # enough to give back every float32 exactly
_LAYOUTS = 6  # each is some hundred times closer to the last than the one before


def save_figure(
    figure: Figure, path: str | Path, *, model: Model | Sequence[Model] | None = None, seed: int | None = None
) -> Figure:
    """Write a figure as `path` + `.pdf`, `.svg` and `.png`, and what it plots as `path` + `.csv`; all four or none.

    The same figure gives the same bytes, in any process. Inside each picture lies a stamp with the figure's name, the
    model's name and fingerprint,
    the seed, the package version and the hash of the CSV: `kvsteer figure-info` reads it. The CSV is the tidy table
    that the figure was drawn from, numbers with nine significant digits; `pandas.read_csv` reads it.

    Args:
        figure: made by a function of `kv.figures`, or by one's own that is `kv.figures.styled` and takes a table first.
        path: where to, without a suffix; missing folders are made.
        model: the model that is shown, or several of them.
        seed: the seed of what is shown.

    Returns:
        The figure: a notebook cell that ends in this call shows it.

    Raises:
        ValueError: no figure, one without data, no model, or a path with one of the four suffixes.
        OSError: the folder can't be written, another process is writing there, or the disk is full; old files survive.

    >>> import tempfile, pandas as pd
    >>> import kvsteer_lab as kv
    >>> table = pd.DataFrame({"layer": [0, 1], "keys": [0.1, 0.2], "values": [0.0, 2.0]})
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     figure = kv.save_figure(kv.figures.plot_relative_norms(table), f"{folder}/norms")
    ...     kv.figures.read_stamp(f"{folder}/norms.png").csv_rows
    2
    """
    path = Path(path)
    if not isinstance(figure, Figure):
        raise ValueError(
            f"save_figure takes a Matplotlib figure, not a {type(figure).__name__}; pass what a function of kv.figures"
            " returned."
        )
    if path.suffix in (*SUFFIXES, ".csv"):
        raise ValueError(
            f"Leave out the suffix {path.suffix} of {path}: the figure is written as PDF, SVG, PNG and CSV under one"
            " name."
        )
    table = data_of(figure)
    if table is None:
        raise ValueError(
            "This figure carries no data to write beside it; draw it with a function of kv.figures, or give it some"
            " with kv.figures.attach."
        )
    data = table.to_csv(index=False, float_format=f"%.{_DIGITS}g", lineterminator="\n").encode()
    about = stamp(path.name, model, seed, hashlib.sha256(data).hexdigest(), len(table))
    pictures = {_with(path, suffix): picture for suffix, picture in _draw(figure, about).items()}
    with one_writer(path.parent):  # or one process's table could lie beside another's pictures
        write_together({**pictures, _with(path, ".csv"): data})
    return figure


def _draw(figure: Figure, about: Stamp) -> dict[str, bytes]:
    """The picture in each format, in one layout: a layout engine starts from where the last drawing left it, so it is
    run until it (nearly) stands still.
    """
    for text in figure.findobj(Text):
        if (said := visible(text.get_text())) != text.get_text():
            text.set_text(said)  # XML, and so SVG, can't hold control characters
    files = {suffix: io.BytesIO() for suffix in SUFFIXES}
    engine, dpi = figure.get_layout_engine(), figure.dpi
    with plt.style.context(SHEET, after_reset=True):  # whatever the reader's own settings are
        # on a coarser grid letters are wider, and labels would be given the wrong room
        figure.set_dpi(plt.rcParams["savefig.dpi"])
        for _ in range(_LAYOUTS):
            figure.draw_without_rendering()
        figure.set_layout_engine("none")
        for axes in figure.axes:
            in_layout = axes.get_in_layout()
            axes.set_position(tuple(round(side, 6) for side in axes.get_position(original=True).bounds))
            # where axes are placed by hand, Matplotlib would leave them there from now on
            axes.set_in_layout(in_layout)
        try:
            for suffix, file in files.items():
                figure.savefig(file, format=suffix[1:], metadata=about.metadata(suffix))
        finally:
            figure.set_layout_engine(engine)
            figure.set_dpi(dpi)
    pictures = {suffix: file.getvalue() for suffix, file in files.items()}
    return pictures | {".svg": visible(pictures[".svg"].decode()).encode()}  # XML holds no control characters


def _with(path: Path, suffix: str) -> Path:
    return path.with_name(path.name + suffix)  # with_suffix would cut a name like llama-3.2
