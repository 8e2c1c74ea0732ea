// Painting the mask on the start picture: pointer, touch and keyboard.

import { $, announce, make } from "./dom.js";
import { crop, paintOver, setMask, source } from "./source.js";

/** Longest side of the canvas that is painted on. */
const SIDE = 1024;

/** What was done since the mask was empty, oldest first: undo paints all but the last. */
let deeds = [];
let mask = null;
let part = null; // of the picture, in its pixels
let stroke = null;
let cursor = null; // of the brush, in the picture's pixels

const dialog = () => $("painter");
const view = () => $("mask-canvas");

/** The brush's width in the picture's pixels. */
function breadth() {
  return (Number($("brush").value) / 100) * Math.max(part.width, part.height);
}

/** Opens the painter on what a size uses of the picture. */
export function open({ width, height }) {
  part = crop(width, height);
  const scale = SIDE / Math.max(part.width, part.height);
  view().width = Math.max(1, Math.round(part.width * scale));
  view().height = Math.max(1, Math.round(part.height * scale));
  view().style.setProperty("--shape", `${view().width} / ${view().height}`);
  view().style.setProperty("--wide", view().width / view().height);
  deeds = source.mask ? [{ kind: "start", mask: source.mask }] : [];
  cursor = null;
  stroke = null;
  repaint();
  dialog().showModal();
  view().focus({ preventScroll: true });
}

function repaint() {
  const { width, height } = source.picture;
  mask = make("canvas", { width, height });
  for (const deed of deeds) perform(deed);
  refresh();
}

function perform(deed) {
  const context = mask.getContext("2d");
  const { width, height } = mask;
  context.globalCompositeOperation = "source-over";
  context.fillStyle = "#fff";
  if (deed.kind === "start") context.drawImage(deed.mask, 0, 0);
  if (deed.kind === "clear") context.clearRect(0, 0, width, height);
  if (deed.kind === "invert") {
    context.globalCompositeOperation = "xor";
    context.fillRect(0, 0, width, height);
  }
  if (deed.kind === "stroke") line(context, deed, 0);
}

/** Draws a stroke from its point of number `from` on. */
function line(context, { points, size, erase }, from) {
  context.globalCompositeOperation = erase ? "destination-out" : "source-over";
  context.strokeStyle = "#fff";
  context.lineWidth = size;
  context.lineCap = "round";
  context.lineJoin = "round";
  context.beginPath();
  const [first, ...rest] = points.slice(Math.max(0, from - 1));
  context.moveTo(first.x, first.y);
  context.lineTo(first.x + 0.01, first.y); // a dot, where there is no more: a line of no length is dropped
  for (const { x, y } of rest) context.lineTo(x, y);
  context.stroke();
}

function refresh() {
  const context = view().getContext("2d");
  paintOver(context, mask, part);
  if (cursor) ring(context);
  $("mask-undo").disabled = !deeds.length;
}

/** Shows where the brush is, in black and white for any ground. */
function ring(context) {
  const scale = view().width / part.width;
  const at = [(cursor.x - part.x) * scale, (cursor.y - part.y) * scale];
  for (const [colour, more] of [["#000", 1.5], ["#fff", 0]]) {
    context.beginPath();
    context.arc(...at, (breadth() * scale) / 2 + more, 0, 2 * Math.PI);
    context.strokeStyle = colour;
    context.lineWidth = 1.5;
    context.stroke();
  }
}

const erasing = () => $("tool-erase").checked;

function begin(point) {
  stroke = { kind: "stroke", points: [point], size: breadth(), erase: erasing() };
  deeds.push(stroke);
  line(mask.getContext("2d"), stroke, 0);
}

function extend(points) {
  const from = stroke.points.length;
  stroke.points.push(...points);
  line(mask.getContext("2d"), stroke, from);
}

function pointOf(event) {
  const box = view().getBoundingClientRect();
  return {
    x: part.x + ((event.clientX - box.left) / box.width) * part.width,
    y: part.y + ((event.clientY - box.top) / box.height) * part.height,
  };
}

function listenToPointer() {
  const canvas = view();
  canvas.addEventListener("pointerdown", (event) => {
    if (stroke || event.button !== 0) return; // a second finger
    event.preventDefault();
    canvas.focus({ preventScroll: true });
    canvas.setPointerCapture(event.pointerId);
    cursor = pointOf(event);
    begin(cursor);
    refresh();
  });
  canvas.addEventListener("pointermove", (event) => {
    const seen = event.getCoalescedEvents?.() ?? [];
    const points = (seen.length ? seen : [event]).map(pointOf);
    cursor = points.at(-1);
    if (stroke && canvas.hasPointerCapture(event.pointerId)) extend(points);
    refresh();
  });
  const end = () => (stroke = null);
  canvas.addEventListener("pointerup", end);
  canvas.addEventListener("pointercancel", end);
  canvas.addEventListener("pointerleave", () => {
    if (stroke) return;
    cursor = null;
    refresh();
  });
}

const MOVES = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

function onKey(event) {
  if ((event.ctrlKey || event.metaKey) && event.key.toLowerCase() === "z") {
    event.preventDefault();
    return undo();
  }
  const move = MOVES[event.key];
  if (!(move || event.key === " ") || event.target !== view()) return resize(event);
  event.preventDefault();
  cursor ??= { x: part.x + part.width / 2, y: part.y + part.height / 2 };
  if (move) {
    const far = breadth() / (event.shiftKey ? 1 : 4);
    const within = (value, from, length) => Math.min(from + length, Math.max(from, value));
    cursor = {
      x: within(cursor.x + move[0] * far, part.x, part.width),
      y: within(cursor.y + move[1] * far, part.y, part.height),
    };
    if (stroke) extend([cursor]);
  } else if (!event.repeat && !stroke) {
    begin(cursor);
  }
  refresh();
}

function resize({ key }) {
  const change = { "[": -2, "]": 2 }[key];
  if (!change) return;
  $("brush").value = Number($("brush").value) + change;
  refresh();
}

function act(kind) {
  deeds.push({ kind });
  perform(deeds.at(-1));
  refresh();
}

function undo() {
  if (!deeds.length || stroke) return;
  deeds.pop();
  repaint();
  announce("Undone");
}

function isEmpty(canvas) {
  const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
  for (let i = 3; i < data.length; i += 4) if (data[i]) return false;
  return true;
}

/** Listens to the painter; `onpainted` hears of each mask that is taken over. */
export function listen(onpainted) {
  listenToPointer();
  dialog().addEventListener("keydown", onKey);
  dialog().addEventListener("keyup", ({ key }) => {
    if (key === " ") stroke = null;
  });
  $("brush").addEventListener("input", refresh);
  $("mask-undo").addEventListener("click", undo);
  $("mask-clear").addEventListener("click", () => act("clear"));
  $("mask-invert").addEventListener("click", () => act("invert"));
  $("mask-done").addEventListener("click", () => dialog().close());
  // Escape keeps the mask as well: what was painted should not be lost by a slip.
  dialog().addEventListener("close", () => {
    stroke = null;
    setMask(isEmpty(mask) ? null : mask);
    if (source.mask) onpainted();
  });
}
