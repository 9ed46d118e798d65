// Choices by pointer, key and address, and the first drawing.

// The address keeps what is chosen, so that a view can be sent: #image=1&layer=7
const KEPT = ["image", "layer", "head", "patch", "a", "b", "paint", "shared", "table"];
const most = {
  image: payload.images.length - 1, layer: model.layers.length - 1,
  head: model.heads - 1, patch: patches - 1,
  table: (payload.posemb?.names.length ?? 1) - 1,
};
const words = {
  a: ["attention", "rollout"], b: ["attention", "similarity"],
  paint: ["colours", "light"], theme: ["auto", "light", "dark"],
};

function fromAddress() {
  for (const [key, text] of new URLSearchParams(location.hash.slice(1))) {
    if (words[key]?.includes(text)) state[key] = text;
    if (key === "shared") state.shared = text === "true";
    const number = Number(text);
    const least = key === "head" ? -1 : 0;
    if (key in most && Number.isInteger(number) && number >= least && number <= most[key]) {
      state[key] = number;
    }
  }
}

function toAddress() {
  const pairs = KEPT.map((key) => [key, String(state[key])]);
  history.replaceState(null, "", `#${new URLSearchParams(pairs)}`);
}

let saying = 0;

async function choose(change, announce = true) {
  Object.assign(state, change);
  if (hasImages && present?.index !== state.image) {
    const image = await imageAt(state.image);
    if (image.index !== state.image) return;  // another was chosen since
    present = image;
  }
  show();
  clearTimeout(saying);
  saying = setTimeout(() => {
    if (Object.keys(change).length) toAddress();
    if (!announce || !hasImages) return;
    const { name, predictions } = present;
    const found = predictions?.[0] ? `: ${predictions[0].name ?? predictions[0].label}` : "";
    const read = $("b" in change ? "#b .reading" : "#a .reading").textContent;
    $("#said").textContent = "image" in change ? `${name}${found}. ${read}` : read;
  }, 250);
}

const within = (value, low, high) => Math.min(high, Math.max(low, value));

function patchKey(event) {
  const [row, column] = [Math.floor(state.patch / columns), state.patch % columns];
  const move = {
    ArrowLeft: [row, column - 1], ArrowRight: [row, column + 1],
    ArrowUp: [row - 1, column], ArrowDown: [row + 1, column],
    Home: [row, 0], End: [row, columns - 1],
  }[event.key];
  const turn = { PageUp: [-1, 0], PageDown: [1, 0], ",": [0, -1], ".": [0, 1] }[event.key];
  if (event.ctrlKey || event.metaKey || event.altKey || !(move || turn)) return;
  event.preventDefault();
  if (move) {
    const at = [within(move[0], 0, rows - 1), within(move[1], 0, columns - 1)];
    choose({ patch: at[0] * columns + at[1] });
  } else {
    turnTo(state.layer + turn[0], state.head + turn[1]);
  }
}

function turnTo(layer, head) {
  choose({ layer: within(layer, 0, most.layer), head: within(head, -1, most.head) });
}

function atlasKey(event) {
  const move = {
    ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0],
  }[event.key];
  if (!move) return;
  event.preventDefault();
  turnTo(state.layer + move[0], state.head + move[1]);
}

// Chooses where the pointer goes down and along its way.
function draggable(canvas, at) {
  canvas.addEventListener("pointerdown", (event) => {
    canvas.setPointerCapture(event.pointerId);
    choose(at(event));
  });
  canvas.addEventListener("pointermove", (event) => {
    if (event.buttons && canvas.hasPointerCapture(event.pointerId)) choose(at(event));
  });
}

function hoverable(root, id) {
  const canvas = $("canvas", root);
  canvas.addEventListener("pointermove", (event) => {
    if (!present) return;
    const patch = patchUnder(canvas, event);
    const value = maps[id].format(maps[id].values[patch]);
    $(".hover", root).textContent = `Under the pointer, ${place(patch)}: ${value}`;
  });
  canvas.addEventListener("pointerleave", () => ($(".hover", root).textContent = ""));
}

function buildPicker() {
  payload.images.forEach((image, at) => {
    const label = document.createElement("label");
    const input = Object.assign(document.createElement("input"), {
      type: "radio", name: "image", value: String(at),
    });
    const canvas = sheet(84, 84);
    canvas.setAttribute("aria-hidden", "true");
    const name = document.createElement("span");
    name.className = "name";
    // Of long names the ends tell images apart.
    const short = image.name.split(/[\\/]/).at(-1);
    name.textContent = short.length > 12 ? `…${short.slice(-10)}` : short;
    label.title = image.name;
    label.append(input, canvas, name);
    $("#picker").append(label);
    input.addEventListener("change", () => choose({ image: at }));
  });
}

async function fillPicker() {
  for (const [at, canvas] of $$("#picker canvas").entries()) {
    const photo = await photographAt(at);
    const { height, width } = photo;
    const side = Math.min(height, width);
    canvas.width = canvas.height = Math.max(side, 168);
    const context = canvas.getContext("2d");
    context.imageSmoothingEnabled = side >= 64;
    const left = (width - side) / 2;
    const top = (height - side) / 2;
    context.drawImage(photo, left, top, side, side, 0, 0, canvas.width, canvas.height);
  }
}

