"""The explorer: controls, tabs and one worker around one state."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..activations import ActivationVectors
from ..tasks.base import Task
from ..vectors import KVVectors
from .bench import Bench
from .comparing import Comparison, compare_arms
from .components import Components
from .doses import find_dose, slot_norms
from .keeping import write_figure, write_vectors
from .markup import dose_html, note
from .page import Page
from .snippet import write_code
from .state import GEOMETRY_FIELDS, SWEEP_FIELDS, ExplorerState
from .sweeping import Sweep, run_sweep
from .worker import Outcome, Worker, one_line

if TYPE_CHECKING:
    from ..models import Model

_REMEMBERED = 63  # slots whose norms are kept


class Explorer:
    """Steer a model by hand. Display it in a notebook; drive it by code with `set`, `wait`, `sweep` and what it has found.

    Nothing that takes the model blocks: such work is done by one thread, behind the library's lock. Close it with `close`.

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
        self._norms: dict[Any, Any] = {}
        self._looked_at: set[str] = set()
        self._turning = threading.RLock()
        self.page = Page(bench, folder, self)
        self._show()
        self.compare()

    def __repr__(self) -> str:
        return f"Explorer({self.bench.model.name}, vectors: {', '.join(self.bench.vectors)})"

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> Any:
        found = self.page.ui._repr_mimebundle_(include=include, exclude=exclude)
        return {**found, "text/plain": repr(self)} if isinstance(found, dict) else ({**found[0], "text/plain": repr(self)}, *found[1:])

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
        """Set knobs by their names in `ExplorerState`, as by hand; the comparison is run again if it depends on one of them.

        Raises:
            ValueError: one sentence for each bad value; nothing is changed.
        """
        self._become(self.state.changed(knobs))

    def move(self, changes: Mapping[str, Any]) -> None:
        """As `set`, but a bad value is said in the explorer's line: what the controls do."""
        try:
            self._become(self.state.changed(changes))
        except ValueError as error:
            self.page.say(str(error), error=True)

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until all work is done; `False` if that takes longer than `timeout` seconds."""
        return self.worker.wait(timeout)

    def cancel(self, kind: str | None = None) -> None:
        """Cancel all work, or work of one kind (`"compare"`, `"sweep"`, `"look"`), at the next token."""
        self.worker.cancel(kind)

    def close(self) -> None:
        """Cancel all work, end the thread and take the widget off the page."""
        self.worker.close()
        self.page.ui.close()

    def compare(self) -> None:
        """Run the state's comparison; one that runs or waits is cancelled."""
        state = self.state
        self.page.say("Working.")

        def steps(cancelled: threading.Event) -> Iterator[None]:
            self.page.side.begin(state)
            yield from compare_arms(self.bench, state, cancelled, self._have_texts, self._have_measured, self.page.side.text)
            assert self.comparison is not None
            yield from self.page.side.look(self.bench, self.comparison, cancelled)

        self.worker.submit("compare", steps, self._compared)
        self.worker.submit("dose", lambda cancelled: self._measure_dose(state), self._have_dose, rank=1)

    def sweep(self) -> None:
        """Run the state's sweep; one that runs is cancelled."""
        state = self.state
        self.page.ablation.begin()

        def steps(cancelled: threading.Event) -> Iterator[None]:
            return run_sweep(self.bench, state, cancelled, lambda sweep: self.page.ablation.progress(sweep, self.state))

        self.worker.submit("sweep", steps, self.page.ablation.end, rank=2)

    def load_vectors(self, source: str) -> None:
        """Read vectors from a file, a folder or a hub repository, and choose them."""

        def steps(cancelled: threading.Event) -> Iterator[None]:
            name = self.bench.load_vectors(source)
            yield
            self._become(self.state.changed({"mix": {name: 1.0}}))

        self.worker.submit("load", steps, self._fail_only(lambda message: self.page.say(message, error=True)), rank=1)

    def look(self, layer: int | None = None, part: str | None = None) -> None:
        """Draw the pairs of a layer's `"keys"` or `"values"`, by default the state's; what is missing is extracted."""
        wanted = {"geometry_layer": layer, "geometry_part": part}
        state = self.state = self.state.changed({name: value for name, value in wanted.items() if value is not None})
        self._show()
        self.worker.submit("look", lambda cancelled: self.page.geometry.draw(self.bench, state, cancelled), self._fail_only(self.page.geometry.fail), rank=1)

    def save_figure(self, which: str, path: str, overwrite: bool = False) -> None:
        """Draw one of the explorer's figures and write it with `kv.save_figure`, before this returns: a second or so."""
        self._keep(lambda: write_figure(which, path, overwrite, self.model, self.state.measure, self.comparison, self.swept, self.components))

    def save_vectors(self, path: str, overwrite: bool = False) -> None:
        """Write the chosen vectors, mixed as they are, as safetensors with their card, before this returns."""
        self._keep(lambda: write_vectors(path, overwrite, self.bench, self.state))

    def save_state(self, path: str, overwrite: bool = False) -> None:
        """Write the state as JSON, before this returns."""
        self._keep(lambda: f"Written: {self.state.save(path, overwrite=overwrite)}.")

    def load_state(self, path: str) -> None:
        """Set every knob as a file of `save_state` says."""

        def read() -> str:
            state = ExplorerState.load(path)
            self.bench.steering(state)  # refuses what isn't here before anything is changed
            self._become(state)
            return f"Restored: {path}."

        self._keep(read)

    # --- in between -------------------------------------------------------------------------------------------

    def _become(self, state: ExplorerState) -> None:
        with self._turning:
            moved = state.difference(self.state)
            self.state = state
            self._show()
        if moved & GEOMETRY_FIELDS:
            self.look()
        if moved - SWEEP_FIELDS - GEOMETRY_FIELDS:
            self.compare()

    def _show(self) -> None:
        for view in (self.page.controls, self.page.ablation, self.page.geometry):
            view.show(self.state)
        try:
            self.page.keep.code.code = self.code
        except ValueError as error:
            self.page.keep.code.code = f"# {error}"

    def _measure_dose(self, state: ExplorerState) -> Iterator[None]:
        def norms(model: Model, prompt: Any, slot: int) -> Any:
            if (key := (repr(prompt), slot)) not in self._norms:
                self._norms = dict(list(self._norms.items())[-_REMEMBERED:])
                self._norms[key] = slot_norms(model, prompt, slot)
            return self._norms[key]

        dose = find_dose(self.model, self.bench.steering(state), self.bench.asked(state).prompt, norms)
        self.page.controls.dose.value = dose_html(dose, state.slot)
        yield

    def _have_dose(self, outcome: Outcome, message: str) -> None:
        if outcome == "failed":
            self.page.controls.dose.value = note(f"Dose: unknown. {message}")

    def _have_texts(self, comparison: Comparison) -> None:
        self.comparison = comparison
        question = comparison.asked.question
        if question is not None and comparison.state.split == "test":
            self._looked_at.add(question.id)
        if question is not None:
            self.page.controls.say_asked(question.text, len(self._looked_at))
        self.page.side.texts(comparison)

    def _have_measured(self, comparison: Comparison) -> None:
        self.comparison = comparison
        self.page.side.measured(comparison)

    def _compared(self, outcome: Outcome, message: str) -> None:
        if outcome == "failed":
            self.page.side.clear()
            self.page.say(message, error=True)
        elif "compare" not in self.worker.kinds:  # a newer one says "Working"
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
