// The mean attention distance of every head, by layer.

const EDGE = { left: 44, right: 12, top: 12, bottom: 34 };

function shape(name, attributes, parent, text) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) {
    element.setAttribute(key, value);
  }
  if (text !== undefined) element.textContent = text;
  parent.append(element);
  return element;
}

// A round step of which about five make up the whole.
function step(most) {
  const raw = most / 5;
  const power = 10 ** Math.floor(Math.log10(raw));
  return [1, 2, 5, 10].map((n) => n * power).find((n) => n >= raw);
}

function drawAxes(svg, { x, y, most, width, height, band }) {
  const each = step(most);
  for (let value = 0; value <= most; value += each) {
    const at = { x1: EDGE.left, x2: width - EDGE.right, y1: y(value), y2: y(value) };
    shape("line", { ...at, class: "axis" }, svg);
    const label = { x: EDGE.left - 8, y: y(value) + 4, "text-anchor": "end" };
    shape("text", label, svg, String(Math.round(value * 100) / 100));
  }
  const every = Math.ceil(24 / band);
  model.layers.forEach((name, layer) => {
    if (layer % every) return;
    const place = { x: x(layer), y: height - EDGE.bottom + 16, "text-anchor": "middle" };
    shape("text", place, svg, name.replace("/row", "r").replace("/column", "c"));
  });
  const middle = (EDGE.left + width - EDGE.right) / 2;
  const below = { x: middle, y: height - 3, "text-anchor": "middle" };
  shape("text", below, svg, "layer");
  const centre = (EDGE.top + height - EDGE.bottom) / 2;
  const beside = { transform: `translate(11 ${centre}) rotate(-90)` };
  shape("text", { ...beside, "text-anchor": "middle" }, svg, "distance (pixels)");
}

function drawUniform(svg, { y, width }) {
  const value = payload.distance_uniform;
  if (value === null) return;
  const at = { x1: EDGE.left, x2: width - EDGE.right, y1: y(value), y2: y(value) };
  shape("line", { ...at, class: "uniform" }, svg);
}

// Draws it into a box; returns what marks a layer and a head.
function drawDistance(box, choose) {
  const [width, height] = [box.clientWidth, box.clientHeight];
  const table = payload.distance.map((heads) => heads.map((value) => value ?? NaN));
  const inner = width - EDGE.left - EDGE.right;
  const band = inner / table.length;
  const finite = table.flat().filter(Number.isFinite);
  const most = 1.08 * Math.max(...finite, payload.distance_uniform ?? 0);
  const x = (layer) => EDGE.left + (layer + 0.5) * band;
  const y = (value) =>
    height - EDGE.bottom - (value / most) * (height - EDGE.bottom - EDGE.top);
  const scales = { x, y, most, width, height, band };
  box.replaceChildren();
  const svg = shape("svg", { viewBox: `0 0 ${width} ${height}`, role: "img" }, box);
  const column = shape("rect", { class: "column", y: EDGE.top, width: band }, svg);
  column.setAttribute("height", height - EDGE.top - EDGE.bottom);
  drawAxes(svg, scales);
  drawUniform(svg, scales);
  const means = table.map((heads) => heads.reduce((a, b) => a + b, 0) / heads.length);
  const points = means.map((mean, layer) => [x(layer), y(mean)])
    .filter(([, height]) => Number.isFinite(height)).join(" ");
  shape("polyline", { class: "mean", points }, svg);
  const dots = table.map((heads, layer) =>
    heads.map((value, head) => {
      const at = { cx: x(layer), cy: Number.isFinite(value) ? y(value) : y(0), r: 5 };
      const dot = shape("circle", at, svg);
      if (!Number.isFinite(value)) dot.setAttribute("visibility", "hidden");
      const text = `Layer ${model.layers[layer]}, head ${head}: ${pixels(value)}`;
      shape("title", {}, dot, text);
      dot.addEventListener("click", () => choose(layer, head));
      return dot;
    }));
  return (layer, head) => {
    column.setAttribute("x", EDGE.left + layer * band);
    dots.forEach((heads, row) =>
      heads.forEach((dot, at) => {
        dot.classList.toggle("layer", row === layer);
        dot.classList.toggle("head", row === layer && at === head);
        dot.setAttribute("r", row === layer && at === head ? 7.5 : 5);
      }));
    svg.setAttribute("aria-label", distanceText(layer, head));
  };
}

const pixels = (value) => (Number.isFinite(value) ? `${value.toFixed(1)} pixels` : "not finite");

function distanceText(layer, head) {
  const heads = payload.distance[layer].map((value) => value ?? NaN);
  const [low, high] = [Math.min(...heads), Math.max(...heads)].map((v) => v.toFixed(1));
  const mean = heads.reduce((a, b) => a + b, 0) / heads.length;
  const one = head < 0 ? `mean of heads ${pixels(mean)}` : `head ${head} ${pixels(heads[head])}`;
  return `Layer ${model.layers[layer]}: ${one}; its heads from ${low} to ${high}.`;
}
