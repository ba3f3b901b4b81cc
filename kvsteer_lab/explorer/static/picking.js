// Tells Python which token of a reply, or which slot of the prompt, was clicked, touched, or entered from the keyboard.
const TOKEN = ".kv-arm .kv-token[data-step], .kv-prompt-token";

function render({ model, el }) {
  let root = null, waiting = 0;
  const lists = () => root.querySelectorAll(".kv-arm, .kv-prompt-strip");
  const tokens = (list) => [...list.querySelectorAll(TOKEN)];
  const dress = () => {
    for (const list of lists()) { // one stop of the Tab key a text: the token that was last reached, or the first
      const own = tokens(list);
      if (own.length && !own.some((token) => token.tabIndex === 0)) own[0].tabIndex = 0;
    }
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
    const token = event.target.closest(TOKEN);
    if (token) pick(token);
  };
  const press = (event) => {
    const token = event.target.closest(TOKEN);
    if (!token) return;
    const own = tokens(token.closest(".kv-arm, .kv-prompt-strip")), at = own.indexOf(token);
    const to = { ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: own.length - 1 }[event.key];
    if (event.key === "Enter" || event.key === " ") pick(token);
    else if (own[to]) {
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
    root?.addEventListener("keydown", press, true); // before the notebook's own keys
    if (root) watch.observe(root, { subtree: true, childList: true });
    return root;
  };
  el.style.display = "none";
  soon();
  return () => {
    cancelAnimationFrame(waiting);
    watch.disconnect();
    root?.removeEventListener("click", click);
    root?.removeEventListener("keydown", press, true);
  };
}
export default { render };
