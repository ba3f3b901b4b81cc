"""The explorer: controls, tabs and one worker around one state."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from ..models.model import Model
from ..tasks.base import Task
from ..vectors.activation import ActivationVectors
from ..vectors.kv import KVVectors
from .state import GEOMETRY_FIELDS, SWEEP_FIELDS, ExplorerState
from .views.keeping import write_figure, write_vectors
from .views.page import Page
from .work.comparing import Comparison, compare_arms
from .work.components import Components
from .work.restoring import origin_of, restore
from .work.snippet import write_code
from .work.sweeping import Sweep, run_sweep
from .work.worker import Outcome, Worker, one_line
from .workspace import Bench


class Explorer:
    """Steer a model by hand. Display it in a notebook; drive it by code with `set`, `wait`, `sweep` and what it has
    found.

    Nothing that takes the model blocks: such work is done by one thread, behind the library's lock. Close it with
    `close` before you open another: Jupyter keeps the widgets, and through them the explorer, until then.

    Attributes:
        bench: the model and what the states name.
        state: how the knobs are set.
        comparison: the last comparison whose texts are whole.
        page: the views; `page.ui` is the whole widget.
    """

    def __init__(self, bench: Bench, state: ExplorerState, folder: str | Path) -> None:
        self.bench, self.state = bench, state
        self.comparison: Comparison | None = None
        self.worker = Worker()
        self._looked_at: set[str] = set()
        self._turning = threading.RLock()
        self.page = Page(bench, folder, self)
        with self._turning:
            self._show()
            self.compare()

    def __repr__(self) -> str:
        return f"Explorer({self.bench.model.name}, vectors: {', '.join(self.bench.vectors)})"

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> Any:
        found = self.page.ui._repr_mimebundle_(include=include, exclude=exclude)
        return (
            {**found, "text/plain": repr(self)}
            if isinstance(found, dict)
            else ({**found[0], "text/plain": repr(self)}, *found[1:])
        )

    # --- what it works on -------------------------------------------------------------------------------------

    @property
    def model(self) -> Model:
        """The model."""
        return self.bench.model

    @property
    def vectors(self) -> Mapping[str, KVVectors]:
        """Sets of vectors by name."""
        return self.bench.vectors

    @property
    def activations(self) -> Mapping[str, ActivationVectors]:
        """Vectors of the residual stream by name, those among them that were extracted from pairs."""
        return self.bench.activations

    @property
    def tasks(self) -> Mapping[str, Task]:
        """Tasks by name, as far as they were asked for."""
        return self.bench.tasks

    @property
    def swept(self) -> Sweep | None:
        """The last sweep, as far as it is done."""
        return self.page.ablation.sweep

    @property
    def components(self) -> Components | None:
        """What the geometry tab shows."""
        return self.page.geometry.found

    @property
    def code(self) -> str:
        """The library calls that give the texts of the first tab."""
        return write_code(self.bench, self.state)

    # --- what it does -----------------------------------------------------------------------------------------

    def set(self, **knobs: Any) -> None:
        """Set knobs by their names in `ExplorerState`, as by hand; the comparison is run again if it depends on one of
        them.

        Raises:
            ValueError: one sentence for each bad value; nothing is changed.
        """
        self._turn(knobs)

    def move(self, changes: Mapping[str, Any]) -> None:
        """As `set`, but a bad value is said in the explorer's line: what the controls do."""
        try:
            self._turn(changes)
        except ValueError as error:
            self.page.say(str(error), error=True)

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until all work is done; `False` if that takes longer than `timeout` seconds."""
        return self.worker.wait(timeout)

    def cancel(self, kind: str | None = None) -> None:
        """Cancel all work, or work of one kind (`"compare"`, `"sweep"`, `"look"`), at the next token."""
        self.worker.cancel(kind)

    def close(self) -> None:
        """Cancel all work, end the thread and take the widget off the page, with every control in it; the kernel keeps
        none of them.
        """
        self.worker.close()
        self.page.close()

    def compare(self) -> None:
        """Run the state's comparison; one that runs or waits is cancelled."""
        with self._turning:
            state, errors = self.state, self.page.errors

            def steps(cancelled: threading.Event) -> Iterator[None]:
                self.page.side.begin(state)
                yield from compare_arms(
                    self.bench, state, cancelled, self._have_texts, self._have_measured, self.page.side.text
                )
                assert self.comparison is not None
                yield from self.page.side.look(self.bench, self.comparison, cancelled)

            self.page.say("Working.")
            self.worker.submit("compare", steps, lambda outcome, message: self._compared(outcome, message, errors))
            if not (dose := self.page.controls.dose).knows(state):
                self.worker.submit(
                    "dose",
                    lambda cancelled: dose.measure(state),
                    self._fail_only(lambda message: dose.fail(state, message)),
                    rank=1,
                )

    def sweep(self) -> None:
        """Run the state's sweep; one that runs is cancelled."""
        state, so_far = self.state, list[Sweep]()
        self.page.ablation.begin()

        def show(sweep: Sweep) -> None:
            so_far[:] = [sweep]
            self.page.ablation.progress(sweep, self.state)

        def end(outcome: Outcome, message: str) -> None:
            if "sweep" not in self.worker.kinds:  # a newer one has the buttons
                self.page.ablation.end(outcome, message, so_far[0] if so_far else None)

        self.worker.submit("sweep", lambda cancelled: run_sweep(self.bench, state, cancelled, show), end, rank=2)

    def load_vectors(self, source: str) -> None:
        """Read vectors from a file, a folder or a hub repository, and choose them."""

        def steps(cancelled: threading.Event) -> Iterator[None]:
            name = self.bench.load_vectors(source)
            yield
            self._turn({"mix": {name: 1.0}})

        self.worker.submit("load", steps, self._fail_only(lambda message: self.page.say(message, error=True)), rank=1)

    def look(self, layer: int | None = None, part: str | None = None) -> None:
        """Draw the pairs of a layer's `"keys"` or `"values"`, by default the state's; what is missing is extracted."""
        wanted = {"geometry_layer": layer, "geometry_part": part}
        if not self._turn({name: value for name, value in wanted.items() if value is not None}):
            self._draw_pairs()

    def save_figure(self, which: str, path: str, overwrite: bool = False) -> None:
        """Draw one of the explorer's figures and write it with `kv.save_figure`, before this returns: a second or
        so.
        """
        self._keep(
            lambda: write_figure(
                which, path, overwrite, self.model, self.state.measure, self.comparison, self.swept, self.components
            )
        )

    def save_vectors(self, path: str, overwrite: bool = False) -> None:
        """Write the chosen vectors, mixed as they are, as safetensors with their card, before this returns."""
        self._keep(lambda: write_vectors(path, overwrite, self.bench, self.state))

    def save_state(self, path: str, overwrite: bool = False) -> None:
        """Write the state as JSON, before this returns."""
        self._keep(lambda: f"Written: {self.state.save(path, overwrite=overwrite, origin=origin_of(self.bench))}.")

    def load_state(self, path: str) -> None:
        """Set every knob as a file of `save_state` says, with vectors from where it says; of another model's state,
        what has a meaning here.
        """

        def read() -> str:
            state, remark = restore(self.bench, path, self.state)
            self._turn(state.everything)
            return f"Restored: {path}. {remark}".strip()

        self._keep(read)

    # --- in between -------------------------------------------------------------------------------------------

    def _turn(self, changes: Mapping[str, Any]) -> frozenset[str]:
        """Change the state, show it and begin what depends on it, in one piece: a reader turns knobs, and so does the
        worker. Gives the fields that changed.
        """
        with self._turning:
            before, self.state = self.state, self.state.changed(changes)
            moved = self.state.difference(before)
            self._show()
            if moved & GEOMETRY_FIELDS:
                self._draw_pairs()
            if moved - SWEEP_FIELDS - GEOMETRY_FIELDS:
                self.compare()
        return moved

    def _show(self) -> None:
        for view in (self.page.controls, self.page.side, self.page.ablation, self.page.geometry):
            view.show(self.state)
        try:
            self.page.keep.code.code = self.code
        except ValueError as error:
            self.page.keep.code.code = f"# {error}"

    def _draw_pairs(self) -> None:
        state = self.state
        self.worker.submit(
            "look",
            lambda cancelled: self.page.geometry.draw(self.bench, state, cancelled),
            self._fail_only(self.page.geometry.fail),
            rank=1,
        )

    def _have_texts(self, comparison: Comparison) -> None:
        self.comparison = comparison
        state, question = comparison.state, comparison.asked.question
        if question is not None:
            if state.split == "test":
                self._looked_at.add(question.id)
            with self._turning:
                self.page.controls.say_asked(state, question.text, len(self._looked_at))
        self.page.side.texts(comparison)

    def _have_measured(self, comparison: Comparison) -> None:
        self.comparison = comparison
        self.page.side.measured(comparison)

    def _compared(self, outcome: Outcome, message: str, errors: int) -> None:
        if "compare" in self.worker.kinds:  # a newer one says "Working."
            return
        if outcome == "failed":
            self.page.side.clear()
            self.page.say(message, error=True)
        elif self.page.errors == errors:  # else something went wrong since it began, and that line stays
            warned = " ".join(self.comparison.warned) if self.comparison is not None else ""
            self.page.say("Cancelled." if outcome == "cancelled" else f"Done. {warned}".strip())

    def _fail_only(self, say: Callable[[str], None]) -> Callable[[Outcome, str], None]:
        return lambda outcome, message: say(message) if outcome == "failed" else None

    def _keep(self, do: Callable[[], str]) -> None:
        """Read or write a file at once: what is written is what is there at the click, and no Stop can lose it."""
        self.page.keep.say("Working.")
        try:
            self.page.keep.say(do())
        except Exception as error:
            self.page.keep.say(one_line(error), error=True)
