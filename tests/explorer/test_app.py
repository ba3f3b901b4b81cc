"""`make app`: the explorer served by Voila to this machine's own browser, in both themes."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest
from browsing import chromium, descendants, free_port, left_out, open_page, serving, stop
from explorer_bench import Made
from explorer_page import ExplorerPage

from kvsteer_lab.explorer.serving import write_notebook

REASON = left_out()
needs_a_browser = pytest.mark.skipif(bool(REASON), reason=f"left out: {REASON}")
SERVE = Path(__file__).parents[2] / "notebooks" / "serve.py"
SCREENSHOTS = os.environ.get("KVSTEER_SCREENSHOTS")


@needs_a_browser
def test_the_app_shows_the_explorer_to_this_machine_alone_and_ends_cleanly(tmp_path: Path) -> None:
    port = free_port()
    command = [sys.executable, str(SERVE), f"--port={port}", "--no-browser"]
    with chromium() as browser, serving(command, "/voila/static/favicon.ico", tmp_path, port) as server:
        (address,) = re.findall(r"http://127\.0\.0\.1:\d+/\?token=\w+", server.log.read_text())
        listening = {
            found.laddr.ip
            for found in psutil.Process(server.process.pid).net_connections()
            if found.status == psutil.CONN_LISTEN
        }
        assert listening == {"127.0.0.1"}
        page, errors = open_page(browser)
        page.route(
            re.compile(r"https://.*"), lambda route: route.abort()
        )  # Voila's page names icons of another site; the explorer does without
        page.goto(server.url)
        assert "/login" in page.url, "without its token nobody gets in"
        page.goto(address)
        explorer = ExplorerPage(page, tmp_path)
        explorer.at("status").filter(has_text="Done.").wait_for()
        before, plain = (explorer.arm(arm).locator(".kv-text").inner_text() for arm in ("cache steering", "baseline"))
        handle = explorer.at("cv").locator(".noUi-handle")
        handle.focus()
        for _ in range(4):
            handle.press("PageDown")
        assert before != plain
        explorer.arm("cache steering").locator(".kv-text", has_text=plain).wait_for()
        for theme in ("light", "dark"):
            if theme == "dark":
                page.goto(f"{address}&theme=dark")
                explorer.arm("cache steering").locator(".kv-token").first.wait_for()
                assert page.locator("body.theme-dark").count() == 1
            assert explorer.poor_contrast()[1] == []
            if SCREENSHOTS:
                explorer.picture(Path(SCREENSHOTS) / f"app_{theme}.png")
        page.close()
        assert [error for error in errors if "https://" not in error] == []
        kernels = descendants(server.process.pid)
        stop(server.process)
        assert "Traceback" not in server.log.read_text()
        assert not any(kernel.is_running() for kernel in kernels)


@needs_a_browser
def test_one_command_explores_a_model_with_given_vectors(tmp_path: Path, made: Made) -> None:
    port, path = free_port(), made.vectors["analogical"].save(tmp_path / "mine.safetensors")
    command = [sys.executable, "-m", "kvsteer_lab.cli", "explore", "--model", "tiny", "--vectors", str(path)]
    command += [f"--port={port}", "--no-browser"]
    with chromium() as browser, serving(command, "/voila/static/favicon.ico", tmp_path, port) as server:
        (address,) = re.findall(r"http://127\.0\.0\.1:\d+/\?token=\w+", server.log.read_text())
        page, errors = open_page(browser)
        page.route(re.compile(r"https://.*"), lambda route: route.abort())
        page.goto(address)
        explorer = ExplorerPage(page, tmp_path)
        explorer.at("status").filter(has_text="Done.").wait_for()
        assert page.title() == "tiny: the explorer"
        assert "leaves the baseline's text" in explorer.at("verdict-line").inner_text()
        token = explorer.arm("cache steering").locator(".kv-token").nth(1)
        token.click()
        explorer.at("next-tokens").locator("caption", has_text="cache steering").wait_for()
        token.press("ArrowRight")
        page.keyboard.press("Enter")
        explorer.at("next-tokens").get_by_text("Top-k alternatives at token 3").wait_for()
        page.close()
        assert [error for error in errors if "https://" not in error] == []


def test_a_cell_opens_what_is_asked_for(tmp_path: Path, made: Made) -> None:
    path = made.vectors["stepwise"].save(tmp_path / "mine.safetensors")
    (cell,) = write_notebook("tiny", path, template="Q: {q}\nA:").cells
    scope: dict[str, Any] = {}
    exec(cell.source, scope)
    assert list(scope["explorer"].vectors) == ["stepwise"] and "Q: " in scope["model"].tokenizer.chat_template
    scope["explorer"].close()
