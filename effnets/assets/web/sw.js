/**
 * Keeps the page for use offline, and gives every answer the headers that WebAssembly's threads need.
 *
 * A new export has other hashes, so this file changes, the browser installs it, and the old cache goes.
 */

const NAME = "effnets:" + self.registration.scope + ":";
const CACHE = NAME + "{{VERSION}}";
const FILES = {{FILES}}; // path → Subresource Integrity hash; "./" is the page
const LAZY = {{LAZY}}; // the same, kept when first asked for: not every browser needs them

const HEADERS = {
  "Cross-Origin-Opener-Policy": "same-origin",
  "Cross-Origin-Embedder-Policy": "require-corp",
  "Cross-Origin-Resource-Policy": "same-origin",
};

/** The file from the server, whole and of this export, or an error. */
async function load(path, integrity) {
  const response = await fetch(new Request(path, { cache: "no-cache", integrity }));
  if (!response.ok) throw new Error(`${path}: the server answered ${response.status}`);
  return response;
}

async function install() {
  const cache = await caches.open(CACHE);
  await Promise.all(Object.entries(FILES).map(async ([path, hash]) => cache.put(path, await load(path, hash))));
  await self.skipWaiting();
}

async function activate() {
  const old = (await caches.keys()).filter((name) => name.startsWith(NAME) && name !== CACHE);
  await Promise.all(old.map((name) => caches.delete(name)));
  await self.clients.claim();
}

async function answer(request, path) {
  const cache = await caches.open(CACHE);
  let response = await cache.match(path);
  if (!response && Object.hasOwn(LAZY, path)) {
    response = await load(path, LAZY[path]);
    await cache.put(path, response.clone());
  }
  response ??= await fetch(request);
  const headers = new Headers(response.headers);
  for (const [name, value] of Object.entries(HEADERS)) headers.set(name, value);
  return new Response(response.body, { status: response.status, statusText: response.statusText, headers });
}

self.addEventListener("install", (event) => event.waitUntil(install()));
self.addEventListener("activate", (event) => event.waitUntil(activate()));
self.addEventListener("fetch", (event) => {
  const { pathname, origin } = new URL(event.request.url);
  const root = new URL(self.registration.scope).pathname;
  let path = origin === self.location.origin && pathname.startsWith(root) ? pathname.slice(root.length) : null;
  if (path === "" || path === "index.html") path = "./";
  if (event.request.method === "GET" && Object.hasOwn({ ...FILES, ...LAZY }, path)) {
    event.respondWith(answer(event.request, path));
  }
});
