/**
 * Classifies photos in the browser: reads them, runs the network, and shows its answer.
 *
 * For measurements the address takes ?engine=wasm or ?engine=webgpu, and ?threads=1 or more.
 */

import { PhotoError, normalize, rank, resizeAndCrop } from "./preprocess.js";

const MAX_PIXELS = 64e6; // of a photo; four bytes each are in memory

// ----------------------------------------------------------------------------------------------------------- decoding

/** Reads an ImageBitmap in strips. A canvas drops the colors of what is transparent; where that matters WebGL reads. */
class BitmapReader {
  constructor(bitmap) {
    this.bitmap = bitmap;
    this.width = bitmap.width;
    this.height = bitmap.height;
    this.canvas = document.createElement("canvas");
    this.webgl = null;
  }

  read(left, top, width, height) {
    if (this.webgl) return this.readByWebGL(left, top, width, height);
    const { canvas } = this;
    if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
    const context = canvas.getContext("2d", { willReadFrequently: true });
    context.globalCompositeOperation = "copy";
    context.imageSmoothingEnabled = false;
    context.drawImage(this.bitmap, left, top, width, height, 0, 0, width, height);
    const { data } = context.getImageData(0, 0, width, height);
    for (let i = 3; i < data.length; i += 4) {
      if (data[i] !== 255) {
        this.webgl = openInWebGL(this.bitmap);
        return this.webgl ? this.readByWebGL(left, top, width, height) : data;
      }
    }
    return data;
  }

  readByWebGL(left, top, width, height) {
    const rgba = new Uint8Array(width * height * 4);
    this.webgl.readPixels(left, top, width, height, this.webgl.RGBA, this.webgl.UNSIGNED_BYTE, rgba);
    return rgba;
  }

  close() {
    this.webgl?.getExtension("WEBGL_lose_context")?.loseContext();
    this.bitmap.close();
  }
}

/** A WebGL context that reads the pixels of a bitmap; null where there is none, or the bitmap is too large for it. */
function openInWebGL(bitmap) {
  const gl = document.createElement("canvas").getContext("webgl");
  if (!gl || Math.max(bitmap.width, bitmap.height) > gl.getParameter(gl.MAX_TEXTURE_SIZE)) return null;
  gl.pixelStorei(gl.UNPACK_COLORSPACE_CONVERSION_WEBGL, gl.NONE);
  const texture = gl.createTexture();
  gl.bindTexture(gl.TEXTURE_2D, texture);
  gl.texImage2D(gl.TEXTURE_2D, 0, gl.RGBA, gl.RGBA, gl.UNSIGNED_BYTE, bitmap);
  gl.bindFramebuffer(gl.FRAMEBUFFER, gl.createFramebuffer());
  gl.framebufferTexture2D(gl.FRAMEBUFFER, gl.COLOR_ATTACHMENT0, gl.TEXTURE_2D, texture, 0);
  return gl.checkFramebufferStatus(gl.FRAMEBUFFER) === gl.FRAMEBUFFER_COMPLETE ? gl : null;
}

/** Loads an image file into an <img>, which knows the size before the pixels are decoded. */
async function loadImage(file, unreadable) {
  const image = new Image();
  image.src = URL.createObjectURL(file);
  try {
    await new Promise((resolve, reject) => Object.assign(image, { onload: resolve, onerror: () => reject(unreadable) }));
  } catch (error) {
    URL.revokeObjectURL(image.src);
    throw error;
  }
  return image;
}

/** Decodes an image file, upright, and calls `show` with an <img> of it. Throws a PhotoError where that fails. */
export async function decode(file, show = (image) => URL.revokeObjectURL(image.src)) {
  const name = file.name || "This";
  if (file.type && !file.type.startsWith("image/")) throw new PhotoError(`${name} is not an image.`);
  if (!file.size) throw new PhotoError(`${name} is empty.`);
  const unreadable = new PhotoError(`${name} cannot be read: it is damaged, or of a kind this browser does not know.`);
  const image = await loadImage(file, unreadable);
  const pixels = image.naturalWidth * image.naturalHeight;
  show(image);
  if (pixels > MAX_PIXELS) {
    const [has, limit] = [pixels, MAX_PIXELS].map((number) => Math.round(number / 1e6));
    throw new PhotoError(`${name} has ${has} megapixels, and the limit is ${limit}. Make it smaller, and try again.`);
  }
  const options = { imageOrientation: "from-image", colorSpaceConversion: "none", premultiplyAlpha: "none" };
  const bitmap = await createImageBitmap(file, options).catch(() => { throw unreadable; });
  return new BitmapReader(bitmap);
}

/** The network's input, float32 [channels, height, width], of an image file. */
export async function toInput(file, preprocess, show) {
  const image = await decode(file, show);
  try {
    return normalize(resizeAndCrop(image, preprocess), preprocess);
  } finally {
    image.close();
  }
}

