#!/usr/bin/env python3
"""Record what diffusers computes when the refiner alone draws from words.

    python3 tools/record_refiner.py --base models/demo/base --refiner models/demo/refiner \\
        --prompt "a red circle" --width 72 --height 104 --out refiner.safetensors

diffusers has no pipeline for this: its text-to-image pipeline takes the
refiner's text encoder but not its aesthetic scores, which are put in here (6.0,
and 2.5 for the negative prompt). Euler, float32, on the CPU; the names are those
of src/pipeline/trace.rs. Needs torch, diffusers, safetensors.
"""
import argparse
import json
from pathlib import Path

import diffusers
import torch
from diffusers import AutoencoderKL, EulerDiscreteScheduler, StableDiffusionXLPipeline, UNet2DConditionModel
from safetensors.torch import save_file
from transformers import CLIPTextModelWithProjection, CLIPTokenizer


def load(base, refiner):
    find = lambda name: refiner / name if (refiner / name).exists() else base / name
    return StableDiffusionXLPipeline(
        vae=AutoencoderKL.from_pretrained(find("vae"), torch_dtype=torch.float32),
        text_encoder=None, tokenizer=None,
        text_encoder_2=CLIPTextModelWithProjection.from_pretrained(find("text_encoder_2"), torch_dtype=torch.float32),
        tokenizer_2=CLIPTokenizer.from_pretrained(find("tokenizer_2")),
        unet=UNet2DConditionModel.from_pretrained(refiner / "unet", torch_dtype=torch.float32),
        scheduler=EulerDiscreteScheduler.from_pretrained(refiner / "scheduler"),
        force_zeros_for_empty_prompt=False)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--base", type=Path, required=True)
    p.add_argument("--refiner", type=Path, required=True)
    p.add_argument("--prompt", required=True)
    p.add_argument("--negative-prompt", default=None)
    p.add_argument("--width", type=int, default=128)
    p.add_argument("--height", type=int, default=128)
    p.add_argument("--steps", type=int, default=6)
    p.add_argument("--guidance-scale", type=float, default=5.0)
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--out", required=True)
    a = p.parse_args()
    pipe, out = load(a.base, a.refiner), {}
    keep = lambda name, value: out.__setitem__(name, value.detach().float().contiguous().clone())

    def tokens(text, name):
        ids = pipe.tokenizer_2(text, padding="max_length", max_length=pipe.tokenizer_2.model_max_length, truncation=True)
        out[name] = torch.tensor([ids.input_ids], dtype=torch.int32)

    tokens(a.prompt, "input_ids_2")
    if a.negative_prompt is not None:
        tokens(a.negative_prompt, "negative_input_ids_2")
    with torch.no_grad():
        encoded = pipe.encode_prompt(a.prompt, do_classifier_free_guidance=True, negative_prompt=a.negative_prompt)
    for name, value in zip(["prompt", "negative_prompt", "pooled_prompt", "negative_pooled_prompt"], encoded):
        keep(f"{name}_embeds", value)

    def time_ids(original, crop, target, dtype, text_encoder_projection_dim=None):
        score = scores.pop(0)
        return torch.tensor([list(original + crop) + [score]], dtype=dtype)

    def forward(sample, timestep, *args, **kwargs):
        if "unet_time_ids" not in out:
            keep("unet_time_ids", kwargs["added_cond_kwargs"]["time_ids"])
        return unet_forward(sample, timestep, *args, **kwargs)

    def step(output, timestep, sample, *args, **kwargs):
        k = sum(name.startswith("noise_pred") for name in out)
        if k == 0:
            keep("latents.000", sample)
            keep("timesteps", pipe.scheduler.timesteps)
            keep("sigmas", pipe.scheduler.sigmas)
        keep(f"noise_pred.{k:03d}", output)
        result = scheduler_step(output, timestep, sample, *args, **kwargs)
        keep(f"latents.{k + 1:03d}", result[0])
        return result

    scores = [6.0, 2.5]
    unet_forward, scheduler_step = pipe.unet.forward, pipe.scheduler.step
    pipe._get_add_time_ids, pipe.unet.forward, pipe.scheduler.step = time_ids, forward, step
    size = (a.height, a.width)
    latents = pipe(a.prompt, negative_prompt=a.negative_prompt, width=a.width, height=a.height, num_inference_steps=a.steps,
                   guidance_scale=a.guidance_scale, generator=torch.Generator("cpu").manual_seed(a.seed), output_type="latent",
                   negative_original_size=size, negative_target_size=size).images
    with torch.no_grad():
        keep("decoded", pipe.vae.decode(latents / pipe.vae.config.scaling_factor, return_dict=False)[0])
    meta = {k: v for k, v in vars(a).items() if k not in ("out", "base", "refiner")}
    meta |= {"samples": 1, "refiner_alone": True, "diffusers": diffusers.__version__, "torch": torch.__version__}
    save_file(out, a.out, metadata={"meta": json.dumps(meta)})
    print(f"{a.out}: {len(out)} tensors")


if __name__ == "__main__":
    main()
