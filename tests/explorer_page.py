"""The explorer on a page, as a reader handles it: by mouse, by keyboard, by eye and by clock."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nbformat
from browsing import free_port, jupyter_lab, open_page, run_all, serving
from page_scripts import CANCEL_CLOCK, CLOCK, CONTRAST, CROWDED
from PIL import Image

TABS = ("Side by side", "Strength ladder", "Ablation", "Geometry", "Export")
UNNAMED = re.compile(
    r"^\s*- (?:button|slider|textbox|combobox|spinbutton|checkbox|tab|gridcell|option|progressbar)(?: \[[^\]]*\])*:?$",
    re.MULTILINE,
)
"""A control without a name, in Playwright's description of what a screen reader is told."""


class ExplorerPage:
    """The explorer on an open page.

    Args:
        page: Playwright's.
        folder: for the states that are restored.

    Attributes:
        root: the widget.
    """

    def __init__(self, page: Any, folder: Path) -> None:
        self.page, self.folder = page, folder
        self.root = page.locator(".kv-explorer")
        self._states = 0

    def at(self, name: str) -> Any:
        """A control, or a line, by its class."""
        return self.root.locator(f".kv-{name}")

    def arm(self, name: str) -> Any:
        """One text of the comparison, with what is known of it."""
        return self.at(f"arm-{name.replace(' ', '-')}")

    def tab(self, title: str) -> None:
        """Open a tab."""
        self.root.get_by_role("tab", name=title).click()

    def open_all(self, within: str = "") -> None:
        """Open what is folded."""
        for header in self.root.locator(f"{within}.jupyter-widget-Collapse-header:visible").all():
            if header.get_attribute("aria-expanded") == "false":
                header.click()

    def type(self, name: str, text: str) -> None:
        """Write something into a field and leave it."""
        field = self.at(name).locator("input, textarea")
        field.fill(text)
        field.blur()

    def wait_for_number(self, name: str, value: float) -> None:
        """Wait until the box beside a slider says a number."""
        field = self.at(f"{name}-typed").locator("input").element_handle()
        self.page.wait_for_function("([field, value]) => Number(field.value) === value", arg=[field, value])

    def choose(self, name: str, label: str) -> None:
        """Choose from a list."""
        self.at(name).locator("select").select_option(label=label)

    def cell(self, row: int, column: int) -> Any:
        """A cell of the heatmap."""
        return self.root.locator(f".kv-heatmap td[data-row='{row}'][data-column='{column}']")

    def sweep(self, until: str, by: Callable[[Any], None] = lambda button: button.click()) -> None:
        """Run a sweep, and wait until its line says something that it didn't say before."""
        self.at("sweep-status").locator(".kv-line").evaluate("line => line.dataset.old = true")
        by(self.at("sweep-run"))
        self.at("sweep-status").locator(".kv-line:not([data-old])", has_text=until).wait_for()

    def points(self) -> Any:
        """The geometry tab's points, drawn anew."""
        points = self.root.locator(".kv-scatter > svg .kv-point")
        points.evaluate_all("points => points.forEach(point => point.dataset.old = true)")
        self.tab("Geometry")
        drawn = self.root.locator(".kv-scatter > svg .kv-point:not([data-old])")
        drawn.first.wait_for(state="attached")
        return drawn

    def save_state(self) -> dict[str, Any]:
        """The state, as the explorer's own file says."""
        self._states += 1
        path = self.folder / f"saved {self._states}.json"
        self._state_button(path, "save-state", f"Written: {path}")
        return json.loads(path.read_text(encoding="utf-8"))

    def restore(self, state: dict[str, Any]) -> None:
        """Set the whole state, by a file, and wait until all work is done."""
        self._states += 1
        path = self.folder / f"state {self._states}.json"
        path.write_text(json.dumps(state), encoding="utf-8")
        self._state_button(path, "load-state", f"Restored: {path}")
        self.at("status").filter(has_text="Done.").wait_for()

    def _state_button(self, path: Path, button: str, answer: str) -> None:
        self.tab("Export")
        self.type("state-path", str(path))
        self.at(button).click()
        self.at("keep-status").filter(has_text=answer).wait_for()

    def drag(self, name: str, share: float) -> None:
        """Take a slider's handle to a share of its way, in one movement, and let go."""
        handle, way = (
            self.at(name).locator(".noUi-handle").bounding_box(),
            self.at(name).locator(".noUi-base").bounding_box(),
        )
        y = handle["y"] + handle["height"] / 2
        self.page.mouse.move(handle["x"] + handle["width"] / 2, y)
        self.page.mouse.down()
        self.page.mouse.move(way["x"] + share * way["width"], y)
        self.page.mouse.up()

    def tap(self, element: Any) -> None:
        """Touch the middle of an element with a finger."""
        element.scroll_into_view_if_needed()
        box = element.bounding_box()
        finger = {"x": box["x"] + box["width"] / 2, "y": box["y"] + box["height"] / 2}
        screen = self.page.context.new_cdp_session(self.page)
        screen.send("Emulation.setTouchEmulationEnabled", {"enabled": True})
        screen.send("Input.dispatchTouchEvent", {"type": "touchStart", "touchPoints": [finger]})
        screen.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})
        screen.send("Emulation.setTouchEmulationEnabled", {"enabled": False})
        screen.detach()

    def time_drag(self, name: str, share: float, arm: str) -> dict[str, float]:
        """Milliseconds from the last movement of a slider's handle to `first` token, `full` text and `coloured` tokens
        of an arm.
        """
        self.page.evaluate(CLOCK, [f".kv-arm-{arm.replace(' ', '-')}", ["pointermove", "mousemove"]])
        self.drag(name, share)
        self.page.wait_for_function("window.kvTimes.coloured !== undefined")
        return self.page.evaluate("window.kvTimes")

    def time_cancel(self) -> float:
        """Milliseconds from the click on Cancel, while a sweep runs, to the line that says so."""
        self.page.evaluate(CANCEL_CLOCK)
        self.at("sweep-cancel").click()
        self.page.wait_for_function("window.kvTimes.cancelled !== undefined")
        return self.page.evaluate("window.kvTimes.cancelled")

    def fill_tabs(self, swept: str) -> None:
        """Do what each tab is for, and unfold the prompt, so that there is something to see.

        Args:
            swept: what the sweep's line says when enough of it is done; the rest is cancelled.
        """
        self.tab("Strength ladder")
        self.at("ladder-run").click()
        self.at("ladder-status").filter(has_text="Done.").wait_for()
        self.tab("Ablation")
        self.sweep(swept)
        self.root.locator("td.kv-done").nth(6).wait_for()
        if self.at("sweep-cancel").is_enabled():
            self.at("sweep-cancel").click()
        self.root.locator("td.kv-done").first.click()
        self.at("cell-texts").locator("tr").nth(1).wait_for()
        self.tab("Geometry")
        self.root.locator(".kv-scatter > svg .kv-point").first.wait_for(state="attached")
        self.tab("Export")
        for name in ("figure", "vectors", "state", "html"):
            self.type(f"{name}-path", name)
        self.tab("Side by side")
        self.root.locator(".kv-details .jupyter-widget-Collapse-header", has_text="token by token").click()
        self.root.locator(".kv-prompt-token").nth(3).hover()
        self.at("prompt-reading").filter(has_text="baseline").wait_for()

    def crowded(self, width: int, pictures: Path | None = None) -> dict[str, list[str]]:
        """For each tab that is crowded on a page of a width: texts that are cut off, texts or controls that lie on one
        another.

        Args:
            width: of the page, in pixels.
            pictures: where pictures are kept, and how their names begin.
        """
        self.page.set_viewport_size({"width": width, "height": 2600})
        found = {}
        for title in TABS:
            self.tab(title)
            self.page.wait_for_timeout(300)
            if pictures is not None:
                self.picture(pictures.with_name(f"{pictures.name}_{title.lower().replace(' ', '_')}.png"))
            found[title] = self.root.evaluate(CROWDED)
        assert self.root.bounding_box()["width"] <= width
        return {title: own for title, own in found.items() if own}

    def set_page_theme(self, name: str) -> None:
        """Give a page of Voila's JupyterLab's light or dark theme."""
        sheet = (
            Path(sys.prefix) / "share" / "jupyter" / "nbconvert" / "templates" / "lab" / "static" / f"theme-{name}.css"
        )
        self.page.add_style_tag(content=sheet.read_text(encoding="utf-8"))
        self.page.evaluate(
            "name => { document.body.className = `jp-Notebook theme-${name}`;"
            " document.body.dataset.jpThemeLight = String(name === 'light'); }",
            name,
        )

    def set_theme(self, name: str) -> None:
        """Choose one of JupyterLab's themes in its menu."""
        if self.page.locator(f"body[data-jp-theme-name='JupyterLab {name}']").count():
            return
        self.page.get_by_role("menuitem", name="Settings", exact=True).click()
        for item in ("Theme", f"JupyterLab {name}"):
            self.page.locator(".lm-Menu-item", has=self.page.get_by_text(item, exact=True)).click()
        self.page.locator(f"body[data-jp-theme-name='JupyterLab {name}']").wait_for(state="attached")

    def poor_contrast(self, least: float = 4.5) -> tuple[float, list[str]]:
        """The lowest contrast of the texts that are shown, and those below `least`."""
        found = self.root.evaluate(CONTRAST)
        poor = [f"{text['ratio']:.2f}: {text['text']!r} in {text['kind']}" for text in found if text["ratio"] < least]
        return min(text["ratio"] for text in found), poor

    def picture(self, path: Path) -> None:
        """The widget as it looks, all of it, as a PNG of few colours and so of few bytes."""
        path.parent.mkdir(parents=True, exist_ok=True)
        self.page.mouse.move(0, 0)
        taken = Image.open(io.BytesIO(self.root.screenshot(animations="disabled")))
        box = self.root.bounding_box()
        assert (taken.width, taken.height) >= (int(box["width"]), int(box["height"])) and box["y"] >= 0, (
            "the window is too small for the whole"
        )
        taken.convert("RGB").quantize(256, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE).save(
            path, optimize=True
        )


