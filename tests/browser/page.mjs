// Uses the page of a running service in a browser, as a person would.
//
//   NODE_PATH=<where playwright-core is>/node_modules \
//     node tests/browser/page.mjs http://127.0.0.1:8000 [folder for screenshots]
//
// CHROMIUM names the browser (/usr/bin/chromium), CALOTYPE_KEY the service's key
// where it asks for one, PATIENCE the seconds that a picture may take (120).
// The first thing that is not as it should be ends the test with exit code 1.

import assert from "node:assert/strict";
import fs from "node:fs";
import { createRequire } from "node:module";
import path from "node:path";

const { chromium } = createRequire(import.meta.url)("playwright-core");

const [base, folder = "page-pictures"] = process.argv.slice(2);
if (!base) {
  console.error("usage: node page.mjs BASE_URL [FOLDER]");
  process.exit(2);
}
const PATIENCE = 1000 * Number(process.env.PATIENCE ?? 120);
const KEY = process.env.CALOTYPE_KEY ?? "";
const FLAGS =
  "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run " +
  "--disable-background-networking --disable-component-update --disable-sync";

const WIDE = { width: 1280, height: 900 };
const NARROW = { width: 390, height: 844 };
const SETTINGS = {
  Prompt: "a red circle on a blue background",
  "Negative prompt": "blurry",
  Steps: "24",
  Guidance: "6.5",
  Seed: "4242",
  Samples: "1",
  "High-noise fraction": "0.75",
  Strength: "0.6",
};

const troubles = [];
/** Refusals that a step of the test asks for, which the browser reports as errors. */
let refusals = 0;

function watch(page) {
  page.on("pageerror", (error) => troubles.push(`script error: ${error.message}`));
  page.on("console", (message) => {
    if (message.type() !== "error") return;
    if (refusals && message.text().includes("400")) return refusals--;
    troubles.push(`console: ${message.text()}`);
  });
}

/** Notes what happens too fast to be looked at: steps, previews, breaches of the policy. */
function note() {
  window.seen = { steps: [], previews: 0, breaches: [] };
  document.addEventListener("securitypolicyviolation", (event) => {
    window.seen.breaches.push(`${event.violatedDirective} ${event.blockedURI}`);
  });
  document.addEventListener("DOMContentLoaded", () => {
    const look = () => {
      const step = /Step (\d+)/.exec(document.getElementById("phase").textContent)?.[1];
      if (step && window.seen.steps.at(-1) !== Number(step)) window.seen.steps.push(Number(step));
    };
    const observe = (id, run, what) =>
      new MutationObserver(run).observe(document.getElementById(id), { subtree: true, ...what });
    observe("phase", look, { childList: true, characterData: true });
    observe("frames", () => window.seen.previews++, { attributes: true, attributeFilter: ["src"] });
  });
}

const field = (page, label) => page.getByLabel(label, { exact: true });
const press = (page, name) => page.getByRole("button", { name, exact: true }).click();
const shoot = async (page, name) => {
  await page.screenshot({ path: path.join(folder, `${name}.png`) });
};
const idle = (page) => page.locator("#cancel").waitFor({ state: "hidden", timeout: PATIENCE });
const count = (page) => page.locator("#thumbs li").count();

async function open(page) {
  await page.goto(base);
  await page.waitForFunction(() => document.getElementById("style").options.length > 1);
  const key = field(page, "Key");
  if (await key.isVisible()) {
    assert(KEY, "the service asks for a key: set CALOTYPE_KEY");
    await key.fill(KEY);
    await page.locator("#credits").waitFor();
  }
}

async function fillIn(page) {
  for (const [label, value] of Object.entries(SETTINGS)) {
    const node = field(page, label);
    if (await node.isEnabled()) await node.fill(value);
  }
  await field(page, "Style").selectOption({ index: 1 });
  await field(page, "Scheduler").selectOption({ index: 1 });
}

