#!/usr/bin/env python3
"""Write a LoRA adapter of random numbers for an SDXL checkpoint folder.

    python3 tools/make_lora.py models/demo/base --out a.safetensors --form peft \\
        --rank 2 --alpha 1 --seed 0 --keep attn1.to_q --keep text_encoder.

The numbers follow from the seed and the module's name alone, so that the same
adapter comes out in every form:

    kohya   lora_unet_down_blocks_1_..., lora_te1_..., lora_te2_..., with .alpha
    sgm     the same with the UNet's names of the original release, which diffusers'
            own conversion must take back
    peft    unet.down_blocks.1....lora_A.weight, alpha in the header's metadata
    old     diffusers' attention processors (to_q_lora.down); alpha / rank is in the
            numbers, exactly where it is a power of two

Targets are the weights of linear layers and convolutions (LoCon) whose name has one
of the --keep texts in it: all without any. --mid writes convolutions larger than 1x1
in three factors (kohya and sgm). Needs numpy, safetensors and, for sgm, diffusers.
"""
import argparse
import json
import re
import zlib
from pathlib import Path

import numpy as np
from safetensors import safe_open
from safetensors.numpy import save_file

PARTS = {"unet": "lora_unet_", "text_encoder": "lora_te1_", "text_encoder_2": "lora_te2_"}


def targets(model, keep):
    """PART, module and shape of every weight that is multiplied."""
    for part in PARTS:
        for path in sorted((model / part).glob("*.safetensors")):
            with safe_open(path, "numpy") as file:
                for name in sorted(file.keys()):
                    shape = file.get_slice(name).get_shape()
                    module = name.removesuffix(".weight")
                    if len(shape) < 2 or module == name or (part != "unet" and "embedding" in module):
                        continue
                    if not keep or any(text in f"{part}.{module}" for text in keep):
                        yield part, module, shape


def numbers(part, module, shape, a):
    """down, up and, where asked for, mid."""
    rng = np.random.default_rng([a.seed, zlib.crc32(f"{part}.{module}".encode())])
    draw = lambda *size: (rng.standard_normal(size) * a.size / np.sqrt(size[1])).astype(a.dtype)
    out, inputs, kernel = shape[0], shape[1], list(shape[2:])
    ones = [1] * len(kernel)
    if a.mid and kernel and kernel != [1, 1]:
        return draw(a.rank, inputs, *ones), draw(out, a.rank, *ones), draw(a.rank, a.rank, *kernel)
    return draw(a.rank, inputs, *kernel), draw(out, a.rank, *ones), None


def sgm(module, layers):
    """A UNet module's name in the original release."""
    pairs = [("norm1", "in_layers.0"), ("conv1", "in_layers.2"), ("time_emb_proj", "emb_layers.1"), ("norm2", "out_layers.0"),
             ("conv2", "out_layers.3"), ("conv_shortcut", "skip_connection")]
    whole = {"conv_in": "input_blocks.0.0", "conv_out": "out.2", "time_embedding.linear_1": "time_embed.0",
             "time_embedding.linear_2": "time_embed.2", "add_embedding.linear_1": "label_emb.0.0", "add_embedding.linear_2": "label_emb.0.2"}
    if module in whole:
        return whole[module]
    resnet = ".resnets." in module
    for new, old in pairs if resnet else []:
        module = module.replace(new, old)
    if found := re.match(r"mid_block\.(resnets|attentions)\.(\d)\.(.*)", module):
        kind, i, rest = found.groups()
        return f"middle_block.{2 * int(i) + (kind == 'attentions')}.{rest}"
    way, level, kind, i, rest = re.match(r"(down|up)_blocks\.(\d)\.(\w+)\.(\d)\.(.*)", module).groups()
    level, i = int(level), int(i)
    if way == "down":
        first = 1 + level * (layers + 1)
        if kind == "downsamplers":
            return f"input_blocks.{first + layers}.0.op"
        return f"input_blocks.{first + i}.{int(kind == 'attentions')}.{rest}"
    first = level * (layers + 1)
    if kind == "upsamplers":
        return f"output_blocks.{first + layers}.2.{rest}"
    return f"output_blocks.{first + i}.{int(kind == 'attentions')}.{rest}"


def old(part, module):
    """The name in diffusers' attention processors, without the end."""
    if part == "unet":
        return re.sub(r"(attn\d)\.(to_\w+?)(\.0)?$", r"\1.processor.\2_lora", module) if "attn" in module else f"{module}.lora"
    if "self_attn" in module:
        return re.sub(r"self_attn\.(\w+)_proj$", r"self_attn.to_\1_lora", module)
    return f"{module}.lora_linear_layer"


def write(a):
    tensors, config = {}, {}
    layers = json.loads((a.model / "unet/config.json").read_text())["layers_per_block"]
    for part, module, shape in targets(a.model, a.keep):
        down, up, mid = numbers(part, module, shape, a)
        if a.form in ("kohya", "sgm"):
            name = sgm(module, layers) if a.form == "sgm" and part == "unet" else module
            name = PARTS[part] + name.replace(".", "_")
            tensors |= {f"{name}.lora_down.weight": down, f"{name}.lora_up.weight": up,
                        f"{name}.alpha": np.array(a.alpha, a.dtype)}
            if mid is not None:
                tensors[f"{name}.lora_mid.weight"] = mid
        elif a.form == "peft":
            tensors |= {f"{part}.{module}.lora_A.weight": down, f"{part}.{module}.lora_B.weight": up}
            config.setdefault(part, []).append(module)
        else:
            scaled = (up.astype(np.float32) * (a.alpha / a.rank)).astype(a.dtype)
            name = f"{part}.{old(part, module)}"
            tensors |= {f"{name}.down.weight": down, f"{name}.up.weight": scaled}
    fields = {f"{part}.{key}": value for part, modules in config.items()
              for key, value in {"r": a.rank, "lora_alpha": a.alpha, "target_modules": modules, "rank_pattern": {}, "alpha_pattern": {}}.items()}
    metadata = {"lora_adapter_metadata": json.dumps(fields)} if fields else {}
    save_file(tensors, a.out, metadata={"format": "pt", **metadata})
    print(f"{a.out}: {len(tensors)} tensors, {a.out.stat().st_size} bytes")


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("model", type=Path)
    p.add_argument("--out", type=Path, required=True)
    p.add_argument("--form", choices=["kohya", "sgm", "peft", "old"], default="kohya")
    p.add_argument("--rank", type=int, default=4)
    p.add_argument("--alpha", type=float, default=2.0)
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--size", type=float, default=0.5, help="of the random numbers")
    p.add_argument("--dtype", choices=["float16", "float32"], default="float16")
    p.add_argument("--keep", action="append", default=[], help="a text that names of targets have; may be repeated")
    p.add_argument("--mid", action="store_true", help="convolutions in three factors")
    write(p.parse_args())


if __name__ == "__main__":
    main()
