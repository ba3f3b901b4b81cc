"""A field of the state and the widget that shows and sets it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import ipywidgets as w

from ..._util.terms import label_name
from ..state import ExplorerState
from ..threads import OwnChanges

Change = Callable[[str, Any], None]
"""Is told the name of a field and the value that a reader gives it."""

_LABEL = {"description_width": "92px"}
_WIDE = {"width": "auto", "max_width": "480px"}


class Field:
    """One field of the state, bound to a widget in both directions.

    Args:
        name: the field's name.
        widget: what is displayed.
        show: puts a state into the widget.
        parts: the widget's parts that a reader changes, with `value`; by default the widget itself.
        read: gives the value that the widget shows.
    """

    def __init__(
        self,
        name: str,
        widget: w.Widget,
        show: Callable[[ExplorerState], None],
        parts: Sequence[w.Widget] = (),
        read: Callable[[], Any] | None = None,
    ) -> None:
        self.name, self.widget = name, widget
        self._show, self._parts = show, tuple(parts) or (widget,)
        self._read = read or (lambda: widget.value)
        self._own = OwnChanges()

    def bind(self, change: Change) -> Field:
        """Tell `change` whenever a reader changes the widget."""

        def moved(_: Any) -> None:
            if not self._own.here:
                change(self.name, self._read())

        for part in self._parts:
            part.observe(moved, "value")
        return self

    def show(self, state: ExplorerState) -> None:
        """Show a state without telling of it."""
        with self._own:
            self._show(state)


def simple(field: str, widget: w.Widget) -> Field:
    """A control whose value is the field's."""
    css(widget, field)
    return Field(field, widget, lambda state: setattr(widget, "value", getattr(state, field)))


def slider(field: str, label: str, low: float, high: float, step: float, hint: str, *, readout: bool = True) -> Field:
    """A slider with its number beside it, which a value beyond its ends makes longer; without the number there is a box
    for it (`typed`), and it stops there.

    In the browser a slider rounds whatever it is given to its steps, and tells of that as if a reader had moved it:
    half a step is no move.
    """
    widget = w.FloatSlider(
        min=low,
        max=high,
        step=step,
        description=label,
        style=_LABEL,
        layout=_WIDE,
        tooltip=hint,
        readout=readout,
        readout_format=".2f",
    )
    css(widget, field)
    said = low

    def at_its_place(value: float) -> bool:
        return abs(widget.value - min(max(value, widget.min), widget.max)) <= 0.51 * step

    def show(state: ExplorerState) -> None:
        nonlocal said
        said = getattr(state, field)
        if readout:
            widget.min, widget.max = min(widget.min, said), max(widget.max, said)
        if not at_its_place(said):
            widget.value = min(max(said, widget.min), widget.max)

    return Field(field, widget, show, read=lambda: said if at_its_place(said) else round(widget.value, 6))


def typed(field: str, label: str, hint: str) -> Field:
    """A box beside a slider that takes any number; its label is for those who hear it."""
    widget = w.FloatText(description=f"{label}, typed", continuous_update=False, tooltip=hint)
    widget.add_class("kv-typed").add_class(f"kv-{field.replace('_', '-')}-typed")
    return Field(field, widget, lambda state: setattr(widget, "value", getattr(state, field)))


def choice(field: str, label: str, options: Sequence[Any], none: str | None = None) -> Field:
    """A list of which one is chosen; what isn't in it is added when a state names it. `none` stands for the field's
    `None`.
    """
    widget = w.Dropdown(options=options, description=label, style=_LABEL, layout=_WIDE)
    css(widget, field)

    def show(state: ExplorerState) -> None:
        value = none if getattr(state, field) is None else getattr(state, field)
        known = [option[1] if isinstance(option, tuple) else option for option in widget.options]
        if value not in known:
            widget.options = [*widget.options, (str(value), value)]
        widget.value = value

    return Field(field, widget, show, read=lambda: None if none is not None and widget.value == none else widget.value)


def words(field: str, label: str, hint: str, *, rows: int = 0, escaped: bool = False) -> Field:
    """Text; with `escaped`, a line break is shown and written as `\\n`."""
    kind = w.Textarea if rows else w.Text
    extra = {"rows": rows} if rows else {}
    widget = kind(
        description=label, placeholder=hint, style=_LABEL, layout=_WIDE, continuous_update=False, tooltip=hint, **extra
    )
    css(widget, field)
    out = (lambda text: text.replace("\n", "\\n").replace("\t", "\\t")) if escaped else str
    back = (lambda text: text.replace("\\n", "\n").replace("\\t", "\t")) if escaped else str
    return Field(
        field,
        widget,
        lambda state: setattr(widget, "value", out(getattr(state, field))),
        read=lambda: back(widget.value),
    )


