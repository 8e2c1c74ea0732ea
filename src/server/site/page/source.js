// The picture to start from and its mask, both in the picture's own pixels.

import { $, blobOf, make } from "./dom.js";
import { clearProblem, showProblem } from "./fields.js";

/** Longest side that is kept; no model draws more. */
const MOST = 2048;

/** The picture as a canvas, or null; `mask` is a canvas of its size, opaque where painted anew. */
export const source = { picture: null, mask: null };

let onchange = () => {};
let sizeOf = () => ({ width: 1, height: 1 });

const canvas = (width, height) => make("canvas", { width, height });

/** Part of the picture that is used for a size: the middle, as large as fits. */
export function crop(width, height) {
  const { width: w, height: h } = source.picture;
  const scale = Math.min(w / width, h / height);
  const [cw, ch] = [width * scale, height * scale];
  return { x: (w - cw) / 2, y: (h - ch) / 2, width: cw, height: ch };
}

/** Takes a picture's bytes; gives whether they are one. */
export async function take(blob) {
  let bitmap;
  try {
    bitmap = await createImageBitmap(blob);
  } catch {
    showProblem("This file is no picture that the browser can read: use PNG, JPEG or WebP.", "image");
    return false;
  }
  const scale = Math.min(1, MOST / Math.max(bitmap.width, bitmap.height));
  const picture = canvas(Math.round(bitmap.width * scale), Math.round(bitmap.height * scale));
  const context = picture.getContext("2d");
  context.imageSmoothingQuality = "high";
  context.drawImage(bitmap, 0, 0, picture.width, picture.height);
  bitmap.close();
  set(picture, null);
  return true;
}

function set(picture, mask) {
  source.picture = picture;
  source.mask = mask;
  clearProblem($("image"));
  show();
  onchange();
}

export function setMask(mask) {
  set(source.picture, mask);
}

export function remove() {
  $("image").value = "";
  set(null, null);
}

/** Takes up the pictures of a request that was sent before. */
export async function takeRequest({ image, mask }) {
  if (!image) return remove();
  if (!(await take(blobOf(image))) || !mask) return;
  const bitmap = await createImageBitmap(blobOf(mask));
  setMask(fromGrey(bitmap, source.picture));
}

/** White of a mask becomes opaque, black clear. */
function fromGrey(bitmap, { width, height }) {
  const mask = canvas(width, height);
  const context = mask.getContext("2d");
  context.drawImage(bitmap, 0, 0, width, height);
  const pixels = context.getImageData(0, 0, width, height);
  for (let i = 0; i < pixels.data.length; i += 4) {
    pixels.data[i + 3] = pixels.data[i];
    pixels.data.fill(255, i, i + 3);
  }
  context.putImageData(pixels, 0, 0);
  return mask;
}

/** `image` and `mask` of a request as data URLs of the wanted size; empty where there is no picture. */
export function toRequest({ width, height }) {
  if (!source.picture) return {};
  const part = crop(width, height);
  const cut = (from, ground) => {
    const out = canvas(width, height);
    const context = out.getContext("2d");
    context.imageSmoothingQuality = "high";
    context.fillStyle = ground;
    context.fillRect(0, 0, width, height);
    context.drawImage(from, part.x, part.y, part.width, part.height, 0, 0, width, height);
    return out.toDataURL("image/png");
  };
  const image = cut(source.picture, "#fff");
  return source.mask ? { image, mask: cut(source.mask, "#000") } : { image };
}

/** Stripes show on pictures of any colour. */
function stripes() {
  const tile = canvas(24, 24);
  const context = tile.getContext("2d");
  context.fillStyle = "#d81b7f";
  context.fillRect(0, 0, 24, 24);
  context.strokeStyle = "#fff";
  context.lineWidth = 3;
  for (const at of [-24, 0, 24]) {
    context.moveTo(at - 6, 30);
    context.lineTo(at + 30, -6);
  }
  context.stroke();
  return tile;
}

/** Draws the used part of the picture with the mask tinted over it. */
export function paintOver(context, mask, part) {
  const { width, height } = context.canvas;
  const from = [part.x, part.y, part.width, part.height];
  context.clearRect(0, 0, width, height);
  context.drawImage(source.picture, ...from, 0, 0, width, height);
  if (!mask) return;
  const tint = canvas(width, height);
  const ink = tint.getContext("2d");
  ink.drawImage(mask, ...from, 0, 0, width, height);
  ink.globalCompositeOperation = "source-in";
  ink.fillStyle = ink.createPattern(stripes(), "repeat");
  ink.fillRect(0, 0, width, height);
  context.globalAlpha = 0.6;
  context.drawImage(tint, 0, 0);
  context.globalAlpha = 1;
}

/** Shows the picture as it will be used. */
export function show() {
  const has = Boolean(source.picture);
  const thumb = $("thumb");
  thumb.hidden = !has;
  $("drop").classList.toggle("filled", has);
  $("image-buttons").hidden = !has;
  $("mask-remove").hidden = !source.mask;
  $("mask-open-text").textContent = source.mask ? "Edit mask" : "Paint mask";
  if (!has) return;
  const { width, height } = sizeOf();
  if (!(width > 0 && height > 0)) return;
  const scale = 720 / Math.max(width, height);
  thumb.width = Math.max(1, Math.round(width * scale));
  thumb.height = Math.max(1, Math.round(height * scale));
  paintOver(thumb.getContext("2d"), source.mask, crop(width, height));
}

/**
 * Listens for files that are chosen, dropped or pasted.
 * @param size the size to be drawn
 * @param ontaken called once a file was taken
 * @param changed called after each change
 */
export function listen({ size, ontaken, changed }) {
  sizeOf = size;
  onchange = changed;
  const offer = async (file) => {
    if (file && (await take(file))) ontaken(source.picture);
  };
  const pictureIn = (list) => [...(list ?? [])].find((file) => file.type.startsWith("image/"));
  $("image").addEventListener("change", ({ target }) => offer(target.files[0]));
  $("image-remove").addEventListener("click", remove);
  $("mask-remove").addEventListener("click", () => setMask(null));
  addEventListener("paste", (event) => {
    const file = pictureIn(event.clipboardData?.files);
    if (!file || document.querySelector("dialog[open]")) return;
    event.preventDefault();
    offer(file);
  });
  const over = (event, is) => {
    if (!event.dataTransfer?.types.includes("Files")) return;
    event.preventDefault(); // else the browser leaves the page for the file
    $("drop").classList.toggle("over", is);
  };
  addEventListener("dragover", (event) => over(event, true));
  addEventListener("dragleave", (event) => {
    if (!event.relatedTarget) over(event, false); // it left the window
  });
  addEventListener("drop", (event) => {
    over(event, false);
    offer(pictureIn(event.dataTransfer?.files));
  });
}