// ------------------------------------------------------------------------------------------------------------ network

const ENGINES = { webgpu: "./ort/ort.webgpu.min.mjs", wasm: "./ort/ort.wasm.min.mjs" };
const WANTED = new URLSearchParams(globalThis.location?.search);

async function hasWebGPU() {
  const adapter = await navigator.gpu?.requestAdapter().catch(() => null);
  // Where the processor stands in for the graphics card WebAssembly is faster.
  return Boolean(adapter) && (WANTED.get("engine") === "webgpu" || !adapter.info?.isFallbackAdapter);
}

/** Opens the network with one engine: {name, run}. It has run once, which shows that it can. */
async function openWith(engine, bytes, [channels, height, width]) {
  const ort = await import(ENGINES[engine]);
  const most = Number(WANTED.get("threads")) || Math.min(4, navigator.hardwareConcurrency || 1);
  const threads = engine === "wasm" && globalThis.crossOriginIsolated ? most : 1;
  ort.env.wasm.wasmPaths = new URL("ort/", import.meta.url).href;
  ort.env.wasm.numThreads = threads;
  const session = await ort.InferenceSession.create(bytes, { executionProviders: [engine] });
  const run = async (input) => {
    const images = new ort.Tensor("float32", input, [1, channels, height, width]);
    const { logits } = await session.run({ images });
    return logits.getData();
  };
  await run(new Float32Array(channels * height * width));
  return { name: engine === "webgpu" ? "WebGPU" : `WebAssembly, ${threads} thread${threads > 1 ? "s" : ""}`, run };
}

/** Opens the network on WebGPU where there is one, and on WebAssembly elsewhere, or when WebGPU fails, also later. */
async function openNetwork(bytes, shape) {
  const fallBack = (error) => {
    console.warn("WebGPU failed, so WebAssembly takes over:", error);
    return openWith("wasm", bytes, shape);
  };
  if (WANTED.get("engine") === "wasm" || !(await hasWebGPU())) return openWith("wasm", bytes, shape);
  let inner;
  try {
    inner = await openWith("webgpu", bytes, shape);
  } catch (error) {
    return fallBack(error);
  }
  return {
    get name() { return inner.name; },
    async run(input) {
      try {
        return await inner.run(input);
      } catch (error) {
        if (inner.name === "WebGPU") inner = await fallBack(error);
        return inner.run(input);
      }
    },
  };
}

async function fetchFile(name) {
  const response = await fetch(new URL(name, import.meta.url));
  if (!response.ok) throw new Error(`${name}: the server answered ${response.status}`);
  return response;
}

async function openClassifier() {
  const model = await (await fetchFile("model.json")).json();
  describe(model);
  const bytes = new Uint8Array(await (await fetchFile("model.onnx")).arrayBuffer());
  const network = await openNetwork(bytes, [model.preprocess.channels, ...model.preprocess.size]);
  return { ...model, network };
}

// ---------------------------------------------------------------------------------------------------------- the page

const IDS = ["about", "camera", "cancel", "drop", "file", "invitation", "offline", "photo", "problem", "provenance",
  "results", "shutter", "status", "timing", "video", "viewfinder"];
const view = {};
const state = { classifier: null, queue: Promise.resolve(), latest: 0 };

const percent = new Intl.NumberFormat("en", { style: "percent", minimumFractionDigits: 1, maximumFractionDigits: 1 });
const count = new Intl.NumberFormat("en");

function element(tag, text) {
  return Object.assign(document.createElement(tag), { textContent: text });
}

function describe({ name, labels, licence }) {
  const few = new Intl.ListFormat("en").format(labels.slice(0, 12));
  view.about.textContent = `${name} knows ${labels.length > 12 ? `${count.format(labels.length)} classes` : few}.`;
  view.provenance.textContent = licence ? `Weights: ${licence}` : "";
}

function clearAnswer(status) {
  view.status.textContent = status;
  view.problem.hidden = true;
  view.problem.textContent = view.timing.textContent = "";
  view.results.replaceChildren();
}

function showProblem(message) {
  clearAnswer("");
  setPhoto("");
  view.problem.textContent = message;
  view.problem.hidden = false;
}

/** Shows the photo at an address, in place of the one before; "" for none. */
function setPhoto(url) {
  if (view.photo.src) URL.revokeObjectURL(view.photo.src);
  if (url) view.photo.src = url;
  else view.photo.removeAttribute("src");
  view.photo.alt = url ? "The photo" : "";
  view.photo.hidden = !url;
  view.invitation.hidden = Boolean(url);
  view.drop.classList.toggle("filled", Boolean(url));
}

