/**
 * From the pixels of a photo to the network's input, and from its logits to an answer, as effnets.predict in Python.
 *
 * The resize is Pillow's: its filters, stretched where an image shrinks, its fixed-point weights, and its rounding.
 */

const MAX_RESIZED = 89_478_485; // pixels, as in Python: Pillow's limit
const STRIP_PIXELS = 1 << 20; // read at a time: canvases are limited in size, on phones to 16 megapixels
const TOP = 5;

/** An error whose message is for the person who uses the page. */
export class PhotoError extends Error {}

const PRECISION_BITS = 22; // of Pillow's fixed-point weights

const FILTERS = {
  bilinear: { support: 1, weight: (x) => Math.max(0, 1 - Math.abs(x)) },
  bicubic: {
    support: 2,
    weight: (x) => {
      const a = -0.5;
      x = Math.abs(x);
      if (x < 1) return ((a + 2) * x - (a + 3)) * x * x + 1;
      return x < 2 ? (((x - 5) * x + 8) * x - 4) * a : 0;
    },
  },
};

const roundHalfEven = (x) => (x % 1 === 0.5 ? 2 * Math.round(x / 2) : Math.round(x));

/** The [width, height] that an image is resized to, before the center crop; as resized_size in Python. */
export function resizedSize(width, height, { size, cover }) {
  const [coverHeight, coverWidth] = cover;
  let resized;
  if (coverHeight === coverWidth) {
    const shorter = Math.min(width, height);
    resized = [Math.trunc((coverWidth * width) / shorter), Math.trunc((coverHeight * height) / shorter)];
  } else {
    const ratio = Math.min(width / coverWidth, height / coverHeight);
    resized = [roundHalfEven(width / ratio), roundHalfEven(height / ratio)];
  }
  if (resized[0] * resized[1] > MAX_RESIZED) {
    throw new PhotoError(`This photo of ${width} × ${height} pixels is too long and narrow. Crop it, and try again.`);
  }
  return resized;
}

/** For each of `count` new pixels from `first` on: where its old pixels begin, how many there are, and their weights. */
function contributions(oldSize, newSize, first, count, { support, weight }) {
  const scale = oldSize / newSize;
  const stretch = Math.max(scale, 1); // the filter covers all that a new pixel stands for
  const reach = support * stretch;
  const taps = Math.ceil(reach) * 2 + 1;
  const starts = new Int32Array(count);
  const lengths = new Int32Array(count);
  const weights = new Int32Array(count * taps);
  for (let i = 0; i < count; i++) {
    const center = (first + i + 0.5) * scale;
    const start = Math.max(0, Math.trunc(center - reach + 0.5));
    const end = Math.min(oldSize, Math.trunc(center + reach + 0.5));
    const exact = Array.from({ length: end - start }, (_, k) => weight((k + start - center + 0.5) * (1 / stretch)));
    const total = exact.reduce((sum, value) => sum + value, 0);
    starts[i] = start;
    lengths[i] = end - start;
    exact.forEach((value, k) => {
      const fixed = (value / total) * (1 << PRECISION_BITS);
      weights[i * taps + k] = Math.trunc(fixed + (fixed < 0 ? -0.5 : 0.5));
    });
  }
  return { starts, lengths, weights, taps, begin: starts[0], end: starts[count - 1] + lengths[count - 1] };
}

/** Resizes rows of RGBA pixels, which begin at `columns.begin`, to [rows, width, channels], rounded to 0..255. */
function resizeAcross(rgba, rows, columns, channels, target, offset) {
  const { starts, lengths, weights, taps, begin, end } = columns;
  for (let y = 0; y < rows; y++) {
    for (let i = 0; i < starts.length; i++) {
      const first = 4 * (y * (end - begin) + starts[i] - begin);
      for (let c = 0; c < channels; c++) {
        let sum = 1 << (PRECISION_BITS - 1);
        for (let k = 0; k < lengths[i]; k++) sum += rgba[first + 4 * k + c] * weights[i * taps + k];
        target[offset++] = sum >> PRECISION_BITS;
      }
    }
  }
}

/** Resizes rows of `length` values, the first of which is `rows.begin`, to as many as `rows` has. */
function resizeDown(source, length, rows) {
  const { starts, lengths, weights, taps, begin } = rows;
  const target = new Uint8ClampedArray(starts.length * length);
  for (let i = 0; i < starts.length; i++) {
    for (let x = 0; x < length; x++) {
      let sum = 1 << (PRECISION_BITS - 1);
      let at = (starts[i] - begin) * length + x;
      for (let k = 0; k < lengths[i]; k++, at += length) sum += source[at] * weights[i * taps + k];
      target[i * length + x] = sum >> PRECISION_BITS;
    }
  }
  return target;
}

/** Writes Pillow's gray of each pixel into its red. */
function toGray(rgba) {
  for (let i = 0; i < rgba.length; i += 4) {
    rgba[i] = (rgba[i] * 19595 + rgba[i + 1] * 38470 + rgba[i + 2] * 7471 + 0x8000) >> 16;
  }
}

/**
 * Resizes an image and crops its center: uint8 [height, width, channels]. Only what the crop needs is read and computed.
 *
 * `image` has width, height, and read(left, top, width, height), which returns RGBA.
 */
export function resizeAndCrop(image, preprocess) {
  const { size, channels, interpolation } = preprocess;
  const [height, width] = size;
  const [newWidth, newHeight] = resizedSize(image.width, image.height, preprocess);
  const [left, top] = [roundHalfEven((newWidth - width) / 2), roundHalfEven((newHeight - height) / 2)];
  const filter = FILTERS[interpolation];
  const columns = contributions(image.width, newWidth, left, width, filter);
  const rows = contributions(image.height, newHeight, top, height, filter);
  const wide = columns.end - columns.begin;
  const across = new Uint8ClampedArray((rows.end - rows.begin) * width * channels);
  const strip = Math.max(1, Math.floor(STRIP_PIXELS / wide));
  for (let y = rows.begin; y < rows.end; y += strip) {
    const count = Math.min(strip, rows.end - y);
    const rgba = image.read(columns.begin, y, wide, count);
    if (channels === 1) toGray(rgba);
    resizeAcross(rgba, count, columns, channels, across, (y - rows.begin) * width * channels);
  }
  return resizeDown(across, width * channels, rows);
}

/** Normalizes uint8 [height, width, channels] to float32 [channels, height, width], in float32 as Python does. */
export function normalize(pixels, { channels, mean, std }) {
  const { fround } = Math;
  const count = pixels.length / channels;
  const values = new Float32Array(pixels.length);
  for (let c = 0; c < channels; c++) {
    const levels = Float32Array.from({ length: 256 }, (_, level) =>
      fround(fround(fround(level / 255) - fround(mean[c])) / fround(std[c])));
    for (let i = 0; i < count; i++) values[c * count + i] = levels[pixels[i * channels + c]];
  }
  return values;
}

/** The most likely classes: [{label, probability}], the likeliest first. */
export function rank(logits, labels) {
  const highest = logits.reduce((a, b) => Math.max(a, b), -Infinity);
  const powers = Array.from(logits, (logit) => Math.exp(logit - highest));
  const total = powers.reduce((a, b) => a + b, 0);
  if (!Number.isFinite(total)) throw new PhotoError("The network's answer is not a number; its weights are damaged.");
  const ranked = powers.map((power, index) => ({ label: labels[index], probability: power / total }));
  return ranked.sort((a, b) => b.probability - a.probability).slice(0, TOP);
}
