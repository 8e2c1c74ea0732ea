#!/usr/bin/env python3
"""Record diffusers stage by stage, feature by feature: tests/fixtures/cases.

    python3 tools/record_cases.py --out tests/fixtures/cases [NAME ...]

Each case is one safetensors file, float32 on the CPU, with the demonstration
models. reference.py describes arguments and names. `calls` [base, refiner] in
`meta` counts the UNet's calls; `sensitivity` is the relative change of the last
latents if 1e-5 of noise is put on each prediction. Kept are tokens, pooled
embeddings, conditioning, schedule, first prediction, first and last latents, and
what a case names; embeddings that are zero are left out. Pictures (`decoded`,
`init_image`) and `mask` are float16. Small pictures and masks are drawn into
tests/fixtures/pictures. With `sharp_model` the least and largest attention logit
of each model are in `meta` under `logits`. Needs torch, diffusers, scipy; DeepCache
for the cached ones.
"""
import argparse
import json
import re
import tempfile
import warnings
from contextlib import nullcontext
from pathlib import Path

import diffusers
import torch
from PIL import Image, ImageDraw
from safetensors.torch import save_file

from make_inpaint_model import make as make_inpaint_model
from make_sharp_model import logits, make as make_sharp_model
from reference import DEFAULTS, VERSIONS, Reference

ROOT = Path(__file__).resolve().parent.parent
PICTURES = ROOT / "tests/fixtures/pictures"
STAR, CIRCLE, SQUARE = "yellow-star-64.png", "mask-circle-64.png", "mask-square-64.png"
OVER = dict(image=STAR)
PAINT = dict(image=STAR, mask=CIRCLE)
HEART, SHAPE = "a pink heart on a green background", "a red circle on a blue background"
TRIANGLES, CROSS = "two small yellow triangles on a black background", "a white cross on a red background"

