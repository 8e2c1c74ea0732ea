// The large place for the picture: empty, being drawn, or drawn.

import { $, announce, clock, make } from "./dom.js";
import { actions, address, openAt, words } from "./gallery.js";

let ticking = 0;
let told = ""; // what screen readers heard last

const only = (id) => {
  for (const each of ["empty", "progress", "results"]) $(each).hidden = each !== id;
};

function shape(node, width, height) {
  node.style.setProperty("--shape", `${width} / ${height}`);
  node.style.setProperty("--wide", width / height);
}

const grid = (node, count) => node.style.setProperty("--across", count > 1 ? 2 : 1);

/** Shows a run from its start. */
export function begin(run) {
  only("progress");
  const { samples, img_width: width, img_height: height } = run.body;
  grid($("frames"), samples);
  shape($("frames"), width, height);
  const frame = () => make("div", { className: "frame" }, make("img", { alt: "", hidden: true }));
  $("frames").replaceChildren(...Array.from({ length: samples }, frame));
  $("bar").removeAttribute("value");
  told = "";
  clearInterval(ticking);
  ticking = setInterval(() => times(run), 500);
  update(run);
}

function phaseWords({ phase, position, step, steps }) {
  if (phase === "cancelling") return "Cancelling…";
  if (phase === "reconnecting") return "Connection lost, trying again…";
  if (phase === "running" && step) return `Step ${step} of ${steps}`;
  if (phase === "running") return "Starting…";
  if (phase === "queued" && position > 0) return `Waiting, number ${position} in the queue`;
  return phase === "queued" ? "Waiting, next in line" : "Sending…";
}

/** Shows how far a run is. */
export function update(run) {
  const text = phaseWords(run);
  $("phase").textContent = text;
  document.title = `${text} · calotype`;
  if (run.phase === "running" && run.step) {
    $("bar").max = run.steps;
    $("bar").value = run.step;
  }
  run.previews.forEach((src, index) => {
    const image = $("frames").children[index]?.firstElementChild;
    if (!image || image.src === src) return;
    image.src = src;
    image.hidden = false;
  });
  times(run);
  tell(run, text);
}

/** Every step would be too much to hear: each quarter is enough. */
function tell({ phase, step, steps }, text) {
  const quarter = Math.floor((4 * step) / steps);
  const now = phase === "running" && step ? `${25 * quarter} percent` : text;
  if (now === told) return;
  told = now;
  announce(now);
}

function times(run) {
  const { elapsed, remaining } = run;
  const left = remaining === null ? "" : ` · about ${clock(remaining)} left`;
  $("times").textContent = clock(elapsed) + left;
}

/** The run is over; what was there before it comes back. */
export function end() {
  clearInterval(ticking);
  document.title = "calotype";
  if ($("results").children.length) only("results");
  else only("empty");
}

/** Shows drawn pictures. */
export function results(pictures) {
  const place = $("results");
  grid(place, pictures.length);
  place.replaceChildren(...pictures.map(figure));
  end();
}

function figure(picture) {
  const image = make("img", { src: address(picture), alt: words(picture) });
  const onclick = () => openAt(picture.id);
  const view = make("button", { type: "button", className: "view", title: "Enlarge", onclick }, image);
  shape(view, picture.width || 1, picture.height || 1);
  const parts = [`Seed ${picture.seed}`, picture.seconds && `${picture.seconds.toFixed(1)} s`];
  const text = make("p", { className: "caption" }, parts.filter(Boolean).join(" · "));
  const buttons = make("div", { className: "row" }, ...actions(picture));
  const node = make("figure", { className: "result" }, view, make("figcaption", {}, text, buttons));
  node.dataset.id = picture.id;
  return node;
}

/** Takes a deleted picture off. */
export function drop(picture) {
  const node = [...$("results").children].find((it) => it.dataset.id === String(picture.id));
  node?.remove();
  grid($("results"), $("results").children.length);
  if ($("progress").hidden) end();
}