const values = (page) =>
  page.evaluate(() =>
    Object.fromEntries(
      [...document.getElementById("form").elements]
        .filter((node) => node.name && node.type !== "file" && node.name !== "key")
        .map((node) => [node.name, node.type === "checkbox" ? node.checked : node.value]),
    ),
  );

/** Waits for the run that was begun, and for one picture more. */
async function drawn(page, before, more = 1) {
  await page.waitForFunction((n) => document.querySelectorAll("#thumbs li").length === n, before + more, {
    timeout: PATIENCE,
  });
  await idle(page);
  const picture = page.locator("#results img").first();
  await picture.waitFor();
  const width = await picture.evaluate(async (node) => (await node.decode(), node.naturalWidth));
  assert(width > 0, "the picture has no pixels");
}

async function noSideways(page, what) {
  const [inner, outer] = await page.evaluate(() => [
    document.documentElement.scrollWidth,
    document.documentElement.clientWidth,
  ]);
  assert(inner <= outer, `${what}: the page is ${inner} px wide in a window of ${outer}`);
}

const steps = {
  async "draws from the form, with progress and previews"(page) {
    await fillIn(page);
    const before = await count(page);
    await press(page, "Draw");
    await page.locator("#progress").waitFor();
    await page.waitForFunction(() => window.seen.steps.length > 2, null, { timeout: PATIENCE });
    await shoot(page, "1280-light-drawing");
    await drawn(page, before);
    const { steps: seen, previews } = await page.evaluate(() => window.seen);
    const rises = seen.filter((step, i) => i && step > seen[i - 1]).length;
    assert(rises >= 2, `the step rose ${rises} times: ${seen}`);
    console.log(`  ${seen.length} steps and ${previews} previews seen`);
    await shoot(page, "1280-light-done");
  },

  async "takes up a picture's settings again after a reload"(page) {
    const wanted = await values(page);
    await press(page, "Random");
    await field(page, "Steps").fill("33");
    await field(page, "Prompt").fill("something else");
    await page.reload();
    await page.locator("#thumbs li").first().waitFor();
    await page.waitForFunction(() => document.getElementById("prompt").value === "something else");
    await page.locator("#thumbs button").first().click();
    await page.locator("#lightbox").getByRole("button", { name: "Use settings" }).click();
    await page.locator("#lightbox").waitFor({ state: "hidden" });
    assert.deepEqual(await values(page), wanted, "the form differs from what was drawn");
    if (await field(page, "Key").isVisible()) await field(page, "Key").fill(KEY);
  },

  async "cancels a run by button and by Escape"(page) {
    const before = await count(page);
    for (const how of ["button", "Escape"]) {
      await page.evaluate(() => (window.seen.steps = []));
      await field(page, "Steps").fill("100");
      await press(page, "Draw");
      await page.waitForFunction(() => window.seen.steps.length > 0, null, { timeout: PATIENCE });
      if (how === "button") await press(page, "Cancel");
      else await page.keyboard.press("Escape");
      await idle(page);
    }
    assert.equal(await count(page), before, "a cancelled run left a picture");
  },

  async "draws several by Ctrl+Enter, and walks through them by arrows"(page) {
    const before = await count(page);
    await field(page, "Steps").fill("20");
    await field(page, "Samples").fill("2");
    await field(page, "Prompt").focus();
    await page.keyboard.press("Control+Enter");
    await drawn(page, before, 2);
    const shown = page.locator("#lightbox-image");
    await page.locator("#thumbs button").first().click();
    const first = await shown.getAttribute("src");
    await page.keyboard.press("ArrowRight");
    assert.notEqual(await shown.getAttribute("src"), first, "the arrow shows the same picture");
    await page.keyboard.press("ArrowLeft");
    assert.equal(await shown.getAttribute("src"), first, "the way back shows another picture");
    await shoot(page, "1280-light-lightbox");
    const name = /download/i;
    const [file] = await Promise.all([
      page.waitForEvent("download"),
      page.locator("#lightbox").getByRole("link", { name }).click(),
    ]);
    assert.match(file.suggestedFilename(), /^calotype-\d+\.png$/);
    await page.keyboard.press("Escape");
    await page.locator("#lightbox").waitFor({ state: "hidden" });
    await field(page, "Samples").fill("1");
  },

  async "deletes a picture, and takes that back"(page) {
    const before = await count(page);
    await page.locator("#results").getByRole("button", { name: "Delete" }).first().click();
    await page.waitForFunction((n) => document.querySelectorAll("#thumbs li").length === n, before - 1);
    await press(page, "Undo");
    await page.waitForFunction((n) => document.querySelectorAll("#thumbs li").length === n, before);
  },

  async "paints a mask and draws over a picture"(page) {
    const before = await count(page);
    await page.locator("#thumbs button").first().click();
    await page.locator("#lightbox").getByRole("button", { name: "Start from this" }).click();
    await page.locator("#thumb").waitFor();
    await press(page, "Paint mask");
    const box = await page.locator("#mask-canvas").boundingBox();
    const at = (x, y) => [box.x + x * box.width, box.y + y * box.height];
    const stroke = async (y) => {
      await page.mouse.move(...at(0.2, y));
      await page.mouse.down();
      await page.mouse.move(...at(0.8, y), { steps: 8 });
      await page.mouse.up();
    };
    await page.mouse.click(...at(0.5, 0.85)); // a dot
    await stroke(0.3);
    await stroke(0.6);
    await press(page, "Undo");
    await shoot(page, "1280-light-mask");
    await press(page, "Done");
    await page.locator("#painter").waitFor({ state: "hidden" });
    const asked = page.waitForRequest((it) => it.url().endsWith("/v1/jobs") && it.method() === "POST");
    await press(page, "Draw");
    const body = (await asked).postDataJSON();
    assert.match(body.image, /^data:image\/png;base64,/, "no start picture was sent");
    const looks = await page.evaluate(look, { mask: body.mask, points: [[0.5, 0.3], [0.5, 0.6], [0.5, 0.85]] });
    const { img_width: width, img_height: height } = body;
    assert.deepEqual(looks, { width, height, values: [255, 0, 255] }, "the mask is not what was painted");
    await drawn(page, before);
    await shoot(page, "1280-light-start-picture");
    await press(page, "Remove picture");
  },

  async "shows what the service refuses beside the field"(page) {
    const error = "steps is 3: must be from 20 to 100";
    await page.route("**/v1/jobs", (route) => route.fulfill({ status: 400, json: { error } }));
    refusals = 1;
    await press(page, "Draw");
    await page.locator("#steps-problem").waitFor();
    assert.equal(await page.locator("#steps-problem").textContent(), error);
    assert.equal(await field(page, "Steps").getAttribute("aria-invalid"), "true");
    await idle(page);
    await page.unroute("**/v1/jobs");
    await field(page, "Steps").fill("21");
    assert(await page.locator("#steps-problem").isHidden(), "the problem outlives its cause");
    await field(page, "Prompt").fill("");
    await press(page, "Draw");
    await page.locator("#prompt-problem").waitFor();
    await field(page, "Prompt").fill(SETTINGS.Prompt);
  },

  async "reaches every control by Tab, each with a name"(page) {
    const { all, nameless } = await page.evaluate(markControls);
    assert.deepEqual(nameless, [], "controls without a name");
    await page.evaluate(() => {
      document.activeElement?.blur();
      getSelection().removeAllRanges();
    });
    const reached = new Set();
    for (let i = 0; i < all.length + 10; i++) {
      await page.keyboard.press("Tab");
      reached.add(await page.evaluate(() => document.activeElement?.dataset.mark ?? ""));
    }
    const missed = all.filter(({ mark }) => !reached.has(mark));
    assert.deepEqual(missed, [], "controls that Tab does not reach");
  },

  async "fits wide and narrow windows, dark and light"(page) {
    for (const [size, name] of [[WIDE, "1280"], [NARROW, "390"]]) {
      await page.setViewportSize(size);
      for (const colorScheme of ["light", "dark"]) {
        await page.emulateMedia({ colorScheme });
        await page.evaluate(() => scrollTo({ top: 0, behavior: "instant" }));
        await noSideways(page, `${name} ${colorScheme}`);
        await shoot(page, `${name}-${colorScheme}`);
        await page.screenshot({ path: path.join(folder, `${name}-${colorScheme}-full.png`), fullPage: true });
        await page.locator("#thumbs button").first().click();
        await noSideways(page, `${name} ${colorScheme}, lightbox`);
        await shoot(page, `${name}-${colorScheme}-lightbox`);
        await page.keyboard.press("Escape");
        await page.locator("#lightbox").waitFor({ state: "hidden" });
      }
    }
    await page.emulateMedia({ colorScheme: "light" });
    await press(page, "Dark theme");
    const ground = await page.evaluate(() => getComputedStyle(document.body).backgroundColor);
    assert.match(ground, /rgb\(\d\d, \d\d, \d\d\)/, "the toggle does not darken the page");
  },

  async "draws in a narrow window"(page) {
    const before = await count(page);
    await press(page, "Draw");
    await page.waitForFunction(() => !document.getElementById("progress").hidden);
    await noSideways(page, "390, drawing");
    await shoot(page, "390-dark-drawing");
    await drawn(page, before);
    await shoot(page, "390-dark-done");
  },
};

