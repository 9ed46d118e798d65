// What page.py packed: JSON with the bytes in zlib streams beside it, one an image.

const payload = JSON.parse(document.getElementById("payload").textContent);
const model = payload.model;
const [rows, columns] = model.grid;
const patches = rows * columns;
const uniform = 1 / (patches + model.prefix);

function bytesOf(text) {
  const letters = atob(text);
  const bytes = new Uint8Array(letters.length);
  for (let k = 0; k < bytes.length; k++) bytes[k] = letters.charCodeAt(k);
  return bytes;
}

async function inflate(text) {
  const stream = new Blob([bytesOf(text)]).stream();
  const inflated = stream.pipeThrough(new DecompressionStream("deflate"));
  return new Uint8Array(await new Response(inflated).arrayBuffer());
}

// A reader of the arrays of one packed part: name -> { shape, at }.
async function unpack(part) {
  const bytes = await inflate(part.bytes);
  const arrays = {};
  for (const [name, [at, shape]] of Object.entries(part.arrays)) {
    const size = shape.reduce((a, b) => a * b, 1);
    arrays[name] = { shape, bytes: bytes.subarray(at, at + size) };
  }
  return arrays;
}

// What is made once of each image, when it is asked for first.
function once(make) {
  const made = new Map();
  return (index) => {
    if (!made.has(index)) made.set(index, make(index));
    return made.get(index);
  };
}

const photographAt = once((index) => {
  const [head, text] = payload.images[index].view.split(",");
  const type = head.slice("data:".length, head.indexOf(";"));
  return createImageBitmap(new Blob([bytesOf(text)], { type }));
});

const imageAt = once(async (index) => {
  const part = payload.images[index];
  const [arrays, view] = await Promise.all([unpack(part), photographAt(index)]);
  const pictures = { plain: photograph(view, false), grey: photograph(view, true) };
  return { ...part, ...arrays, index, pictures };
});

// Attention is kept as the square root of its share of the largest of the map.
function attention(array, row, scale, levels = 255) {
  const values = new Float32Array(patches);
  scale ??= NaN;  // what is not finite has no number in JSON
  for (let k = 0; k < patches; k++) {
    values[k] = scale * (array.bytes[row * patches + k] / levels) ** 2;
  }
  return values;
}

// Row `row` of symmetric matrix `number`, of which the lower triangle is kept.
function cosines(array, number, row, low, high) {
  const values = new Float32Array(patches);
  const start = (number * patches * (patches + 1)) / 2;
  for (let k = 0; k < patches; k++) {
    const [i, j] = row < k ? [k, row] : [row, k];
    const byte = array.bytes[start + (i * (i + 1)) / 2 + j];
    values[k] = low + ((high - low) * byte) / payload.levels;
  }
  return values;
}

// The layer that was kept of the patches' own maps: this one, or the nearest.
function detailOf(layer) {
  let best = 0;
  payload.detail_layers.forEach((kept, index) => {
    const distance = Math.abs(kept - layer);
    if (distance < Math.abs(payload.detail_layers[best] - layer)) best = index;
  });
  return best;
}

// Maps over the patches: { values, prefix: what lies on tokens before them }.
function readoutMap(image, layer, head) {
  if (head < 0) {
    const values = attention(image.readout_mean, layer, image.readout_mean_scale[layer]);
    const prefix = image.readout_prefix[layer];
    return { values, prefix: prefix.reduce((a, b) => a + b, 0) / prefix.length };
  }
  const scale = image.readout_scale[layer][head];
  const values = attention(image.readout, layer * model.heads + head, scale);
  return { values, prefix: image.readout_prefix[layer][head] };
}

function rolloutMap(image, layer) {
  const values = attention(image.rollout, layer, image.rollout_scale[layer]);
  return { values, prefix: image.rollout_prefix[layer] };
}

const headsOfPatches = () => payload.patch_heads > 1;

function patchMap(image, layer, head, patch) {
  const kept = detailOf(layer);
  const groups = payload.patch_heads;
  const of = (group) => {
    const row = (kept * groups + group) * patches + patch;
    const scale = image.patch_scale[kept][group];
    return attention(image.patch, row, scale, payload.levels);
  };
  if (head >= 0 && groups > 1) return { values: of(head) };
  const values = new Float32Array(patches);
  for (let group = 0; group < groups; group++) {
    of(group).forEach((value, k) => (values[k] += value / groups));
  }
  return { values };
}

function similarityMap(image, layer, patch) {
  const kept = detailOf(layer);
  const [low, high] = [image.similarity_low[kept], image.similarity_high[kept]];
  return { values: cosines(image.similarity, kept, patch, low, high), low, high };
}
