"""Which vectors are steered with: one set, or a weighted sum of several."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import ipywidgets as w

from ..._util.text import for_html
from ..state import ExplorerState
from ..threads import OwnChanges
from .fields import Change, css

MIX = "a mix"
"""What the list says where several sets are mixed."""


class Mixing:
    """A list from which one set of vectors is chosen, or a mix; of a mix, a weight for each set.

    Args:
        change: is told of the new weights, `{name: weight}`.

    Attributes:
        box: what is displayed.
    """

    def __init__(self, change: Change) -> None:
        self._change = change
        self.choice = w.Dropdown(description="vectors", style={"description_width": "92px"}, layout={"width": "auto"})
        css(self.choice, "vectors")
        self.weights = w.VBox()
        self.weights.add_class("kv-mix")
        self._fields: dict[str, w.FloatText] = {}
        self._own = OwnChanges()
        self.choice.observe(self._chosen, "value")
        self.box = w.VBox([self.choice, self.weights])

    def show(self, state: ExplorerState, sets: Sequence[str]) -> None:
        """Show a state's weights; each of the `sets` that is new gets a line."""
        with self._own:
            names = list(sets)
            if set(names) != set(self._fields):
                for name in names:
                    if name not in self._fields:
                        field = w.FloatText(
                            description=for_html(name),
                            description_allow_html=True,
                            step=0.1,
                            style={"description_width": "180px"},
                            layout={"width": "auto"},
                        )
                        field.add_class("kv-weight")
                        field.observe(self._weighed, "value")
                        self._fields[name] = field
                self.weights.children = list(self._fields.values())
            options = [*names, *([MIX] if len(names) > 1 else [])]
            if tuple(self.choice.options) != tuple(options):
                self.choice.options = options
            for name, field in self._fields.items():
                field.value = state.mix.get(name, 0.0)
            ((single, weight),) = state.mix.items() if len(state.mix) == 1 else (("", 0.0),)
            alone = weight == 1.0 and single in self._fields
            self.choice.value = single if alone else MIX if MIX in options else None
            self.weights.layout.display = "none" if alone else None

    def _chosen(self, _: Any) -> None:
        if self._own.here or self.choice.value is None:
            return
        if self.choice.value == MIX:  # the weights as they are; every set gets a line
            self._change("mix", {name: field.value for name, field in self._fields.items()})
        else:
            self._change("mix", {self.choice.value: 1.0})

    def _weighed(self, _: Any) -> None:
        if not self._own.here:
            self._change("mix", {name: field.value for name, field in self._fields.items()})
