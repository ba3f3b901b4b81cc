"""The page that shows a reproduction: a card for each chapter."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path

from jinja2 import Environment, StrictUndefined

from .._util.files import write_atomically
from .._util.text import visible
from ..figures.stamp import SUFFIXES
from .chapters import Chapter
from .parameters import OWN
from .running import Record


def write_page(out: Path, about: Mapping[str, str], chapters: Sequence[Chapter], records: Mapping[str, Record]) -> Path:
    """Write `index.html`: what was run on what, and for each chapter its state, time, the parameters that were set,
    links, figures and what stopped it.

    Args:
        out: folder of the reproduction.
        about: facts of the model and the versions, in the order they are shown.
        chapters: all of them; those without a record were not run.
        records: by the chapter's name.
    """
    template = Environment(
        autoescape=True, finalize=visible, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    ).from_string(files(__package__).joinpath("page.html.j2").read_text(encoding="utf-8"))
    cards = [(chapter, record := records.get(chapter.name), _state(record), _set(record)) for chapter in chapters]
    page = template.render(about=about, cards=cards, suffixes=[*SUFFIXES, ".csv"])
    return write_atomically(out / "index.html", lambda file: file.write_text(page, encoding="utf-8"))


def _set(record: Record | None) -> str:
    """The parameters that were set by hand, as they are typed."""
    return (
        ""
        if record is None
        else ", ".join(f"{name}={json.dumps(value)}" for name, value in record.parameters.items() if name not in OWN)
    )


def _state(record: Record | None) -> str:
    return "not run" if record is None else "failed" if record.error else "done"
