// Code, with a button that puts it on the clipboard.
function render({ model, el }) {
  el.classList.add("kv-code");
  const button = document.createElement("button"), said = document.createElement("span"), code = document.createElement("pre");
  button.type = "button";
  button.className = "kv-copy jupyter-button";
  button.textContent = "Copy as code";
  said.setAttribute("role", "status");
  code.tabIndex = 0;
  code.setAttribute("aria-label", "The library calls that give these texts");
  button.addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(model.get("code"));
      said.textContent = " copied";
    } catch {
      getSelection().selectAllChildren(code); // no clipboard without a secure origin: one keystroke is left
      said.textContent = " selected; press Ctrl+C";
    }
    setTimeout(() => { said.textContent = ""; }, 4000);
  });
  const write = () => { code.textContent = model.get("code"); };
  write();
  model.on("change:code", write);
  el.replaceChildren(button, said, code);
}
export default { render };
