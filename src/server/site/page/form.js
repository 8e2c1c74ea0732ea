// The form as a whole: built from what the service offers, read into a request, filled from one.

import { $, kept, make } from "./dom.js";
import { IDS, alignSlider, clearProblem, limit } from "./fields.js";

let info = null;

const ratio = (a, b) => {
  const divisor = (x, y) => (y ? divisor(y, x % y) : x);
  const by = divisor(a, b);
  const [w, h] = [a / by, b / by];
  return w > 40 || h > 40 ? "" : ` (${w}:${h})`;
};

/** Builds the lists and limits from `/v1/info`, and fills in what was there last time. */
export function setUp(given) {
  info = given;
  fillStyles(info.styles);
  $("scheduler").replaceChildren(
    ...info.schedulers.map(({ name, aliases = [] }) =>
      make("option", { value: name, title: aliases.join(", ") }, name),
    ),
  );
  fillSizes();
  const { limits } = info;
  limit("steps", limits.steps);
  limit("guidance", limits.guidance_scale);
  limit("strength", limits.strength);
  limit("samples", limits.samples, 1);
  limit("high-noise-fraction", [0, 1]);
  limit("width", limits.side, limits.side_step);
  limit("height", limits.side, limits.side_step);
  $("refiner").disabled = !info.refiner;
  $("high-noise-fraction").disabled = !info.refiner;
  document.querySelector('[data-for="high-noise-fraction"]').disabled = !info.refiner;
  if (!info.refiner) $("refiner-hint").textContent = "This model has no refiner.";
  fill({ ...defaults(), prompt: "", negative_prompt: null, ...(kept.get("form") ?? {}) });
}

/** Values of a fresh form, prompts aside. */
function defaults() {
  const { defaults: given, native } = info;
  return {
    style: given.style ?? "base",
    samples: given.samples,
    scheduler: given.scheduler,
    num_inference_steps: given.steps,
    guidance_scale: given.guidance_scale,
    strength: given.strength,
    high_noise_fraction: given.high_noise_fraction,
    seed: -1,
    img_width: native.width,
    img_height: native.height,
    refiner: info.refiner,
    format: "png",
  };
}

export const defaultStrength = () => info.defaults.strength;

function fillStyles(styles) {
  const groups = new Map();
  for (const { name, family } of styles) {
    const list = groups.get(family ?? "") ?? [];
    groups.set(family ?? "", [...list, make("option", { value: name }, name)]);
  }
  const nodes = [...groups].flatMap(([family, options]) =>
    family ? [make("optgroup", { label: family }, ...options)] : options,
  );
  $("style").replaceChildren(...nodes);
}

function fillSizes() {
  const options = info.sizes.map(({ width, height }) => {
    const text = `${width} × ${height}${ratio(width, height)}`;
    return make("option", { value: `${width}x${height}` }, text);
  });
  $("size").replaceChildren(...options, make("option", { value: "" }, "Custom"));
}

/** The form as a request's fields, start picture and mask aside. */
export function read() {
  const body = {};
  for (const [name, id] of Object.entries(IDS)) body[name] = valueOf($(id));
  body.negative_prompt ||= null;
  body.refiner = body.refiner && info.refiner;
  return body;
}

function valueOf(node) {
  if (node.type === "checkbox") return node.checked;
  if (node.type !== "number") return node.value;
  if (node.id === "seed" && node.value === "") return -1;
  return Number(node.value);
}

/** Fills in a request's fields; one that this service cannot take gets its default. */
export function fill(body) {
  const usual = defaults();
  for (const [name, id] of Object.entries(IDS)) {
    if (!(name in body)) continue;
    const node = $(id);
    put(node, body[name]);
    if (!node.validity.valid || (node.tagName === "SELECT" && node.selectedIndex < 0)) {
      put(node, usual[name]);
    }
  }
  clearProblem();
  align();
  save();
}

function put(node, value) {
  if (node.type === "checkbox") node.checked = Boolean(value) && !node.disabled;
  else if (node.id === "seed") node.value = value === -1 || value === "-1" ? "" : value;
  else node.value = value ?? "";
}

/** Back to the service's defaults; the prompts stay. */
export function reset() {
  fill(defaults());
}

export function size() {
  return { width: Number($("width").value), height: Number($("height").value) };
}

/** Takes the size of a start picture, or the offered one whose shape is nearest. */
export function fitSize({ width, height }) {
  const shape = Math.log(width / height);
  const far = (it) => Math.abs(Math.log(it.width / it.height) - shape);
  const nearest = [...info.sizes].sort((a, b) => far(a) - far(b))[0];
  const chosen = allows(width, height) ? { width, height } : nearest;
  if (chosen) fill({ img_width: chosen.width, img_height: chosen.height });
}

function allows(width, height) {
  const { side, side_step: step, max_pixels: most } = info.limits;
  const fits = (it) => it % step === 0 && it >= side[0] && it <= side[1];
  return fits(width) && fits(height) && width * height <= most;
}

/** Brings sliders and the list of sizes in line with the numbers. */
function align() {
  for (const id of Object.values(IDS)) alignSlider($(id));
  const { width, height } = size();
  const list = $("size");
  list.value = `${width}x${height}`;
  if (list.selectedIndex < 0) list.value = "";
}

function save() {
  kept.set("form", read());
}

/** Keeps the form's parts in line while it is edited; `onsize` hears of a changed shape. */
export function listen(onsize) {
  $("form").addEventListener("input", ({ target }) => {
    if (target.dataset.for) {
      const number = $(target.dataset.for);
      number.value = target.value;
      clearProblem(number);
    }
    if (Object.values(IDS).includes(target.id)) clearProblem(target);
    if (target.id === "size" && target.value) {
      [$("width").value, $("height").value] = target.value.split("x");
      clearProblem($("width"));
      clearProblem($("height"));
    }
    if (!info) return;
    align();
    save();
    if (["size", "width", "height"].includes(target.id)) onsize();
  });
  $("swap").addEventListener("click", () => {
    const { width, height } = size();
    fill({ img_width: height, img_height: width });
    onsize();
  });
  $("seed-random").addEventListener("click", () => fill({ seed: -1 }));
  $("reset").addEventListener("click", () => {
    reset();
    onsize();
  });
}

/** Offers the seed of the last picture. */
export function offerSeed(seed) {
  $("seed-reuse").disabled = false;
  $("seed-reuse").onclick = () => fill({ seed });
}
