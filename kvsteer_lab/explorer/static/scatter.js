// Points whose texts are shown by pointing at them, or by the arrow keys.
const NS = "http://www.w3.org/2000/svg";
const WIDTH = 520, HEIGHT = 360, LEFT = 64, RIGHT = 12, TOP = 12, BOTTOM = 40;
const SHAPES = {
  o: "M-4,0a4,4 0 1,0 8,0a4,4 0 1,0 -8,0", s: "M-3.6,-3.6h7.2v7.2h-7.2z", D: "M0,-5L5,0L0,5L-5,0z", "^": "M0,-5L4.8,4H-4.8z",
  v: "M0,5L4.8,-4H-4.8z", P: "M-1.6,-5h3.2v3.4h3.4v3.2h-3.4v3.4h-3.2v-3.4h-3.4v-3.2h3.4z", x: "M-4,-4L4,4M4,-4L-4,4", "*": "M0,-5L1.5,-1.5L5,0L1.5,1.5L0,5L-1.5,1.5L-5,0L-1.5,-1.5z",
};
const make = (name, attributes, parent) => {
  const node = document.createElementNS(NS, name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  parent?.append(node);
  return node;
};
function render({ model, el }) {
  el.classList.add("kv-scatter");
  const svg = make("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "listbox", tabindex: "0" });
  const key = document.createElement("div"), text = document.createElement("p");
  key.className = "kv-scatter-key";
  text.className = "kv-scatter-text";
  text.setAttribute("aria-live", "polite");
  el.replaceChildren(key, svg, text);
  let nodes = [], at = -1;

  const show = (index) => {
    nodes[at]?.classList.remove("kv-here");
    at = index;
    const point = model.get("points")[index];
    if (!point) return;
    nodes[index].classList.add("kv-here");
    text.textContent = `${point.set}, pair ${point.pair}: ${point.text || "no text is known"}`;
  };
  const draw = () => {
    const points = model.get("points"), looks = model.get("looks");
    svg.replaceChildren();
    key.replaceChildren();
    text.textContent = points.length ? "Point at a pair to read its question; with the keyboard: the arrow keys." : "";
    svg.setAttribute("aria-label", `${model.get("title")}, ${points.length} pairs`);
    at = -1;
    nodes = [];
    if (!points.length) return;
    const range = (name) => {
      const values = points.map((p) => p[name]);
      const low = Math.min(...values), high = Math.max(...values), pad = 0.06 * (high - low || 1);
      return [low - pad, high + pad];
    };
    const [x0, x1] = range("x"), [y0, y1] = range("y");
    const x = (v) => LEFT + ((v - x0) / (x1 - x0)) * (WIDTH - LEFT - RIGHT);
    const y = (v) => HEIGHT - BOTTOM - ((v - y0) / (y1 - y0)) * (HEIGHT - TOP - BOTTOM);
    make("rect", { x: LEFT, y: TOP, width: WIDTH - LEFT - RIGHT, height: HEIGHT - TOP - BOTTOM, class: "kv-frame" }, svg);
    if (x0 < 0 && x1 > 0) make("line", { x1: x(0), x2: x(0), y1: TOP, y2: HEIGHT - BOTTOM, class: "kv-zero" }, svg);
    if (y0 < 0 && y1 > 0) make("line", { x1: LEFT, x2: WIDTH - RIGHT, y1: y(0), y2: y(0), class: "kv-zero" }, svg);
    for (const [value, place] of [[x0, LEFT], [x1, WIDTH - RIGHT]]) {
      make("text", { x: place, y: HEIGHT - BOTTOM + 14, "text-anchor": place === LEFT ? "start" : "end" }, svg).textContent = value.toPrecision(2);
    }
    for (const [value, place] of [[y0, HEIGHT - BOTTOM], [y1, TOP + 9]]) {
      make("text", { x: LEFT - 4, y: place, "text-anchor": "end" }, svg).textContent = value.toPrecision(2);
    }
    make("text", { x: (LEFT + WIDTH) / 2, y: HEIGHT - 8, "text-anchor": "middle" }, svg).textContent = model.get("x_title");
    make("text", { x: 14, y: HEIGHT / 2, "text-anchor": "middle", transform: `rotate(-90 14 ${HEIGHT / 2})` }, svg).textContent = model.get("y_title");
    nodes = points.map((point, index) => {
      const [color, shape] = looks[point.set] ?? ["#7f7f7f", "o"];
      const node = make("path", { d: SHAPES[shape] ?? SHAPES.o, transform: `translate(${x(point.x)} ${y(point.y)})`, class: "kv-point", role: "option" }, svg);
      node.style.setProperty("--kv-color", color);
      node.setAttribute("aria-label", `${point.set}, pair ${point.pair}`);
      make("title", {}, node).textContent = point.text;
      node.addEventListener("pointerenter", () => show(index));
      return node;
    });
    for (const [name, [color, shape]] of Object.entries(looks)) {
      const entry = document.createElement("span"), mark = make("svg", { viewBox: "-6 -6 12 12", width: 12, height: 12 });
      make("path", { d: SHAPES[shape] ?? SHAPES.o, class: "kv-point" }, mark).style.setProperty("--kv-color", color);
      entry.append(mark, ` ${name}`);
      key.append(entry);
    }
  };
  svg.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    if (!step || !nodes.length) return;
    show((at + step + nodes.length) % nodes.length);
    event.preventDefault();
    event.stopPropagation();
  });
  draw();
  model.on("change:points", draw);
}
export default { render };
