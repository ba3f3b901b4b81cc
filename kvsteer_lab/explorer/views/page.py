"""What is displayed: a line that says what goes on, the column of fields, and five tabs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ipywidgets as w

from ..state import ExplorerState
from .ablation import Ablation
from .canvases import STYLE, Picking, Reach
from .control_panel import ControlPanel
from .fields import css
from .geometry import Geometry
from .keeping import Keep
from .ladder import StrengthLadder
from .markup import status
from .side_by_side import SideBySide

TABS = ("Side by side", "Strength ladder", "Ablation", "Geometry", "Export")


@dataclass(frozen=True)
class Actions:
    """What the page's buttons and fields do.

    Attributes:
        change: takes new values of fields of the state, by name.
        compare, climb, sweep, look: run the comparison, the strength ladder, the sweep; draw the pairs.
        cancel: cancels all work, or work of one kind.
        read_prompt: reads the attention to each token of the prompt.
        load_vectors: reads vectors from a file, a folder or a repository.
        save_figure: takes which figure, a path, and whether an existing file may be overwritten.
        save_vectors, save_state, save_html: take a path, and whether an existing file may be overwritten.
        load_state: takes a path.
    """

    change: Callable[[Mapping[str, Any]], None]
    compare: Callable[[], None]
    climb: Callable[[], None]
    sweep: Callable[[], None]
    look: Callable[[], None]
    cancel: Callable[[str | None], None]
    read_prompt: Callable[[], None]
    load_vectors: Callable[[str], None]
    save_figure: Callable[[str, str, bool], None]
    save_vectors: Callable[[str, bool], None]
    save_state: Callable[[str, bool], None]
    save_html: Callable[[str, bool], None]
    load_state: Callable[[str], None]


class Page:
    """All views of an explorer.

    Args:
        n_layers, n_kv_heads: of the model.
        tasks: names of the tasks that can be chosen.
        folder: where files go unless told otherwise.
        actions: what the buttons and fields do.

    Attributes:
        controls: the left column.
        side, ladder, ablation, geometry, keep: the tabs' views.
        ui: the whole.
        errors: how many times something went wrong.
    """

    def __init__(
        self, n_layers: int, n_kv_heads: int, tasks: Sequence[str], folder: str | Path, actions: Actions
    ) -> None:
        def change(name: str, value: Any) -> None:
            actions.change({name: value})

        self.controls = ControlPanel(n_layers, n_kv_heads, tasks, change, actions.load_vectors)
        self.picking = Picking()
        self.side = SideBySide(self.picking, actions.read_prompt)
        self.ladder = StrengthLadder(change, actions.climb)
        self.ablation = Ablation(change, actions.sweep, lambda: actions.cancel("sweep"), self._take)
        self._change = actions.change
        self.geometry = Geometry(n_layers, change)
        self.keep = Keep(
            folder,
            actions.save_figure,
            actions.save_vectors,
            actions.save_state,
            actions.save_html,
            actions.load_state,
        )
        self.said = w.HTML(status(""))
        self.errors = 0
        self.run = w.Button(description="Run", button_style="primary", tooltip="compare once more")
        self.stop = w.Button(description="Stop", tooltip="stop all work at the next token")
        for widget, name in ((self.said, "status"), (self.run, "run"), (self.stop, "stop")):
            css(widget, name)
        self.run.on_click(lambda _: actions.compare())
        self.stop.on_click(lambda _: actions.cancel(None))
        boxes = [self.side.box, self.ladder.box, self.ablation.box, self.geometry.box, self.keep.box]
        self.tabs = w.Tab(boxes, selected_index=0)
        for i, title in enumerate(TABS):
            self.tabs.set_title(i, title)
        self.tabs.add_class("kv-tabs")
        self.tabs.observe(
            lambda moved: actions.look() if moved["new"] == TABS.index("Geometry") else None, "selected_index"
        )
        self.picking.observe(lambda moved: self.side.pick(*moved["new"][:2]), "token")
        self.picking.observe(lambda moved: change("slot", moved["new"][0]), "slot")
        self.picking.observe(lambda _: actions.read_prompt(), "asked")
        top = w.HBox([self.run, self.stop, self.said]).add_class("kv-top")
        body = w.Box([self.controls.box, self.tabs]).add_class("kv-body")
        self.ui = w.VBox([w.HTML(f"<style>{STYLE}</style>"), top, body, Reach(), self.picking])
        self.ui.add_class("kv-explorer")

    def _take(self, changes: Mapping[str, Any]) -> None:
        """Take over a cell's setting, and show what it says."""
        self._change(changes)
        self.tabs.selected_index = TABS.index("Side by side")

    def show(self, state: ExplorerState, sets: Sequence[str], code: str) -> None:
        """Show a state, the names of the sets of vectors at hand, and the code of the state."""
        self.controls.show(state, sets)
        for view in (self.side, self.ladder, self.ablation, self.geometry):
            view.show(state)
        self.keep.code.code = code

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
