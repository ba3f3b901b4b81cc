"""The tab "Geometry": how well the pairs agree in each layer, then those of one layer in their principal components,
each with its question.
"""

from __future__ import annotations

from collections.abc import Sequence

import ipywidgets as w

from ..._util.text import for_html, visible
from ..results.components import Components
from ..state import ExplorerState
from .canvases import Scatter
from .fields import Change, choice, css, simple
from .markup import note, status

_STYLE = {"description_width": "92px"}


class Geometry:
    """Fields and scatter.

    Args:
        n_layers: how many layers can be chosen.
        change: is told of a field's new value.

    Attributes:
        box: what is displayed.
    """

    def __init__(self, n_layers: int, change: Change) -> None:
        slider = w.IntSlider(
            min=0,
            max=n_layers - 1,
            description="layer",
            style=_STYLE,
            layout={"width": "auto", "max_width": "480px"},
            tooltip="which layer's pairs",
        )
        self.fields = [simple("geometry_layer", slider), choice("geometry_part", "part", ("values", "keys"))]
        for field in self.fields:
            field.bind(change)
        self.said = w.HTML(status(""))
        css(self.said, "geometry-status")
        self.scatter = Scatter()
        self.agreement = w.HTML()
        css(self.agreement, "geometry-agreement")
        meaning = note(
            "Each point is one pair: its positive side minus its negative side, at the position whose mean is the"
            " steering vector."
        )
        layer, part = (field.widget for field in self.fields)
        self.box = w.VBox([part, self.agreement, layer, self.said, w.HTML(meaning), self.scatter])

    def show(self, state: ExplorerState) -> None:
        """Show a state's layer and part."""
        for field in self.fields:
            field.show(state)

    def progress(self, name: str, done: int, total: int) -> None:
        """Say how many pairs of a set have been read."""
        self.said.value = status(f"Reading the pairs of {name!r}: {done} of {total}.")

    def draw(self, found: Components, sets: Sequence[str]) -> None:
        """Draw one layer of some sets of pairs."""
        self.scatter.clear()  # so that the same points are drawn anew, too
        self.scatter.show(found)
        self.agreement.value = agreement_html(found)
        self.said.value = status(f"{', '.join(sets)}: {len(found.points)} pairs.")

    def fail(self, message: str) -> None:
        """Nothing can be drawn; say why. How well the pairs agree in other layers stays."""
        self.scatter.clear()
        self.said.value = status(message, error=True)


def agreement_html(found: Components) -> str:
    """A row a set, a cell a layer: how well its pairs agree on a direction."""
    n = max(map(len, found.agreement.values()))
    rows = ""
    for name, cosines in found.agreement.items():
        cells = "".join(
            f'<td class="kv-number kv-shaded" style="--kv-strength:{75 * max(0.0, cosine):.0f}%"'
            f' title="layer {layer}: {cosine:.3f}">{cosine:.2f}</td>'
            if cosine == cosine
            else f'<td class="kv-number" title="layer {layer}: the sides of some pair are the same">–</td>'
            for layer, cosine in enumerate(cosines)
        )
        rows += f'<tr><th scope="row">{for_html(visible(name, one_line=True))}</th>{cells}</tr>'
    head = "".join(f'<th scope="col">{layer}</th>' for layer in range(n))
    about = note(
        f"How well single pairs agree in their {found.part}: the mean cosine of a pair's difference with the mean of"
        f" the other pairs', by layer. Random directions have cosines of about ±{found.chance:.2f}."
    )
    table = f'<table class="kv-table kv-agreement"><tr><th>layer</th>{head}</tr>{rows}</table>'
    return f'{about}<div class="kv-wide">{table}</div>'
