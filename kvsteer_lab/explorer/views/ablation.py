"""The tab "Ablation": a sweep that fills a heatmap; each cell shows its texts and can be taken over."""

from __future__ import annotations

from collections.abc import Callable

import ipywidgets as w

from ..._util.terms import measure_name
from ..results.sweep import Sweep, Text
from ..state import MEASURES, SWEEPS, ExplorerState
from ..threads import Outcome
from .canvases import Heatmap
from .fields import Change, choice, css, number, numbers
from .markup import cell_html, note, status

_MEANING = note(
    "Each cell is the cache steering of the left column with one thing changed, on the first questions of the split (or"
    " on your own text), several cells forked from one prefill of each prompt. What is found here by looking is a"
    " guess: test it with kv.analysis.ablate_layers or kv.tune on dev, and confirm it once on test."
)


_STALE = "This heatmap belongs to an earlier setting of the left column; run the sweep anew for the present one."


class Ablation:
    """Controls, progress and heatmap of a sweep.

    Args:
        change: is told of a field's new value.
        start, cancel: what the buttons do.
        take: is called with a cell's whole setting.

    Attributes:
        box: what is displayed.
        sweep: the one that is shown.
    """

    def __init__(
        self,
        change: Change,
        start: Callable[[], None],
        cancel: Callable[[], None],
        take: Callable[[dict[str, object]], None],
    ) -> None:
        self.fields = [
            choice("sweep", "sweep over", SWEEPS),
            number("sweep_questions", "questions", "how many of the split's questions each cell answers"),
            numbers("sweep_ck", "c_k values", "0, 1, 2"),
            numbers("sweep_cv", "c_v values", "0, 1, 2, 4"),
            choice("measure", "show", [(measure_name(measure), measure) for measure in MEASURES]),
        ]
        for field in self.fields:
            field.bind(change)
        self.run = w.Button(
            description="Run sweep", button_style="primary", tooltip="sweep with the settings of the left column"
        )
        self.stop = w.Button(description="Cancel", disabled=True, tooltip="stop at the next token; finished cells stay")
        self.bar = w.FloatProgress(min=0.0, max=1.0, description="progress", style={"description_width": "92px"})
        self.said = w.HTML(status("No sweep yet."))
        self.heatmap = Heatmap()
        self.texts = w.HTML(note("Click a cell, or walk to it with the arrow keys and press Enter, to read its texts."))
        self.use = w.Button(
            description="Use this setting",
            disabled=True,
            tooltip="set the left column as this cell had it",
        )
        self.stale = w.HTML()
        for widget, name in (
            (self.stale, "sweep-stale"),
            (self.run, "sweep-run"),
            (self.stop, "sweep-cancel"),
            (self.bar, "sweep-bar"),
            (self.said, "sweep-status"),
            (self.texts, "cell-texts"),
            (self.use, "cell-use"),
        ):
            css(widget, name)
        self.run.on_click(lambda _: start())
        self.stop.on_click(lambda _: cancel())
        self.use.on_click(lambda _: self._take())
        self._take_over = take
        self.heatmap.observe(lambda _: self._pick(), "picked")
        self.box = w.VBox(
            [
                w.HTML(_MEANING),
                *(field.widget for field in self.fields),
                w.HBox([self.run, self.stop]),
                self.bar,
                self.said,
                self.stale,
                self.heatmap,
                self.use,
                self.texts,
            ]
        )
        self.sweep: Sweep | None = None
        self._picked_texts: tuple[Text, ...] = ()
        self._done = ""

    def show(self, state: ExplorerState) -> None:
        """Show a state, and the sweep by the state's measure."""
        for field in self.fields:
            field.show(state)
            if field.name in ("sweep_ck", "sweep_cv"):
                field.widget.layout.display = None if state.sweep == "ck x cv" else "none"
        if self.sweep is not None:
            self.heatmap.show(self.sweep, state.measure)
        self._tell_if_stale(state)

    def _tell_if_stale(self, state: ExplorerState) -> None:
        stale = self.sweep is not None and not self.sweep.belongs_to(state)
        self.stale.value = note(_STALE) if stale else ""

    def cancelling(self) -> None:
        """A cancel is on its way."""
        self.said.value = status("Cancelling.")

    def begin(self) -> None:
        """A sweep is about to run."""
        self.run.disabled, self.stop.disabled = True, False
        self.bar.value = 0.0
        self.said.value = status("Waiting for its turn.")

    def progress(self, sweep: Sweep, state: ExplorerState) -> None:
        """A sweep as far as it is done."""
        fresh = self.sweep is None or sweep.grid is not self.sweep.grid
        self.sweep = sweep
        if fresh:
            self.heatmap.picked = [-1, -1, self.heatmap.picked[2]]
            self.use.disabled = True
        total, done = len(sweep.grid.cells), len(sweep.done)
        left = "" if sweep.remaining is None else f", about {sweep.remaining:.0f} s to go"
        left = f", {sweep.at_most:.0f} s at the most" if sweep.at_most is not None else left
        self.bar.value = done / total
        self._done = f"{done} of {total} cells{left if done < total else ''}."
        self.said.value = status(self._done)
        self.heatmap.show(sweep, state.measure)
        if not fresh and tuple(self.heatmap.picked[:2]) in sweep.done and not self._picked_texts:
            self._pick()  # it was picked before it was done
        self._tell_if_stale(state)

    def within(self, line: str) -> None:
        """How far the texts of the cells that run have come."""
        self.said.value = status(f"{self._done} {line}")

    def end(self, outcome: Outcome, message: str, sweep: Sweep | None) -> None:
        """A sweep has ended, in one way or another; what is done stays. `sweep`: as far as it came, `None` if it never
        began.
        """
        self.run.disabled, self.stop.disabled = False, True
        if outcome == "failed":
            self.said.value = status(message, error=True)
        elif sweep is None:
            self.said.value = status(
                f"Cancelled before it began{'; the cells are of the sweep before' if self.sweep is not None else ''}."
            )
        elif outcome == "cancelled":
            self.said.value = status(
                f"Cancelled: {len(sweep.done)} of {len(sweep.grid.cells)} cells are done and kept."
            )
        else:
            self.said.value = status(f"Done: {len(sweep.grid.cells)} cells in {sweep.seconds:.1f} s.")

    # --- cells ------------------------------------------------------------------------------------------------

    def _pick(self) -> None:
        row, column = self.heatmap.picked[:2]
        cell = self.sweep.cell(row, column) if self.sweep is not None else None
        self.use.disabled = cell is None
        self._picked_texts = ()
        if self.sweep is None or cell is None:
            self.texts.value = note("There is no setting at this place.") if row >= 0 else ""
            return
        self._picked_texts = self.sweep.done.get((row, column), ())
        self.texts.value = cell_html(self.sweep, cell, self._picked_texts)

    def _take(self) -> None:
        row, column = self.heatmap.picked[:2]
        if self.sweep is not None and (cell := self.sweep.cell(row, column)) is not None:
            self._take_over(self.sweep.setting(cell))
