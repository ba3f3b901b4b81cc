"""A card for each notebook, read from the notebook: its title, what you'll learn, runtime and hardware, one of its
pictures.
"""

from __future__ import annotations

import base64
import io
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nbformat
from docutils import nodes
from PIL import Image
from sphinx.application import Sphinx
from sphinx.errors import SphinxError
from sphinx.util.docutils import SphinxDirective

import kvsteer_lab

ROOT = Path(__file__).resolve().parents[2]
NEUTRAL = Path(__file__).resolve().parents[1] / "_static" / "neutral.png"
SCREENSHOTS = {"11_explorer": Path(__file__).resolve().parents[1] / "screenshots" / "side_by_side_light.png"}
"""Of chapters whose subject is no figure."""
SIZE = (800, 360)
_FIELDS = {
    "question": r"\A# (.+)$",
    "learn": r"^\*\*What you'll learn\.\*\* (.+)$",
    "runtime": r"^\*\*Runtime and hardware\.\*\* (.+)$",
}
_SHOWN = {"question": "# a title", "learn": "**What you'll learn.**", "runtime": "**Runtime and hardware.**"}


@dataclass(frozen=True)
class Chapter:
    """What a notebook's card shows.

    Attributes:
        name: the file's name without its suffix.
        question: the title.
        learn: what "What you'll learn" begins with: the first sentence as far as its first semicolon or colon, without
            parentheses; a card is no contents page.
        runtime: the first sentence of "Runtime and hardware".
        picture: PNG, the first one of the notebook's outputs, or of the cell tagged `thumbnail`, or a screenshot;
            `None`: it shows none.
    """

    name: str
    question: str
    learn: str
    runtime: str
    picture: bytes | None


def read_chapter(path: Path) -> Chapter:
    """The card of a notebook.

    Raises:
        SphinxError: the first cell lacks the title or a paragraph that the card needs.
    """
    notebook = nbformat.read(path, 4)
    first = notebook.cells[0].source if notebook.cells else ""
    found = {}
    for field, pattern in _FIELDS.items():
        match = re.search(pattern, first, re.MULTILINE)
        if match is None:
            raise SphinxError(
                f"The first cell of notebooks/{path.name} has no line that begins with {_SHOWN[field]!r}; its card in"
                " the gallery needs one."
            )
        found[field] = match[1] if field == "question" else _first_sentence(match[1])
    found["learn"] = _first_clause(found["learn"])
    cells = sorted(notebook.cells, key=lambda cell: "thumbnail" not in cell.metadata.get("tags", []))
    pictures = [
        output.data["image/png"]
        for cell in cells
        for output in cell.get("outputs", [])
        if "image/png" in output.get("data", {})
    ]
    picture = base64.b64decode(pictures[0]) if pictures else None
    if path.stem in SCREENSHOTS:
        picture = SCREENSHOTS[path.stem].read_bytes()
    return Chapter(path.stem, picture=picture, **found)


def _first_sentence(text: str) -> str:
    return re.split(r"(?<=[.?!]) (?=[A-Z`])", text, maxsplit=1)[0]


def _first_clause(sentence: str) -> str:
    clause = re.split(r"[;:] ", re.sub(r" \([^)]*\)", "", sentence), maxsplit=1)[0]
    return clause if clause.endswith((".", "?", "!")) else f"{clause}."


def thumbnail(picture: bytes | None) -> Image.Image:
    """A picture on white, of one size for all cards."""
    image = Image.open(NEUTRAL if picture is None else io.BytesIO(picture)).convert("RGBA")
    image.thumbnail(SIZE, Image.Resampling.LANCZOS)
    canvas = Image.new("RGB", SIZE, "white")
    canvas.paste(image, ((SIZE[0] - image.width) // 2, (SIZE[1] - image.height) // 2), image)
    return canvas


class Gallery(SphinxDirective):
    """The cards of all notebooks, in the order of their numbers."""

    def run(self) -> list[nodes.Node]:
        folder = Path(self.env.doctreedir) / "thumbnails"
        folder.mkdir(parents=True, exist_ok=True)
        lines = ["::::{grid} 1 1 2 2", ":gutter: 3", ""]
        for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
            self.env.note_dependency(str(path))
            chapter = read_chapter(path)
            picture = folder / f"{chapter.name}.png"
            thumbnail(chapter.picture).save(picture)
            lines += [
                f":::{{grid-item-card}} {chapter.name.partition('_')[0]} · {chapter.question}",
                f":link: /notebooks/{chapter.name}",
                ":link-type: doc",
                f":img-top: /{os.path.relpath(picture, self.env.srcdir)}",
                f":img-alt: A picture of chapter {chapter.name}",
                "",
                chapter.learn,
                "```{card-footer}",
                chapter.runtime,
                "```",
                ":::",
                "",
            ]
        return self.parse_text_to_nodes("\n".join([*lines, "::::"]))


def setup(app: Sphinx) -> dict[str, Any]:
    app.add_directive("gallery", Gallery)
    return {"version": kvsteer_lab.__version__, "parallel_read_safe": True}
