// The gallery: what was drawn before, and what can be done with each picture.

import { $, button, make, toast } from "./dom.js";
import * as lightbox from "./lightbox.js";
import * as store from "./store.js";

let list = []; // newest first
let hooks = {};
const addresses = new Map(); // object URLs by picture id

/** An address of a kept picture for `img` and links. */
export function address(picture) {
  if (!addresses.has(picture.id)) addresses.set(picture.id, URL.createObjectURL(picture.blob));
  return addresses.get(picture.id);
}

function release(id) {
  URL.revokeObjectURL(addresses.get(id));
  addresses.delete(id);
}

export const pictures = () => list;
export const words = (picture) => picture.request.prompt || "Picture without words";

/**
 * Loads the gallery.
 * @param given `use(picture)` takes up its settings, `startFrom(picture)` its pixels, `removed(picture)` hears of a deletion
 */
export async function setUp(given) {
  hooks = given;
  list = await store.pictures();
  if (!(await store.lasting())) {
    $("gallery-note").textContent = "This browser keeps no data: pictures go when the page is closed.";
  }
  $("gallery-clear").addEventListener("click", clear);
  show();
}

function show() {
  $("thumbs").replaceChildren(...list.map(thumb));
  $("gallery-clear").hidden = !list.length;
  $("gallery-section").classList.toggle("bare", !list.length);
}

function thumb(picture) {
  const alt = `${words(picture)}, seed ${picture.seed}`;
  const image = make("img", { src: address(picture), alt, loading: "lazy", decoding: "async" });
  const props = { type: "button", className: "thumb", title: words(picture) };
  return make("li", {}, make("button", { ...props, onclick: () => openAt(picture.id) }, image));
}

/** Opens the lightbox on a picture. */
export function openAt(id) {
  const index = Math.max(0, list.findIndex((it) => it.id === id));
  lightbox.open(list, index, { address, words, actions });
}

/** Buttons for a picture. */
export function actions(picture) {
  const link = make("a", { className: "button", href: address(picture), download: nameOf(picture) });
  const download = button("Download", "download", null);
  link.append(...download.childNodes);
  return [
    button("Use settings", "settings", () => hooks.use(picture)),
    button("Start from this", "picture", () => hooks.startFrom(picture)),
    link,
    button("Delete", "delete", () => remove(picture)),
  ];
}

function nameOf(picture) {
  const ending = { "image/jpeg": "jpg", "image/webp": "webp" }[picture.blob.type] ?? "png";
  return `calotype-${picture.seed}.${ending}`;
}

/** Adds drawn pictures, the first of them foremost. */
export async function add(drawn) {
  const kept = [];
  for (const picture of drawn) {
    try {
      kept.push(await store.add(picture));
    } catch {
      kept.push({ ...picture, id: `unkept-${crypto.getRandomValues(new Uint32Array(1))[0]}` });
      toast("The browser has no room to keep this picture: download it, or delete others.");
    }
  }
  list = [...kept, ...list];
  const before = list;
  list = await store.trim(list);
  for (const gone of before.slice(list.length)) release(gone.id);
  show();
  return kept;
}

export async function remove(picture) {
  await store.remove(picture.id).catch(() => {}); // one without room was never kept
  list = list.filter((it) => it.id !== picture.id);
  release(picture.id);
  show();
  hooks.removed(picture);
  lightbox.update(list);
  toast("Picture deleted.", { text: "Undo", run: () => restore(picture) });
}

async function restore(picture) {
  await store.add(picture).catch(() => {});
  list = [...list, picture].sort((a, b) => b.at - a.at || b.id - a.id);
  show();
  lightbox.update(list);
}

async function clear() {
  const count = list.length === 1 ? "the picture" : `all ${list.length} pictures`;
  if (!confirm(`Delete ${count} of the gallery? This cannot be undone.`)) return;
  await store.removeAll();
  const gone = list;
  list = [];
  for (const picture of gone) {
    release(picture.id);
    hooks.removed(picture);
  }
  show();
}
