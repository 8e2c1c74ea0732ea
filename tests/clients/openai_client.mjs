// OpenAI's client for Node.js, pointed at the service.
import assert from "node:assert/strict";
import { createRequire } from "node:module";

const { default: OpenAI, toFile } = createRequire(import.meta.url)("openai");
const url = process.argv[2];
const client = new OpenAI({ baseURL: `${url}/v1`, apiKey: "any", maxRetries: 0 });

const models = await client.models.list();
assert.deepEqual(models.data.map((model) => model.id), ["demo"]);

const request = { model: "dall-e-3", prompt: "a red circle", size: "1024x1024", seed: 7 };
const reply = await client.images.generate({ ...request, response_format: "b64_json" });
const png = Buffer.from(reply.data[0].b64_json, "base64");
assert.equal(png.subarray(1, 4).toString(), "PNG");

// A dall-e model answers by URL where nothing is asked for.
const linked = await client.images.generate(request);
const file = await (await fetch(linked.data[0].url)).arrayBuffer();
assert.ok(png.equals(Buffer.from(file)), "the same seed is the same picture");

const kinds = [];
const stream = await client.images.generate({
  ...request, stream: true, partial_images: 1, steps: 8,
});
for await (const event of stream) kinds.push(event.type);
assert.deepEqual(kinds, ["image_generation.partial_image", "image_generation.completed"]);

const edited = await client.images.edit({
  image: await toFile(png, "a.png", { type: "image/png" }),
  prompt: "a blue square",
});
assert.equal(edited.data.length, 1);

const varied = await client.images.createVariation({
  image: await toFile(png, "a.png", { type: "image/png" }),
});
assert.equal(varied.data.length, 1);
assert.equal(varied.usage.total_tokens, 0);

await assert.rejects(client.images.generate({ prompt: "a", n: 99 }), (error) => {
  assert.equal(error.status, 400);
  assert.equal(error.param, "n");
  assert.match(error.message, /n is 99: must be from 1 to 10/);
  return true;
});
