"""The explorer's own widgets: a heatmap whose cells can be chosen, a scatter whose points show their text, code with a
button that copies it, and labels for screen readers.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.resources import files
from typing import Any

import anywidget
import traitlets

from ..._util.terms import measure_name
from ..._util.text import visible
from ...figures.explorer import span_of
from ...figures.geometry import look
from ..results.components import Components
from ..results.sweep import Sweep
from ..state import Measure

_STATIC = files(__package__.rpartition(".")[0]) / "static"
STYLE = (_STATIC / "explorer.css").read_text(encoding="utf-8")


class Heatmap(anywidget.AnyWidget):
    """Cells by row and column; `picked` is the cell that was clicked or entered, and how many times cells were
    picked.
    """

    _esm = (_STATIC / "heatmap.js").read_text(encoding="utf-8")
    title = traitlets.Unicode("").tag(sync=True)
    row_title = traitlets.Unicode("").tag(sync=True)
    column_title = traitlets.Unicode("").tag(sync=True)
    measure = traitlets.Unicode("").tag(sync=True)
    legend = traitlets.Unicode("").tag(sync=True)
    rows = traitlets.List(traitlets.Unicode()).tag(sync=True)
    columns = traitlets.List(traitlets.Unicode()).tag(sync=True)
    values: Any = traitlets.List().tag(sync=True)
    texts: Any = traitlets.List().tag(sync=True)
    low = traitlets.Float(0.0).tag(sync=True)
    high = traitlets.Float(1.0).tag(sync=True)
    picked = traitlets.List(traitlets.Int(), [-1, -1, 0]).tag(sync=True)

    def show(self, sweep: Sweep, measure: Measure) -> None:
        """Draw a sweep as far as it is done."""
        values = sweep.values(measure)
        texts = [[_write(value, measure) for value in row] for row in values]
        base = sweep.value(sweep.baseline, measure)
        done = [value for row in values for value in row if value is not None]
        known = [*done, *([] if base is None else [base])]
        low, high = span_of(known, measure)
        legend = f"{measure_name(measure)} over {len(sweep.asked)} prompt{'s' * (len(sweep.asked) != 1)}"
        legend += f"; baseline {_write(base, measure)}" if base is not None else ""
        legend += f"; colour from {_write(low, measure)} to {_write(high, measure)}" if known else ""
        grid = sweep.grid
        frame = dict(
            title=grid.title,
            row_title=grid.row_title,
            column_title=grid.column_title,
            rows=list(grid.rows),
            columns=list(grid.columns),
        )
        with self.hold_sync():
            self.set_trait("measure", measure_name(measure))
            for name, value in (frame | dict(low=low, high=high, values=values, texts=texts, legend=legend)).items():
                self.set_trait(name, value)


class Scatter(anywidget.AnyWidget):
    """Points by two coordinates; each shows its text."""

    _esm = (_STATIC / "scatter.js").read_text(encoding="utf-8")
    title = traitlets.Unicode("").tag(sync=True)
    x_title = traitlets.Unicode("").tag(sync=True)
    y_title = traitlets.Unicode("").tag(sync=True)
    looks = traitlets.Dict().tag(sync=True)
    points: Any = traitlets.List().tag(sync=True)

    def show(self, found: Components) -> None:
        """Draw one layer's keys or values; a set's style has a colour and a marker."""
        points: Sequence[dict[str, Any]] = [
            dict(set=visible(p.set), pair=int(p.pair), x=float(p.x), y=float(p.y), text=visible(p.text))
            for p in found.points.itertuples()
        ]
        titles = [f"PC {i} ({share:.0%} of the variance)" for i, share in enumerate(found.explained, 1)]
        with self.hold_sync():
            self.title = f"Layer {found.layer}, {found.part}"
            self.x_title, self.y_title = titles
            self.looks = {
                visible(name): list(look(str(own["style"].iloc[0])))
                for name, own in found.points.groupby("set", sort=False)
            }
            self.points = list(points)

    def clear(self) -> None:
        """Draw nothing."""
        self.points = []


class Code(anywidget.AnyWidget):
    """Code, and a button that copies it."""

    _esm = (_STATIC / "code.js").read_text(encoding="utf-8")
    code = traitlets.Unicode("").tag(sync=True)


class Reach(anywidget.AnyWidget):
    """Invisible: gives the other controls names, states and keys for those who use a screen reader or no mouse."""

    _esm = (_STATIC / "reach.js").read_text(encoding="utf-8")


class Picking(anywidget.AnyWidget):
    """Invisible: tells which token of a text (`token`: arm, number from 1) or which slot of the prompt (`slot`: counted
    from the end) was picked; the last entry counts the picks. What the page says of a token of the prompt that is
    pointed at is one of `lines`, or, where there are none, `otherwise`, and `asked` is counted up.
    """

    _esm = (_STATIC / "picking.js").read_text(encoding="utf-8")
    token: Any = traitlets.List(default_value=["", 0, 0]).tag(sync=True)
    slot = traitlets.List(traitlets.Int(), [-1, 0]).tag(sync=True)
    lines: Any = traitlets.List(traitlets.Unicode()).tag(sync=True)
    otherwise = traitlets.Unicode("").tag(sync=True)
    asked = traitlets.Int(0).tag(sync=True)


def _write(value: float | None, measure: Measure) -> str:
    return "" if value is None else f"{value:.0f}" if measure == "tokens" else f"{value:.2f}"