@contextlib.contextmanager
def explorer_alone(browser: Any, folder: Path) -> Iterator[ExplorerPage]:
    """The explorer of chapter 11 on a page of its own, as `make app` serves it."""
    port, serve = free_port(), Path(__file__).parents[1] / "notebooks" / "serve.py"
    command = [sys.executable, str(serve), f"--port={port}", "--no-browser"]
    with serving(command, "/voila/static/favicon.ico", folder, port) as server:
        (address,) = re.findall(r"http://127\.0\.0\.1:\d+/\?token=\w+", server.log.read_text())
        page, errors = open_page(browser)
        page.route(re.compile(r"https://.*"), lambda route: route.abort())
        page.goto(address)
        found = ExplorerPage(page, folder)
        found.at("status").filter(has_text="Done.").wait_for()
        yield found
        page.close()
        assert [error for error in errors if "https://" not in error] == []


@contextlib.contextmanager
def chapter_in_lab(browser: Any, chapter: Path, folder: Path) -> Iterator[tuple[ExplorerPage, list[str]]]:
    """A copy of chapter 11, all its cells run in JupyterLab: its explorer, and the list of its page's errors."""
    root = folder / "root"
    # the chapter shows one of them
    shutil.copytree(chapter.parents[1] / "docs" / "screenshots", root / "docs" / "screenshots")
    (root / "notebooks").mkdir()
    notebook, done = nbformat.read(chapter, 4), folder / "done"
    notebook.cells.append(nbformat.v4.new_code_cell(f"from pathlib import Path\nPath({str(done)!r}).touch()"))
    nbformat.write(notebook, root / "notebooks" / "explorer.ipynb")
    before = os.environ.get("KVSTEER_FIGURES")
    os.environ["KVSTEER_FIGURES"] = str(folder / "figures")
    try:
        with jupyter_lab(root, folder / "own") as (server, token):
            page, errors = open_page(browser)
            run_all(page, server, token, "notebooks/explorer.ipynb")
            end = time.monotonic() + 240
            while not done.exists():
                if time.monotonic() > end:
                    raise RuntimeError(
                        f"The chapter isn't through:\n{page.locator('.jp-OutputArea-output').all_inner_texts()}"
                    )
                page.wait_for_timeout(200)
            explorer = ExplorerPage(page, folder)
            explorer.root.scroll_into_view_if_needed()
            yield explorer, errors
            page.close()
    finally:
        os.environ.pop("KVSTEER_FIGURES")
        if before is not None:
            os.environ["KVSTEER_FIGURES"] = before
