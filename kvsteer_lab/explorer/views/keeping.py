"""The tab "Export": code, figures, vectors and the state itself, taken out of the explorer."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import ipywidgets as w

from ..state import FIGURES
from .canvases import Code
from .fields import css
from .markup import note, status

_STYLE = {"description_width": "110px"}
_WIDE = {"width": "380px"}  # two buttons fit beside it


class Keep:
    """Code, and buttons that write files.

    Args:
        folder: where files go unless told otherwise.
        save_figure, save_vectors, save_state, save_html, load_state: what the buttons do, given a path and whether an
            existing file may be overwritten.

    Attributes:
        box: what is displayed.
    """

    def __init__(
        self,
        folder: str | Path,
        save_figure: Callable[[str, str, bool], None],
        save_vectors: Callable[[str, bool], None],
        save_state: Callable[[str, bool], None],
        save_html: Callable[[str, bool], None],
        load_state: Callable[[str], None],
    ) -> None:
        base = Path(folder)
        self.code = Code()
        self.figure = w.Dropdown(options=FIGURES, description="figure of", style=_STYLE, layout=_WIDE)
        self.figure_path = _path("as", base / "figure", "path without a suffix: PDF, SVG, PNG and CSV are written")
        self.vectors_path = _path("vectors", base / "vectors.safetensors", "a safetensors file with its card")
        self.state_path = _path("state", base / "state.json", "a JSON file")
        self.html_path = _path("page", base / "explorer.html", "an HTML page that needs no kernel")
        self.overwrite = w.Checkbox(description="overwrite existing files", indent=False)
        self.save_figure = w.Button(
            description="Export figure", tooltip="write PDF, SVG, PNG and the plotted data as CSV"
        )
        self.save_vectors = w.Button(
            description="Export vectors", tooltip="write the chosen vectors, mixed as they are, with their card"
        )
        self.save_state = w.Button(description="Save state", tooltip="write all settings")
        self.load_state = w.Button(description="Restore state", tooltip="set everything as the file says")
        self.save_html = w.Button(description="Export HTML", tooltip="write what the first two tabs show as a page")
        self.said = w.HTML(status(""))
        named = dict(
            figure=self.figure,
            figure_path=self.figure_path,
            vectors_path=self.vectors_path,
            state_path=self.state_path,
            overwrite=self.overwrite,
            save_figure=self.save_figure,
            save_vectors=self.save_vectors,
            save_state=self.save_state,
            load_state=self.load_state,
            html_path=self.html_path,
            save_html=self.save_html,
            keep_status=self.said,
        )
        for name, widget in named.items():
            css(widget, name)
        self.save_figure.on_click(
            lambda _: save_figure(self.figure.value, self.figure_path.value, self.overwrite.value)
        )
        self.save_vectors.on_click(lambda _: save_vectors(self.vectors_path.value, self.overwrite.value))
        self.save_state.on_click(lambda _: save_state(self.state_path.value, self.overwrite.value))
        self.save_html.on_click(lambda _: save_html(self.html_path.value, self.overwrite.value))
        self.load_state.on_click(lambda _: load_state(self.state_path.value))
        self.box = w.VBox(
            [
                self.said,
                w.HTML(note("The library calls that give the texts of the first tab:")),
                self.code,
                w.HBox([self.figure, self.save_figure], layout={"flex_flow": "row wrap"}),
                self.figure_path,
                w.HBox([self.vectors_path, self.save_vectors], layout={"flex_flow": "row wrap"}),
                w.HBox([self.state_path, self.save_state, self.load_state], layout={"flex_flow": "row wrap"}),
                w.HBox([self.html_path, self.save_html], layout={"flex_flow": "row wrap"}),
                self.overwrite,
            ]
        )

    def say(self, text: str, *, error: bool = False) -> None:
        """Say what became of a file."""
        self.said.value = status(text, error=error)


def _path(label: str, value: Path, hint: str) -> w.Text:
    return w.Text(value=str(value), description=label, placeholder=hint, tooltip=hint, style=_STYLE, layout=_WIDE)
