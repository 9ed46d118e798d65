// Colours and maps on canvases. The colours are viridis: told apart by everybody, and
// darker means less, also in print.

const STOPS = [
  [68, 1, 84], [72, 36, 117], [65, 68, 135], [53, 95, 141], [42, 120, 142],
  [33, 145, 140], [34, 168, 132], [68, 191, 112], [122, 209, 81], [189, 223, 38],
  [253, 231, 37],
];

// Pixels by level, red in the lowest byte, as canvases have them.
const SHADES = { colours: new Uint32Array(256), light: new Uint32Array(256) };
for (let level = 0; level < 256; level++) {
  const at = (level / 255) * (STOPS.length - 1);
  const from = Math.min(Math.floor(at), STOPS.length - 2);
  const [red, green, blue] = STOPS[from].map((low, c) =>
    Math.round(low + (at - from) * (STOPS[from + 1][c] - low)));
  SHADES.colours[level] = (255 << 24) | (blue << 16) | (green << 8) | red;
  // Black, thinner the more there is; by the square root, or little would be seen.
  SHADES.light[level] = Math.round(255 * (1 - Math.sqrt(level / 255))) << 24;
}

const RAMPS = {
  colours: `linear-gradient(to right, ${STOPS.map((s) => `rgb(${s})`).join(", ")})`,
  light: `linear-gradient(to right, ${STOPS.map((_, at) =>
    `rgb(0 0 0 / ${1 - Math.sqrt(at / (STOPS.length - 1))})`).join(", ")}), #fff`,
};

const share = (value, low, high) =>
  high > low ? Math.min(1, Math.max(0, (value - low) / (high - low))) : 0;

function sheet(width, height) {
  const canvas = document.createElement("canvas");
  canvas.width = width;
  canvas.height = height;
  return canvas;
}

// A map as an image of one pixel a patch, in colours or as a shade over the image.
function mapImage(values, low, high, paint) {
  const canvas = sheet(columns, rows);
  const pixels = new ImageData(columns, rows);
  const shades = SHADES[paint];
  const words = new Uint32Array(pixels.data.buffer);
  for (let k = 0; k < words.length; k++) {
    words[k] = shades[Math.round(255 * share(values[k], low, high))];
  }
  canvas.getContext("2d").putImageData(pixels, 0, 0);
  return canvas;
}

// The image as the model saw it, and in grey, which lies under colours.
function photograph(image, grey) {
  const canvas = sheet(image.width, image.height);
  const context = canvas.getContext("2d", { willReadFrequently: grey });
  context.drawImage(image, 0, 0);
  if (!grey) return canvas;
  const pixels = context.getImageData(0, 0, canvas.width, canvas.height);
  const { data } = pixels;
  for (let k = 0; k < data.length; k += 4) {
    const light = 0.299 * data[k] + 0.587 * data[k + 1] + 0.114 * data[k + 2];
    data[k] = data[k + 1] = data[k + 2] = light;
  }
  context.putImageData(pixels, 0, 0);
  return canvas;
}

// As many pixels as the screen shows, so that edges are sharp.
function fit(canvas, aspect) {
  const width = Math.round(canvas.clientWidth * (window.devicePixelRatio || 1));
  const height = Math.round(width / aspect);
  if (width && (canvas.width !== width || canvas.height !== height)) {
    canvas.width = width;
    canvas.height = height;
  }
  return canvas.getContext("2d");
}

function frame(context, x, y, width, height, line) {
  context.lineJoin = "round";
  for (const [colour, wide] of [["#000", 2 * line], ["#fff", line]]) {
    context.strokeStyle = colour;
    context.lineWidth = wide;
    context.strokeRect(x, y, width, height);
  }
}

// Where a patch lies on a canvas that shows the whole input.
function cellOf(canvas, patch) {
  const width = (canvas.width * model.stride[1]) / model.image_size[1];
  const height = (canvas.height * model.stride[0]) / model.image_size[0];
  const [row, column] = [Math.floor(patch / columns), patch % columns];
  return [column * width, row * height, width, height];
}

function patchUnder(canvas, event) {
  const box = canvas.getBoundingClientRect();
  const [, , width, height] = cellOf(canvas, 0);
  const x = ((event.clientX - box.left) / box.width) * canvas.width;
  const y = ((event.clientY - box.top) / box.height) * canvas.height;
  const column = Math.min(columns - 1, Math.max(0, Math.floor(x / width)));
  const row = Math.min(rows - 1, Math.max(0, Math.floor(y / height)));
  return row * columns + column;
}

// A stage: the photograph, the map over it, and the frame of the chosen patch.
function drawStage(canvas, pictures, map, { paint, strength, patch }) {
  const context = fit(canvas, model.image_size[1] / model.image_size[0]);
  const [, , width, height] = cellOf(canvas, 0);
  const photo = paint === "light" ? pictures.plain : pictures.grey;
  context.globalAlpha = 1;
  context.imageSmoothingQuality = "high";
  context.imageSmoothingEnabled = photo.width >= 64;  // small images show their pixels
  context.drawImage(photo, 0, 0, canvas.width, canvas.height);
  context.globalAlpha = strength;
  context.imageSmoothingEnabled = paint === "light";
  const over = mapImage(map.values, map.low, map.high, paint);
  context.drawImage(over, 0, 0, width * columns, height * rows);
  context.globalAlpha = 1;
  const line = Math.max(1.5, canvas.width / 260);
  frame(context, ...cellOf(canvas, patch), line);
}

