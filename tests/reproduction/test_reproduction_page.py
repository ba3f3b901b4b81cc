"""The page of a reproduction shows names and errors as they were written."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import unquote

import nbformat
import pytest
from nasty import NASTY, made_up, tags_in_html

from kvsteer_lab._util.text import visible
from kvsteer_lab.reproduction.chapters import Chapter
from kvsteer_lab.reproduction.page import write_page
from kvsteer_lab.reproduction.running import Record


def page(folder: Path, text: str) -> str:
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell(f"# 00: {text.strip() or 'x'}")])
    nbformat.write(book, folder / "00_a.ipynb")
    chapter = Chapter(folder / "00_a.ipynb")
    record = Record("hash", {"TASK": text}, "f", "0.1", 1.0, (text,), text)
    return write_page(folder, {"model": text, text: text}, [chapter], {"00_a": record}).read_text(encoding="utf-8")


@pytest.mark.parametrize("text", [text for text in (*NASTY, *made_up(20)) if "\ud83d" not in text])
def test_texts_are_shown_as_they_were_written(text: str, tmp_path: Path) -> None:
    import html

    source = page(tmp_path, text)
    assert html.unescape(source).count(visible(text)) >= 5
    assert tags_in_html(source) == tags_in_html(page(tmp_path, "x"))


def test_a_lone_surrogate_is_written_out(tmp_path: Path) -> None:
    page_text = write_page(tmp_path, {"model": "a \ud83d"}, [], {}).read_text(encoding="utf-8")
    assert "a \\ud83d" in page_text


def test_links_lead_to_files_of_any_name(tmp_path: Path) -> None:
    source = page(tmp_path, "50% #1 \"a\" & 'b'?")
    link = source.split('<img src="')[1].split('"')[0]
    assert unquote(link) == "figures/50% #1 \"a\" & 'b'?.png"
