"""The explorer on a page, as a reader handles it: by mouse, by keyboard, by eye and by clock."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

TABS = ("Side by side", "Ablation", "Geometry", "Keep")
UNNAMED = re.compile(r"^\s*- (?:button|slider|textbox|combobox|spinbutton|checkbox|tab|gridcell|option|progressbar)(?: \[[^\]]*\])*:?$", re.MULTILINE)
"""A control without a name, in Playwright's description of what a screen reader is told."""

CONTRAST = """
root => {
  const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const rgba = color => {
    canvas.clearRect(0, 0, 1, 1);
    canvas.fillStyle = color;
    canvas.fillRect(0, 0, 1, 1);
    const [r, g, b, a] = canvas.getImageData(0, 0, 1, 1).data;
    return [r, g, b, a / 255];
  };
  const over = (top, under) => [0, 1, 2].map(i => top[i] * top[3] + under[i] * (1 - top[3])).concat(1);
  const behind = node => {
    const layers = [];
    for (let at = node; at; at = at.parentElement) {
      const color = rgba(getComputedStyle(at).backgroundColor);
      if (color[3] > 0) layers.push(color);
      if (color[3] === 1) break;
    }
    return layers.reverse().reduce((under, top) => over(top, under), [255, 255, 255, 1]);
  };
  const opacity = node => node ? Number(getComputedStyle(node).opacity) * opacity(node.parentElement) : 1;
  const light = color => {
    const [r, g, b] = color.slice(0, 3).map(v => v / 255).map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const said = node => {
    if (/^(INPUT|TEXTAREA|SELECT)$/.test(node.tagName)) return node.type === "checkbox" ? "" : node.value;
    return [...node.childNodes].filter(n => n.nodeType === 3).map(n => n.textContent.trim()).join(" ").trim();
  };
  const found = [];
  for (const node of root.querySelectorAll("*")) {
    const text = said(node), box = node.getBoundingClientRect();
    if (!text || !box.width || !box.height || /^(STYLE|OPTION|SCRIPT|TITLE|title)$/.test(node.tagName) || node.closest(":disabled")) continue;
    const style = getComputedStyle(node);
    if (style.visibility !== "visible") continue;
    const under = behind(node), ink = rgba(node instanceof SVGElement ? style.fill : style.color);
    ink[3] *= opacity(node);
    const [a, b] = [light(over(ink, under)), light(under)].sort((x, y) => y - x);
    const kind = `${node.tagName.toLowerCase()}.${(node.getAttribute("class") || "").replaceAll(" ", ".")}`;
    found.push({ text: text.slice(0, 40), kind, ratio: (a + 0.05) / (b + 0.05) });
  }
  return found;
}
"""
"""Every visible text that isn't disabled, with the contrast ratio (WCAG 2) of its ink against what lies behind it."""

FOCUS = """
() => {
  const at = document.activeElement, style = getComputedStyle(at);
  if (!at.closest(".kv-explorer")) return null;
  const words = at.getAttribute("aria-label") || at.labels?.[0]?.textContent || at.textContent;
  const seen = style.outlineStyle !== "none" && parseFloat(style.outlineWidth) > 0;
  return { name: words.trim().slice(0, 60), seen, number: [...document.querySelectorAll("*")].indexOf(at) };
}
"""
"""Where the keyboard is: its name, whether a reader can see that it is there, and which element it is; `null` outside the explorer."""

REACHABLE = """
root => [...root.querySelectorAll("button:enabled, input:enabled, select:enabled, textarea:enabled, [tabindex='0'], [contenteditable='true']")]
  .filter(node => node.checkVisibility({ visibilityProperty: true }) && node.getBoundingClientRect().width)
  .map(node => [...document.querySelectorAll("*")].indexOf(node))
"""
"""Every control that the keyboard should come to."""

