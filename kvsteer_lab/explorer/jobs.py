"""The explorer's jobs: each starts some work for a state, keeps what it finds, and shows it on the page.

A job runs in the worker's thread. Whatever it changes, it changes while holding the explorer's lock.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

from ..models.architectures import UnsteerableModelError
from .pace import Pace
from .results.attention import ArmAttention
from .results.comparison import Comparison
from .results.components import Components
from .results.ladder import Ladder
from .results.prompt_attention import PromptAttention
from .results.sweep import Sweep
from .state import Arm, ExplorerState
from .threads import Cancelled, Outcome, Worker
from .views.page import Page
from .work.attention import read_attention
from .work.climbing import climb
from .work.comparing import compare_arms
from .work.components import look_at_pairs
from .work.doses import KnownDoses, slot_of
from .work.prompt_attention import read_prompt_attention
from .work.sweeping import run_sweep
from .workspace import Workspace

_LONG = 500
"""Tokens of a prompt from which on reading it is told of: it may take longer than its replies."""
_PROMPT = "prompt"  # the kind of job that reads the attention to it


class Jobs:
    """What an explorer computes, and what it has found.

    Args:
        workspace: the model and what is at hand.
        page: where findings are shown.
        lock: held while a job changes the page or what was found.
        current: gives the present state.

    Attributes:
        worker: the thread with its queue.
        comparison: the last comparison whose texts are whole; `None` before the first.
        swept: the last sweep, as far as it is done; `None` before the first.
        components: the pairs that are drawn, or `None`.
        ladder: the last strength ladder; `None` before the first.
        prompt_attention: the attention to each token of the last comparison's prompt; `None` before it is read.
    """

    def __init__(
        self,
        workspace: Workspace,
        page: Page,
        lock: AbstractContextManager[Any],
        current: Callable[[], ExplorerState],
    ) -> None:
        self.workspace, self.page = workspace, page
        self._lock, self._current = lock, current
        self.worker = Worker()
        self.comparison: Comparison | None = None
        self.swept: Sweep | None = None
        self.components: Components | None = None
        self.ladder: Ladder | None = None
        self.prompt_attention: PromptAttention | None = None
        self._closed = False  # whether the prompt's attention can't be read
        self._doses = KnownDoses(workspace)
        self._looked_at: set[str] = set()  # test questions

    # --- texts side by side -----------------------------------------------------------------------------------

    def compare(self, state: ExplorerState) -> None:
        """Run a state's comparison; one that runs or waits is cancelled."""
        errors = self.page.errors
        self.page.say("Working.")
        self.worker.submit(
            "compare",
            lambda cancelled: self._compare(state, cancelled),
            lambda outcome, message: self._compared(outcome, message, errors),
        )
        if not self._doses.knows(state):
            self.worker.submit(
                "dose",
                lambda cancelled: self._measure_dose(state),
                self._if_failed(lambda message: self._no_dose(state, message)),
                rank=1,
            )

    def _compare(self, state: ExplorerState, cancelled: Cancelled) -> Iterator[None]:
        with self._lock:
            self.page.side.begin(state)
        pace = Pace(state.max_new_tokens)
        yield from compare_arms(
            self.workspace,
            state,
            cancelled,
            lambda comparison: self._have_texts(comparison, pace),
            self._have_measured,
            lambda arm, text, tokens: self._have_token(arm, text, tokens, pace),
            self._begin_reading,
        )
        assert self.comparison is not None

        def have(found: list[ArmAttention]) -> None:
            with self._lock:
                self.page.side.attended(found, state)

        try:
            yield from read_attention(self.workspace, self.comparison, cancelled, have)
        except UnsteerableModelError as error:
            with self._lock:
                self.page.side.not_attended(str(error), state)

    def _begin_reading(self, tokens: int) -> None:
        if tokens >= _LONG:
            with self._lock:
                self.page.say(f"Reading a prompt of {tokens:,} tokens.")

    def _have_token(self, arm: Arm, text: str, tokens: int, pace: Pace) -> None:
        with self._lock:
            self.page.side.text(arm, text)
            if said := pace.tell(tokens):
                self.page.say(said)

    def _have_texts(self, comparison: Comparison, pace: Pace) -> None:
        state, question = comparison.state, comparison.asked.question
        with self._lock:
            self.comparison, self.prompt_attention, self._closed = comparison, None, False
            self.worker.cancel(_PROMPT)  # that of another prompt
            if question is not None:
                if state.split == "test":
                    self._looked_at.add(question.id)
                self.page.controls.say_asked(state, question.text, len(self._looked_at))
            self.page.side.texts(comparison)
            if pace.slow:
                self.page.say("The texts are whole and are measured now, token by token.")

    def _have_measured(self, comparison: Comparison) -> None:
        with self._lock:
            self.comparison = comparison
            self.page.side.measured(comparison)

    def _compared(self, outcome: Outcome, message: str, errors: int) -> None:
        with self._lock:
            if "compare" in self.worker.kinds:  # a newer one says "Working."
                return
            if outcome == "failed":
                self.page.side.clear()
                self.page.say(message, error=True)
            elif self.page.errors == errors:  # else something went wrong since it began, and that line stays
                warned = " ".join(self.comparison.warned) if self.comparison is not None else ""
                self.page.say("Cancelled." if outcome == "cancelled" else f"Done. {warned}".strip())
            if outcome == "done" and self.page.side.shows_prompt:
                self.read_prompt()

    def read_prompt(self) -> None:
        """Read the attention to each token of the last comparison's prompt, once: what is known, can't be known, or is
        being read isn't read again.
        """
        if self.comparison is None or self.prompt_attention or self._closed or _PROMPT in self.worker.kinds:
            return

        def have(found: PromptAttention) -> None:
            with self._lock:
                self.prompt_attention = found
                self.page.side.prompt_attended(found)

        def steps(cancelled: Cancelled) -> Iterator[None]:
            assert self.comparison is not None
            yield from read_prompt_attention(self.workspace, self.comparison, cancelled, have)

        def fail(message: str) -> None:
            self._closed = True
            self.page.side.prompt_lines([], message)

        self.worker.submit(_PROMPT, steps, self._if_failed(fail), rank=1)

    # --- the dose ---------------------------------------------------------------------------------------------

    def show_dose(self) -> None:
        """Show the present state's relative strength, as far as it is known."""
        state, line = self._current(), self.page.controls.dose
        try:
            line.show(self._doses.dose(state), state.slot)
        except ValueError as error:
            line.fail(str(error))

    def _measure_dose(self, state: ExplorerState) -> Iterator[None]:
        for _ in self._doses.measure(state):
            with self._lock:
                self.show_dose()
            yield

    def _no_dose(self, state: ExplorerState, message: str) -> None:
        if slot_of(state) == slot_of(self._current()):
            self.page.controls.dose.fail(message)

    # --- sweeps, pairs, vectors -------------------------------------------------------------------------------

    def sweep(self, state: ExplorerState) -> None:
        """Run a state's sweep; one that runs is cancelled."""
        so_far = list[Sweep]()
        paces = [Pace(state.max_new_tokens)]

        def have(sweep: Sweep) -> None:
            so_far[:], paces[:] = [sweep], [Pace(state.max_new_tokens)]
            with self._lock:
                self.swept = sweep
                self.page.ablation.progress(sweep, self._current())

        def end(outcome: Outcome, message: str) -> None:
            with self._lock:
                if "sweep" not in self.worker.kinds:  # else a newer one has the buttons
                    self.page.ablation.end(outcome, message, so_far[0] if so_far else None)

        def steps(cancelled: Cancelled) -> Iterator[None]:
            def tell(row: int, ids: list[int]) -> None:
                self._tell(paces[0], ids, cancelled, self.page.ablation.within)

            return run_sweep(self.workspace, state, cancelled, have, tell)

        self.page.ablation.begin()
        self.worker.submit("sweep", steps, end, rank=2)

    def climb(self, state: ExplorerState) -> None:
        """Run a state's strength ladder; one that runs is cancelled."""

        def have(ladder: Ladder) -> None:
            with self._lock:
                self.ladder = ladder
                self.page.ladder.draw(ladder)

        def end(outcome: Outcome, message: str) -> None:
            with self._lock:
                if "ladder" not in self.worker.kinds:
                    self.page.ladder.end(outcome, message)

        def steps(cancelled: Cancelled) -> Iterator[None]:
            pace = Pace(state.max_new_tokens)

            def tell(row: int, ids: list[int]) -> None:
                self._tell(pace, ids, cancelled, self.page.ladder.progress)

            return climb(self.workspace, state, cancelled, have, tell)

        self.page.ladder.begin()
        self.worker.submit("ladder", steps, end, rank=1)

    def _tell(self, pace: Pace, ids: list[int], cancelled: Cancelled, say: Callable[[str], None]) -> None:
        """Say how far a decode has come, unless nobody waits for it any more."""
        if (said := pace.tell(len(ids))) and not cancelled.is_set():
            with self._lock:
                say(said)

    def draw_pairs(self, state: ExplorerState) -> None:
        """Draw the pairs of a state's layer; what is missing is extracted."""

        def progress(name: str, done: int, total: int) -> None:
            with self._lock:
                self.page.geometry.progress(name, done, total)

        def have(found: Components) -> None:
            with self._lock:
                self.components = found
                self.page.geometry.draw(found, list(self.workspace.differences))

        def fail(message: str) -> None:
            self.components = None
            self.page.geometry.fail(message)

        self.worker.submit(
            "look",
            lambda cancelled: look_at_pairs(self.workspace, state, cancelled, progress, have),
            self._if_failed(fail),
            rank=1,
        )

    def load_vectors(self, source: str, on_loaded: Callable[[str], object]) -> None:
        """Read vectors from a file, a folder or a hub repository.

        Args:
            source: where they are.
            on_loaded: is given the name that they have in the workspace.
        """

        def steps(cancelled: Cancelled) -> Iterator[None]:
            name = self.workspace.load_vectors(source)
            yield
            on_loaded(name)

        self.worker.submit("load", steps, self._if_failed(lambda message: self.page.say(message, error=True)), rank=1)

    def _if_failed(self, say: Callable[[str], None]) -> Callable[[Outcome, str], None]:
        def ended(outcome: Outcome, message: str) -> None:
            if outcome == "failed":
                with self._lock:
                    say(message)

        return ended