function buildModelParts() {
  $("#a-title").textContent = `From ${model.read}`;
  const { posemb, filters, distance } = payload;
  $("#images").hidden = !hasImages;
  $("#distance").hidden = !distance;
  $("#posemb").hidden = !posemb;
  $("#filters").hidden = !filters;
  $("#notes").hidden = !payload.notes.length;
  $("#notes ul").append(...payload.notes.map((note) =>
    Object.assign(document.createElement("li"), { textContent: note })));
  if (payload.distance_uniform !== null) {
    const far = pixels(payload.distance_uniform);
    $("#uniform").textContent = `; dashed: attention that is the same everywhere, ${far}`;
  }
  if (posemb) {
    $("#table").append(...posemb.names.map((name, at) => new Option(name, at)));
    $("#posemb .tiles").style.maxWidth = `${Math.round(560 * (columns / rows) ** 2)}px`;
    $("#posemb .choice").hidden = posemb.names.length < 2;
    $("#posemb figcaption .muted").textContent = "Cosine of every position to every "
      + `other: ${posemb.what}. Each small map stands where its position does.`;
  }
  if (filters) buildFilters(filters);
}

function buildFilters({ variance, what }) {
  const [count, height, width] = shared.filters.shape;
  const size = height * width * 3;
  for (let at = 0; at < count; at++) {
    const canvas = sheet(width, height);
    const pixels = new ImageData(width, height);
    for (let k = 0; k < height * width; k++) {
      const from = at * size + 3 * k;
      pixels.data.set(shared.filters.bytes.subarray(from, from + 3), 4 * k);
      pixels.data[4 * k + 3] = 255;
    }
    canvas.getContext("2d").putImageData(pixels, 0, 0);
    canvas.title = `Component ${at}: ${percent(variance[at])} of the variance`;
    $("#filters .grid").append(canvas);
  }
  const whole = variance.reduce((a, b) => a + b, 0);
  const parts = [`The first ${count} principal components hold `, percent(whole),
    ` of the variance, the first alone ${percent(variance[0])}.`];
  say($("#filters .reading"), parts);
  $("#filters figcaption .muted").textContent = `Of ${what}, each in a range of its own.`;
  $("#filters .grid").setAttribute("aria-label", parts.join(""));
}

// Some browsers keep nothing for files from the disk.
function storedTheme(theme) {
  try {
    if (theme) localStorage.setItem("vit_jax.theme", theme);
    return localStorage.getItem("vit_jax.theme");
  } catch {
    return null;
  }
}

function setTheme(theme) {
  state.theme = theme;
  document.documentElement.dataset.theme = theme;
}

function wire() {
  const on = (id, event, act) => document.getElementById(id).addEventListener(event, act);
  on("layer", "input", (event) => choose({ layer: Number(event.target.value) }));
  on("head", "input", (event) => choose({ head: Number(event.target.value) - 1 }));
  on("strength", "input", (event) => choose({ strength: event.target.value / 100 }, false));
  on("shared", "change", (event) => choose({ shared: event.target.checked }));
  on("table", "change", (event) => choose({ table: Number(event.target.value) }));
  for (const name of ["a", "b", "paint"]) {
    $$(`input[name="${name}"]`).forEach((input) =>
      input.addEventListener("change", () => choose({ [name]: input.value })));
  }
  $$('input[name="theme"]').forEach((input) =>
    input.addEventListener("change", () => {
      setTheme(input.value);
      storedTheme(input.value);
      show();
    }));
  $$(".segments span").forEach((span) => (span.dataset.text = span.textContent));
  for (const id of ["a", "b"]) {
    const root = document.getElementById(id);
    const canvas = $("canvas", root);
    canvas.addEventListener("keydown", patchKey);
    draggable(canvas, (event) => ({ patch: patchUnder(canvas, event) }));
    hoverable(root, id);
  }
  const tiles = $("#posemb .tiles");
  tiles.addEventListener("keydown", patchKey);
  draggable(tiles, (event) => ({ patch: tileUnder(tiles, event) }));
  const atlas = $("#atlas canvas");
  atlas.addEventListener("keydown", atlasKey);
  atlas.addEventListener("pointerdown", (event) => {
    const { layer, head } = cellUnder(atlas, event);
    turnTo(layer, head);
  });
}

function drawSized() {
  if (payload.distance) markDistance = drawDistance($("#distance .plot"), turnTo);
  show();
}

async function start() {
  const theme = storedTheme();
  if (words.theme.includes(theme)) state.theme = theme;
  fromAddress();
  setTheme(state.theme);
  shared = await unpack(payload.shared);
  for (const [id, last] of [["layer", most.layer], ["head", most.head + 1]]) {
    document.getElementById(id).max = last;
  }
  buildPicker();
  buildModelParts();
  wire();
  if (payload.distance) markDistance = drawDistance($("#distance .plot"), turnTo);
  await Promise.all([choose({}, false), fillPicker()]);
  document.documentElement.dataset.drawn = String(Math.round(performance.now()));
  let width = window.innerWidth;
  window.addEventListener("resize", () => {
    if (window.innerWidth !== width) drawSized();
    width = window.innerWidth;
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", show);
  window.addEventListener("hashchange", () => {
    fromAddress();
    choose({});
  });
}

start().catch((error) => {
  const note = document.createElement("li");
  note.textContent = `This browser could not draw the page (${error.message}). `
    + "Want one of 2023 or newer.";
  $("#notes").hidden = false;
  $("#notes").setAttribute("role", "alert");
  $("#notes ul").append(note);
  throw error;
});
