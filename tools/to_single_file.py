#!/usr/bin/env python3
"""Write a diffusers SDXL folder as one file in the layout of the original release.

    python3 tools/to_single_file.py FOLDER OUT.safetensors
    python3 tools/to_single_file.py --dtype bf16 FOLDER OUT.safetensors
    python3 tools/to_single_file.py --missing-from models/demo/base models/demo/refiner OUT.safetensors

Base and refiner, any depth and width. What shapes cannot tell (group counts,
head counts, scheduler, special tokens) goes into the header's metadata under
`calotype.config`; `--plain` leaves it out. Tensors go through memory one at a
time. Needs numpy.
"""
import argparse
import json
import struct
from pathlib import Path

import numpy as np

WEIGHTS = ["{}.safetensors", "{}.safetensors.index.json", "{}.fp16.safetensors",
           "{}.fp16.safetensors.index.json", "{}.safetensors.index.fp16.json"]
SIZES = {"F32": 4, "F16": 2, "BF16": 2}


class Tensor:
    """One tensor of a file, as raw unsigned integers of its precision's width."""

    def __init__(self, path, start, info):
        self.path, self.dtype, self.shape = path, info["dtype"], info["shape"]
        self.at = start + info["data_offsets"][0]

    def read(self):
        kind = {4: "<u4", 2: "<u2"}[SIZES[self.dtype]]
        count = int(np.prod(self.shape, dtype=np.int64))
        return np.fromfile(self.path, dtype=kind, count=count, offset=self.at).reshape(self.shape)


def read_header(path):
    with open(path, "rb") as f:
        length = struct.unpack("<Q", f.read(8))[0]
        header = json.loads(f.read(length))
    header.pop("__metadata__", None)
    return {name: Tensor(path, 8 + length, info) for name, info in header.items()}


def read_component(folder, stem):
    """Tensors of a component by name, from one file or from shards."""
    for name in WEIGHTS:
        path = folder / name.format(stem)
        if not path.exists():
            continue
        if path.suffix != ".json":
            return read_header(path)
        tensors = {}
        for shard in sorted(set(json.loads(path.read_text())["weight_map"].values())):
            tensors.update(read_header(folder / shard))
        return tensors
    raise SystemExit(f"{folder}: no {stem}.safetensors")


def replace_module(name, pairs):
    module, kind = name.rsplit(".", 1)
    return f"{pairs[module]}.{kind}"


RESNET = {"norm1": "in_layers.0", "conv1": "in_layers.2", "time_emb_proj": "emb_layers.1",
          "norm2": "out_layers.0", "conv2": "out_layers.3", "conv_shortcut": "skip_connection"}


class UNetNames:
    """The original numbers blocks through; walking the configuration gives the numbers."""

    def __init__(self, config):
        levels = len(config["block_out_channels"])
        layers = config["layers_per_block"]
        layers = layers if isinstance(layers, list) else [layers] * levels
        self.blocks = {}
        number = 1
        for level, count in enumerate(layers):
            for i in range(count):
                self.blocks[f"down_blocks.{level}.resnets.{i}"] = f"input_blocks.{number}.0"
                self.blocks[f"down_blocks.{level}.attentions.{i}"] = f"input_blocks.{number}.1"
                number += 1
            if level + 1 < levels:
                self.blocks[f"down_blocks.{level}.downsamplers.0"] = f"input_blocks.{number}.0"
                number += 1
        number = 0
        for level, count in enumerate(reversed(layers)):
            attends = config["up_block_types"][level].startswith("CrossAttn")
            for i in range(count + 1):
                self.blocks[f"up_blocks.{level}.resnets.{i}"] = f"output_blocks.{number}.0"
                self.blocks[f"up_blocks.{level}.attentions.{i}"] = f"output_blocks.{number}.1"
                number += 1
            self.blocks[f"up_blocks.{level}.upsamplers.0"] = f"output_blocks.{number - 1}.{2 if attends else 1}"
        for old, new in [("resnets.0", "0"), ("attentions.0", "1"), ("resnets.1", "2")]:
            self.blocks[f"mid_block.{old}"] = f"middle_block.{new}"

    def __call__(self, name):
        plain = {"conv_in": "input_blocks.0.0", "conv_norm_out": "out.0", "conv_out": "out.2",
                 "time_embedding.linear_1": "time_embed.0", "time_embedding.linear_2": "time_embed.2",
                 "add_embedding.linear_1": "label_emb.0.0", "add_embedding.linear_2": "label_emb.0.2"}
        if name.rsplit(".", 1)[0] in plain:
            return replace_module(name, plain)
        block = next(b for b in self.blocks if name.startswith(b + "."))
        rest = name[len(block) + 1:]
        if ".resnets." in block:
            rest = replace_module(rest, RESNET)
        elif ".downsamplers." in block:
            rest = rest.replace("conv.", "op.")
        return f"{self.blocks[block]}.{rest}"


def vae_name(name, levels):
    for part, original in [("group_norm", "norm"), ("to_q", "q"), ("to_k", "k"), ("to_v", "v"), ("to_out.0", "proj_out")]:
        name = name.replace(f"mid_block.attentions.0.{part}.", f"mid.attn_1.{original}.")
    name = name.replace("mid_block.resnets.0", "mid.block_1").replace("mid_block.resnets.1", "mid.block_2")
    for i in range(levels):
        name = name.replace(f"encoder.down_blocks.{i}.", f"encoder.down.{i}.")
        name = name.replace(f"decoder.up_blocks.{i}.", f"decoder.up.{levels - 1 - i}.")
    name = name.replace(".downsamplers.0.", ".downsample.").replace(".upsamplers.0.", ".upsample.")
    return name.replace(".resnets.", ".block.").replace("conv_shortcut", "nin_shortcut").replace("conv_norm_out", "norm_out")


