"""The tab "Side by side": texts as they come, then coloured; what else might have come; who looks at the slot."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import ipywidgets as w
import pandas as pd

from ..analysis.reading import attention_to_slot
from ..architectures import UnsteerableModelError
from .bench import Bench
from .comparing import Comparison
from .knobs import css
from .markup import LEGEND, arm_html, attention_html, facts_html, next_tokens_html, note, tokens_html
from .running import CancelledError
from .state import ARMS, Arm, ExplorerState

_PAUSE = 0.04  # seconds between two pictures of a text: more often nobody sees, and the browser would choke
_STEPS = 8


class SideBySide:
    """What is shown of a comparison. Its traits are set by the worker's thread alone.

    Attributes:
        box: what is displayed.
    """

    def __init__(self) -> None:
        self._views: dict[Arm, w.HTML] = {}
        for arm in ARMS:
            view = w.HTML(layout={"display": "none", "margin": "0"})
            view.add_class(f"kv-arm-{arm.replace(' ', '-')}")
            self._views[arm] = view
        arms = w.Box(list(self._views.values()))
        arms.add_class("kv-arm-grid")
        self.next_tokens, self.attention = w.HTML(), w.HTML()
        css(self.next_tokens, "next-tokens")
        css(self.attention, "attention")
        more = w.Accordion([self.next_tokens, self.attention], selected_index=None)
        more.set_title(0, "What else might have come: the first tokens")
        more.set_title(1, "Attention to the steered slot")
        more.add_class("kv-details")
        self.box = w.VBox([arms, w.HTML(LEGEND), more])
        self._texts: dict[Arm, str] = {}
        self._shown = 0.0

    def begin(self, state: ExplorerState) -> None:
        """Show the state's arms; what they said before stays until something new comes."""
        self._texts = {}
        self._shown = 0.0
        for arm, view in self._views.items():
            view.layout.display = "block" if arm in state.arms else "none"

    def text(self, arm: Arm, text: str) -> None:
        """A text so far; the first token of all is shown at once, later ones some at a time."""
        self._texts[arm] = text
        if self._shown and time.perf_counter() - self._shown < _PAUSE:
            return
        for name, own in self._texts.items():
            self._views[name].value = arm_html(name, own)
        self._shown = time.perf_counter()

    def clear(self) -> None:
        """No texts: those of an earlier state would mislead."""
        for arm, view in self._views.items():
            view.value = arm_html(arm, "")
        self.next_tokens.value = self.attention.value = ""

    def texts(self, comparison: Comparison) -> None:
        """All texts, whole."""
        for own in comparison.arms:
            self._views[own.arm].value = arm_html(own.arm, own.generation.answer, facts=facts_html(own))

    def measured(self, comparison: Comparison) -> None:
        """All texts, token by token, and what else might have come."""
        for own in comparison.arms:
            self._views[own.arm].value = arm_html(own.arm, "", body=tokens_html(own), facts=facts_html(own))
        self.next_tokens.value = next_tokens_html(comparison)

    def look(self, bench: Bench, comparison: Comparison, cancelled: threading.Event) -> Iterator[None]:
        """Read each text again and show how much the heads look at the steered slot; yields between the texts.

        Raises:
            CancelledError: `cancelled` was set.
        """
        state, tables = comparison.state, []
        try:
            for own in comparison.arms:
                if cancelled.is_set():
                    raise CancelledError
                method = bench.intervention(own.arm, state)
                table = attention_to_slot(
                    bench.model, [comparison.asked.prompt], method, [own.generation.token_ids], steps=_STEPS, slot=state.slot, offset=state.offset
                )
                tables.append(table.assign(intervention=own.arm))
                yield
        except UnsteerableModelError as error:
            self.attention.value = note(str(error))
            return
        self.attention.value = attention_html(pd.concat(tables))
