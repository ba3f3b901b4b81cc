"""The explorer: one state, the work that it asks for, and the page that shows both."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from .._util.text import visible
from ..models.model import Model
from ..tasks.base import Task
from ..vectors.activation import ActivationVectors
from ..vectors.kv import KVVectors
from .jobs import Jobs
from .results.comparison import Comparison
from .results.components import Components
from .results.ladder import Ladder
from .results.prompt_attention import PromptAttention
from .results.sweep import Sweep
from .state import GEOMETRY_FIELDS, SWEEP_FIELDS, ExplorerState
from .threads import one_line, view_lock
from .views.page import Actions, Page
from .views.static_page import static_html, whole_page
from .work.files import write_figure, write_page, write_state, write_vectors
from .work.restoring import restore
from .work.snippet import write_code
from .workspace import Workspace

_SHOWN_WITHIN = 3.0  # seconds


class Explorer:
    """Steer a model by hand: display the explorer in a notebook, or drive it by code.

    `kv.explore` makes one. Nothing that needs the model blocks the caller: one thread does such work, and `wait` waits
    for it. Close an explorer with `close` before you open another; Jupyter keeps the widgets, and through them the
    explorer, until then.

    Attributes:
        workspace: the model, and the vectors, pairs and tasks at hand.
        state: the present setting.
        jobs: the work that is done for it, and what it found.
        page: the views; `page.ui` is the whole widget.

    >>> import kvsteer_lab as kv
    >>> model, task = kv.load("tiny"), kv.tasks.get("tiny-arithmetic")
    >>> pairs = kv.ContrastiveSet.few_shot(task, model.tokenizer, style="stepwise", n=2, shots=1)
    >>> explorer = kv.explore(model, kv.extract(model, pairs, progress=False), task=task)
    >>> explorer.set(cv=3.0, max_new_tokens=4)
    >>> explorer.wait()
    True
    >>> [text.arm for text in explorer.comparison.arms]
    ['baseline', 'cache steering', 'random control']
    >>> explorer.close()
    """

    def __init__(self, workspace: Workspace, state: ExplorerState, folder: str | Path) -> None:
        self.workspace, self.state = workspace, state
        self._lock = view_lock()
        model = workspace.model
        self.page = Page(model.n_layers, model.n_kv_heads, workspace.task_names, folder, self._actions())
        self.jobs = Jobs(workspace, self.page, self._lock, lambda: self.state)
        with self._lock:
            self._show()
            self.compare()

    def __repr__(self) -> str:
        return f"Explorer({self.model.name}, vectors: {', '.join(self.vectors)})"

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> Any:
        self.wait(_SHOWN_WITHIN)  # so that a saved notebook shows the first texts, too
        found = self.page.ui._repr_mimebundle_(include=include, exclude=exclude)
        plain = {"text/plain": repr(self), "text/html": self.as_html()}
        return {**found, **plain} if isinstance(found, dict) else ({**found[0], **plain}, *found[1:])

    def _actions(self) -> Actions:
        return Actions(
            change=self.move,
            compare=self.compare,
            sweep=self.sweep,
            climb=self.climb,
            look=self.look,
            cancel=self.cancel,
            read_prompt=self.read_prompt,
            load_vectors=self.load_vectors,
            save_figure=self.save_figure,
            save_vectors=self.save_vectors,
            save_state=self.save_state,
            save_html=self.save_html,
            load_state=self.load_state,
        )

    # --- what it works on -------------------------------------------------------------------------------------

    @property
    def bench(self) -> Workspace:
        """The workspace, by its former name."""
        return self.workspace

    @property
    def model(self) -> Model:
        """The model."""
        return self.workspace.model

    @property
    def vectors(self) -> Mapping[str, KVVectors]:
        """Sets of vectors by name."""
        return self.workspace.vectors

    @property
    def activations(self) -> Mapping[str, ActivationVectors]:
        """Vectors of the residual stream by name, those among them that were extracted from pairs."""
        return self.workspace.activations

    @property
    def tasks(self) -> Mapping[str, Task]:
        """Tasks by name, as far as they were asked for."""
        return self.workspace.tasks

    # --- what was found ---------------------------------------------------------------------------------------

    @property
    def comparison(self) -> Comparison | None:
        """The last comparison whose texts are whole; `None` before the first."""
        return self.jobs.comparison

    @property
    def swept(self) -> Sweep | None:
        """The last sweep, as far as it is done; `None` before the first."""
        return self.jobs.swept

    @property
    def ladder(self) -> Ladder | None:
        """The last strength ladder; `None` before the first."""
        return self.jobs.ladder

    @property
    def prompt_attention(self) -> PromptAttention | None:
        """The attention to each token of the last comparison's prompt; `None` before it is read."""
        return self.jobs.prompt_attention

    @property
    def components(self) -> Components | None:
        """What the geometry tab shows, or `None`."""
        return self.jobs.components

    @property
    def code(self) -> str:
        """The library calls that give the texts of the first tab."""
        return write_code(self.workspace, self.state)

    # --- what it does -----------------------------------------------------------------------------------------

    def set(self, **fields: Any) -> None:
        """Set fields of the state by name, as a reader does by hand; the comparison runs again if it depends on one of
        them.

        Raises:
            ValueError: one sentence for each bad value; nothing is changed.
        """
        self._change(fields)

    def move(self, changes: Mapping[str, Any]) -> None:
        """As `set`, but a bad value is reported in the explorer's line: what the fields on the page do."""
        try:
            self._change(changes)
        except ValueError as error:
            with self._lock:
                self.page.say(str(error), error=True)

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until all work is done; `False` if that takes longer than `timeout` seconds."""
        return self.jobs.worker.wait(timeout)

    def cancel(self, kind: str | None = None) -> None:
        """Cancel all work, or work of one kind, at the next token: `"compare"`, `"ladder"`, `"sweep"`, `"look"` or
        `"prompt"`.
        """
        with self._lock:
            if kind is None and self.jobs.worker.kinds:
                self.page.say("Cancelling.")
            if kind in (None, "sweep") and "sweep" in self.jobs.worker.kinds:
                self.page.ablation.cancelling()
        self.jobs.worker.cancel(kind)

    def close(self) -> None:
        """Cancel all work, end the thread and close every widget."""
        self.jobs.worker.close()
        self.page.close()

    def compare(self) -> None:
        """Run the state's comparison; one that runs or waits is cancelled."""
        with self._lock:
            self.jobs.compare(self.state)

    def sweep(self) -> None:
        """Run the state's sweep; one that runs is cancelled."""
        with self._lock:
            self.jobs.sweep(self.state)

    def climb(self) -> None:
        """Run the state's strength ladder; one that runs is cancelled."""
        with self._lock:
            self.jobs.climb(self.state)

    def read_prompt(self) -> None:
        """Read the attention to each token of the last comparison's prompt, unless it is known: from the token that is
        read right after the prompt, where the reply's first token is decided.
        """
        with self._lock:
            self.jobs.read_prompt()

    def load_vectors(self, source: str) -> None:
        """Read vectors from a file, a folder or a hub repository, and choose them."""
        self.jobs.load_vectors(source, lambda name: self._change({"mix": {name: 1.0}}))

    def look(self, layer: int | None = None, part: str | None = None) -> None:
        """Draw the pairs of a layer's `"keys"` or `"values"`, by default the state's; what is missing is extracted."""
        wanted = {"geometry_layer": layer, "geometry_part": part}
        if not self._change({name: value for name, value in wanted.items() if value is not None}):
            self.jobs.draw_pairs(self.state)

    def save_figure(self, which: str, path: str, overwrite: bool = False) -> None:
        """Draw one of the explorer's figures and write it with `kv.save_figure`, before this returns (a second)."""
        self._keep(
            lambda: write_figure(
                which, path, overwrite, self.model, self.state.measure, self.comparison, self.swept, self.components
            )
        )

    def save_vectors(self, path: str, overwrite: bool = False) -> None:
        """Write the chosen vectors, mixed as they are, as safetensors with their card, before this returns."""
        self._keep(lambda: write_vectors(path, overwrite, self.workspace, self.state))

    def save_state(self, path: str, overwrite: bool = False) -> None:
        """Write the state as JSON, before this returns."""
        self._keep(lambda: write_state(path, overwrite, self.workspace, self.state))

    def as_html(self) -> str:
        """What the explorer shows, its texts and its ladder, as a fragment of HTML that needs no kernel."""
        with self._lock:
            return static_html(self.model.name, self.comparison, self.ladder, self.prompt_attention)

    def save_html(self, path: str, overwrite: bool = False) -> None:
        """Write what the explorer shows as an HTML page, before this returns."""
        page = whole_page(f"kvsteer_lab: {self.model.name}", self.as_html())
        self._keep(lambda: write_page(path, overwrite, page))

    def load_state(self, path: str) -> None:
        """Take over the state in a file of `save_state`, with the vectors that it names; of another model's state, the
        settings that mean the same on this model.
        """

        def read() -> str:
            state, remark = restore(self.workspace, path, self.state)
            self._change(state.everything)
            return f"Restored: {path}. {remark}".strip()

        self._keep(read)

    # --- the state --------------------------------------------------------------------------------------------

    def _change(self, changes: Mapping[str, Any]) -> frozenset[str]:
        """Change the state, show it and begin what depends on it, as one step. Gives the fields that changed."""
        with self._lock:
            before, self.state = self.state, self.state.changed(changes)
            moved = self.state.difference(before)
            self._show()
            if moved & GEOMETRY_FIELDS:
                self.jobs.draw_pairs(self.state)
            if moved - SWEEP_FIELDS - GEOMETRY_FIELDS:
                self.compare()
        return moved

    def _show(self) -> None:
        try:
            code = self.code
        except ValueError as error:
            code = f"# {visible(error, one_line=True)}"
        self.page.show(self.state, list(self.vectors), code)
        self.jobs.show_dose()

    # --- files ------------------------------------------------------------------------------------------------

    def _keep(self, do: Callable[[], str]) -> None:
        """Read or write a file at once: what is written is what is there at the click, and no Stop can lose it."""
        self.page.keep.say("Working.")
        try:
            self.page.keep.say(do())
        except Exception as error:
            self.page.keep.say(one_line(error), error=True)
