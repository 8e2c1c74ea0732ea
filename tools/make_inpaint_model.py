#!/usr/bin/env python3
"""Make an inpainting model, whose UNet has 9 input channels, of the demonstration base.

    python3 tools/make_inpaint_model.py OUT [--conv tests/fixtures/inpaint-conv-in.safetensors]

OUT becomes a diffusers folder: the base with another `conv_in.weight`, float16
[32, 9, 3, 3], and `in_channels` 9. Channels 0 to 3 (latents) are the base's; 4
(mask) and 5 to 8 (latents of the masked picture) are small random numbers, so
that it tests the plumbing and paints nothing sensible. The weight is read from
--conv, and written there first where there is no such file. Needs torch and
safetensors.
"""
import argparse
import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

ROOT = Path(__file__).resolve().parent.parent
WEIGHTS = "unet/diffusion_pytorch_model.safetensors"
NAME = "conv_in.weight"


def make(base, out, conv):
    shutil.copytree(base, out, dirs_exist_ok=True)
    tensors = load_file(base / WEIGHTS)
    if not conv.exists():
        first = tensors[NAME].float()
        more = torch.randn((first.shape[0], 5, 3, 3), generator=torch.Generator().manual_seed(9)) * first.std() * 0.3
        save_file({NAME: torch.cat([first, more], 1).half()}, conv)
    tensors[NAME] = load_file(conv)[NAME]
    save_file(tensors, out / WEIGHTS, metadata={"format": "pt"})
    config = json.loads((base / "unet/config.json").read_text())
    (out / "unet/config.json").write_text(json.dumps({**config, "in_channels": 9}, indent=2))


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("out", type=Path)
    p.add_argument("--base", type=Path, default=ROOT / "models/demo/base")
    p.add_argument("--conv", type=Path, default=ROOT / "tests/fixtures/inpaint-conv-in.safetensors")
    a = p.parse_args()
    make(a.base, a.out, a.conv)


if __name__ == "__main__":
    main()
