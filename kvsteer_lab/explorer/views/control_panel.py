"""The column of controls: what is asked, with which vectors, where, how strongly, and against what."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import ipywidgets as w

from ..state import ARMS, PARTS, ExplorerState
from .dose_line import DoseLine
from .fields import Change, Field, choice, css, layer_list, layer_range, number, slider, tick, toggles, typed, words
from .markup import heading, note, question_html
from .mixing import Mixing

_MANY = 12  # layers: more buttons than that are a wall
OWN_TEXT = ""
"""Stands for no task in the list: ipywidgets take `None` for no choice at all."""
_TEST = (
    "A question of the held-out test: each look counts. Choose settings on dev questions, and look at the test once,"
    " when they are chosen."
)


class ControlPanel:
    """The fields of everything but the tabs' own.

    Args:
        n_layers, n_kv_heads: of the model.
        tasks: names of the tasks that can be chosen.
        change: is told of a field's new value.
        load: is called with the name of vectors to load.

    Attributes:
        box: what is displayed.
        dose: the line with the relative strength.
    """

    def __init__(
        self, n_layers: int, n_kv_heads: int, tasks: Sequence[str], change: Change, load: Callable[[str], None]
    ) -> None:
        splits = [
            ("held-out test (each look counts)" if split == "test" else split, split)
            for split in ("dev", "extraction", "test")
        ]
        layers, heads = range(n_layers), range(n_kv_heads)
        arms = toggles("arms", ARMS, "side by side", (), "compare with", optional=False)
        self.asking = [
            choice(
                "task",
                "ask",
                [("my own text", OWN_TEXT), *((f"a question of {name}", name) for name in tasks)],
                none=OWN_TEXT,
            ),
            choice("split", "split", splits),
            number("question", "question no.", "which question of the split, from 0"),
            words("prompt", "my text", "the user's message", rows=3),
        ]
        self.asked = w.HTML()
        self._asks: tuple[Any, ...] = ()
        self.mixing = Mixing(change)
        self.strength = [
            slider("ck", "c_k (keys)", -2.0, 4.0, 0.05, "coefficient of the keys", readout=False),
            slider("cv", "c_v (values)", -4.0, 8.0, 0.1, "coefficient of the values", readout=False),
        ]
        self.typed = [
            typed("ck", "c_k (keys)", "any coefficient of the keys"),
            typed("cv", "c_v (values)", "any coefficient of the values"),
        ]
        self.dose = DoseLine()
        self.where = [
            choice("part", "steer", PARTS),
            layer_range(n_layers),
            toggles("layers", list(layers), "single layers", tuple(layers)[1:], "layer", optional=True)
            if n_layers <= _MANY
            else layer_list(n_layers),
            toggles("heads", list(heads), "KV heads", tuple(heads), "KV head", optional=True),
            number("slot", "position", "which position of the prompt; negative counts from its end"),
            words("offset", "offset token", "the token that is read first from the steered cache", escaped=True),
        ]
        self.others = [
            words("cot", "CoT prompt", "the instruction of the CoT prompt"),
            words("prefix", "resp. prefill", "response prefill: the reply's first words"),
            number("activation_layer", "after layer", "after which layer activation steering adds its vector"),
            number("activation_coefficient", "coefficient", "coefficient of activation steering", whole=False),
            tick("every_token", "at every token", "or at the steered position alone"),
            number("n_controls", "controls", "how many random vectors of the steering's size are compared"),
            number("control_seed", "their seed", "which random vectors"),
        ]
        self.sampling = [
            tick("sample", "sample (else greedy)", "whether texts are sampled"),
            slider("temperature", "temperature", 0.1, 2.0, 0.05, "of sampling"),
            slider("top_p", "top-p", 0.05, 1.0, 0.05, "of sampling"),
            number("seed", "seed", "of the sampling noise, which all arms share"),
            number("max_new_tokens", "new tokens", "at most so many"),
        ]
        self.arms = arms
        self.path = w.Text(
            description="load",
            placeholder="file, folder or hub repository",
            style={"description_width": "92px"},
            layout={"width": "auto"},
        )
        self.loading = w.Button(
            description="Load vectors", tooltip="add a set of vectors from a file, a folder or the hub"
        )
        css(self.path, "load-path")
        css(self.loading, "load")
        self.loading.on_click(lambda _: load(self.path.value))
        self.fields = [*self.asking, *self.strength, *self.typed, *self.where, arms, *self.others, *self.sampling]
        for field in self.fields:
            field.bind(change)
        folded = {
            "Layers, heads and position": _all(self.where),
            "Compare with": [arms.widget],
            "Prompt and response prefill": _all(self.others[:2]),
            "Activation steering": _all(self.others[2:5]),
            "Random controls": _all(self.others[5:]),
            "Sampling": _all(self.sampling),
            "Load vectors": [self.path, self.loading],
        }
        self.box = w.VBox(
            [
                _heading("Prompt"),
                *_all(self.asking),
                self.asked,
                _heading("Strength"),
                self.mixing.box,
                *(
                    w.HBox(pair).add_class("kv-strength")
                    for pair in zip(_all(self.strength), _all(self.typed), strict=True)
                ),
                self.dose.html,
                _heading("Advanced"),
                *(_fold(title, widgets) for title, widgets in folded.items()),
            ]
        )
        self.box.add_class("kv-controls")

    def show(self, state: ExplorerState, sets: Sequence[str]) -> None:
        """Show a state; `sets`: the names of the sets of vectors that can be mixed."""
        for field in self.fields:
            field.show(state)
        self.mixing.show(state, sets)
        own = state.task is None
        for field in self.asking[1:]:
            field.widget.layout.display = None if (field.name == "prompt") == own else "none"
        if state.asks != self._asks:  # the question shown there is no longer the one that is asked
            self._asks = state.asks
            self.asked.value = note(_TEST) if not own and state.split == "test" else ""

    def say_asked(self, state: ExplorerState, text: str, looks: int) -> None:
        """Show the question that a state asks, if it is still asked; beside a test question, how many of them were
        looked at.
        """
        if state.asks == self._asks:
            warned = note(f"{_TEST} Looked at so far: {looks}.") if state.split == "test" else ""
            self.asked.value = question_html(text) + warned


def _all(fields: Sequence[Field]) -> list[w.Widget]:
    return [field.widget for field in fields]


def _heading(text: str) -> w.HTML:
    return w.HTML(heading(text))


def _fold(title: str, widgets: Sequence[w.Widget]) -> w.Accordion:
    """Controls that are folded away; several folds may be open at once."""
    fold = w.Accordion([w.VBox(list(widgets))], titles=(title,), selected_index=None)
    return fold.add_class("kv-more")