def number(field: str, label: str, hint: str, *, whole: bool = True) -> Field:
    """A number that is typed."""
    widget = (w.IntText if whole else w.FloatText)(
        description=label, style=_LABEL, layout=_WIDE, continuous_update=False, tooltip=hint
    )
    return simple(field, widget)


def numbers(field: str, label: str, hint: str) -> Field:
    """Several numbers, with commas between them."""
    widget = w.Text(
        description=label, placeholder=hint, style=_LABEL, layout=_WIDE, continuous_update=False, tooltip=hint
    )
    css(widget, field)

    def read() -> Any:
        try:
            return tuple(float(part) for part in widget.value.split(",") if part.strip())
        except ValueError:
            return widget.value  # which the state refuses

    return Field(
        field,
        widget,
        lambda state: setattr(widget, "value", ", ".join(f"{x:g}" for x in getattr(state, field))),
        read=read,
    )


def tick(field: str, label: str, hint: str) -> Field:
    """On or off."""
    return simple(field, w.Checkbox(description=label, indent=False, tooltip=hint))


def toggles(
    field: str, names: Sequence[Any], label: str, default: Sequence[Any], hint: str, *, optional: bool
) -> Field:
    """A button for each of several things, each on or off; with `optional`, the default is written as `None`."""
    buttons = [
        w.ToggleButton(description=label_name(str(name)), tooltip=f"{hint} {label_name(str(name))}") for name in names
    ]
    for name, button in zip(names, buttons, strict=True):
        button.add_class("kv-toggle").add_class(f"kv-{field}-{str(name).replace(' ', '-')}")
    line = w.Box(buttons, layout={"flex_flow": "row wrap"})
    line.add_class("kv-toggles")
    box = w.VBox([w.Label(label), line])
    css(box, field)

    def read() -> Any:
        chosen = tuple(name for name, button in zip(names, buttons, strict=True) if button.value)
        return None if optional and chosen == tuple(default) else chosen

    def show(state: ExplorerState) -> None:
        chosen = getattr(state, field)
        for name, button in zip(names, buttons, strict=True):
            button.value = name in (default if chosen is None else chosen)

    return Field(field, box, show, buttons, read)


def layer_list(n_layers: int) -> Field:
    """Layers as text, such as `1-5, 9`, where buttons for each would fill the page; empty means layer 1 and above."""
    widget = w.Text(
        description="single layers",
        placeholder=f"1-{n_layers - 1}",
        style=_LABEL,
        layout=_WIDE,
        continuous_update=False,
        tooltip="layers by number, ranges with a dash",
    )
    css(widget, "layers")
    return Field(
        "layers",
        widget,
        lambda state: setattr(widget, "value", write_layers(state.layers)),
        read=lambda: read_layers(widget.value),
    )


def write_layers(layers: Sequence[int] | None) -> str:
    """Layers as `layer_list` shows them; neighbours make a range.

    >>> write_layers((1, 2, 3, 9))
    '1-3, 9'
    """
    runs: list[list[int]] = []
    for layer in layers or ():
        if runs and layer == runs[-1][-1] + 1:
            runs[-1].append(layer)
        else:
            runs.append([layer])
    return ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)


def read_layers(text: str) -> Any:
    """What a reader wrote, as the state's layers; what can't be read is given back, and the state refuses it.

    >>> read_layers("1-3, 9"), read_layers(" ")
    ((1, 2, 3, 9), None)
    """
    if not text.strip():
        return None
    found: list[int] = []
    for part in filter(None, (part.strip() for part in text.split(","))):
        first, dash, last = part.partition("-")
        if not first.strip().isdecimal() or (dash and not last.strip().isdecimal()):
            return text
        found += range(int(first), int(last if dash else first) + 1)
    return tuple(dict.fromkeys(found))


def layer_range(n_layers: int) -> Field:
    """A slider with two handles over the layers."""
    widget = w.IntRangeSlider(
        min=0,
        max=n_layers - 1,
        description="layers",
        style=_LABEL,
        layout=_WIDE,
        tooltip="steer these layers and all between",
    )
    css(widget, "layer-range")
    default = tuple(range(1, n_layers))

    def read() -> Any:
        low, high = widget.value
        chosen = tuple(range(low, high + 1))
        return None if chosen == default else chosen

    def show(state: ExplorerState) -> None:
        chosen = default if state.layers is None else state.layers
        if there := [layer for layer in chosen if layer < n_layers]:
            widget.value = (min(there), max(there))

    return Field("layers", widget, show, read=read)


def css(widget: w.Widget, field: str) -> None:
    """A class by which style sheets and tests find a control."""
    widget.add_class(f"kv-{field.replace('_', '-')}")
