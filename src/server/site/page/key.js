// The key of a service that asks for one, and the credits that go with it.

import { $, kept } from "./dom.js";
import * as api from "./api.js";
import { clearProblem, showProblem } from "./fields.js";

const NAME = "key";
let waiting = 0;

/** Shows the field; a remembered key is filled in. */
export function setUp() {
  const known = kept.get(NAME);
  $("key").value = known ?? "";
  $("remember").checked = Boolean(known);
  api.useKey($("key").value);
  $("key-group").hidden = false;
  $("key").addEventListener("input", () => {
    api.useKey($("key").value);
    clearProblem($("key"));
    remember();
    clearTimeout(waiting);
    waiting = setTimeout(showCredits, 400);
  });
  $("remember").addEventListener("change", remember);
  showCredits();
}

function remember() {
  const keep = $("remember").checked && $("key").value.trim();
  kept.set(NAME, keep || null);
}

/** Asks how many credits are left. */
export async function showCredits() {
  if ($("key-group").hidden) return;
  $("credits").hidden = true;
  if (!$("key").value.trim()) return;
  try {
    const left = await api.credits();
    const text = Number(left).toLocaleString("en", { maximumFractionDigits: 2 });
    $("credits").textContent = left === 1 ? "1 credit" : `${text} credits`;
    $("credits").hidden = false;
  } catch (error) {
    if (error.status === 401) showProblem(error.message, "key");
  }
}
