"""Every tab of the explorer at every width, in both themes: no text is cut off, none lies on another.

`KVSTEER_SCREENSHOTS=DIR` keeps pictures of the narrowest and the widest, in `DIR/widths`.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from browsing import chromium, free_port, left_out, open_page, serving
from explorer_page import ExplorerPage
from page_scripts import CROWDED

REASON = left_out()
pytestmark = pytest.mark.skipif(bool(REASON), reason=f"left out: {REASON}")
SERVE = Path(__file__).parents[2] / "notebooks" / "serve.py"
SCREENSHOTS = os.environ.get("KVSTEER_SCREENSHOTS")


@pytest.fixture(scope="module")
def explorer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ExplorerPage]:
    """The explorer of chapter 11 on a page of its own, everything in its tabs done."""
    folder, port = tmp_path_factory.mktemp("widths"), free_port()
    command = [sys.executable, str(SERVE), f"--port={port}", "--no-browser"]
    with chromium() as browser, serving(command, "/voila/static/favicon.ico", folder, port) as server:
        (address,) = re.findall(r"http://127\.0\.0\.1:\d+/\?token=\w+", server.log.read_text())
        page, errors = open_page(browser)
        page.route(re.compile(r"https://.*"), lambda route: route.abort())
        page.goto(address)
        found = ExplorerPage(page, folder)
        found.at("status").filter(has_text="Done.").wait_for()
        found.fill_tabs("Done: ")
        yield found
        page.close()
        assert [error for error in errors if "https://" not in error] == []


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [640, 1000, 1600])
def test_nothing_is_cut_off_at_any_width(explorer: ExplorerPage, width: int, theme: str) -> None:
    explorer.set_page_theme(theme)
    kept = Path(SCREENSHOTS) / "widths" / f"tiny_{width}_{theme}" if SCREENSHOTS and width != 1000 else None
    assert explorer.crowded(width, kept) == {}


def test_a_crowded_page_is_noticed(explorer: ExplorerPage) -> None:
    explorer.page.set_viewport_size({"width": 1600, "height": 1400})
    explorer.tab("Side by side")
    verdict = explorer.at("verdict-line").locator("p").first
    for style, said in (
        ("transform: translateY(90px)", "overlap"),
        ("width: 90px; overflow: hidden; white-space: pre", "cut"),
    ):
        verdict.evaluate("(line, style) => line.setAttribute('style', style)", style)
        assert any(own.startswith(said) for own in explorer.root.evaluate(CROWDED)), style
    verdict.evaluate("line => line.removeAttribute('style')")
