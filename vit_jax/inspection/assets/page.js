// The state of the page, and what each part shows of it.

const $ = (selector, root = document) => root.querySelector(selector);
const $$ = (selector, root = document) => [...root.querySelectorAll(selector)];

const state = {
  image: 0, layer: model.layers.length - 1, head: -1,
  patch: Math.floor(rows / 2) * columns + Math.floor(columns / 2),
  a: "attention", b: "attention", paint: "colours", strength: 0.65, shared: false,
  table: 0, theme: "auto",
};

const hasImages = payload.images.length > 0;
let present = null;   // the decoded image that is shown
let shared = null;    // the arrays of the model itself
let markDistance = () => {};

const place = (patch) => `row ${Math.floor(patch / columns)}, column ${patch % columns}`;
const percent = (value) => {
  if (!Number.isFinite(value)) return "not finite";
  return `${value ? (100 * value).toPrecision(value >= 0.1 ? 3 : 2) : 0}\u00a0%`;
};
const cosine = (value) => (Math.round(100 * value) / 100 || 0).toFixed(2);  // no -0.00
const headName = () => (state.head < 0 ? "mean of heads" : `head ${state.head}`);
const layerName = () => `Layer ${model.layers[state.layer]}`;

function say(element, parts) {
  element.replaceChildren();
  parts.forEach((part, at) => {
    const bold = document.createElement("b");
    bold.textContent = part;
    element.append(at % 2 ? bold : part);
  });
}

function scale(root, low, high, format, paint = "colours") {
  $(".ramp", root).style.background = RAMPS[paint];
  const values = [low, (low + high) / 2, high];
  $$(".ticks span", root).forEach((span, at) => (span.textContent = format(values[at])));
}

// What the two pictures show: a map, its range, and how to say a value of it.
function mapA() {
  const rollout = state.a === "rollout";
  const map = rollout ? rolloutMap(present, state.layer)
    : readoutMap(present, state.layer, state.head);
  const most = state.shared && !rollout ? largest(present, state.head)
    : Math.max(...map.values);
  const what = rollout ? `Rollout up to layer ${model.layers[state.layer]}, `
    : `${layerName()}, ${headName()}: `;
  return { ...map, low: 0, high: most, what, format: percent };
}

function mapB() {
  const kept = payload.detail_layers[detailOf(state.layer)];
  const near = kept === state.layer ? ""
    : ` (layer ${model.layers[kept]}, the nearest that is here)`;
  if (state.b === "similarity") {
    const map = similarityMap(present, state.layer, state.patch);
    const what = `${layerName()}${near}: cosine of the tokens to `;
    return { ...map, what, format: cosine };
  }
  const map = patchMap(present, state.layer, state.head, state.patch);
  const group = headsOfPatches() ? headName() : "mean of heads";
  const scales = present.patch_scale.flat();
  const high = state.shared ? Math.max(...scales) : Math.max(...map.values);
  const what = `${layerName()}${near}, ${group}: attention of `;
  return { ...map, low: 0, high, what, format: percent };
}

const times = (value) => (Number.isFinite(value)
  ? `, ${value ? (value / uniform).toPrecision(2) : 0} times uniform` : "");

const prefixName = model.prefix > 1 ? `the ${model.prefix} tokens before the patches`
  : model.pool === "token" ? "the class token itself" : "the token before the patches";

function readA(map) {
  const value = map.values[state.patch];
  const parts = [`${map.what}the patch in ${place(state.patch)} gets `, percent(value),
    `${times(value)}. The most of any patch is ${percent(Math.max(...map.values))}.`];
  if (model.prefix) {
    parts[2] += ` On ${prefixName}: `;
    parts.push(percent(map.prefix), ".");
  }
  return parts;
}

function readB(map) {
  const order = map.values.reduce((best, value, k) =>
    k !== state.patch && (best < 0 || value > map.values[best]) ? k : best, -1);
  const parts = [map.what, `the patch in ${place(state.patch)}`];
  if (order < 0) return parts;
  const own = map.format(map.values[state.patch]);
  const self = state.b === "attention" ? `. To itself ${own}. Elsewhere most at `
    : ". Nearest is ";
  return [...parts, self, place(order), `: ${map.format(map.values[order])}.`];
}

const maps = { a: null, b: null };

function showStages() {
  maps.a = mapA();
  maps.b = mapB();
  const reads = { a: readA(maps.a), b: readB(maps.b) };
  for (const id of ["a", "b"]) {
    const root = document.getElementById(id);
    const canvas = $("canvas", root);
    drawStage(canvas, present.pictures, maps[id], state);
    const paint = state.paint;
    scale(root, maps[id].low, maps[id].high, maps[id].format, paint);
    say($(".reading", root), reads[id]);
    canvas.setAttribute("aria-label", `${present.name}. ${reads[id].join("")}`);
  }
}

