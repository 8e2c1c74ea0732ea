// One picture large, with its settings; arrows go to its neighbours.

import { $, make } from "./dom.js";

let list = [];
let at = 0;
let given = null;

const FACTS = {
  style: "Style",
  scheduler: "Scheduler",
  num_inference_steps: "Steps",
  guidance_scale: "Guidance",
  seed: "Seed",
  strength: "Strength",
  high_noise_fraction: "High-noise fraction",
};

/** Opens on the picture of number `index`; `helpers` are the gallery's. */
export function open(pictures, index, helpers) {
  [list, at, given] = [pictures, index, helpers];
  show();
  if (!$("lightbox").open) $("lightbox").showModal();
}

export function close() {
  $("lightbox").close();
}

/** Takes a changed list; closes where nothing is left. */
export function update(pictures) {
  if (!$("lightbox").open) return;
  list = pictures;
  at = Math.min(at, list.length - 1);
  if (list.length) show();
  else close();
}

function show() {
  const picture = list[at];
  const image = $("lightbox-image");
  image.src = given.address(picture);
  image.alt = given.words(picture);
  $("lightbox-caption").textContent = given.words(picture);
  $("lightbox-facts").replaceChildren(...facts(picture));
  const focused = [...$("lightbox-actions").children].indexOf(document.activeElement);
  $("lightbox-actions").replaceChildren(...given.actions(picture));
  $("lightbox-actions").children[focused]?.focus();
  $("lightbox-previous").disabled = at === 0;
  $("lightbox-next").disabled = at === list.length - 1;
}

function facts({ request, width, height, seconds }) {
  const shown = { ...request };
  if (!request.image) delete shown.strength;
  if (!request.refiner) delete shown.high_noise_fraction;
  const rows = Object.entries(FACTS)
    .filter(([name]) => shown[name] !== undefined)
    .map(([name, label]) => [label, shown[name]]);
  if (request.negative_prompt) rows.unshift(["Without", request.negative_prompt]);
  if (width) rows.push(["Size", `${width} × ${height}`]);
  if (seconds) rows.push(["Time", `${seconds.toFixed(1)} s`]);
  return rows.flatMap(([label, value]) => [
    make("dt", {}, label),
    make("dd", {}, String(value)),
  ]);
}

function go(to) {
  if (to < 0 || to >= list.length) return;
  at = to;
  show();
}

/** Listens to keys and buttons. */
export function listen() {
  const dialog = $("lightbox");
  dialog.addEventListener("keydown", ({ key }) => {
    if (key === "ArrowLeft") go(at - 1);
    if (key === "ArrowRight") go(at + 1);
    if (key === "Home") go(0);
    if (key === "End") go(list.length - 1);
  });
  $("lightbox-previous").addEventListener("click", () => go(at - 1));
  $("lightbox-next").addEventListener("click", () => go(at + 1));
  $("lightbox-close").addEventListener("click", close);
  dialog.addEventListener("click", ({ target }) => {
    const around = [dialog, dialog.firstElementChild, dialog.querySelector(".lightbox-picture")];
    if (around.includes(target)) close();
  });
}
