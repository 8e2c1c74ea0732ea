#!/usr/bin/env python3
"""Record what diffusers computes with LoRA adapters.

    python3 tools/record_lora.py models/demo/base --lora a.safetensors 0.8 \\
        --lora b.safetensors -0.5 --prompt "a red circle" --out one.safetensors

Every file is loaded with load_lora_weights and weighed with set_adapters; the run is
in float32 on the CPU with Euler. Recorded, under the names of src/pipeline/trace.rs:
the embeddings (of the prompt the first --tokens tokens), the schedule, the first
latents and the first prediction. Then the adapters are merged with fuse_lora and of
every changed weight that has a --weights text in its name the first, middle and last
row recorded, as PART.TENSOR.
Needs torch, diffusers, peft, safetensors.
"""
import argparse
import json
from pathlib import Path

import diffusers
import torch
from diffusers import EulerDiscreteScheduler, StableDiffusionXLPipeline
from safetensors.torch import save_file

PARTS = ["unet", "text_encoder", "text_encoder_2"]


def load(base, loras):
    pipe = StableDiffusionXLPipeline.from_pretrained(base, torch_dtype=torch.float32)
    pipe.scheduler = EulerDiscreteScheduler.from_config(pipe.scheduler.config)
    names = [f"lora_{i}" for i in range(len(loras))]
    for name, (path, _) in zip(names, loras):
        pipe.load_lora_weights(path, adapter_name=name)
    pipe.set_adapters(names, [float(weight) for _, weight in loras])
    return pipe, names


def weights(pipe):
    """All weights by PART.TENSOR, under the names of the checkpoint."""
    return {f"{part}.{name.replace('.base_layer', '')}": value.detach()
            for part in PARTS for name, value in getattr(pipe, part).state_dict().items() if "lora_" not in name}


def merged(pipe, names, texts, out):
    before = {name: value.clone() for name, value in weights(pipe).items()}
    pipe.fuse_lora(components=PARTS, adapter_names=names)
    changed = 0
    for name, value in weights(pipe).items():
        if torch.equal(value, before[name]):
            continue
        changed += 1
        if not texts or any(text in name for text in texts):
            rows = value.shape[0]
            out[name] = value[sorted({0, rows // 2, rows - 1})].contiguous().clone()
    return changed


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("base", type=Path)
    p.add_argument("--lora", nargs=2, metavar=("FILE", "WEIGHT"), action="append", required=True)
    p.add_argument("--prompt", required=True)
    p.add_argument("--negative-prompt", default=None)
    p.add_argument("--width", type=int, default=64)
    p.add_argument("--height", type=int, default=64)
    p.add_argument("--steps", type=int, default=4)
    p.add_argument("--guidance-scale", type=float, default=5.0)
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--tokens", type=int, default=8)
    p.add_argument("--weights", action="append", default=[])
    p.add_argument("--out", required=True)
    a = p.parse_args()
    (pipe, names), out = load(a.base, a.lora), {}
    keep = lambda name, value: out.__setitem__(name, value.detach().float().contiguous().clone())

    with torch.no_grad():
        encoded = pipe.encode_prompt(a.prompt, do_classifier_free_guidance=True, negative_prompt=a.negative_prompt)
    keep("prompt_embeds", encoded[0][:, :a.tokens])
    keep("pooled_prompt_embeds", encoded[2])

    def step(output, timestep, sample, *args, **kwargs):
        if "noise_pred.000" not in out:
            keep("timesteps", pipe.scheduler.timesteps)
            keep("sigmas", pipe.scheduler.sigmas)
            keep("latents.000", sample)
            keep("noise_pred.000", output)
        return scheduler_step(output, timestep, sample, *args, **kwargs)

    scheduler_step, pipe.scheduler.step = pipe.scheduler.step, step
    pipe(a.prompt, negative_prompt=a.negative_prompt, width=a.width, height=a.height, num_inference_steps=a.steps,
         guidance_scale=a.guidance_scale, generator=torch.Generator("cpu").manual_seed(a.seed), output_type="latent")
    changed = merged(pipe, names, a.weights, out)
    meta = {k: v for k, v in vars(a).items() if k not in ("out", "base", "lora", "weights")}
    meta["loras"] = [{"file": Path(path).name, "weight": float(weight)} for path, weight in a.lora]
    meta |= {"samples": 1, "diffusers": diffusers.__version__, "torch": torch.__version__}
    save_file(out, a.out, metadata={"meta": json.dumps(meta)})
    print(f"{a.out}: {changed} weights changed, {Path(a.out).stat().st_size} bytes")


if __name__ == "__main__":
    main()
