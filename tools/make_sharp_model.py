#!/usr/bin/env python3
"""Make the demonstration base's attention sharp: logits of hundreds, one key gets nearly everything.

    python3 tools/make_sharp_model.py OUT

OUT becomes a diffusers folder: the base with the queries' and the keys' weights
and biases multiplied by FACTORS, powers of two, so that float16 holds them
exactly. `tests/common/variant.rs` makes the same in Rust. Kernels that subtract a
row's maximum and forget that masked or padded columns may lie far above it give
NaN with such a model, where diffusers does not. Needs torch, diffusers and
safetensors.
"""
import argparse
import shutil
from contextlib import contextmanager
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file

ROOT = Path(__file__).resolve().parent.parent
#: Weights file, names of its query and key layers, factor.
FACTORS = [
    ("text_encoder/model.safetensors", ("q_proj", "k_proj"), 16.0),
    ("text_encoder_2/model.safetensors", ("q_proj", "k_proj"), 8.0),
    ("unet/diffusion_pytorch_model.safetensors", ("to_q", "to_k"), 8.0),
    ("vae/diffusion_pytorch_model.safetensors", ("to_q", "to_k"), 8.0),
]


def make(base, out):
    shutil.copytree(base, out, dirs_exist_ok=True)
    for file, layers, factor in FACTORS:
        tensors = load_file(base / file)
        for name, tensor in tensors.items():
            if name.split(".")[-2] in layers:
                tensors[name] = tensor * factor
                assert torch.equal(tensors[name] / factor, tensor), name
        save_file(tensors, out / file, metadata={"format": "pt"})


@contextmanager
def logits(**parts):
    """Within it, the least and the largest attention logit of each of the models `parts` are put into a dict."""
    found, running = {}, []
    attention = F.scaled_dot_product_attention

    def measured(q, k, v, attn_mask=None, dropout_p=0.0, is_causal=False, scale=None, **rest):
        x = q @ k.transpose(-1, -2) * (scale or q.shape[-1] ** -0.5)
        if attn_mask is not None:
            x = x[(attn_mask if attn_mask.dtype == torch.bool else attn_mask > -1).expand_as(x)]
        elif is_causal:
            x = x[torch.ones(x.shape, dtype=torch.bool).tril()]
        low, high = found.get(running[-1], (0.0, 0.0))
        found[running[-1]] = (min(low, x.min().item()), max(high, x.max().item()))
        return attention(q, k, v, attn_mask=attn_mask, dropout_p=dropout_p, is_causal=is_causal, scale=scale, **rest)

    hooks = []
    for name, model in parts.items():
        # AutoencoderKL.decode does not go through its own forward.
        for module in (model.encoder, model.decoder) if name == "vae" else (model,):
            hooks.append(module.register_forward_pre_hook(lambda *_, name=name: running.append(name)))
    F.scaled_dot_product_attention = measured
    try:
        yield found
    finally:
        F.scaled_dot_product_attention = attention
        for hook in hooks:
            hook.remove()


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("out", type=Path)
    p.add_argument("--base", type=Path, default=ROOT / "models/demo/base")
    a = p.parse_args()
    make(a.base, a.out)


if __name__ == "__main__":
    main()
