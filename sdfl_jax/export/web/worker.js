// Runs the network on a photo, in tiles as `sdfl predict` cuts them (data/tiling.py).
let about, session;

async function loaded(base, slowly, wait) {
  const reply = await fetch(base + "model.onnx");
  if (!reply.ok) throw new Error(`model.onnx: ${reply.status}`);
  const whole = Number(about.bytes), bytes = new Uint8Array(whole);
  let at = 0;
  for (const reader = reply.body.getReader(); ;) {
    const { done, value } = await reader.read();
    if (done) break;
    bytes.set(value, at);
    at += value.length;
    wait(at / whole);
  }
  wait(null);
  const folder = base + "onnxruntime/";
  const gpu = !slowly && "gpu" in navigator && await navigator.gpu.requestAdapter();
  if (gpu) {
    try {
      const ort = await import(folder + "ort.webgpu.min.mjs");
      ort.env.wasm.wasmPaths = folder;
      const made = await ort.InferenceSession.create(bytes.slice(),
        { executionProviders: ["webgpu"] });
      return { made, ort, device: "WebGPU" };
    } catch (error) {
      console.warn("No WebGPU after all: " + error.message);
    }
  }
  const ort = await import(folder + "ort.wasm.min.mjs");
  ort.env.wasm.wasmPaths = folder;
  ort.env.wasm.numThreads = self.crossOriginIsolated ? navigator.hardwareConcurrency : 1;
  const made = await ort.InferenceSession.create(bytes, { executionProviders: ["wasm"] });
  return { made, ort, device: "WebAssembly" };
}

// Where tiles of that side start along an axis.
function starts(length, side, overlap) {
  if (length <= side) return [0];
  const count = Math.ceil((length - overlap) / (side - overlap));
  return Array.from({ length: count },
    (_, i) => Math.trunc(i * (length - side) / (count - 1)));
}

// Weights along a tile: rising over the overlap, 1 inside, falling again.
const taper = (length, overlap) => Float32Array.from({ length: length },
  (_, i) => Math.min(1, (i + 1) / Math.max(overlap, 1),
    (length - i) / Math.max(overlap, 1)));

// What mirroring at the border, which is not repeated, has at `i`.
function mirrored(i, length) {
  if (length === 1) return 0;
  const period = 2 * (length - 1), at = i % period;
  return at < length ? at : period - at;
}

// RGB of a window of RGBA pixels, mirrored below and to the right of the photo.
function window_(photo, top, left, tall, wide) {
  const { data, width, height } = photo, rgb = new Uint8Array(tall * wide * 3);
  for (let y = 0; y < tall; y++) {
    const row = mirrored(top + y, height) * width;
    for (let x = 0; x < wide; x++) {
      const from = 4 * (row + mirrored(left + x, width)), to = 3 * (y * wide + x);
      rgb[to] = data[from];
      rgb[to + 1] = data[from + 1];
      rgb[to + 2] = data[from + 2];
    }
  }
  return rgb;
}

// Bilinear between the four nearest, centres of pixels at halves.
function stretched(from, width, height, channels, skip, wide, tall) {
  const out = new Float32Array(wide * tall * channels);
  const at = (i, old, now) => {
    const place = Math.min(Math.max((i + 0.5) * old / now - 0.5, 0), old - 1);
    const low = Math.floor(place);
    return [low, Math.min(low + 1, old - 1), place - low];
  };
  const columns = Array.from({ length: wide }, (_, x) => at(x, width, wide));
  for (let y = 0; y < tall; y++) {
    const [top, bottom, down] = at(y, height, tall);
    for (let x = 0; x < wide; x++) {
      const [left, right, along] = columns[x];
      for (let c = 0; c < channels; c++) {
        const pixel = (row, column) => from[(row * width + column) * skip + c];
        const above = pixel(top, left) * (1 - along) + pixel(top, right) * along;
        const below = pixel(bottom, left) * (1 - along) + pixel(bottom, right) * along;
        out[(y * wide + x) * channels + c] = above * (1 - down) + below * down;
      }
    }
  }
  return out;
}

async function ran(ort, rgb, tall, wide) {
  const rows = about.batch, image = new Uint8Array(rows * rgb.length);
  for (let i = 0; i < rows; i++) image.set(rgb, i * rgb.length);
  const tensor = new ort.Tensor("uint8", image, [rows, tall, wide, 3]);
  const { mask_probs, score } = await session.run({ image: tensor });
  const probs = mask_probs.data.slice(0, tall * wide), value = score.data[0];
  if (!Number.isFinite(value) || !probs.every(Number.isFinite))
    throw new Error("the network's answer holds values that are no numbers.");
  return { probs, value };
}

async function answer(ort, photo, wait) {
  const { width, height } = photo, [tall, wide] = about.image_size;
  if (about.geometry === "resize") {
    const small = stretched(photo.data, width, height, 3, 4, wide, tall);
    const { probs, value } = await ran(ort, Uint8Array.from(small, Math.round), tall, wide);
    return { probs: stretched(probs, wide, tall, 1, 1, width, height), score: value };
  }
  const overlap = Math.min(about.overlap, Math.floor(Math.min(tall, wide) / 2));
  const tops = starts(height, tall, overlap), lefts = starts(width, wide, overlap);
  const sums = new Float32Array(width * height), weights = new Float32Array(width * height);
  const tiles = tops.flatMap((top) => lefts.map((left) => [top, left]));
  let score = -Infinity, done = 0;
  for (const [top, left] of tiles) {
    if (tiles.length > 1) wait(done++ / tiles.length);
    const rgb = window_(photo, top, left, tall, wide);
    const { probs, value } = await ran(ort, rgb, tall, wide);
    score = Math.max(score, value);
    const rows = Math.min(tall, height - top), columns = Math.min(wide, width - left);
    const down = taper(rows, overlap), along = taper(columns, overlap);
    for (let y = 0; y < rows; y++)
      for (let x = 0; x < columns; x++) {
        const to = (top + y) * width + left + x, weight = down[y] * along[x];
        sums[to] += weight * probs[y * wide + x];
        weights[to] += weight;
      }
  }
  return { probs: sums.map((sum, i) => sum / weights[i]), score };
}

let before = Promise.resolve(), start, ready;

self.onmessage = ({ data }) => {
  if (data.about) {
    about = data.about;
    start = (wait) => loaded(data.base, data.slowly, wait);
    return;
  }
  const { number } = data, wait = (share) => self.postMessage({ number, share });
  before = before.then(async () => {
    try {
      ready ??= start(wait);
      const { made, ort, device } = await ready.catch((error) => {
        ready = null;
        throw error;
      });
      session = made;
      const { probs, score } = await answer(ort, data, wait);
      self.postMessage({ number, probs, score, device }, [probs.buffer]);
    } catch (error) {
      self.postMessage({ number, error: error.message ?? String(error) });
    }
  });
};
