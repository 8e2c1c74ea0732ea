#!/usr/bin/env python3
"""Record diffusers' last latents for every scheduler and way to run: tests/fixtures/grid.safetensors.

    python3 tools/record_grid.py --out tests/fixtures/grid.safetensors

Every scheduler x {base alone; base and refiner at 0.8; image-to-image at
strength 0.2, 0.5 and 1} x {25, 7} steps, in float32 on the CPU, with the
demonstration models, 96x96 pixels; prompts, seeds and guidance vary. The first
picture is tests/fixtures/pictures/yellow-star-96.png, which is written here.

The file: `latents` [cases, 4, 12, 12]; `timesteps` [calls of all cases], those of
the base before those of the refiner in each case; `cases` in the header, JSON
in the same order: the case's arguments as reference.py names them, `calls`
[base, refiner], and `sensitivity`: the relative change of the last latents if
1e-5 of noise is put on each prediction, which says how near another
implementation can come; `brownian`: noise comes from torchsde's Brownian tree of
the seed, not from the picture's generator. Where diffusers fails or gives no
numbers, `error` says so, and the latents are zeros. Needs torch, diffusers,
scipy, torchsde.
"""
import argparse
import json
import sys
import traceback
import warnings
from pathlib import Path

import diffusers
import torch
from PIL import Image
from safetensors.torch import save_file

from reference import SCHEDULERS, VERSIONS, Reference

ROOT = Path(__file__).resolve().parent.parent
IMAGE = "yellow-star-96.png"
MODES = [dict(), dict(refiner=True), *(dict(image=IMAGE, strength=s) for s in (0.2, 0.5, 1.0))]
COLOURS = ["red", "blue", "green", "yellow", "purple", "orange", "white", "pink", "black", "cyan", "brown"]
SHAPES = ["circle", "square", "star", "heart", "triangle", "diamond", "cross"]
NEGATIVE = [None, None, "blurry, noisy", None, ""]
#: The largest sensitivity of a recorded case; others are tried again with other seeds and less guidance.
STEADY = 2e-4
GUIDANCE = [5.0, 7.5, 3.0, 6.0, 1.0, 8.0, 4.5]


def cases():
    out = []
    for scheduler in SCHEDULERS:
        for mode in MODES:
            for steps in (25, 7):
                i = len(out)
                shape, colour, ground = SHAPES[i % 7], COLOURS[i % 11], COLOURS[(i * 3 + 5 + i // 11) % 11]
                out.append(dict(prompt=f"a {colour} {shape} on a {ground} background", negative_prompt=NEGATIVE[i % 5], steps=steps,
                                scheduler=scheduler, guidance_scale=GUIDANCE[i * 5 % 7], seed=1000003 * i + 17, width=96, height=96, **mode))
                if scheduler == "DPM++ SDE":
                    out[-1]["brownian"] = True
    return out


def attempt(reference, case):
    """The case with what came out, its latents, and its timesteps."""
    try:
        _, latents, calls, refiner_calls = reference.run(case, decode=False)
        assert torch.isfinite(latents).all(), "the latents are not finite"
    except Exception as error:
        where = traceback.extract_tb(error.__traceback__)[-1]
        text = f"{type(error).__name__}: {error} ({Path(where.filename).name}:{where.lineno})"
        return {**case, "error": text}, torch.zeros(1, 4, 12, 12), []
    other = reference.run(case, jitter=1e-5, decode=False)[1]
    sensitivity = float(f"{((other - latents).norm() / latents.norm()).item():.1e}")
    return {**case, "calls": [len(calls), len(refiner_calls)], "sensitivity": sensitivity}, latents, calls + refiner_calls


def record(reference, case):
    """An attempt that does not magnify small differences so much that it could compare nothing."""
    for _ in range(8):
        done = attempt(reference, case)
        if "error" in done[0] or done[0]["sensitivity"] <= STEADY:
            break
        case = {**case, "seed": case["seed"] + 1, "guidance_scale": max(1.0, case["guidance_scale"] - 1.0)}
    return done


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--base", default=ROOT / "models/demo/base")
    p.add_argument("--refiner", default=ROOT / "models/demo/refiner")
    p.add_argument("--threads", type=int, default=1)
    p.add_argument("--out", type=Path, required=True)
    a = p.parse_args()
    torch.set_num_threads(a.threads)
    warnings.simplefilter("ignore")
    diffusers.logging.set_verbosity_error()

    pictures = ROOT / "tests/fixtures/pictures"
    star = Image.open(ROOT / "models/demo/pictures/yellow-star.png").convert("RGB")
    star.resize((96, 96), Image.LANCZOS).save(pictures / IMAGE)
    reference = Reference(a.base, a.refiner, [pictures])
    done = []
    for case in cases():
        done.append(record(reference, case))
        result = done[-1][0]
        note = result.get("error") or f"{result['calls']} {result['sensitivity']} std {done[-1][1].std():.2f} guidance {result['guidance_scale']}"
        print(len(done) - 1, case["scheduler"], case["steps"], "refiner" if case.get("refiner") else case.get("strength", "base"), note, flush=True)
    tensors = {"latents": torch.cat([latents for _, latents, _ in done]),
               "timesteps": torch.tensor([t for _, _, timesteps in done for t in timesteps])}
    header = {"cases": json.dumps([case for case, _, _ in done]), "versions": json.dumps(VERSIONS)}
    save_file(tensors, a.out, metadata=header)
    print(f"{a.out}: {len(done)} cases, {sum('error' in case for case, _, _ in done)} failed, {a.out.stat().st_size} bytes")


if __name__ == "__main__":
    sys.exit(main())
