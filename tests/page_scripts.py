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

SCROLLED = """root => [...root.querySelectorAll('.kv-controls :not(textarea, select, input)')].filter(box => {
  const { overflowX, overflowY } = getComputedStyle(box), scrolls = way => ['auto', 'scroll'].includes(way);
  return box.offsetParent && ((scrolls(overflowX) && box.scrollWidth > box.clientWidth)
    || (scrolls(overflowY) && box.scrollHeight > box.clientHeight));
}).map(box => box.className)"""
"""Boxes within the left column that have bars to scroll them; pictures taken by Playwright hide the bars."""
CROWDED = """
root => {
  const edge = root.getBoundingClientRect(), texts = [], found = [];
  const clips = node => { // the part of the page in which a node is seen, and whether a reader can scroll to the rest
    let left = edge.left - 1, right = edge.right + 1, top = -Infinity, bottom = Infinity, scrolls = false;
    for (let at = node; at && at !== root.parentElement; at = at.parentElement) {
      const style = getComputedStyle(at), box = at.getBoundingClientRect();
      if (style.overflowX !== "visible") {
        left = Math.max(left, box.left - 1);
        right = Math.min(right, box.right + 1);
        top = Math.max(top, box.top);
        bottom = Math.min(bottom, box.bottom);
        scrolls ||= at.matches("pre, .kv-wide, .kv-tables, .kv-heatmap");
      }
    }
    return { left, right, top, bottom, scrolls };
  };
  const walk = document.createTreeWalker(root, NodeFilter.SHOW_TEXT);
  while (walk.nextNode()) {
    const node = walk.currentNode, parent = node.parentElement, range = document.createRange();
    if (!node.textContent.trim() || parent.closest("style, script, option, textarea, title")) continue;
    if (!parent.checkVisibility({ visibilityProperty: true }) || getComputedStyle(parent).clipPath !== "none") continue;
    range.selectNodeContents(node);
    const seen = clips(parent), said = node.textContent.trim().slice(0, 40);
    for (const box of range.getClientRects()) {
      if (box.width < 2 || box.bottom <= seen.top || box.top >= seen.bottom) continue;
      if (!seen.scrolls && (box.left < seen.left || box.right > seen.right)) found.push(`cut: ${said}`);
      const top = Math.max(box.top, seen.top), high = Math.min(box.bottom, seen.bottom) - top;
      const shown = new DOMRect(box.x, top, box.width, high);
      if (box.right > seen.left && box.left < seen.right) texts.push({ box: shown, said, parent });
    }
  }
  for (const node of root.querySelectorAll("select, button, input:not([type=checkbox])")) {
    const box = node.getBoundingClientRect(), seen = clips(node.parentElement);
    const said = node.getAttribute("aria-label") || node.labels?.[0]?.textContent || node.textContent.trim();
    if (!box.width || !node.checkVisibility({ visibilityProperty: true })) continue;
    if (!seen.scrolls && (box.left < seen.left || box.right > seen.right)) found.push(`cut: ${said}`);
    texts.push({ box, said, parent: node });
  }
  for (const slider of root.querySelectorAll(".noUi-base")) { // with the room of its handle
    const { x, y, width, height } = slider.getBoundingClientRect();
    if (width && slider.checkVisibility({ visibilityProperty: true }))
      texts.push({ box: new DOMRect(x, y - 5, width, height + 10), said: "(a slider)", parent: slider });
  }
  texts.forEach((one, i) => texts.slice(i + 1).forEach(other => {
    const wide = Math.min(one.box.right, other.box.right) - Math.max(one.box.left, other.box.left);
    const high = Math.min(one.box.bottom, other.box.bottom) - Math.max(one.box.top, other.box.top);
    const apart = !one.parent.contains(other.parent) && !other.parent.contains(one.parent);
    if (apart && wide > 3 && high > 5 && !one.parent.closest(".kv-top") && !other.parent.closest(".kv-top"))
      found.push(`overlap: ${one.said} | ${other.said}`);
  }));
  return [...new Set(found)];
}
"""
"""Texts that stick out of what shows them where no reader can scroll, and texts or controls that lie on one another."""
