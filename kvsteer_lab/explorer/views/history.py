"""The comparisons so far, one row each; two of them can be chosen for a word-by-word difference."""

from __future__ import annotations

from collections.abc import Sequence

import ipywidgets as w

from ..._util.text import for_html
from ..results.comparison import Compared, Comparison
from ..results.history import added, describe, difference
from .fields import css
from .markup import note

_HINT = "Choose two rows (with Ctrl or Shift) to see how their steered texts differ."


class History:
    """A list of comparisons and the difference of two.

    Attributes:
        box: what is displayed.
        kept: the comparisons, the newest last.
    """

    def __init__(self) -> None:
        self.kept: tuple[Comparison, ...] = ()
        self.rows = w.SelectMultiple(
            options=(),
            rows=6,
            description="comparisons",
            style={"description_width": "initial"},
            layout={"width": "auto"},
        )
        self.shown = w.HTML(note(_HINT))
        css(self.rows, "history")
        css(self.shown, "history-difference")
        self.rows.observe(lambda _: self._compare(), "value")
        self.box = w.VBox([self.rows, self.shown])

    def add(self, comparison: Comparison) -> None:
        """Keep a comparison."""
        self.kept = added(self.kept, comparison)
        chosen = self.rows.value
        self.rows.options = [(f"{i}. {describe(own)}", i) for i, own in enumerate(self.kept)][::-1]
        self.rows.value = tuple(i for i in chosen if i < len(self.kept))

    def _compare(self) -> None:
        chosen = sorted(self.rows.value)
        if len(chosen) != 2:
            self.shown.value = note(_HINT)
            return
        first, second = (_steered(self.kept[i]) for i in chosen)
        self.shown.value = difference_html(chosen, first.generation.answer, second.generation.answer)


def difference_html(numbers: Sequence[int], first: str, second: str) -> str:
    """Two texts as one: words of the first alone are struck out, words of the second alone are underlined."""
    tags = {"same": "{}", "first": '<del class="kv-down">{}</del>', "second": '<ins class="kv-up">{}</ins>'}
    pieces = "".join(tags[kind].format(for_html(text)) for kind, text in difference(first, second))
    said = f"From {numbers[0]} (struck out) to {numbers[1]} (underlined):"
    return f'{note(said)}<div class="kv-text kv-difference">{pieces}</div>'


def _steered(comparison: Comparison) -> Compared:
    return next((own for own in comparison.arms if own.arm != "baseline"), comparison.arms[0])
