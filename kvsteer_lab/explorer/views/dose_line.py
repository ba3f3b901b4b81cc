"""The line beside the coefficients that tells their dose."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import ipywidgets as w

from ..state import ExplorerState
from ..work.doses import Norms, find_dose, measure_slot
from ..workspace import Bench
from .markup import dose_html, note

_REMEMBERED = 64  # slots whose norms are kept


class DoseLine:
    """The dose of the knobs as they stand, or that it isn't known; never that of another setting.

    What takes the model, the slot's own norms, is measured once for each slot; from these a dose is computed at once.

    Attributes:
        html: what is displayed.
    """

    def __init__(self, bench: Bench) -> None:
        self.bench, self.html = bench, w.HTML()
        self._norms: dict[tuple[Any, ...], Norms] = {}
        self._state = ExplorerState()
        self._telling = threading.RLock()  # knobs are turned in one thread, slots are measured in another

    def show(self, state: ExplorerState) -> None:
        """Tell a state's dose, as far as it is known."""
        with self._telling:
            self._state, norms = state, self._norms.get(_slot(state))
            try:
                self.html.value = (
                    note("Dose: not measured yet.")
                    if norms is None
                    else dose_html(find_dose(self.bench.steering(state), norms), state.slot)
                )
            except ValueError as error:
                self.fail(state, str(error))

    def knows(self, state: ExplorerState) -> bool:
        """Whether the norms of the state's slot are at hand."""
        return _slot(state) in self._norms

    def measure(self, state: ExplorerState) -> Iterator[None]:
        """Measure the state's slot, and tell the dose of the knobs as they stand by now.

        Raises:
            ValueError: what `bench.asked` refuses, or a slot out of range.
        """
        asked = self.bench.asked(state)
        self.bench.check_slot([asked], state.slot)
        norms = measure_slot(self.bench.model, asked.prompt, state.slot)
        with self._telling:
            self._norms = {**dict(list(self._norms.items())[1 - _REMEMBERED :]), _slot(state): norms}
            self.show(self._state)
        yield

    def fail(self, state: ExplorerState, message: str) -> None:
        """The slot of a state can't be measured; say why, if it is still the one."""
        with self._telling:
            if _slot(state) == _slot(self._state):
                self.html.value = note(f"Dose: unknown. {message}")


def _slot(state: ExplorerState) -> tuple[Any, ...]:
    return (*state.asks, state.slot)
