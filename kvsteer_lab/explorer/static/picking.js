// Tells Python which token of a reply, or which slot of the prompt, was clicked, touched, or entered from the keyboard;
// and says of the token of the prompt that is pointed at, or has the keyboard, what Python knows of it.
const TOKEN = ".kv-arm .kv-token[data-step], .kv-prompt-token";

function render({ model, el }) {
  let root = null, waiting = 0, here = null, told = null, entered = null; // slots of the prompt
  const lists = () => root.querySelectorAll(".kv-arm, .kv-prompt-strip");
  const tokens = (list) => [...list.querySelectorAll(TOKEN)];
  const dress = () => {
    for (const list of lists()) { // one stop of the Tab key a text: the token that was last reached, or the first
      const own = tokens(list);
      if (own.length && !own.some((token) => token.tabIndex === 0)) own[0].tabIndex = 0;
    }
    if (entered !== null && document.activeElement === document.body) { // the strip was drawn anew around the steered slot
      root.querySelector(`.kv-prompt-token[data-slot="${entered}"]`)?.focus();
      entered = null;
    }
  };
  const say = () => {
    const line = root?.querySelector(".kv-prompt-reading"), lines = model.get("lines");
    if (!line || here === null) return;
    const said = lines[lines.length + here];
    line.textContent = said ?? model.get("otherwise");
    const token = root.querySelector(`.kv-prompt-token[data-slot="${here}"]`);
    if (said && token) token.title = `${said} ${token.classList.contains("kv-here") ? "Steered." : "Click to steer here."}`;
  };
  const point = (event) => {
    const token = event.target.closest?.(".kv-prompt-token");
    if (!token) return;
    here = Number(token.dataset.slot);
    say();
    if (model.get("lines").length) return;
    model.set("asked", model.get("asked") + 1); // read once, then known for every token
    model.save_changes();
  };
  const soon = () => {
    waiting ||= requestAnimationFrame(() => {
      waiting = 0;
      if (root ?? find()) dress();
      else soon(); // not on the page yet
    });
  };
  const pick = (token) => {
    if (token.classList.contains("kv-prompt-token")) model.set("slot", [Number(token.dataset.slot), model.get("slot")[1] + 1]);
    else model.set("token", [token.closest(".kv-arm").dataset.arm, Number(token.dataset.step), model.get("token")[2] + 1]);
    model.save_changes();
  };
  const click = (event) => {
    const token = event.target.closest(TOKEN), slot = token?.dataset.slot;
    const first = event.pointerType === "touch" && slot !== undefined && told !== slot; // a finger can't point without touching
    told = first ? slot : null;
    if (token && !first) pick(token);
  };
  const press = (event) => {
    const token = event.target.closest(TOKEN);
    if (!token) return;
    const own = tokens(token.closest(".kv-arm, .kv-prompt-strip")), at = own.indexOf(token);
    const to = { ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: own.length - 1 }[event.key];
    if (event.key === "Enter" || event.key === " ") {
      entered = token.dataset.slot ?? null;
      pick(token);
    } else if (own[to]) {
      token.tabIndex = -1;
      own[to].tabIndex = 0;
      own[to].focus();
    } else return;
    event.preventDefault();
  };
  const watch = new MutationObserver(soon);
  const find = () => {
    root = el.closest(".kv-explorer");
    root?.addEventListener("click", click);
    root?.addEventListener("pointerover", point);
    root?.addEventListener("focusin", point);
    root?.addEventListener("keydown", press, true); // before the notebook's own keys
    if (root) watch.observe(root, { subtree: true, childList: true });
    return root;
  };
  el.style.display = "none";
  model.on("change:lines change:otherwise", say);
  soon();
  return () => {
    cancelAnimationFrame(waiting);
    watch.disconnect();
    root?.removeEventListener("click", click);
    root?.removeEventListener("pointerover", point);
    root?.removeEventListener("focusin", point);
    root?.removeEventListener("keydown", press, true);
  };
}
export default { render };