function showAnswer(predictions, timing) {
  clearAnswer(`Most likely ${predictions[0].label}, ${percent.format(predictions[0].probability)}`);
  view.timing.textContent = timing;
  view.results.replaceChildren(...predictions.map(({ label, probability }) => {
    const item = document.createElement("li");
    item.style.setProperty("--share", probability);
    item.append(element("span", label), element("span", percent.format(probability)));
    return item;
  }));
}

async function classify(file) {
  const { preprocess, labels, network } = await state.classifier;
  const begin = performance.now();
  const input = await toInput(file, preprocess, (image) => setPhoto(image.src));
  const prepared = performance.now();
  const predictions = rank(await network.run(input), labels);
  const [before, during] = [prepared - begin, performance.now() - prepared].map((time) => count.format(Math.round(time)));
  showAnswer(predictions, `${before} ms to read and resize, ${during} ms in the network (${network.name})`);
}

/** Classifies a file after those before it; of several that wait only the latest counts. */
function submit(file) {
  const number = ++state.latest;
  clearAnswer("Looking…");
  state.queue = state.queue.then(async () => {
    if (number !== state.latest) return;
    try {
      await classify(file);
    } catch (error) {
      if (!(error instanceof PhotoError)) console.error(error);
      showProblem(error instanceof PhotoError ? error.message : `This did not work: ${error.message ?? error}`);
    }
  });
}

function submitFirst(files, otherwise) {
  if (files.length) submit(files[0]);
  else showProblem(otherwise);
}

async function openCamera() {
  try {
    const size = { width: { ideal: 1280 }, height: { ideal: 960 } };
    view.video.srcObject = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment", ...size } });
  } catch (error) {
    const blocked = error.name === "NotAllowedError";
    showProblem(blocked ? "The camera is blocked. Allow it for this page in the browser." : "No camera can be opened.");
    return;
  }
  view.viewfinder.showModal();
  view.shutter.focus();
  await view.video.play();
}

function closeCamera() {
  view.video.srcObject?.getTracks().forEach((track) => track.stop());
  view.video.srcObject = null;
}

async function takePhoto() {
  const { video } = view;
  if (!video.videoWidth) return;
  const canvas = Object.assign(document.createElement("canvas"), { width: video.videoWidth, height: video.videoHeight });
  canvas.getContext("2d").drawImage(video, 0, 0);
  view.viewfinder.close();
  canvas.toBlob((blob) => submit(new File([blob], "The photo", { type: blob.type })), "image/png");
}

function listen() {
  view.file.addEventListener("change", () => {
    if (view.file.files.length) submit(view.file.files[0]);
    view.file.value = ""; // so that the same file may be chosen again
  });
  document.addEventListener("paste", (event) => submitFirst(event.clipboardData.files, "No image was pasted."));
  for (const type of ["dragenter", "dragover"]) {
    document.addEventListener(type, (event) => {
      event.preventDefault();
      document.body.classList.add("dragging");
    });
  }
  document.addEventListener("dragleave", (event) => {
    if (!event.relatedTarget) document.body.classList.remove("dragging");
  });
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    document.body.classList.remove("dragging");
    submitFirst(event.dataTransfer.files, "No image file was dropped.");
  });
  view.camera.hidden = !navigator.mediaDevices?.getUserMedia;
  view.camera.addEventListener("click", openCamera);
  view.shutter.addEventListener("click", takePhoto);
  view.cancel.addEventListener("click", () => view.viewfinder.close());
  view.viewfinder.addEventListener("close", closeCamera);
}

/** Installs the service worker; returns whether it keeps the page for use offline. */
async function keepOffline() {
  const container = navigator.serviceWorker;
  if (!container) return false;
  if (container.controller) {
    container.addEventListener("controllerchange", () => { // a new export is here
      if (!state.latest) location.reload();
    });
  }
  const registration = await container.register("sw.js", { updateViaCache: "none" });
  const worker = registration.active ?? registration.waiting ?? registration.installing;
  while (worker.state !== "activated" && worker.state !== "redundant") {
    await new Promise((resolve) => worker.addEventListener("statechange", resolve, { once: true }));
  }
  view.offline.hidden = worker.state !== "activated";
  return worker.state === "activated";
}

async function start() {
  for (const id of IDS) view[id] = document.getElementById(id);
  const kept = keepOffline().catch((error) => console.warn("not kept for use offline:", error));
  if (globalThis.crossOriginIsolated) {
    sessionStorage.removeItem("reloaded");
  } else if (!sessionStorage.getItem("reloaded") && (await kept)) {
    sessionStorage.setItem("reloaded", "once"); // the service worker's headers let WebAssembly have threads
    location.reload();
    return;
  }
  state.classifier = openClassifier();
  listen();
  try {
    await state.classifier;
    if (!state.latest) view.status.textContent = "Ready";
  } catch (error) {
    console.error(error);
    showProblem(`The network cannot be loaded (${error.message ?? error}). Reload the page to try again.`);
  }
}

if (globalThis.document) start();