CLOCK = """
([view, events]) => {
  const arm = document.querySelector(view), times = window.kvTimes = {}, seen = {};
  let start;
  const begin = () => { if (!("first" in seen)) start = performance.now(); };
  for (const event of events) document.addEventListener(event, begin, true);
  const shown = (name) => {
    if (start === undefined || name in seen) return;
    seen[name] = requestAnimationFrame(() => { times[name] = performance.now() - start; });
  };
  const watch = new MutationObserver(() => {
    const whole = arm.querySelector(".kv-facts");
    if (start === undefined || !arm.textContent.trim() || (whole && !arm.querySelector(".kv-text").textContent)) return;
    shown("first"); // where texts are short, all of it comes at once
    if (whole) shown("full");
    if (!whole || !arm.querySelector(".kv-token")) return;
    shown("coloured");
    watch.disconnect();
    for (const event of events) document.removeEventListener(event, begin, true);
  });
  watch.observe(arm, { subtree: true, childList: true, characterData: true });
}
"""
"""Milliseconds from the last of some events to the frame in which an arm's first token, its whole text, and its coloured tokens are there."""

CANCEL_CLOCK = """
() => {
  const times = window.kvTimes = {};
  const button = document.querySelector("button.kv-sweep-cancel"), line = document.querySelector(".kv-sweep-status");
  button.addEventListener("click", () => { times.start = performance.now(); }, { capture: true, once: true });
  const watch = new MutationObserver(() => requestAnimationFrame(() => {
    if (times.start !== undefined && line.textContent.includes("Cancelled")) {
      times.cancelled ??= performance.now() - times.start;
      watch.disconnect();
    }
  }));
  watch.observe(line, { subtree: true, childList: true, characterData: true });
}
"""
"""Milliseconds from the click on Cancel to the frame in which the explorer says that it is cancelled."""


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

    def open_all(self) -> None:
        """Open what is folded."""
        for header in self.root.locator(".jupyter-widget-Collapse-header:visible").all():
            if header.get_attribute("aria-expanded") == "false":
                header.click()

    def type(self, name: str, text: str) -> None:
        """Write something into a field and leave it."""
        field = self.at(name).locator("input, textarea")
        field.fill(text)
        field.blur()

    def choose(self, name: str, label: str) -> None:
        """Choose from a list."""
        self.at(name).locator("select").select_option(label=label)

    def cell(self, row: int, column: int) -> Any:
        """A cell of the heatmap."""
        return self.root.locator(f".kv-heatmap td[data-row='{row}'][data-column='{column}']")

    def save_state(self) -> dict[str, Any]:
        """How the knobs are set, as the explorer's own file says."""
        self._states += 1
        path = self.folder / f"saved {self._states}.json"
        self._state_button(path, "save-state", f"Written: {path}")
        return json.loads(path.read_text(encoding="utf-8"))

    def restore(self, state: dict[str, Any]) -> None:
        """Set every knob, by a file, and wait until all work is done."""
        self._states += 1
        path = self.folder / f"state {self._states}.json"
        path.write_text(json.dumps(state), encoding="utf-8")
        self._state_button(path, "load-state", f"Restored: {path}")
        self.at("status").filter(has_text="Done.").wait_for()

    def _state_button(self, path: Path, button: str, answer: str) -> None:
        self.tab("Keep")
        self.type("state-path", str(path))
        self.at(button).click()
        self.at("keep-status").filter(has_text=answer).wait_for()

    def drag(self, name: str, share: float) -> None:
        """Take a slider's handle to a share of its way, in one movement, and let go."""
        handle, way = self.at(name).locator(".noUi-handle").bounding_box(), self.at(name).locator(".noUi-base").bounding_box()
        y = handle["y"] + handle["height"] / 2
        self.page.mouse.move(handle["x"] + handle["width"] / 2, y)
        self.page.mouse.down()
        self.page.mouse.move(way["x"] + share * way["width"], y)
        self.page.mouse.up()

    def time_drag(self, name: str, share: float, arm: str) -> dict[str, float]:
        """Milliseconds from the last movement of a slider's handle to `first` token, `full` text and `coloured` tokens of an arm."""
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

    def poor_contrast(self, least: float = 4.5) -> tuple[float, list[str]]:
        """The lowest contrast of the texts that are shown, and those below `least`."""
        found = self.root.evaluate(CONTRAST)
        poor = [f"{text['ratio']:.2f}: {text['text']!r} in {text['kind']}" for text in found if text["ratio"] < least]
        return min(text["ratio"] for text in found), poor

    def picture(self, path: Path) -> None:
        """The widget as it looks, as PNG."""
        self.page.mouse.move(0, 0)
        self.root.screenshot(path=str(path), animations="disabled")
