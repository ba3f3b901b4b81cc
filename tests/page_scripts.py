"""JavaScript that looks at a page as a reader does: what stands out, where the keyboard is, how long something
takes.
"""

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
    const [r, g, b] = color.slice(0, 3).map(v => v / 255)
      .map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const said = node => {
    if (/^(INPUT|TEXTAREA|SELECT)$/.test(node.tagName)) return node.type === "checkbox" ? "" : node.value;
    return [...node.childNodes].filter(n => n.nodeType === 3).map(n => n.textContent.trim()).join(" ").trim();
  };
  const found = [];
  for (const node of root.querySelectorAll("*")) {
    const text = said(node), box = node.getBoundingClientRect();
    if (!text || !box.width || !box.height || node.closest(":disabled")) continue;
    if (/^(STYLE|OPTION|SCRIPT|TITLE|title)$/.test(node.tagName)) continue;
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

_NUMBER = "(node => node.kvNumber ??= window.kvCount = (window.kvCount ?? 0) + 1)"
"""An element's own number, whatever comes and goes around it: text that arrives late moves no control."""

FOCUS = """
() => {
  const at = document.activeElement, style = getComputedStyle(at);
  if (!at.closest(".kv-explorer")) return null;
  const words = at.getAttribute("aria-label") || at.labels?.[0]?.textContent || at.textContent;
  const seen = style.outlineStyle !== "none" && parseFloat(style.outlineWidth) > 0;
  return { name: words.trim().slice(0, 60), seen, number: NUMBER(at) };
}
""".replace("NUMBER", _NUMBER)
"""Where the keyboard is: its name, whether a reader can see that it is there, and which element it is; `null` outside
the explorer.
"""

REACHABLE = """
root => [...root.querySelectorAll(
  "button:enabled, input:enabled, select:enabled, textarea:enabled, [tabindex='0'], [contenteditable='true']")]
  .filter(node => node.checkVisibility({ visibilityProperty: true }) && node.getBoundingClientRect().width)
  .map(node => NUMBER(node))
""".replace("NUMBER", _NUMBER)
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
    if (arm.classList.contains("kv-earlier")) return; // drawn again to be marked: the text is of the setting before
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
"""Milliseconds from the last of some events to the frame in which an arm's first token, its whole text, and its
coloured tokens are there.
"""

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

STOP_AFTER = """
([box, value]) => {
  const field = document.querySelector(box);
  field.value = value;
  field.dispatchEvent(new Event("change", { bubbles: true }));
  document.querySelector("button.kv-stop").click();
}
"""
"""Type a coefficient and press Stop before anything can come of it."""
