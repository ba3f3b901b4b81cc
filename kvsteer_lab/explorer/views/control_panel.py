"""The column of controls: what is asked, with which vectors, where, how strongly, and against what."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

import ipywidgets as w

from ..state import ARMS, PARTS, ExplorerState
from ..workspace import Bench
from .controls import Knob, Set, choice, css, layer_range, number, slider, tick, toggles, typed, words
from .dose_line import DoseLine
from .markup import escape, note

MIX = "a mix"
OWN_TEXT = ""
"""Stands for no task in the list: ipywidgets take `None` for no choice at all."""
_TEST = (
    "A test question: each look counts. Choose settings on dev questions, and look at test once, when they are chosen."
)


class Controls:
    """The controls of everything but the tabs' own.

    Attributes:
        box: what is displayed.
        dose: the line with the relative dose.
        load: is called with what is to be loaded.
    """

    def __init__(self, bench: Bench, change: Set, load: Callable[[str], None]) -> None:
        self.bench, self._change = bench, change
        model = bench.model
        splits = [
            (f"{split}{' (each look counts)' if split == 'test' else ''}", split)
            for split in ("dev", "extraction", "test")
        ]
        layers, heads = range(model.n_layers), range(model.n_kv_heads)
        arms = toggles("arms", ARMS, "side by side", (), "compare with", optional=False)
        self.asking = [
            choice(
                "task",
                "ask",
                [("my own text", OWN_TEXT), *((f"a question of {name}", name) for name in bench.task_names)],
                none=OWN_TEXT,
            ),
            choice("split", "split", splits),
            number("question", "question no.", "which question of the split, from 0"),
            words("prompt", "my text", "the user's message", rows=3),
        ]
        self.asked = w.HTML()
        self._asks: tuple[Any, ...] = ()
        self.mixing = _Mixing(bench, change)
        self.strength = [
            slider("ck", "c_k (keys)", -2.0, 4.0, 0.05, "coefficient of the keys", readout=False),
            slider("cv", "c_v (values)", -4.0, 8.0, 0.1, "coefficient of the values", readout=False),
        ]
        self.typed = [
            typed("ck", "c_k (keys)", "any coefficient of the keys"),
            typed("cv", "c_v (values)", "any coefficient of the values"),
        ]
        self.dose = DoseLine(bench)
        self.where = [
            choice("part", "steer", PARTS),
            layer_range(model.n_layers),
            toggles("layers", list(layers), "single layers", tuple(layers)[1:], "layer", optional=True),
            toggles("heads", list(heads), "KV heads", tuple(heads), "KV head", optional=True),
            number("slot", "slot", "which slot of the prompt; negative counts from its end"),
            words("offset", "offset token", "the token that is read from the steered cache", escaped=True),
        ]
        self.others = [
            words("cot", "CoT prompt", "the instruction of the CoT prompt"),
            words("prefix", "forced words", "the answer's first words"),
            number("activation_layer", "act. layer", "behind which layer activation steering adds its vector"),
            number("activation_coefficient", "act. coeff.", "coefficient of activation steering", whole=False),
            tick("every_token", "activation steering at every token", "or at the slot alone"),
            number("control_seed", "control's seed", "which random vectors"),
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
        self.knobs = [*self.asking, *self.strength, *self.typed, *self.where, arms, *self.others, *self.sampling]
        for knob in self.knobs:
            knob.bind(change)
        more = w.Accordion(
            [w.VBox(_all(self.others)), w.VBox(_all(self.sampling)), w.VBox([self.path, self.loading])],
            selected_index=None,
        )
        for i, title in enumerate(("What the others do", "Sampling", "Load vectors")):
            more.set_title(i, title)
        more.add_class("kv-more")
        self.box = w.VBox(
            [
                _heading("Prompt"),
                *_all(self.asking),
                self.asked,
                _heading("Vectors and dose"),
                self.mixing.box,
                *(
                    w.HBox(pair).add_class("kv-strength")
                    for pair in zip(_all(self.strength), _all(self.typed), strict=True)
                ),
                self.dose.html,
                _heading("Where"),
                *_all(self.where),
                _heading("Compare"),
                arms.widget,
                more,
            ]
        )
        self.box.add_class("kv-controls")

    def show(self, state: ExplorerState) -> None:
        """Show a state."""
        for knob in self.knobs:
            knob.show(state)
        self.mixing.show(state)
        self.dose.show(state)
        own = state.task is None
        for knob in self.asking[1:]:
            knob.widget.layout.display = None if (knob.field == "prompt") == own else "none"
        if state.asks != self._asks:  # the question that stands there isn't asked any more
            self._asks = state.asks
            self.asked.value = note(_TEST) if not own and state.split == "test" else ""

    def say_asked(self, state: ExplorerState, text: str, looks: int) -> None:
        """Show the question that a state asks, if it is still asked; beside a test question, how many of them were
        looked at.
        """
        if state.asks == self._asks:
            warned = note(f"{_TEST} Looked at so far: {looks}.") if state.split == "test" else ""
            self.asked.value = f'<p class="kv-note kv-asked">{escape(text)}</p>{warned}'


class _Mixing:
    """Which vectors: one set, or a weight for each."""

    def __init__(self, bench: Bench, change: Set) -> None:
        self.bench, self._change = bench, change
        self.choice = w.Dropdown(description="vectors", style={"description_width": "92px"}, layout={"width": "auto"})
        css(self.choice, "vectors")
        self.weights = w.VBox()
        self.weights.add_class("kv-mix")
        self._fields: dict[str, w.FloatText] = {}
        self._shown_by: int | None = None
        self.choice.observe(self._chosen, "value")
        self.box = w.VBox([self.choice, self.weights])

    def show(self, state: ExplorerState) -> None:
        """Show a state's weights; sets that were loaded since get a line."""
        self._shown_by = threading.get_ident()
        try:
            names = list(self.bench.vectors)
            if set(names) != set(self._fields):
                for name in names:
                    if name not in self._fields:
                        field = w.FloatText(
                            description=name, step=0.1, style={"description_width": "180px"}, layout={"width": "auto"}
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
        finally:
            self._shown_by = None

    def _chosen(self, _: Any) -> None:
        if self._shown_by == threading.get_ident() or self.choice.value is None:
            return
        if self.choice.value == MIX:  # the weights as they are; every set gets a line
            self._change("mix", {name: field.value for name, field in self._fields.items()})
        else:
            self._change("mix", {self.choice.value: 1.0})

    def _weighed(self, _: Any) -> None:
        if self._shown_by != threading.get_ident():
            self._change("mix", {name: field.value for name, field in self._fields.items()})


def _all(knobs: Sequence[Knob]) -> list[w.Widget]:
    return [knob.widget for knob in knobs]


def _heading(text: str) -> w.HTML:
    return w.HTML(f'<p class="kv-heading">{escape(text)}</p>')
