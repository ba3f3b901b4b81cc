// What ipywidgets leave out for a reader without a mouse or without eyes: names, states, and headers that the keyboard reaches.
const name = (node, text) => node.setAttribute("aria-label", text);

function dress(root) {
  for (const slider of root.querySelectorAll(".widget-hslider")) {
    const label = slider.querySelector(".widget-label")?.textContent ?? "";
    const handles = slider.querySelectorAll(".noUi-handle"), number = slider.querySelector(".widget-readout");
    handles.forEach((handle, i) => name(handle, handles.length === 1 ? label : `${label}, ${i ? "last" : "first"}`));
    if (number) {
      number.setAttribute("role", "textbox");
      name(number, `${label}, typed`);
    }
  }
  for (const button of root.querySelectorAll(".kv-toggle")) {
    if (button.title) name(button, button.title);
    button.setAttribute("aria-pressed", String(button.classList.contains("mod-active")));
  }
  for (const header of root.querySelectorAll(".jupyter-widget-Collapse-header")) {
    header.setAttribute("role", "button");
    header.setAttribute("tabindex", "0");
    header.setAttribute("aria-expanded", String(!header.nextElementSibling?.classList.contains("lm-mod-hidden")));
  }
  for (const bar of root.querySelectorAll(".widget-hprogress")) {
    bar.setAttribute("role", "progressbar");
    name(bar, bar.querySelector(".widget-label")?.textContent ?? "");
    bar.setAttribute("aria-valuenow", String(Math.round(parseFloat(bar.querySelector(".progress-bar")?.style.width) || 0)));
  }
}

function render({ el }) {
  let root = null, waiting = 0;
  const soon = () => {
    waiting ||= requestAnimationFrame(() => {
      waiting = 0;
      if (root ?? find()) dress(root);
      else soon(); // not on the page yet
    });
  };
  const find = () => {
    root = el.closest(".kv-explorer");
    root?.addEventListener("keydown", press);
    if (root) watch.observe(root, { subtree: true, childList: true, attributes: true, attributeFilter: ["class", "style"] });
    return root;
  };
  const press = (event) => {
    const header = event.target.closest(".jupyter-widget-Collapse-header");
    if (header && (event.key === "Enter" || event.key === " ")) {
      header.click();
      event.preventDefault();
    }
    // Typed here, "b" or "d d" are no commands to the notebook.
    if (!event.ctrlKey && !event.metaKey && !event.altKey && !["Escape", "Tab", "Shift"].includes(event.key)) event.stopPropagation();
  };
  const watch = new MutationObserver(soon);
  el.style.display = "none";
  soon();
  return () => {
    cancelAnimationFrame(waiting);
    watch.disconnect();
    root?.removeEventListener("keydown", press);
  };
}
export default { render };