// What is drawn once and shown again until its key changes.
const kept = new WeakMap();

function cached(canvas, key, draw) {
  key += ` ${canvas.width} ${canvas.height}`;
  if (kept.get(canvas)?.key !== key) {
    const base = sheet(canvas.width, canvas.height);
    draw(base.getContext("2d"));
    kept.set(canvas, { key, base });
  }
  const context = canvas.getContext("2d");
  context.clearRect(0, 0, canvas.width, canvas.height);
  context.drawImage(kept.get(canvas).base, 0, 0);
  return context;
}

// All layers and heads: a row a layer, a column a head, the mean of heads first.
const LEFT = 26;
const TOP = 18;

function atlasCell(canvas) {
  const ratio = canvas.width / canvas.clientWidth;
  const aspect = (columns * model.stride[1]) / (rows * model.stride[0]);
  // Of few heads the cells stay small, of many layers the table stays on the screen.
  const most = Math.min(48, Math.max(14, 440 / model.layers.length));
  const wide = (canvas.clientWidth - LEFT) / (model.heads + 1);
  const across = Math.min(wide, most * Math.max(1, aspect));
  return { ratio, across, down: across / aspect, gap: Math.min(2, across / 8) };
}

function fitAtlas(canvas) {
  const { down } = atlasCell(canvas);
  const height = TOP + down * model.layers.length;
  fit(canvas, canvas.clientWidth / height);
}

function atlasLabels(context, { across, down, gap }) {
  context.font = "11px system-ui, sans-serif";
  context.textBaseline = "middle";
  context.textAlign = "right";
  const everyRow = Math.ceil(14 / down);
  model.layers.forEach((name, row) => {
    if (row % everyRow) return;
    const short = name.replace("/row", "r").replace("/column", "c");
    context.fillText(short, LEFT - 5, TOP + (row + 0.5) * down, LEFT - 5);
  });
  context.textAlign = "center";
  const everyHead = Math.ceil(20 / across);
  for (let head = -1; head < model.heads; head++) {
    if (head >= 0 && head % everyHead) continue;
    const x = LEFT + (head + 1.5) * across - gap / 2;
    context.fillText(head < 0 ? "mean" : String(head), x, TOP / 2, across + 6);
  }
}

function drawAtlas(canvas, image, { layer, head, shared }, { key, muted }) {
  fitAtlas(canvas);
  const size = atlasCell(canvas);
  const { ratio, across, down, gap } = size;
  const context = cached(canvas, `${key} ${shared}`, (base) => {
    base.scale(ratio, ratio);
    base.fillStyle = muted;
    atlasLabels(base, size);
    base.imageSmoothingEnabled = across * ratio < 2 * columns;
    model.layers.forEach((_, row) => {
      for (let column = -1; column < model.heads; column++) {
        const { values } = readoutMap(image, row, column);
        const most = shared ? largest(image, column) : Math.max(...values);
        const [x, y] = [LEFT + (column + 1) * across, TOP + row * down];
        const cell = mapImage(values, 0, most, "colours");
        base.drawImage(cell, x, y, across - gap, down - gap);
      }
    });
  });
  const x = (LEFT + (head + 1) * across - gap / 2) * ratio;
  const y = (TOP + layer * down - gap / 2) * ratio;
  frame(context, x, y, across * ratio, down * ratio, 1.5 * ratio);
}

function cellUnder(canvas, event) {
  const box = canvas.getBoundingClientRect();
  const { across, down } = atlasCell(canvas);
  const head = Math.floor((event.clientX - box.left - LEFT) / across) - 1;
  const layer = Math.floor((event.clientY - box.top - TOP) / down);
  return { head, layer };
}

function largest(image, head) {
  const all = head < 0 ? image.readout_mean_scale : image.readout_scale;
  return Math.max(...all.flat());
}

// A map of each position, where the position is.
function drawTiles(canvas, matrix, key, patch) {
  const context = fit(canvas, (columns * columns) / (rows * rows));
  const [across, down] = [canvas.width / columns, canvas.height / rows];
  const gap = Math.max(1, Math.min(4, across / columns / 1.5));
  const place = (q) => [(q % columns) * across, Math.floor(q / columns) * down];
  cached(canvas, key, (base) => {
    base.imageSmoothingEnabled = across < columns;
    for (let q = 0; q < patches; q++) {
      const [x, y] = place(q);
      const map = mapImage(matrix(q), -1, 1, "colours");
      base.drawImage(map, x + gap / 2, y + gap / 2, across - gap, down - gap);
    }
  });
  const line = Math.max(1.5, canvas.width / 260);
  const [x, y] = place(patch);
  frame(context, x + line / 2, y + line / 2, across - line, down - line, line);
}

function tileUnder(canvas, event) {
  const box = canvas.getBoundingClientRect();
  const part = (at, of) => Math.min(of - 1, Math.max(0, Math.floor(at * of)));
  const row = part((event.clientY - box.top) / box.height, rows);
  const column = part((event.clientX - box.left) / box.width, columns);
  return row * columns + column;
}