/** Grey values of a mask at points given as shares of its sides; runs in the page. */
async function look({ mask, points }) {
  const image = new Image();
  image.src = mask;
  await image.decode();
  const canvas = document.createElement("canvas");
  const { naturalWidth: width, naturalHeight: height } = image;
  Object.assign(canvas, { width, height });
  const context = canvas.getContext("2d");
  context.drawImage(image, 0, 0);
  const values = points.map(([x, y]) => context.getImageData(x * width, y * height, 1, 1).data[0]);
  return { width, height, values };
}

/** Marks what Tab should reach; runs in the page. */
function markControls() {
  const nodes = [...document.querySelectorAll("a[href], button, input, select, textarea")].filter(
    (node) => !node.disabled && node.tabIndex >= 0 && node.checkVisibility() && !node.closest("dialog"),
  );
  const name = (node) =>
    node.getAttribute("aria-label") || node.labels?.[0]?.textContent.trim() || node.textContent.trim() ||
    node.querySelector("img")?.alt;
  nodes.forEach((node, i) => (node.dataset.mark = String(i)));
  const plain = (node) => ({ mark: node.dataset.mark, html: node.outerHTML.slice(0, 80) });
  return { all: nodes.map(plain), nameless: nodes.filter((node) => !name(node)).map(plain) };
}

fs.mkdirSync(folder, { recursive: true });
const executablePath = process.env.CHROMIUM ?? "/usr/bin/chromium";
const browser = await chromium.launch({ executablePath, args: FLAGS.split(" ") });
const context = await browser.newContext({ viewport: WIDE, colorScheme: "light", reducedMotion: "reduce" });
await context.addInitScript(note);
const page = await context.newPage();
page.setDefaultTimeout(15_000);
watch(page);
let step = "opens";
try {
  await open(page);
  await shoot(page, "1280-light-empty");
  for (const [name, run] of Object.entries(steps)) {
    step = name;
    console.log(name);
    await run(page);
    troubles.push(...(await page.evaluate(() => window.seen.breaches)));
    assert.deepEqual(troubles, [], "errors in the browser");
  }
  console.log("all well");
} catch (error) {
  console.error(`FAILED: ${step}\n${error.stack ?? error}`);
  if (troubles.length) console.error(`the browser says:\n${troubles.join("\n")}`);
  await shoot(page, "failed").catch(() => {});
  process.exitCode = 1;
} finally {
  await browser.close();
}
