// The page's own part: the form, progress, and what went wrong.
import init, { open } from "./calotype_web.js";

const at = (id) => document.getElementById(id);
const [form, picture, status] = ["form", "picture", "status"].map(at);
let drawer, precision, url;

function say(text, isError = false) {
  status.textContent = text;
  status.classList.toggle("error", isError);
}

function show(png) {
  if (url) URL.revokeObjectURL(url);
  url = URL.createObjectURL(new Blob([png], { type: "image/png" }));
  picture.src = url;
  picture.hidden = false;
}

function progress(text, done, total) {
  say(total ? `${text}: ${done} of ${total} steps` : text);
  if (total) Object.assign(at("progress"), { value: done, max: total });
}

/// Fields that are empty are left to the model.
function request() {
  const fields = Object.fromEntries(new FormData(form));
  const wanted = { prompt: fields.prompt };
  if (fields.negative_prompt) wanted.negative_prompt = fields.negative_prompt;
  for (const name of ["steps", "guidance_scale", "seed"]) {
    if (fields[name] !== "") wanted[name] = Number(fields[name]);
  }
  if (fields.size) wanted.width = wanted.height = Number(fields.size);
  return wanted;
}

async function load() {
  const wanted = form.elements.precision.value;
  if (drawer && precision === wanted) return;
  drawer?.free();
  drawer = undefined;
  if (!navigator.gpu) throw new Error("This browser has no WebGPU, or the page is not served by https or from localhost.");
  drawer = await open(wanted);
  precision = wanted;
  const device = JSON.parse(drawer.device());
  const has = (is, name) => (is ? name : `no ${name}`);
  at("device").textContent = [device.name, device.precision, has(device.f16, "16-bit floats"), has(device.subgroups, "subgroups")].join(" · ");
}

async function draw() {
  at("draw").disabled = true;
  try {
    await load();
    const stop = drawer.stop();
    at("stop").disabled = false;
    at("stop").onclick = () => stop.stop();
    const wanted = request();
    const started = performance.now();
    const png = await drawer.draw(JSON.stringify(wanted), progress, show);
    show(png);
    picture.alt = wanted.prompt;
    say(`drawn in ${((performance.now() - started) / 1000).toFixed(1)} s`);
    return png;
  } catch (error) {
    say(error.message ?? String(error), true);
    throw error;
  } finally {
    at("draw").disabled = false;
    at("stop").disabled = true;
  }
}

form.addEventListener("submit", (event) => {
  event.preventDefault();
  draw().catch(() => {});
});
// For tests and the console.
window.calotype = { draw };
try {
  await init();
  await load();
  say("ready");
  at("draw").disabled = false;
} catch (error) {
  say(error.message ?? String(error), true);
}
