#!/usr/bin/env python3
"""Write what tests/engine/taesd.rs reads: a small TAESD, and what diffusers makes of it.

    python3 tools/make_taesd_fixture.py tests/fixtures/taesd

OUT/config.json and OUT/diffusion_pytorch_model.safetensors are an
AutoencoderTiny of TAESD's own depth, 8 channels wide, with random weights in
float16. OUT/cases.safetensors holds, in float32: `latents` and what its decoder
makes of them (`decoded`), `picture` and its latents (`encoded`); and of the
embedded model's VAE the posterior of models/demo/pictures/red-circle.png
(`mean`, `std`). Needs torch, diffusers, safetensors, numpy and Pillow.
"""
import sys
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, AutoencoderTiny
from PIL import Image
from safetensors.torch import save_file

DEMO = Path(__file__).resolve().parent.parent / "models/demo"


def tiny():
    vae = AutoencoderTiny(encoder_block_out_channels=(8,) * 4, decoder_block_out_channels=(8,) * 4)
    for name, tensor in vae.state_dict().items():
        if name.endswith("bias"):
            tensor.uniform_(-0.1, 0.1)
            continue
        # Branches of residual blocks are kept small, so that ten in a row do not explode.
        last = 0.7 if ".conv.4." in name else 1.4
        tensor.normal_(0, last / tensor[0].numel() ** 0.5)
    return vae.half()


@torch.no_grad()
def main():
    out = Path(sys.argv[1])
    torch.manual_seed(0)
    vae = tiny()
    vae.save_pretrained(out)
    vae = vae.float().eval()
    # Beyond 3 the clamp is felt.
    latents = torch.randn(1, 4, 6, 5) * 2
    picture = torch.rand(1, 3, 32, 48) * 2 - 1
    cases = {"latents": latents, "decoded": vae.decode(latents).sample,
             "picture": picture, "encoded": vae.encode(picture).latents}
    pixels = np.asarray(Image.open(DEMO / "pictures/red-circle.png").convert("RGB"))
    pixels = torch.from_numpy(pixels.astype(np.float32) / 255).permute(2, 0, 1)[None] * 2 - 1
    posterior = AutoencoderKL.from_pretrained(DEMO / "base/vae").float().eval().encode(pixels).latent_dist
    cases |= {"mean": posterior.mean, "std": posterior.std}
    save_file({k: v.contiguous() for k, v in cases.items()}, out / "cases.safetensors")
    for name, tensor in cases.items():
        print(f"{name}: {list(tensor.shape)}, from {tensor.min():.3g} to {tensor.max():.3g}, deviation {tensor.std():.3g}")


if __name__ == "__main__":
    main()
