"""The tab "Strength ladder": replies from no steering to much, with the KL and the length of each."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import ipywidgets as w

from ..._util.text import for_html
from ..results.ladder import Ladder
from ..state import ExplorerState
from ..threads import Outcome
from .fields import Change, css, numbers
from .markup import mark, note, status

_MEANING = note(
    "The prompt of the left column under the same steering at each coefficient of the values, decoded together. A text"
    " that changes at small strengths already may be a near-tie, and random vectors change texts, too: see the first"
    " tab."
)
_WIDTH, _HEIGHT = 220, 44


class StrengthLadder:
    """Field, button and table.

    Args:
        change: is told of the field's new value.
        start: what the button does.

    Attributes:
        box: what is displayed.
        ladder: the one that is shown.
    """

    def __init__(self, change: Change, start: Callable[[], None]) -> None:
        self.field = numbers("ladder", "c_v values", "0, 1, 2, 4, 8")
        self.field.bind(change)
        self.run = w.Button(description="Run ladder", button_style="primary", tooltip="one text at each strength")
        self.said, self.table = w.HTML(status("No ladder yet.")), w.HTML()
        for widget, name in ((self.run, "ladder-run"), (self.said, "ladder-status"), (self.table, "ladder-table")):
            css(widget, name)
        self.run.on_click(lambda _: start())
        self.box = w.VBox([w.HTML(_MEANING), self.field.widget, self.run, self.said, self.table])
        self.ladder: Ladder | None = None

    def show(self, state: ExplorerState) -> None:
        """Show a state's strengths, and whether the table belongs to it."""
        self.field.show(state)
        if self.ladder is not None and self.ladder.state.difference(state) & _OWN:
            self.said.value = status("This ladder belongs to an earlier setting; run it anew for the present one.")

    def begin(self) -> None:
        """A ladder is about to run."""
        self.said.value = status("Working.")

    def progress(self, line: str) -> None:
        """How far the ladder that runs has come."""
        self.said.value = status(line)

    def draw(self, ladder: Ladder) -> None:
        """Show a ladder."""
        self.ladder = ladder
        self.table.value = ladder_html(ladder)

    def end(self, outcome: Outcome, message: str) -> None:
        """A ladder has ended, in one way or another."""
        said = {"done": "Done.", "cancelled": "Cancelled.", "failed": message}[outcome]
        self.said.value = status(said, error=outcome == "failed")


_OWN = frozenset({"prompt", "task", "split", "question", "mix", "ck", "part", "layers", "heads", "slot", "offset"}) | {
    "ladder",
    "sample",
    "temperature",
    "top_p",
    "seed",
    "max_new_tokens",
}


def ladder_html(ladder: Ladder) -> str:
    """Two sparklines and a table with a row a strength."""
    rows = ""
    for rung in ladder.rungs:
        verdict = rung.verdict
        cut = " (cut)" if verdict["cut"] else ""
        rows += (
            f'<tr><td class="kv-number">{rung.cv:g}</td><td class="kv-number">{rung.nats:.2f}</td>'
            f'<td class="kv-number">{verdict["tokens"]}{cut}</td>'
            f"<td>{for_html(rung.generation.answer)}{mark(verdict)}</td></tr>"
        )
    head = "<tr><th>c_v</th><th>total KL, nats</th><th>tokens</th><th>reply</th></tr>"
    lines = _sparkline("total KL, nats", [rung.nats for rung in ladder.rungs]) + _sparkline(
        "length, tokens", [float(rung.verdict["tokens"]) for rung in ladder.rungs]
    )
    return f'<div class="kv-sparks">{lines}</div><table class="kv-table kv-ladder">{head}{rows}</table>'


def _sparkline(title: str, values: Sequence[float]) -> str:
    """A small line, a point a strength; its ends are named by their numbers."""
    low, high = min(values), max(values)
    span, step = (high - low) or 1.0, (_WIDTH - 12) / max(1, len(values) - 1)
    points = [(6 + i * step, _HEIGHT - 6 - (value - low) / span * (_HEIGHT - 12)) for i, value in enumerate(values)]
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    dots = "".join(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2"/>' for x, y in points)
    label = f"{title}: {', '.join(f'{value:.3g}' for value in values)}"
    return (
        f'<figure><svg role="img" aria-label="{label}" width="{_WIDTH}" height="{_HEIGHT}"><polyline points="{line}"/>'
        f"{dots}</svg><figcaption>{title}: {low:.3g} to {high:.3g}</figcaption></figure>"
    )
