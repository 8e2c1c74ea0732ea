// Draws with the page of examples/web in headless Chromium, on SwiftShader's WebGPU, and
// compares the picture with one that the program drew.
//
//   NODE_PATH=<where playwright-core is>/node_modules \
//     node tests/browser/web.mjs PAGE_FOLDER REFERENCE.png [folder for screenshots]
//
// CHROMIUM names the browser (/usr/bin/chromium). The first thing that is not as it should
// be ends the test with exit code 1.

import assert from "node:assert/strict";
import fs from "node:fs";
import http from "node:http";
import { createRequire } from "node:module";
import path from "node:path";

const { chromium } = createRequire(import.meta.url)("playwright-core");

const [site, reference, shots = "page-pictures"] = process.argv.slice(2);
const FLAGS =
  "--headless --no-sandbox --disable-quic --no-first-run --disable-background-networking " +
  "--disable-component-update --disable-sync --enable-unsafe-webgpu --use-webgpu-adapter=swiftshader";
const TYPES = { ".html": "text/html", ".js": "text/javascript", ".wasm": "application/wasm" };
/** A picture takes half a minute on two processors. */
const PATIENCE = 300_000;

const server = http.createServer((request, response) => {
  const file = path.join(site, request.url === "/" ? "index.html" : path.basename(request.url));
  if (!fs.existsSync(file)) return response.writeHead(404).end();
  response.writeHead(200, { "content-type": TYPES[path.extname(file)] });
  fs.createReadStream(file).pipe(response);
});
await new Promise((ready) => server.listen(0, "127.0.0.1", ready));

/** In the page: decibels between two PNGs, given in base64. */
async function psnr([a, b]) {
  const pixels = async (base64) => {
    const bytes = Uint8Array.from(atob(base64), (c) => c.charCodeAt(0));
    const bitmap = await createImageBitmap(new Blob([bytes], { type: "image/png" }));
    const canvas = new OffscreenCanvas(bitmap.width, bitmap.height);
    const context = canvas.getContext("2d");
    context.drawImage(bitmap, 0, 0);
    return context.getImageData(0, 0, bitmap.width, bitmap.height);
  };
  const [x, y] = [await pixels(a), await pixels(b)];
  if (x.width !== y.width || x.height !== y.height) return -1;
  let sum = 0;
  for (let i = 0; i < x.data.length; i++) if (i % 4 < 3) sum += (x.data[i] - y.data[i]) ** 2;
  return 10 * Math.log10((255 ** 2 * x.width * x.height * 3) / sum);
}

const browser = await chromium.launch({
  executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
  args: FLAGS.split(" "),
});
try {
  const page = await browser.newPage({ viewport: { width: 800, height: 1000 } });
  const troubles = [];
  page.on("pageerror", (error) => troubles.push(error.message));
  await page.goto(`http://127.0.0.1:${server.address().port}/`);
  const status = page.getByRole("status");
  const says = async (text) => {
    await page.waitForFunction(
      (text) => {
        const status = document.getElementById("status");
        return status.textContent.includes(text) || status.classList.contains("error");
      },
      text,
      { timeout: PATIENCE },
    );
    assert.match(await status.textContent(), new RegExp(text));
  };
  const drawn = async () => {
    const png = await page.evaluate(async () => {
      const bytes = await (await fetch(document.getElementById("picture").src)).arrayBuffer();
      return btoa(Array.from(new Uint8Array(bytes), (b) => String.fromCharCode(b)).join(""));
    });
    return png;
  };

  await says("ready");
  await page.getByRole("button", { name: "Draw" }).click();
  await says("drawn in");
  await page.screenshot({ path: path.join(shots, "web.png"), fullPage: true });
  const picture = await drawn();
  const decibels = await page.evaluate(psnr, [picture, fs.readFileSync(reference, "base64")]);
  console.log(`${decibels} dB from the program's picture; ${await page.textContent("#device")}`);
  assert.ok(decibels >= 40, `${decibels} dB`);

  // What is wrong with a request is said, and the next one draws.
  await page.getByLabel("Seed").fill("1e30");
  await page.getByRole("button", { name: "Draw" }).click();
  await page.waitForFunction(() => document.getElementById("status").classList.contains("error"));
  console.log(`refused: ${await status.textContent()}`);

  // Stopped in the middle.
  await page.getByLabel("Seed").fill("7");
  await page.getByRole("button", { name: "Draw" }).click();
  await says(": 1 of");
  await page.getByRole("button", { name: "Stop" }).click();
  await page.waitForFunction(() => !document.getElementById("draw").disabled, null, { timeout: PATIENCE });
  assert.match(await status.textContent(), /cancelled|stopped/i);

  // Another picture from the same page.
  await page.getByLabel("Seed").fill("8");
  await page.getByRole("spinbutton", { name: "Steps" }).fill("2");
  await page.getByRole("button", { name: "Draw" }).click();
  await says("drawn in");
  assert.notEqual(await drawn(), picture);
  assert.deepEqual(troubles, []);
} finally {
  await browser.close();
  server.close();
}