def open_clip_plan(tensors):
    """(original name, tensors to join along the rows, whether to transpose) of encoder 2."""
    plan = []
    for name in tensors:
        if name == "text_projection.weight":
            plan.append(("text_projection", [name], True))
        elif name.endswith("position_ids"):
            continue
        elif ".self_attn.q_proj." in name:
            parts = [name.replace("q_proj", p) for p in ("q_proj", "k_proj", "v_proj")]
            layer, kind = name.split(".")[3], name.rsplit(".", 1)[1]
            plan.append((f"transformer.resblocks.{layer}.attn.in_proj_{kind}", parts, False))
        elif ".self_attn.k_proj." not in name and ".self_attn.v_proj." not in name:
            original = name.removeprefix("text_model.")
            for old, new in [("embeddings.token_embedding", "token_embedding"),
                             ("embeddings.position_embedding.weight", "positional_embedding"),
                             ("final_layer_norm", "ln_final"), ("encoder.layers", "transformer.resblocks"),
                             ("self_attn.out_proj", "attn.out_proj"), ("layer_norm1", "ln_1"),
                             ("layer_norm2", "ln_2"), ("mlp.fc1", "mlp.c_fc"), ("mlp.fc2", "mlp.c_proj")]:
                original = original.replace(old, new)
            plan.append((original, [name], False))
    return plan


def convert(raw, source, target):
    if source == target:
        return raw
    if source == "BF16":
        values = (raw.astype(np.uint32) << 16).view(np.float32)
    else:
        values = raw.view({"F32": np.float32, "F16": np.float16}[source]).astype(np.float32)
    if target == "F32":
        return values
    if target == "F16":
        return values.astype(np.float16)
    bits = values.view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def build_plan(folder, fallback):
    """Entries (original name, tensors to join, change) of all components, and their configurations."""
    index = json.loads((folder / "model_index.json").read_text())
    present = lambda name: any(index.get(name) or [])
    find = lambda name: folder / name if (folder / name).exists() else fallback / name
    configs, plan = {"model_index": {k: v for k, v in index.items() if isinstance(v, bool)}}, []
    base = present("text_encoder")
    for name in ["unet", "vae", "text_encoder_2"] + ["text_encoder"] * base:
        configs[name] = json.loads((find(name) / "config.json").read_text())
    configs["scheduler"] = json.loads((find("scheduler") / "scheduler_config.json").read_text())
    for name in ["tokenizer_2"] + ["tokenizer"] * base:
        path = find(name) / "tokenizer_config.json"
        configs[name] = json.loads(path.read_text()) if path.exists() else {}
        special = find(name) / "special_tokens_map.json"
        # Where the tokens are not listed one by one, the other file decides.
        if special.exists() and "added_tokens_decoder" not in configs[name]:
            configs[name].update(json.loads(special.read_text()))

    unet = read_component(find("unet"), "diffusion_pytorch_model")
    names = UNetNames(configs["unet"])
    plan += [("model.diffusion_model." + names(n), [t], None) for n, t in unet.items()]
    vae = read_component(find("vae"), "diffusion_pytorch_model")
    levels = len(configs["vae"]["block_out_channels"])
    for n, t in vae.items():
        kernel = "attentions" in n and n.endswith("weight") and len(t.shape) == 2
        plan.append(("first_stage_model." + vae_name(n, levels), [t], "kernel" if kernel else None))
    clip = read_component(find("text_encoder_2"), "model")
    prefix = f"conditioner.embedders.{int(base)}.model."
    for n, parts, transpose in open_clip_plan(clip):
        plan.append((prefix + n, [clip[p] for p in parts], "transpose" if transpose else None))
    if base:
        clip = read_component(find("text_encoder"), "model")
        plan += [("conditioner.embedders.0.transformer." + n, [t], None) for n, t in clip.items() if not n.endswith("position_ids")]
    return plan, configs


def shape_after(tensors, change):
    shape = list(tensors[0].shape)
    if len(tensors) > 1:
        shape[0] = sum(t.shape[0] for t in tensors)
    if change == "transpose":
        shape.reverse()
    return shape + [1, 1] if change == "kernel" else shape


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--dtype", choices=["f32", "f16", "bf16"], help="default: as stored")
    p.add_argument("--plain", action="store_true", help="no calotype.config metadata")
    p.add_argument("--missing-from", type=Path, default=Path("."), help="folder of components that FOLDER lacks")
    p.add_argument("folder", type=Path)
    p.add_argument("out", type=Path)
    a = p.parse_args()
    plan, configs = build_plan(a.folder, a.missing_from)
    target = lambda t: a.dtype.upper() if a.dtype else t.dtype
    metadata = {"format": "pt"} if a.plain else {"format": "pt", "calotype.config": json.dumps(configs)}
    header, at = {"__metadata__": metadata}, 0
    for name, tensors, change in plan:
        shape, dtype = shape_after(tensors, change), target(tensors[0])
        size = int(np.prod(shape, dtype=np.int64)) * SIZES[dtype]
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(a.out, "wb") as f:
        f.write(struct.pack("<Q", len(text)) + text)
        for name, tensors, change in plan:
            values = np.concatenate([t.read() for t in tensors]) if len(tensors) > 1 else tensors[0].read()
            values = values.T if change == "transpose" else values
            f.write(np.ascontiguousarray(convert(np.ascontiguousarray(values), tensors[0].dtype, target(tensors[0]))).tobytes())


if __name__ == "__main__":
    main()
