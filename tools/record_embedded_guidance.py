#!/usr/bin/env python3
"""Record a consistency model that is told its guidance scale, as diffusers runs it.

    python3 tools/record_embedded_guidance.py OUT

OUT becomes a diffusers folder: the demonstration base with a random
`time_embedding.cond_proj.weight` and LCMScheduler. The weight goes to
tests/fixtures/cond-proj.safetensors, the run to
tests/fixtures/cases/embedded-guidance.safetensors. Needs torch and diffusers.
"""
import json
import shutil
import sys
from pathlib import Path

import torch
from diffusers import LCMScheduler, StableDiffusionXLPipeline
from safetensors.torch import load_file, save_file

ROOT = Path(__file__).resolve().parent.parent
BASE = ROOT / "models/demo/base"
WEIGHTS = "unet/diffusion_pytorch_model.safetensors"
NAME = "time_embedding.cond_proj.weight"
CASE = dict(prompt="a red circle on a blue background", width=64, height=64, steps=4, guidance_scale=8.0, seed=5, samples=1, scheduler="LCM")


def make(out):
    shutil.copytree(BASE, out, dirs_exist_ok=True)
    weight = (torch.randn((32, 256), generator=torch.Generator().manual_seed(3)) * 0.05).half()
    save_file({NAME: weight}, ROOT / "tests/fixtures/cond-proj.safetensors")
    save_file({**load_file(BASE / WEIGHTS), NAME: weight}, out / WEIGHTS, metadata={"format": "pt"})
    for file, change in (("unet/config.json", {"time_cond_proj_dim": 256}), ("scheduler/scheduler_config.json", {"_class_name": "LCMScheduler"})):
        (out / file).write_text(json.dumps({**json.loads((BASE / file).read_text()), **change}))


def main():
    out = Path(sys.argv[1])
    make(out)
    pipe = StableDiffusionXLPipeline.from_pretrained(out, torch_dtype=torch.float32)
    pipe.scheduler = LCMScheduler.from_config(pipe.scheduler.config)
    recorded, forward = {}, pipe.unet.forward

    def watched(*args, **kwargs):
        prediction = forward(*args, **kwargs)
        recorded.setdefault("noise_pred.000", prediction[0].clone())
        return prediction

    pipe.unet.forward = watched
    recorded["base_latents"] = pipe(CASE["prompt"], num_inference_steps=CASE["steps"], guidance_scale=CASE["guidance_scale"], width=64, height=64,
                                    generator=torch.Generator().manual_seed(CASE["seed"]), output_type="latent").images
    save_file({name: tensor.contiguous() for name, tensor in recorded.items()}, ROOT / "tests/fixtures/cases/embedded-guidance.safetensors",
              metadata={"meta": json.dumps(CASE)})


if __name__ == "__main__":
    main()
