"""The tab "Side by side": the prompt, what the comparison comes to, texts as they come and then coloured; likely other
tokens; attention to the steered slot.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import ipywidgets as w

from ..results.attention import ArmAttention
from ..results.comparison import Compared, Comparison
from ..results.prompt_attention import PromptAttention
from ..results.verdict import read_verdicts
from ..state import ARMS, Arm, ExplorerState
from .alternatives import HINT, alternatives_html
from .canvases import Picking
from .fields import css
from .history import History
from .markup import LEGEND, arm_html, attention_html, facts_html, folded_html, note, tokens_html
from .prompt_strip import WAIT, attention_lines, legend_html, prompt_html
from .verdicts import verdicts_html

_PAUSE = 0.04  # seconds between two updates of a text: more often nobody sees, and the browser would choke
_PROMPT = 2  # its place among the details
_EARLIER = "Grey texts belong to an earlier setting; Run makes them anew."


class SideBySide:
    """What is shown of a comparison. Whatever belongs to another setting than the present one is marked as such.

    Args:
        picking: tells which token was picked, and has what is said of the prompt's tokens.
        read_prompt: reads the attention to them.

    Attributes:
        box: what is displayed.
    """

    def __init__(self, picking: Picking, read_prompt: Callable[[], None]) -> None:
        self._picking, self._read_prompt = picking, read_prompt
        self._arms: dict[str, w.HTML] = {}
        for arm in ARMS:
            view = w.HTML(layout={"display": "none", "margin": "0"})
            view.add_class(f"kv-arm-{arm.replace(' ', '-')}")
            self._arms[arm] = view
        arms = w.Box(list(self._arms.values()))
        arms.add_class("kv-arm-grid")
        self.verdict, self.prompt, self.next_tokens, self.attention = w.HTML(), w.HTML(), w.HTML(), w.HTML()
        css(self.verdict, "verdict-line")
        css(self.prompt, "prompt-tokens")
        css(self.next_tokens, "next-tokens")
        css(self.attention, "attention")
        self.earlier = w.HTML(note(_EARLIER), layout={"visibility": "hidden"})  # its place is kept: nothing jumps
        css(self.earlier, "earlier-line")
        self._views = {
            **self._arms,
            "verdict": self.verdict,
            "prompt": self.prompt,
            "next tokens": self.next_tokens,
            "attention": self.attention,
        }
        self._comparison: Comparison | None = None
        self._found: tuple[ArmAttention, ...] = ()
        self._of: dict[str, ExplorerState] = {}  # the setting that each view shows
        self._now = self._running = ExplorerState()
        self.history = History()
        self.details = w.Accordion(
            [self.next_tokens, self.attention, w.VBox([self.prompt, w.HTML(legend_html())]), self.history.box],
            selected_index=None,
        )
        self.details.set_title(_PROMPT, "The prompt, token by token")
        self.details.set_title(3, "Earlier comparisons")
        self.details.set_title(0, "Top-k alternatives to a token")
        self.details.set_title(1, "Attention to the steered position")
        self.details.add_class("kv-details")
        self.details.observe(lambda _: self._unfold(), "selected_index")
        self.box = w.VBox([self.verdict, self.earlier, arms, w.HTML(LEGEND), self.details])
        self._texts: dict[Arm, str] = {}
        self._shown = 0.0

    def show(self, state: ExplorerState) -> None:
        """Mark what does not belong to this state."""
        self._now = state
        self._mark()

    def begin(self, state: ExplorerState) -> None:
        """Show the state's arms; what they said before stays until something new comes."""
        self._texts = {}
        self._shown = 0.0
        self._running = state
        for arm, view in self._arms.items():
            view.layout.display = "block" if arm in state.arms else "none"

    def text(self, arm: Arm, text: str) -> None:
        """A text so far; the first token of all is shown at once, later ones some at a time."""
        self._texts[arm] = text
        if self._shown and time.perf_counter() - self._shown < _PAUSE:
            return
        self._put({name: arm_html(name, own) for name, own in self._texts.items()}, self._running)
        self._shown = time.perf_counter()

    def clear(self) -> None:
        """No texts: those of an earlier state would mislead."""
        self._comparison = None
        self.prompt_lines([])
        empty = dict.fromkeys(("verdict", "prompt", "next tokens", "attention"), "")
        self._put({arm: arm_html(arm, "") for arm in self._arms} | empty, self._running)

    def texts(self, comparison: Comparison) -> None:
        """All texts, whole."""
        shown: dict[str, str] = {
            own.arm: arm_html(_title(own), own.generation.answer, facts=_facts(own), arm=own.arm)
            for own in comparison.arms
        }
        self.prompt_lines([], WAIT)
        self._put(shown | {"prompt": prompt_html(comparison.prompt, comparison.state.slot)}, comparison.state)

    def measured(self, comparison: Comparison) -> None:
        """All texts, token by token, and what they come to."""
        self._comparison = comparison
        self.history.add(comparison)
        shown: dict[str, str] = {
            own.arm: arm_html(_title(own), "", body=tokens_html(own), facts=_facts(own), arm=own.arm)
            for own in comparison.arms
        }
        verdicts = verdicts_html(read_verdicts(comparison))
        self._put({**shown, "verdict": verdicts, "next tokens": note(HINT)}, comparison.state)

    def pick(self, arm: str, step: int) -> None:
        """Show what else was likely in place of a token.

        Args:
            arm: whose text.
            step: the token's number, from 1.
        """
        if self._comparison is not None:
            self.next_tokens.value = alternatives_html(self._comparison, arm, step)
            self.details.selected_index = 0

    def attended(self, found: Sequence[ArmAttention], state: ExplorerState) -> None:
        """The attention to the steered slot, of a state's texts; it is drawn when it is unfolded."""
        self._found = tuple(found)
        self._put({"attention": self._drawn()}, state)

    def _drawn(self) -> str:
        return attention_html(self._found) if self._found and self.details.selected_index == 1 else ""

    @property
    def shows_prompt(self) -> bool:
        """Whether the prompt, token by token, is unfolded."""
        return bool(self.details.selected_index == _PROMPT)

    def prompt_attended(self, found: PromptAttention) -> None:
        """The attention to each token of the prompt."""
        self.prompt_lines(attention_lines(found.comparison.prompt, found))

    def prompt_lines(self, lines: Sequence[str], otherwise: str = "") -> None:
        """What is said of each token of the prompt, or, where there are no lines, of any."""
        with self._picking.hold_sync():
            self._picking.lines, self._picking.otherwise = list(lines), otherwise

    def _unfold(self) -> None:
        if self.shows_prompt:
            self._read_prompt()
        if self._found and self.details.selected_index == 1 and not self.attention.value:
            self.attention.value = self._drawn()

    def not_attended(self, reason: str, state: ExplorerState) -> None:
        """Why a state's texts have no attention to show."""
        self._found = ()
        self._put({"attention": note(reason)}, state)

    # --- in between -------------------------------------------------------------------------------------------

    def _put(self, shown: Mapping[Any, str], state: ExplorerState) -> None:
        for name, html in shown.items():
            self._views[name].value = html
        self._of.update(dict.fromkeys(shown, state))
        self._mark()

    def _mark(self) -> None:
        earlier = {name for name, own in self._of.items() if not own.says_the_same(self._now)}
        marks = [(view, name in earlier) for name, view in self._arms.items()]
        # as a whole: a view whose class changes is drawn again, and tables are long
        marks.append((self.details, bool(earlier - {*self._arms})))
        for view, late in marks:
            if late != ("kv-earlier" in view._dom_classes):
                (view.add_class if late else view.remove_class)("kv-earlier")
        self.earlier.layout.visibility = "visible" if earlier & {*self._now.arms} else "hidden"


def _title(own: Compared) -> str:
    return f"{own.arm} (the first of {1 + len(own.others)})" if own.others else own.arm


def _facts(own: Compared) -> str:
    return facts_html(own) + folded_html(own)
