// Compiles every kernel as a browser does, by Dawn (Chromium's WebGPU) on a device that runs
// nothing, so that no GPU is needed.
//
//   NODE_PATH=<where webgpu is>/node_modules node tests/browser/kernels.mjs KERNELS.json
//
// KERNELS.json: [{label, wgsl, constants, bindings}], bindings by WebGPU's names.
// Every kernel that is refused is printed, and makes the exit code 1.

import fs from "node:fs";
import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";

const { create, globals } = await import(
  pathToFileURL(createRequire(import.meta.url).resolve("webgpu", { paths: [process.env.NODE_PATH] }))
);
const { GPUShaderStage } = globals;

const kernels = JSON.parse(fs.readFileSync(process.argv[2], "utf8"));
const gpu = create(["backend=null"]);
const adapter = await gpu.requestAdapter();
const device = await adapter.requestDevice({
  requiredFeatures: ["shader-f16", "subgroups"],
});
// Each kernel's own scope tells.
device.onuncapturederror = () => {};

let refused = 0;
/** The device has WebGPU's smallest workgroup storage; calotype leaves out what does not fit. */
let large = 0;
for (const { label, wgsl, constants, bindings } of kernels) {
  device.pushErrorScope("validation");
  const entries = bindings.map((type, binding) => ({
    binding,
    visibility: GPUShaderStage.COMPUTE,
    buffer: { type },
  }));
  const layout = device.createPipelineLayout({
    bindGroupLayouts: [device.createBindGroupLayout({ entries })],
  });
  const module = device.createShaderModule({ code: wgsl });
  device.createComputePipeline({ layout, compute: { module, entryPoint: "main", constants } });
  const error = await device.popErrorScope();
  if (error?.message.includes("total use of workgroup storage")) {
    large += 1;
  } else if (error) {
    refused += 1;
    console.log(`${label}: ${error.message}`);
  }
}
console.log(`${kernels.length} kernels, ${refused} refused, ${large} for larger workgroup storage`);
process.exit(kernels.length - large > 100 && !refused ? 0 : 1);