#: Arguments, and what is kept beyond the usual.
CASES = {
    "refined-unipc": (dict(prompt=TRIANGLES, scheduler="UniPC", steps=10, refiner=True, seed=468685),
                      ["decoded", "refiner.prompt_embeds", "refiner.negative_prompt_embeds"]),
    "refined-heun": (dict(prompt=CROSS, negative_prompt="", scheduler="Heun", steps=7, refiner=True, seed=3, guidance_scale=4.0), []),
    "refined-two-samples": (dict(prompt=HEART, negative_prompt="blurry", scheduler="Euler a", steps=6, refiner=True, samples=2, seed=21), []),
    "refined-unguided": (dict(prompt=SHAPE, scheduler="DPM Multi", steps=6, refiner=True, guidance_scale=1.0, seed=8), []),
    "image": (dict(prompt=HEART, **OVER, strength=0.6, steps=10, guidance_scale=6.0, seed=5), ["decoded", "init_image"]),
    "image-resized": (dict(prompt=HEART, image="yellow-star.png", strength=0.5, width=96, height=64, seed=6), ["init_image"]),
    "image-ddpm": (dict(prompt=HEART, negative_prompt="", **OVER, strength=0.5, steps=9, scheduler="DDPM", seed=7), []),
    "image-two-samples": (dict(prompt=CROSS, **OVER, strength=0.7, scheduler="Euler a", samples=2, seed=11), []),
    "image-refined": (dict(prompt=SHAPE, **OVER, strength=0.6, steps=10, refiner=True, seed=12), ["decoded"]),
    "image-refiner-only": (dict(prompt=SHAPE, **OVER, strength=0.2, steps=10, refiner=True, seed=13), []),
    "inpaint": (dict(prompt=SHAPE, **PAINT, strength=0.7, steps=8, seed=14), ["decoded", "mask", "noise_pred.001"]),
    "inpaint-whole": (dict(prompt=SHAPE, **PAINT, strength=1.0, steps=6, seed=15), ["noise_pred.001"]),
    "inpaint-ancestral": (dict(prompt=HEART, negative_prompt="noisy", image=STAR, mask=SQUARE, strength=0.7, steps=6, scheduler="Euler a",
                               samples=2, seed=16), ["mask", "noise_pred.001"]),
    "inpaint-ancestral-whole": (dict(prompt=HEART, **PAINT, strength=1.0, steps=5, scheduler="Euler a", seed=17), ["noise_pred.001"]),
    "inpaint-ddim": (dict(prompt=HEART, **PAINT, strength=0.6, steps=8, scheduler="DDIM", seed=18), ["noise_pred.001"]),
    "inpaint-heun": (dict(prompt=HEART, **PAINT, strength=0.6, steps=6, scheduler="Heun", seed=19), ["noise_pred.001"]),
    "inpaint-unipc": (dict(prompt=HEART, **PAINT, strength=0.8, steps=7, scheduler="UniPC", seed=20), ["noise_pred.001"]),
    "inpaint-refined": (dict(prompt=HEART, **PAINT, strength=0.8, steps=10, refiner=True, seed=22), ["noise_pred.001"]),
    "inpaint-9": (dict(prompt=HEART, **PAINT, strength=0.7, steps=6, guidance_scale=3.0, seed=23, inpaint_model=True), ["decoded", "noise_pred.001"]),
    "inpaint-9-whole": (dict(prompt=HEART, **PAINT, strength=1.0, steps=5, scheduler="Euler a", seed=24, inpaint_model=True), ["noise_pred.001"]),
    "inpaint-9-two-samples": (dict(prompt=SHAPE, image=STAR, mask=SQUARE, strength=0.6, steps=5, scheduler="Euler a", samples=2, seed=25,
                                   guidance_scale=1.0, inpaint_model=True), []),
    "clip-skip-1": (dict(prompt=SHAPE, clip_skip=1, seed=26), ["prompt_embeds"]),
    "clip-skip-2": (dict(prompt=SHAPE, negative_prompt="blurry, noisy", clip_skip=2, guidance_scale=2.5, seed=27, steps=4), ["prompt_embeds"]),
    "second-prompts": (dict(prompt=SHAPE, prompt_2=HEART, negative_prompt="noisy", negative_prompt_2="a blue square", guidance_scale=2.5, seed=28, steps=4),
                       ["prompt_embeds", "negative_prompt_embeds"]),
    "conditioning": (dict(prompt=CROSS, original_size=[200, 150], crops_coords_top_left=[12, 34], target_size=[72, 88], negative_original_size=[40, 50],
                          negative_crops_coords_top_left=[3, 5], negative_target_size=[90, 100], seed=29, steps=4), []),
    "conditioning-positive": (dict(prompt=CROSS, original_size=[200, 150], crops_coords_top_left=[12, 34], seed=30, steps=4), []),
    "conditioning-refined": (dict(prompt=CROSS, original_size=[200, 150], crops_coords_top_left=[12, 34], negative_original_size=[40, 50],
                                  negative_crops_coords_top_left=[3, 5], aesthetic_score=7.0, negative_aesthetic_score=2.0,
                                  refiner=True, steps=5, seed=31), []),
    "conditioning-image": (dict(prompt=CROSS, **OVER, original_size=[200, 150], crops_coords_top_left=[12, 34], negative_original_size=[40, 50],
                                negative_crops_coords_top_left=[3, 5], steps=6, seed=32), []),
    "guidance-rescale": (dict(prompt=TRIANGLES, guidance_scale=7.5, guidance_rescale=0.7, samples=2, seed=33), []),
    "wide": (dict(prompt=TRIANGLES, width=160, height=96, seed=34, steps=5), []),
    "zero-snr": (dict(prompt=SHAPE, seed=35, guidance_scale=3.0, scheduler_config={
        "prediction_type": "v_prediction", "rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}), []),
    "second-pass": (dict(prompt=CROSS, refiner=True, refiner_strength=0.3, steps=10, seed=36), ["decoded"]),
    "second-pass-ancestral": (dict(prompt=CROSS, refiner=True, refiner_strength=0.5, steps=6, scheduler="Euler a", samples=2, seed=37), []),
    "sharp-attention": (dict(prompt=SHAPE, negative_prompt="noisy", width=72, height=72, steps=3, seed=8, sharp_model=True),
                        ["prompt_embeds", "decoded"]),
    "cached": (dict(prompt=SHAPE, negative_prompt="noisy", steps=7, seed=39, cache_interval=2), ["decoded", "noise_pred.001", "noise_pred.002"]),
    "cached-two-samples": (dict(prompt=TRIANGLES, scheduler="UniPC", steps=8, samples=2, seed=40, guidance_scale=7.5, cache_interval=3), []),
    "cached-unguided": (dict(prompt=HEART, scheduler="DPM Multi", width=72, height=88, steps=9, seed=41, guidance_scale=1.0, cache_interval=5), []),
    "refiner-from-noise": (dict(prompt=HEART, negative_prompt="noisy", refiner=True, high_noise_fraction=0.0, steps=6, samples=2, seed=38), ["decoded"]),
}
KEPT = ["input_ids", "input_ids_2", "negative_input_ids", "negative_input_ids_2", "unet_time_ids", "timesteps", "sigmas", "latents.000",
        "noise_pred.000", "pooled_prompt_embeds", "negative_pooled_prompt_embeds", "base_latents"]
HALF = ("decoded", "init_image", "mask")


def draw():
    """The small pictures; masks do not fall on the latents' grid."""
    star = Image.open(ROOT / "models/demo/pictures/yellow-star.png").convert("RGB")
    star.resize((64, 64), Image.LANCZOS).save(PICTURES / STAR)
    for name, shape, box in ((CIRCLE, "ellipse", (11, 13, 50, 53)), (SQUARE, "rectangle", (0, 28, 37, 63))):
        mask = Image.new("L", (64, 64), 0)
        getattr(ImageDraw.Draw(mask), shape)(box, fill=255)
        mask.save(PICTURES / name)


def is_kept(name, tensors, extra):
    plain = name.removeprefix("refiner.")
    prefix = name[: len(name) - len(plain)]
    last = max((n for n in tensors if re.fullmatch(re.escape(prefix) + r"latents\.\d+", n)), default=None)
    wanted = plain in KEPT or name in extra or name == last
    return wanted and not ("negative" in name and not tensors[name].any())


def record(name, reference, out):
    arguments, extra = CASES[name]
    case = {**DEFAULTS, **arguments}
    base = reference.base
    parts = dict(text_encoder=base.text_encoder, text_encoder_2=base.text_encoder_2, unet=base.unet, vae=base.vae)
    with logits(**parts) if case["sharp_model"] else nullcontext() as reached:
        tensors, latents, calls, refiner_calls = reference.run(case)
    other = reference.run(case, jitter=1e-5, decode=False)[1]
    sensitivity = float(f"{((other - latents).norm() / latents.norm()).item():.1e}")
    assert torch.isfinite(latents).all() and all(n in tensors for n in extra), name
    for part, (low, high) in (reached or {}).items():
        limit = 500.0 if part == "unet" else 150.0
        assert low < -limit and high > limit, (part, low, high)
    kept = {n: t.half() if n in HALF else t for n, t in tensors.items() if is_kept(n, tensors, extra)}
    meta = {**case, "calls": [len(calls), len(refiner_calls)], "sensitivity": sensitivity, **VERSIONS}
    if reached:
        meta["logits"] = {part: [round(x) for x in both] for part, both in reached.items()}
    target = out / f"{name}.safetensors"
    save_file(kept, target, metadata={"meta": json.dumps(meta)})
    print(f"{name}: calls {meta['calls']}, sensitivity {sensitivity}, std {latents.std():.2f}, {target.stat().st_size} bytes", flush=True)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("names", nargs="*", help="of cases; all if none is given")
    p.add_argument("--base", type=Path, default=ROOT / "models/demo/base")
    p.add_argument("--refiner", type=Path, default=ROOT / "models/demo/refiner")
    p.add_argument("--threads", type=int, default=1)
    p.add_argument("--out", type=Path, required=True)
    a = p.parse_args()
    torch.set_num_threads(a.threads)
    warnings.simplefilter("ignore")
    diffusers.logging.set_verbosity_error()
    draw()
    pictures = [PICTURES, ROOT / "models/demo/pictures"]
    with tempfile.TemporaryDirectory() as folder:
        make_inpaint_model(a.base, Path(folder), ROOT / "tests/fixtures/inpaint-conv-in.safetensors")
        models = {None: Reference(a.base, a.refiner, pictures), "inpaint_model": Reference(folder, None, pictures)}
    with tempfile.TemporaryDirectory() as folder:
        make_sharp_model(a.base, Path(folder))
        models["sharp_model"] = Reference(folder, None, pictures)
    for name in a.names or CASES:
        kind = next((key for key in models if key and CASES[name][0].get(key)), None)
        record(name, models[kind], a.out)


if __name__ == "__main__":
    main()
