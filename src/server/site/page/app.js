// The page's parts put together.

import * as api from "./api.js";
import { $, announce, toast } from "./dom.js";
import { clearProblem, problems, showProblem } from "./fields.js";
import * as form from "./form.js";
import * as gallery from "./gallery.js";
import * as key from "./key.js";
import * as lightbox from "./lightbox.js";
import * as mask from "./mask.js";
import { Run } from "./run.js";
import * as source from "./source.js";
import * as stage from "./stage.js";
import * as store from "./store.js";

/** Share of noise that suits a mask: what is painted anew should not follow the old. */
const MASK_STRENGTH = 0.9;

/** This tab's run, for when it is loaded again. */
const TAB = "calotype.run";

let run = null;
let service = null;

const wait = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

async function connect() {
  for (;;) {
    try {
      return await api.info();
    } catch (error) {
      showProblem(error.message, null);
      await wait(2000);
    }
  }
}

function showService() {
  $("model").textContent = service.ready ? service.model : `${service.model} · loading…`;
}

async function awaitReady() {
  while (!service.ready) {
    await wait(1500);
    service = { ...service, ready: (await connect()).ready };
    clearProblem();
    showService();
  }
}

function busy(is) {
  $("draw").setAttribute("aria-disabled", String(is));
  if (!is && document.activeElement === $("cancel")) $("draw").focus(); // else the focus is lost
  $("cancel").hidden = !is;
  $("actions").classList.toggle("busy", is);
}

/** Sends the form, unless a run goes on or a field is wrong. */
async function draw() {
  if (run || !service) return;
  clearProblem();
  const wrong = problems();
  for (const { name, message } of wrong) showProblem(message, name);
  if (wrong.length) return complain($(`form`).elements[wrong[0].name], wrong[0].message);
  const body = { ...form.read(), ...source.toRequest(form.size()), previews: true };
  await carry(new Run(body, stage.update), (it) => it.start(remember));
}

/** Says what is wrong and brings it into view. */
function complain(node, message) {
  announce(message);
  node?.focus({ preventScroll: true });
  node?.scrollIntoView({ block: "center" });
}

/** Notes a run, so that this tab finds it when it is loaded again. */
function remember({ id, began, body }) {
  try {
    sessionStorage.setItem(TAB, id);
  } catch {
    return; // denied: a reload loses sight of the run
  }
  store.keepRun({ id, began, body }).catch(() => {});
}

function forget(id) {
  try {
    sessionStorage.removeItem(TAB);
  } catch {
    // nothing was kept
  }
  if (id) store.forgetRun(id).catch(() => {});
}

/** Shows a run from its start to its end. */
async function carry(it, begin) {
  run = it;
  busy(true);
  stage.begin(run);
  showStage();
  try {
    await finish(await begin(run));
  } catch (error) {
    stage.end();
    failed(error);
  } finally {
    forget(run.id);
    run = null;
    busy(false);
    key.showCredits();
  }
}

function showStage() {
  const { top } = $("stage").getBoundingClientRect();
  if (top < 0 || top > innerHeight / 3) $("stage").scrollIntoView({ block: "start" });
}

function failed({ status, message }) {
  const place = { 401: service.requires_key ? "key" : null, 413: "image" }[status];
  complain(showProblem(message, place), message);
}

async function finish(job) {
  if (job.status === "cancelled") {
    stage.end();
    announce("Cancelled");
    return toast("Cancelled.");
  }
  if (job.status === "failed") {
    throw new api.ApiError(500, job.error ?? "Drawing failed. Try again.");
  }
  const at = Date.now();
  const drawn = await Promise.all(
    job.images.map(async ({ url, seed }) => {
      const blob = await picture(url);
      const size = await measure(blob);
      return { at, blob, seed, ...size, seconds: job.seconds, request: { ...run.body, seed } };
    }),
  );
  stage.results(await gallery.add(drawn));
  form.offerSeed(drawn[0].seed);
  announce(drawn.length === 1 ? "The picture is done" : `${drawn.length} pictures are done`);
}

/** A picture's bytes; one try more, since it was paid for. */
async function picture(url) {
  try {
    return await api.picture(url);
  } catch {
    await wait(1000);
    return api.picture(url);
  }
}

async function measure(blob) {
  const bitmap = await createImageBitmap(blob);
  const { width, height } = bitmap;
  bitmap.close();
  return { width, height };
}

async function use(picture) {
  lightbox.close();
  form.fill(picture.request);
  await source.takeRequest(picture.request);
  toast("Settings taken up.");
  $("prompt").focus();
}

async function startFrom(picture) {
  lightbox.close();
  if (!(await source.take(picture.blob))) return;
  form.fitSize(picture);
  source.show();
  toast("This is the start picture now.");
  $("strength").focus();
}

function masked() {
  if (Number($("strength").value) !== form.defaultStrength()) return;
  form.fill({ strength: MASK_STRENGTH });
  toast(`Strength is ${MASK_STRENGTH} now, which suits a mask.`);
}

function listen() {
  form.listen(source.show);
  source.listen({
    size: form.size,
    changed: () => {},
    ontaken: (picture) => {
      form.fitSize(picture);
      source.show();
    },
  });
  mask.listen(masked);
  lightbox.listen();
  $("mask-open").addEventListener("click", () => mask.open(form.size()));
  $("form").addEventListener("submit", (event) => {
    event.preventDefault();
    draw();
  });
  $("cancel").addEventListener("click", () => run?.cancel());
  addEventListener("keydown", onKey);
  addEventListener("beforeunload", (event) => {
    if (run) event.preventDefault();
  });
  if (/Mac|iP/.test(navigator.platform)) $("draw-keys").textContent = "⌘ ⏎";
}

function onKey(event) {
  const open = document.querySelector("dialog[open]");
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey) && !open) {
    event.preventDefault();
    draw();
  }
  if (event.key === "Escape" && run && !open) run.cancel();
}

async function resume() {
  let id = null;
  try {
    id = sessionStorage.getItem(TAB);
  } catch {
    return;
  }
  const known = id && (await store.runOf(id).catch(() => null));
  if (!known) return forget(id);
  await carry(new Run(known.body, stage.update), (it) => it.resume(id, known.began));
}

async function main() {
  listen();
  await gallery.setUp({ use, startFrom, removed: stage.drop });
  const [newest] = gallery.pictures();
  if (newest) stage.results([newest]);
  service = await connect();
  clearProblem();
  form.setUp(service);
  if (newest) form.offerSeed(newest.seed);
  showService();
  if (service.requires_key) key.setUp();
  awaitReady();
  await resume();
}

main();
