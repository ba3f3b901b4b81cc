"""The tab "Geometry": the pairs of one layer in their principal components, each with its question."""

from __future__ import annotations

from collections.abc import Sequence

import ipywidgets as w

from ..results.components import Components
from ..state import ExplorerState
from .canvases import Scatter
from .fields import Change, choice, css, simple
from .markup import note, status

_STYLE = {"description_width": "92px"}


class Geometry:
    """Fields and scatter.

    Args:
        n_layers: how many layers can be chosen.
        change: is told of a field's new value.

    Attributes:
        box: what is displayed.
    """

    def __init__(self, n_layers: int, change: Change) -> None:
        slider = w.IntSlider(
            min=0,
            max=n_layers - 1,
            description="layer",
            style=_STYLE,
            layout={"width": "auto", "max_width": "480px"},
            tooltip="which layer's pairs",
        )
        self.fields = [simple("geometry_layer", slider), choice("geometry_part", "part", ("values", "keys"))]
        for field in self.fields:
            field.bind(change)
        self.said = w.HTML(status(""))
        css(self.said, "geometry-status")
        self.scatter = Scatter()
        meaning = note(
            "Each point is one pair: its positive side minus its negative side, at the slot whose mean is the steering"
            " vector."
        )
        self.box = w.VBox([w.HTML(meaning), *(field.widget for field in self.fields), self.said, self.scatter])

    def show(self, state: ExplorerState) -> None:
        """Show a state's layer and part."""
        for field in self.fields:
            field.show(state)

    def progress(self, name: str, done: int, total: int) -> None:
        """Say how many pairs of a set have been read."""
        self.said.value = status(f"Reading the pairs of {name!r}: {done} of {total}.")

    def draw(self, found: Components, sets: Sequence[str]) -> None:
        """Draw one layer of some sets of pairs."""
        self.scatter.clear()  # so that the same points are drawn anew, too
        self.scatter.show(found)
        self.said.value = status(f"{', '.join(sets)}: {len(found.points)} pairs.")

    def fail(self, message: str) -> None:
        """Nothing can be drawn; say why."""
        self.scatter.clear()
        self.said.value = status(message, error=True)
