"""The explorer on SmolLM2 in a real browser: a slider changes the answer, the verdict says how, nothing is cut off.

With `KVSTEER_SCREENSHOTS` it films the slider for the README, and keeps pictures of every tab (`make screenshots`).
"""

from __future__ import annotations

import io
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from browsing import chromium, free_port, left_out, open_page, serving
from explorer_page import ExplorerPage
from PIL import Image

import kvsteer_lab as kv

REASON = left_out()
pytestmark = pytest.mark.skipif(bool(REASON), reason=f"left out: {REASON}")
SCREENSHOTS = os.environ.get("KVSTEER_SCREENSHOTS")
STRENGTHS = (0.0, 1.0, 2.0, 3.0, 4.0)
PATIENCE = 600_000  # milliseconds: two cores, and others may use them


def frame(page: Any) -> Image.Image:
    """The upper part of the widget as it looks now."""
    page.mouse.move(0, 0)
    return Image.open(io.BytesIO(page.screenshot(animations="disabled"))).convert("RGB")


def write_film(frames: list[Image.Image], path: Path) -> None:
    """A moving picture that goes on for ever, of as few colours as leave greys grey, and so of few bytes."""
    small = [image.quantize(128, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE) for image in frames]
    path.parent.mkdir(parents=True, exist_ok=True)
    small[0].save(path, save_all=True, append_images=small[1:], duration=1800, loop=0, optimize=True)


@pytest.fixture(scope="module")
def explorer(smollm2: kv.Model, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ExplorerPage]:
    """What `kvsteer explore` opens for the model: vectors of 24 pairs; replies of 40 tokens."""
    folder, port = tmp_path_factory.mktemp("smollm2"), free_port()
    command = [sys.executable, "-m", "kvsteer_lab.cli", "explore", "--model", "smollm2-135m"]
    with (
        chromium() as browser,
        serving([*command, f"--port={port}", "--no-browser"], "/voila/static/favicon.ico", folder, port) as server,
    ):
        (address,) = re.findall(r"http://127\.0\.0\.1:\d+/\?token=\w+", server.log.read_text())
        page, errors = open_page(browser, width=1100, height=640)
        page.set_default_timeout(PATIENCE)
        page.route(re.compile(r"https://.*"), lambda route: route.abort())
        page.goto(address, timeout=PATIENCE)
        found = ExplorerPage(page, folder)
        sampling = found.root.locator(".kv-more .jupyter-widget-Collapse-header", has_text="Sampling")
        sampling.click()
        found.type("max-new-tokens", "40")
        sampling.click()
        found.at("status").filter(has_text="Done.").wait_for()
        yield found
        page.close()
        assert [error for error in errors if "https://" not in error] == []


def test_a_slider_changes_a_real_models_answer(explorer: ExplorerPage) -> None:
    frames, answers = [], []
    for cv in STRENGTHS:
        explorer.at("status").locator(".kv-line").evaluate("line => line.dataset.old = true")
        explorer.type("cv-typed", str(cv))
        explorer.at("status").locator(".kv-line:not([data-old])", has_text="Done.").wait_for()
        explorer.page.wait_for_timeout(800)  # the colours come after the texts
        answers.append(explorer.arm("cache steering").locator(".kv-text").first.inner_text())
        explorer.page.evaluate("document.querySelector('.kv-explorer').scrollIntoView()")
        frames.append(frame(explorer.page))
    plain = explorer.arm("baseline").locator(".kv-text").first.inner_text()
    assert answers[0] == plain and answers[-1] != plain
    assert answers[-1].startswith("Step 1"), answers
    assert re.search(r"leaves the baseline's text at token \d+", explorer.at("verdict-line").inner_text())
    assert "random vectors of this size" in explorer.at("verdict-line").inner_text()
    if SCREENSHOTS:
        write_film(frames, Path(SCREENSHOTS) / "slider.gif")


def test_nothing_is_cut_off_at_any_width_on_a_real_model(explorer: ExplorerPage) -> None:
    """30 layers, long replies, a prompt with a system turn; a sweep of the layers is cancelled when it has begun."""
    explorer.tab("Ablation")
    explorer.type("sweep-questions", "2")
    explorer.fill_tabs("to go")
    found = {}
    for theme in ("light", "dark"):
        explorer.set_page_theme(theme)
        for width in (640, 1600):
            kept = Path(SCREENSHOTS) / "widths" / f"smollm2_{width}_{theme}" if SCREENSHOTS else None
            found[theme, width] = explorer.crowded(width, kept)
    assert not any(found.values()), found
