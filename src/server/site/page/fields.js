// The form's fields: their names in requests, their limits, and what the service says about them.

import { $ } from "./dom.js";

/** Element ids by the names that requests use. */
export const IDS = {
  prompt: "prompt",
  negative_prompt: "negative-prompt",
  style: "style",
  img_width: "width",
  img_height: "height",
  samples: "samples",
  format: "format",
  seed: "seed",
  scheduler: "scheduler",
  num_inference_steps: "steps",
  guidance_scale: "guidance",
  refiner: "refiner",
  high_noise_fraction: "high-noise-fraction",
  strength: "strength",
};

/** Other names that errors use for a field. */
const ALSO = {
  steps: "num_inference_steps",
  guidance: "guidance_scale",
  width: "img_width",
  height: "img_height",
  size: "img_width",
  mask: "image",
  init_image: "image",
};

const PROBLEMS = { ...IDS, image: "image", key: "key" };

const numbers = () => Object.values(IDS).map($).filter((node) => node.type === "number");
const labelOf = (node) => document.querySelector(`label[for="${node.id}"]`).textContent.trim();

/** The field that an error such as "steps is 3: must be from 20 to 100" is about, or null. */
export function fieldOf(message) {
  const words = message.toLowerCase().match(/[a-z][a-z_-]*/g) ?? [];
  for (const word of words.slice(0, 4)) {
    const name = word.replace(/^-+/, "").replaceAll("-", "_");
    if (name in PROBLEMS) return name;
    if (name in ALSO) return ALSO[name];
  }
  return null;
}

/** Shows a problem beside its field, or above the buttons where it has none. Gives the field's element. */
export function showProblem(message, name = fieldOf(message)) {
  const id = PROBLEMS[name];
  const node = id && $(id);
  const place = id ? $(`${id}-problem`) : $("problem");
  // What names a field starts as the field does; what stands alone is a sentence.
  place.textContent = id ? message : message.charAt(0).toUpperCase() + message.slice(1);
  place.hidden = false;
  if (!node) return null;
  node.setAttribute("aria-invalid", "true");
  const hints = (node.getAttribute("aria-describedby") ?? "").split(" ").filter(Boolean);
  node.setAttribute("aria-describedby", [...new Set([...hints, place.id])].join(" "));
  return node;
}

/** Takes a field's problem away; without a field, all of them. */
export function clearProblem(node = null) {
  const nodes = node ? [node] : Object.values(PROBLEMS).map($);
  for (const each of nodes) {
    each.removeAttribute("aria-invalid");
    const place = $(`${each.id}-problem`);
    if (place) place.hidden = true;
  }
  if (!node) $("problem").hidden = true;
}

/** What is wrong with the form as filled in: `[{name, message}]`. */
export function problems() {
  const found = [];
  if (!$("prompt").value.trim()) {
    found.push({ name: "prompt", message: "The prompt is empty: say what to draw." });
  }
  for (const node of numbers()) {
    const message = numberProblem(node);
    if (message) found.push({ name: node.name, message });
  }
  return found;
}

function numberProblem(node) {
  const { valueMissing, badInput, rangeUnderflow, rangeOverflow, stepMismatch } = node.validity;
  const label = labelOf(node);
  if (valueMissing || badInput) return `${label} must be a number.`;
  if (rangeUnderflow || rangeOverflow) {
    return `${label} is ${node.value}: must be from ${node.min} to ${node.max}.`;
  }
  const whole = node.step !== "any" && Number.isInteger(Number(node.step));
  if (!stepMismatch || !whole) return null;
  return node.step === "1"
    ? `${label} is ${node.value}: must be a whole number.`
    : `${label} is ${node.value}: must be a multiple of ${node.step}.`;
}

/** Sets what a number may be, on its slider too. */
export function limit(id, range, step) {
  const node = $(id);
  if (range) [node.min, node.max] = range.map(String);
  if (step) node.step = String(step);
  const slider = sliderOf(id);
  if (slider) {
    for (const key of ["min", "max", "step"]) slider[key] = node[key];
    slider.value = node.value;
  }
}

const sliderOf = (id) => document.querySelector(`input[data-for="${id}"]`);

/** Shows a number's value on its slider. */
export function alignSlider(node) {
  const slider = sliderOf(node.id);
  if (!slider) return;
  if (node.value !== "") slider.value = node.value;
  const share = (slider.value - slider.min) / (slider.max - slider.min || 1);
  slider.style.setProperty("--share", `${100 * share}%`);
}
