// A table of cells that are chosen by click, or by arrow keys and Enter. Values come and go; focus stays.
// The colours are those of the saved figure: every tenth of Matplotlib's "cividis".
const AMOUNT = [
  "#00224e", "#083370", "#35456c", "#4f576c", "#666970", "#7d7c78",
  "#948e77", "#aea371", "#c8b866", "#e5cf52", "#fee838",
];
function render({ model, el }) {
  const table = document.createElement("table");
  const legend = document.createElement("p");
  el.classList.add("kv-heatmap");
  legend.className = "kv-heatmap-legend";
  table.setAttribute("role", "grid");
  el.replaceChildren(table, legend);
  let cells = [];
  let at = [0, 0];

  const words = (i, j) => {
    const names = [[model.get("row_title"), model.get("rows")[i]], [model.get("column_title"), model.get("columns")[j]]];
    const value = model.get("texts")[i]?.[j];
    return names.map((pair) => pair.filter(Boolean).join(" ")).join(", ") + ": " + (value ? `${model.get("measure")} ${value}` : "not done");
  };
  const focus = (i, j) => {
    if (!cells[i]?.[j]) return;
    cells[at[0]]?.[at[1]]?.setAttribute("tabindex", "-1");
    at = [i, j];
    cells[i][j].setAttribute("tabindex", "0");
    cells[i][j].focus();
  };
  const pick = (i, j) => {
    model.set("picked", [i, j, (model.get("picked")[2] ?? 0) + 1]);
    model.save_changes();
  };
  const keys = {
    ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1],
  };
  const build = () => {
    const rows = model.get("rows"), columns = model.get("columns");
    const caption = document.createElement("caption");
    caption.textContent = model.get("title");
    const head = document.createElement("thead"), body = document.createElement("tbody");
    const top = head.insertRow();
    const corner = document.createElement("th");
    corner.textContent = [model.get("row_title"), model.get("column_title")].filter(Boolean).join(" \\ ");
    top.append(corner);
    for (const name of columns) {
      const th = document.createElement("th");
      th.scope = "col";
      th.textContent = name;
      top.append(th);
    }
    cells = rows.map((name, i) => {
      const line = body.insertRow();
      const th = document.createElement("th");
      th.scope = "row";
      th.textContent = name;
      line.append(th);
      return columns.map((_, j) => {
        const cell = line.insertCell();
        cell.className = "kv-cell";
        cell.dataset.row = i;
        cell.dataset.column = j;
        cell.setAttribute("role", "gridcell");
        cell.setAttribute("tabindex", i === at[0] && j === at[1] ? "0" : "-1");
        cell.addEventListener("click", () => { focus(i, j); pick(i, j); });
        cell.addEventListener("keydown", (event) => {
          if (event.key === "Enter" || event.key === " ") pick(i, j);
          else if (keys[event.key]) focus(i + keys[event.key][0], j + keys[event.key][1]);
          else return;
          event.preventDefault();
          event.stopPropagation();
        });
        return cell;
      });
    });
    table.replaceChildren(caption, head, body);
    fill();
  };
  const fill = () => {
    const values = model.get("values"), texts = model.get("texts"), picked = model.get("picked");
    const low = model.get("low"), high = model.get("high");
    cells.forEach((line, i) => line.forEach((cell, j) => {
      const value = values[i]?.[j];
      const done = value !== null && value !== undefined;
      const strength = done ? Math.min(1, Math.max(0, (value - low) / (high - low || 1))) : 0;
      cell.textContent = done ? texts[i][j] : "";
      const below = Math.min(AMOUNT.length - 2, Math.floor(strength * (AMOUNT.length - 1)));
      const share = Math.round(100 * (strength * (AMOUNT.length - 1) - below));
      cell.style.setProperty("--kv-amount", `color-mix(in srgb, ${AMOUNT[below + 1]} ${share}%, ${AMOUNT[below]})`);
      cell.style.setProperty("--kv-on-amount", strength < 0.55 ? "#fff" : "#000");
      cell.classList.toggle("kv-done", done);
      cell.setAttribute("aria-selected", String(picked[0] === i && picked[1] === j));
      cell.setAttribute("aria-label", words(i, j));
      cell.title = words(i, j);
    }));
    legend.textContent = model.get("legend");
  };
  build();
  model.on("change:rows change:columns change:title change:row_title change:column_title", build);
  model.on("change:values change:texts change:picked change:legend change:low change:high", fill);
}
export default { render };
