"""A notebook in a real browser: JupyterLab or Voila on this machine alone, and Debian's Chromium before it."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

PATIENCE = 120_000
"""Milliseconds to wait for what must come: other tests run beside this one."""
CHROMIUM = os.environ.get("KVSTEER_CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser") or ""


def left_out() -> str:
    """Why tests in a browser can't run here; empty if they can.

    Raises:
        RuntimeError: they can't, but KVSTEER_BROWSER=required.
    """
    reason = (
        ""
        if CHROMIUM
        else "there is no Chromium: install Debian's package `chromium`, or name one with KVSTEER_CHROMIUM"
    )
    if not reason and importlib.util.find_spec("playwright") is None:
        reason = "there is no Playwright: pip install playwright (not its browsers)"
    if reason and os.environ.get("KVSTEER_BROWSER") == "required":
        raise RuntimeError(f"The tests in a browser are required here, but {reason}.")
    return reason


@dataclass(frozen=True)
class Server:
    """A server that runs: where it listens, its process, what it says."""

    url: str
    process: subprocess.Popen[bytes]
    log: Path


@contextlib.contextmanager
def serving(command: Sequence[str], ready: str, folder: Path, port: int, *, seconds: float = 120) -> Iterator[Server]:
    """Start a server in a process group of its own, wait for it, and end it with all its kernels whatever happens.

    Args:
        command: what is started.
        ready: the path that is asked for until something answers.
        folder: where the server's own configuration and data go: nothing of the user's is read or written.
        port: where it listens.
        seconds: how long it may take to answer.

    Raises:
        RuntimeError: it ended, or said nothing for so long; with the end of its log.
    """
    own = {
        name: str(folder / name.lower())
        for name in ("JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "IPYTHONDIR")
    }
    log, url = folder / "server.log", f"http://127.0.0.1:{port}"
    for path in own.values():
        Path(path).mkdir(parents=True, exist_ok=True)
    with log.open("wb") as out:
        process = subprocess.Popen(
            command,
            env=os.environ | own | {"MPLBACKEND": "agg"},
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        end = time.monotonic() + seconds
        while not _answers(url + ready):
            if process.poll() is not None or time.monotonic() > end:
                raise RuntimeError(f"{command[0]} doesn't answer:\n{log.read_text(errors='replace')[-3000:]}")
            time.sleep(0.1)
        yield Server(url, process, log)
    finally:
        stop(process)


def descendants(process: int) -> list[psutil.Process]:
    """A process's own processes, such as kernels, which have sessions of their own."""
    try:
        return psutil.Process(process).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def stop(process: subprocess.Popen[bytes], seconds: float = 10) -> None:
    """End a server as Ctrl+C does, twice as JupyterLab wants it; what is left of it and of its kernels after that is
    killed.
    """
    own = descendants(process.pid)
    for _ in range(2):
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(seconds / 2)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    for left in psutil.wait_procs(own, timeout=3)[1]:
        with contextlib.suppress(psutil.NoSuchProcess):
            left.kill()


def free_port() -> int:
    """A port of this machine that nobody listens at."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@contextlib.contextmanager
def jupyter_lab(root: Path, folder: Path) -> Iterator[tuple[Server, str]]:
    """JupyterLab over the notebooks in `root`, and its random token."""
    token, port = secrets.token_hex(16), free_port()
    path = (
        folder
        / "jupyter_config_dir"
        / "lab"
        / "user-settings"
        / "@jupyterlab"
        / "apputils-extension"
        / "notification.jupyterlab-settings"
    )
    path.parent.mkdir(parents=True)
    # nothing is asked of the network
    path.write_text(json.dumps({"fetchNews": "false", "checkForUpdates": False, "doNotDisturbMode": True}))
    command = [
        sys.executable,
        "-m",
        "jupyterlab",
        "--no-browser",
        "--allow-root",
        "--ServerApp.ip=127.0.0.1",
        f"--port={port}",
        "--ServerApp.port_retries=0",
    ]
    command += [
        f"--IdentityProvider.token={token}",
        f"--ServerApp.root_dir={root}",
        "--LabApp.extension_manager=readonly",
        "--LabApp.news_url=",
    ]
    with serving(command, "/api", folder, port) as server:
        yield server, token


@contextlib.contextmanager
def chromium() -> Iterator[Any]:
    """Chromium without a window."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
        )
        try:
            yield browser
        finally:
            browser.close()


def open_page(browser: Any, *, width: int = 1500, height: int = 1050) -> tuple[Any, list[str]]:
    """A page, and the list to which its errors will be added."""
    page = browser.new_page(viewport={"width": width, "height": height})
    page.set_default_timeout(PATIENCE)
    errors: list[str] = []
    page.on(
        "console",
        lambda message: (
            errors.append(f"{message.text} ({message.location.get('url')})") if message.type == "error" else None
        ),
    )
    page.on("pageerror", lambda error: errors.append(str(error)))
    return page, errors


def run_all(page: Any, server: Server, token: str, name: str) -> None:
    """Open a notebook and run all its cells; returns when the kernel has begun."""
    from playwright.sync_api import TimeoutError

    page.goto(f"{server.url}/lab/workspaces/test/tree/{name}?reset&token={token}")
    page.locator(".jp-Notebook").wait_for()
    # The toolbar says "idle" before the kernel's socket is open; the status bar doesn't. Even so the first order may be
    # lost.
    page.locator("#jp-main-statusbar", has_text="| Idle").wait_for()
    for _ in range(10):
        page.get_by_role("menuitem", name="Run", exact=True).click()
        page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
        try:
            page.locator(".jp-InputPrompt", has_text=re.compile(r"\[(\*|\d+)\]")).first.wait_for(timeout=5000)
            return
        except TimeoutError:
            continue
    raise RuntimeError("JupyterLab takes no order to run the cells.")


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2):
            return True
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False
