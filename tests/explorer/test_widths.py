"""Every tab of the explorer at every width, in both themes: no text is cut off, none lies on another.

`KVSTEER_SCREENSHOTS=DIR` keeps pictures of the narrowest and the widest, in `DIR/widths`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from browsing import chromium, left_out
from explorer_page import ExplorerPage, explorer_alone
from page_scripts import CROWDED, SCROLLED

REASON = left_out()
pytestmark = pytest.mark.skipif(bool(REASON), reason=f"left out: {REASON}")
SCREENSHOTS = os.environ.get("KVSTEER_SCREENSHOTS")


@pytest.fixture(scope="module")
def explorer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ExplorerPage]:
    """The explorer of chapter 11 on a page of its own, everything in its tabs done."""
    with chromium() as browser, explorer_alone(browser, tmp_path_factory.mktemp("widths")) as found:
        found.fill_tabs("Done: ")
        yield found


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [640, 1000, 1600])
def test_nothing_is_cut_off_at_any_width(explorer: ExplorerPage, width: int, theme: str) -> None:
    explorer.set_page_theme(theme)
    kept = Path(SCREENSHOTS) / "widths" / f"tiny_{width}_{theme}" if SCREENSHOTS and width != 1000 else None
    assert explorer.crowded(width, kept) == {}


@pytest.mark.parametrize("width", [390, 640, 1000])
def test_no_row_of_the_left_column_has_bars_of_its_own(explorer: ExplorerPage, width: int) -> None:
    explorer.page.set_viewport_size({"width": width, "height": 1400})
    explorer.open_all(".kv-controls ")
    explorer.page.wait_for_timeout(300)
    assert explorer.root.evaluate(SCROLLED) == []


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