function showAtlas() {
  const canvas = $("#atlas canvas");
  const muted = getComputedStyle(document.body).getPropertyValue("--muted");
  drawAtlas(canvas, present, state, { key: `${present.index} ${muted}`, muted });
  const label = `Maps of all layers and heads. ${layerName()}, ${headName()}.`;
  canvas.setAttribute("aria-label", label);
}

function showDistance() {
  if (!payload.distance) return;
  markDistance(state.layer, state.head);
  say($("#distance .reading"), [distanceText(state.layer, state.head)]);
}

function showPosemb() {
  if (!payload.posemb) return;
  const matrix = (q) => cosines(shared.posemb, state.table, q, -1, 1);
  drawTiles($("#posemb .tiles"), matrix, String(state.table), state.patch);
  const values = matrix(state.patch);
  const one = $("#posemb .one");
  const context = fit(one, model.image_size[1] / model.image_size[0]);
  context.imageSmoothingEnabled = false;
  context.drawImage(mapImage(values, -1, 1, "colours"), 0, 0, one.width, one.height);
  scale($("#posemb"), -1, 1, (value) => value.toFixed(0));
  const [row, column] = [Math.floor(state.patch / columns), state.patch % columns];
  const mean = (test) => {
    const found = [...values].filter((_, k) => k !== state.patch && test(k));
    return cosine(found.reduce((a, b) => a + b, 0) / Math.max(1, found.length));
  };
  const [across, down, all] = [
    mean((k) => Math.floor(k / columns) === row),
    mean((k) => k % columns === column),
    mean(() => true),
  ];
  const parts = ["Mean cosine of ", place(state.patch),
    ` to its row ${across}, to its column ${down}, to all ${all}.`];
  say($("#posemb .reading"), parts);
  const text = parts.join("");
  one.setAttribute("aria-label", `The map of ${place(state.patch)}. ${text}`);
  const label = `Similarity of every position to every other. ${text}`;
  $("#posemb .tiles").setAttribute("aria-label", label);
}

// Of a regression's outputs, which are all there.
const MOST_PREDICTIONS = 8;

function showPredictions() {
  const list = $("#predictions ol");
  const found = present.predictions;
  $("#predictions").hidden = !found;
  if (!found) return;
  const values = found.map((each) => each.probability ?? each.value ?? 0);
  const whole = Math.max(1, ...values.map(Math.abs));
  list.replaceChildren(...found.slice(0, MOST_PREDICTIONS).map((each, at) => {
    const item = document.createElement("li");
    const name = document.createElement("span");
    name.textContent = name.title = each.name ?? `class ${each.label}`;
    const value = document.createElement("span");
    value.className = "value";
    value.textContent = each.probability === undefined ? String(each.value)
      : percent(each.probability);
    const track = document.createElement("div");
    track.className = "track";
    const fill = document.createElement("div");
    fill.className = "fill";
    fill.style.width = `${(100 * Math.abs(values[at])) / whole}%`;
    track.append(fill);
    item.append(name, value, track);
    return item;
  }));
  const more = found.length - MOST_PREDICTIONS;
  if (more > 0) list.append(`${more} more are in inspection.json`);
}

function showControls() {
  const set = (id, value, text) => {
    const input = document.getElementById(id);
    input.value = value;
    input.setAttribute("aria-valuetext", text);
    document.getElementById(`${id}-value`).textContent = text;
  };
  const range = (names) => (isNaN(names[0]) ? "" : ` (${names[0]} to ${names.at(-1)})`);
  const layers = model.layers[state.layer] + range(model.layers);
  set("layer", state.layer, layers);
  const head = state.head < 0 ? "mean of heads" : state.head + range([0, model.heads - 1]);
  set("head", state.head + 1, head);
  set("strength", 100 * state.strength, `${Math.round(100 * state.strength)} %`);
  for (const name of ["a", "b", "paint", "theme", "image"]) {
    const chosen = String(state[name]);
    $$(`input[name="${name}"]`).forEach((input) => (input.checked = input.value === chosen));
  }
  $("#shared").checked = state.shared;
}

function show() {
  if (hasImages && !present) return;  // the first image is on its way
  showControls();
  if (hasImages) {
    showStages();
    showAtlas();
    showPredictions();
    showDistance();
  }
  showPosemb();
}
