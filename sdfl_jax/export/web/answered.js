// Photos are read here and answered by a worker; nothing leaves this browser.
const MOST_PIXELS = 50e6, EDGE = 1e-6;
const about = fetch("model.json").then((reply) => reply.json());
let worker = null, waiting = new Map();

// A worker made of a blob is held by this page's policy, one of a file would not be.
async function started() {
  const code = await (await fetch("worker.js")).blob();
  const made = new Worker(URL.createObjectURL(code), { type: "module" });
  made.onmessage = ({ data }) => {
    const asked = waiting.get(data.number);
    if (!asked) return;
    if ("share" in data) { asked.wait(data.share); return; }
    waiting.delete(data.number);
    if (data.error) asked.fail(new Error(data.error)); else asked.done(data);
  };
  made.onerror = (event) => {
    for (const asked of waiting.values()) asked.fail(new Error(event.message));
    waiting.clear();
    worker = null;
  };
  made.postMessage({ base: new URL(".", location.href).href, about: await about,
    slowly: new URLSearchParams(location.search).has("wasm") });
  return made;
}

async function pixels(photo) {
  let bitmap;
  try {
    bitmap = await createImageBitmap(photo, { imageOrientation: "from-image",
      colorSpaceConversion: "none", premultiplyAlpha: "none" });
  } catch {
    throw new Error("not an image that this browser reads.");
  }
  const { width, height } = bitmap;
  if (width * height > MOST_PIXELS) throw new Error("more than 50 million pixels.");
  const context = new OffscreenCanvas(width, height).getContext("2d");
  context.drawImage(bitmap, 0, 0);
  bitmap.close();
  return context.getImageData(0, 0, width, height);
}

async function dataUrl(canvas, type, quality) {
  const blob = await canvas.convertToBlob({ type: type, quality: quality });
  return new Promise((done, fail) => {
    const reader = new FileReader();
    reader.onload = () => done(reader.result);
    reader.onerror = () => fail(reader.error);
    reader.readAsDataURL(blob);
  });
}

function grey(image, probs) {
  const { width, height } = image, canvas = new OffscreenCanvas(width, height);
  const plane = new ImageData(width, height);
  for (let i = 0; i < probs.length; i++) {
    plane.data.fill(Math.floor(255 * probs[i] + 0.5), 4 * i, 4 * i + 3);
    plane.data[4 * i + 3] = 255;
  }
  canvas.getContext("2d").putImageData(plane, 0, 0);
  return canvas;
}

// As the overlay of `sdfl predict`: red as far as it is probable, a light line with a
// dark seam around what is above one half.
function overlay(image, probs) {
  const { width, height } = image, canvas = new OffscreenCanvas(width, height);
  const tinted = new ImageData(width, height), tint = [230, 30, 30];
  for (let i = 0; i < probs.length; i++) {
    for (let c = 0; c < 3; c++)
      tinted.data[4 * i + c] = Math.round(
        image.data[4 * i + c] * (1 - 0.5 * probs[i]) + tint[c] * 0.5 * probs[i]);
    tinted.data[4 * i + 3] = 255;
  }
  const context = canvas.getContext("2d");
  context.putImageData(tinted, 0, 0);
  const inside = (x, y) => x >= 0 && y >= 0 && x < width && y < height
    && probs[y * width + x] >= 0.5;
  const border = [];
  for (let y = 0; y < height; y++)
    for (let x = 0; x < width; x++)
      if (inside(x, y) && !(inside(x - 1, y) && inside(x + 1, y)
          && inside(x, y - 1) && inside(x, y + 1))) border.push([x, y]);
  const line = Math.max(1, Math.round(Math.max(width, height) / 200));
  for (const [colour, wide] of [["rgb(20 20 20)", line + 2], ["rgb(255 220 60)", line]]) {
    context.fillStyle = colour;
    for (const [x, y] of border)
      context.fillRect(x - (wide - 1) / 2, y - (wide - 1) / 2, wide, wide);
  }
  return canvas;
}

function verdict(score, band, verdicts) {
  if (!band) return verdicts[1];
  return score >= band[1] ? verdicts[2] : score < band[0] ? verdicts[0] : verdicts[1];
}

// As metrics/calibration.py has it.
function log10Ratio(score, calibration) {
  if (!calibration?.logistic) return null;
  const { logistic, images } = calibration;
  const inside = Math.min(Math.max(score, EDGE), 1 - EDGE);
  const ratio = logistic.slope * Math.log10(inside / (1 - inside))
    + logistic.intercept / Math.LN10;
  return Math.min(Math.max(ratio, -Math.log10(images.manipulated)),
    Math.log10(images.authentic));
}

let photos = 0;

async function answered(photo, wait) {
  const start = performance.now(), known = await about;
  const image = await pixels(photo), { width, height } = image;
  wait(null);
  worker ??= started();
  const made = await worker.catch((error) => { worker = null; throw error; });
  const number = photos++;
  const { probs, score, device } = await new Promise((done, fail) => {
    waiting.set(number, { done, fail, wait });
    made.postMessage({ number, width, height, data: image.data });
  });
  let marked = 0;
  for (const p of probs) marked += p >= known.pixel_threshold;
  return { score, width, height, device, mask_source: known.mask_source,
    log10_likelihood_ratio: log10Ratio(score, known.calibration),
    verdict: verdict(score, known.calibration?.band, known.verdicts),
    manipulated: score >= known.image_threshold,
    manipulated_area: marked / probs.length,
    mask: await dataUrl(grey(image, probs), "image/png"),
    overlay: await dataUrl(overlay(image, probs), "image/jpeg", 0.92),
    seconds: ((performance.now() - start) / 1000).toFixed(1) };
}
