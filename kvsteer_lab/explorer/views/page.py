"""What is displayed: a line that says what goes on, the column of controls, and four tabs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ipywidgets as w

from ..workspace import Bench
from .ablation import Ablation
from .canvases import STYLE, Reach
from .control_panel import Controls
from .controls import css
from .geometry import Geometry
from .keeping import Keep
from .markup import status
from .side_by_side import SideBySide

if TYPE_CHECKING:
    from ..explorer import Explorer

TABS = ("Side by side", "Ablation", "Geometry", "Keep")


class Page:
    """All views of an explorer, with what their buttons and knobs do.

    Attributes:
        controls: the left column.
        side, ablation, geometry, keep: the tabs' views.
        ui: the whole.
        errors: how many times something went wrong.
    """

    def __init__(self, bench: Bench, folder: str | Path, explorer: Explorer) -> None:
        def change(field: str, value: Any) -> None:
            explorer.move({field: value})

        self.controls = Controls(bench, change, explorer.load_vectors)
        self.side = SideBySide()
        self.ablation = Ablation(change, explorer.sweep, lambda: explorer.cancel("sweep"), explorer.move)
        self.geometry = Geometry(bench, change)
        self.keep = Keep(folder, explorer.save_figure, explorer.save_vectors, explorer.save_state, explorer.load_state)
        self.said = w.HTML(status(""))
        self.errors = 0
        self.run = w.Button(description="Run", button_style="primary", tooltip="compare once more")
        self.stop = w.Button(description="Stop", tooltip="stop all work at the next token")
        for widget, name in ((self.said, "status"), (self.run, "run"), (self.stop, "stop")):
            css(widget, name)
        self.run.on_click(lambda _: explorer.compare())
        self.stop.on_click(lambda _: explorer.cancel())
        boxes = [self.side.box, self.ablation.box, self.geometry.box, self.keep.box]
        self.tabs = w.Tab(boxes, selected_index=0)
        for i, title in enumerate(TABS):
            self.tabs.set_title(i, title)
        self.tabs.add_class("kv-tabs")
        self.tabs.observe(
            lambda moved: explorer.look() if moved["new"] == TABS.index("Geometry") else None, "selected_index"
        )
        top = w.HBox([self.run, self.stop, self.said])
        body = w.Box([self.controls.box, self.tabs]).add_class("kv-body")
        self.ui = w.VBox([w.HTML(f"<style>{STYLE}</style>"), top, body, Reach()])
        self.ui.add_class("kv-explorer")

    def say(self, text: str, *, error: bool = False) -> None:
        """Say what goes on, or what went wrong."""
        self.errors += error
        self.said.value = status(text, error=error)

    def close(self) -> None:
        """Close every widget of the page; ipywidgets keep each one that isn't closed, and with it all that it calls."""
        for widget in [*_all_within(self.ui)]:
            widget.close()


def _all_within(widget: w.Widget) -> Iterator[w.Widget]:
    """A widget, those within, and their layouts and styles, which are widgets, too."""
    for child in getattr(widget, "children", ()):
        yield from _all_within(child)
    yield from (own for name in ("layout", "style") if isinstance(own := getattr(widget, name, None), w.Widget))
    yield widget
