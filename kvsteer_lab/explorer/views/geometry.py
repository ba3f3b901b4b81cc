"""The tab "Geometry": the pairs of one layer in their principal components, each with its question."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence

import ipywidgets as w

from ..state import ExplorerState
from ..work.components import Components, find_components, pair_texts
from ..work.extracting import extract_differences
from ..work.running import TABLES
from ..workspace import Bench
from .canvases import Scatter
from .controls import Set, choice, css, simple
from .markup import note, status

_STYLE = {"description_width": "92px"}


class Geometry:
    """Controls and scatter.

    Args:
        bench: where pairs and differences are.
        change: is told of a knob's new value.

    Attributes:
        box: what is displayed.
        found: what is shown.
    """

    def __init__(self, bench: Bench, change: Set) -> None:
        slider = w.IntSlider(
            min=0,
            max=bench.model.n_layers - 1,
            description="layer",
            style=_STYLE,
            layout={"width": "auto", "max_width": "480px"},
            tooltip="which layer's pairs",
        )
        self.knobs = [simple("geometry_layer", slider), choice("geometry_part", "part", ("values", "keys"))]
        for knob in self.knobs:
            knob.bind(change)
        self.said = w.HTML(status(""))
        css(self.said, "geometry-status")
        self.scatter = Scatter()
        meaning = note(
            "Each point is one pair: its positive side minus its negative side, at the slot whose mean is the steering"
            " vector."
        )
        self.box = w.VBox([w.HTML(meaning), *(k.widget for k in self.knobs), self.said, self.scatter])
        self.found: Components | None = None
        self._texts: dict[str, list[str]] = {}

    def show(self, state: ExplorerState) -> None:
        """Show a state's knobs."""
        for knob in self.knobs:
            knob.show(state)

    def draw(self, bench: Bench, state: ExplorerState, cancelled: threading.Event) -> Iterator[None]:
        """Extract what is missing, and draw the state's layer; yields where other work may go first.

        Raises:
            ValueError: nothing to draw there.
            CancelledError: `cancelled` was set.
        """
        for name in [name for name in bench.pairs if name not in bench.differences]:
            for done in extract_differences(bench, name, cancelled):
                self.said.value = status(f"Reading the pairs of {name!r}: {done} of {len(bench.pairs[name])}.")
                yield
        for name, own in bench.differences.items():
            if name not in self._texts:
                self._texts[name] = pair_texts(
                    own, bench.pairs.get(name), bench.tasks.get(own.card.recipe.get("task", ""))
                )
        self.scatter.clear()
        with TABLES:
            self.found = find_components(bench.differences, state.geometry_layer, state.geometry_part, self._texts)
            self.scatter.show(self.found)
        self.said.value = status(f"{_listed(list(bench.differences))}: {len(self.found.points)} pairs.")
        yield

    def fail(self, message: str) -> None:
        """Nothing can be drawn; say why."""
        self.found = None
        self.scatter.clear()
        self.said.value = status(message, error=True)


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names)
