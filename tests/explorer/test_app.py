"""`make app`: the explorer served by Voila to this machine's own browser, in both themes."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

import psutil
import pytest
from browsing import chromium, descendants, free_port, left_out, open_page, serving, stop
from explorer_page import ExplorerPage

REASON = left_out()
pytestmark = pytest.mark.skipif(bool(REASON), reason=f"left out: {REASON}")
SERVE = Path(__file__).parents[2] / "notebooks" / "serve.py"
SCREENSHOTS = os.environ.get("KVSTEER_SCREENSHOTS")


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
