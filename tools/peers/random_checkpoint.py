#!/usr/bin/env python3
"""Write an SDXL base checkpoint with random weights, as one file in the original layout.

    python3 tools/peers/random_checkpoint.py OUT.safetensors      6.9 GB, f16

It draws noise. It serves timing and memory, which do not depend on the values as
long as they are neither zero nor infinite. Weights are uniform with a standard
deviation of 1/sqrt(inputs), norms are the identity. The values repeat every
65,521, a prime, so that no two rows of a matrix are equal. Needs Python alone.
"""
import argparse
import json
import math
import random
import struct
from pathlib import Path

PERIOD = 65521
BLOCK = 1 << 20  # values written at a time


def layer(name, outputs, inputs, *kernel, bias=True):
    yield name + ".weight", [outputs, inputs, *kernel]
    if bias:
        yield name + ".bias", [outputs]


def norm(name, channels):
    yield name + ".weight", [channels]
    yield name + ".bias", [channels]


def conv(name, outputs, inputs, size=3):
    return layer(name, outputs, inputs, size, size)


def unet_resnet(name, inputs, outputs):
    yield from norm(f"{name}.in_layers.0", inputs)
    yield from conv(f"{name}.in_layers.2", outputs, inputs)
    yield from layer(f"{name}.emb_layers.1", outputs, 1280)
    yield from norm(f"{name}.out_layers.0", outputs)
    yield from conv(f"{name}.out_layers.3", outputs, outputs)
    if inputs != outputs:
        yield from conv(f"{name}.skip_connection", outputs, inputs, 1)


def unet_transformer(name, channels, depth):
    yield from norm(f"{name}.norm", channels)
    yield from layer(f"{name}.proj_in", channels, channels)
    for i in range(depth):
        block = f"{name}.transformer_blocks.{i}"
        for attention, context in [("attn1", channels), ("attn2", 2048)]:
            for part, inputs in [("to_q", channels), ("to_k", context), ("to_v", context)]:
                yield from layer(f"{block}.{attention}.{part}", channels, inputs, bias=False)
            yield from layer(f"{block}.{attention}.to_out.0", channels, channels)
        for part in ("norm1", "norm2", "norm3"):
            yield from norm(f"{block}.{part}", channels)
        yield from layer(f"{block}.ff.net.0.proj", 8 * channels, channels)
        yield from layer(f"{block}.ff.net.2", channels, 4 * channels)
    yield from layer(f"{name}.proj_out", channels, channels)


def unet():
    levels = [(320, 0), (640, 2), (1280, 10)]  # channels, depth of the transformers
    for part, inputs in [("time_embed", 320), ("label_emb.0", 2816)]:
        yield from layer(f"{part}.0", 1280, inputs)
        yield from layer(f"{part}.2", 1280, 1280)
    yield from conv("input_blocks.0.0", 320, 4)
    skips, number, at = [320], 1, 320
    for level, (channels, depth) in enumerate(levels):
        for _ in range(2):
            yield from unet_resnet(f"input_blocks.{number}.0", at, channels)
            if depth:
                yield from unet_transformer(f"input_blocks.{number}.1", channels, depth)
            at, number = channels, number + 1
            skips.append(at)
        if level < 2:
            yield from conv(f"input_blocks.{number}.0.op", at, at)
            number += 1
            skips.append(at)
    yield from unet_resnet("middle_block.0", 1280, 1280)
    yield from unet_transformer("middle_block.1", 1280, 10)
    yield from unet_resnet("middle_block.2", 1280, 1280)
    number = 0
    for channels, depth in reversed(levels):
        for i in range(3):
            yield from unet_resnet(f"output_blocks.{number}.0", at + skips.pop(), channels)
            if depth:
                yield from unet_transformer(f"output_blocks.{number}.1", channels, depth)
            at = channels
            if i == 2 and depth:
                yield from conv(f"output_blocks.{number}.2.conv", at, at)
            number += 1
    yield from norm("out.0", 320)
    yield from conv("out.2", 4, 320)


def vae_resnet(name, inputs, outputs):
    yield from norm(f"{name}.norm1", inputs)
    yield from conv(f"{name}.conv1", outputs, inputs)
    yield from norm(f"{name}.norm2", outputs)
    yield from conv(f"{name}.conv2", outputs, outputs)
    if inputs != outputs:
        yield from conv(f"{name}.nin_shortcut", outputs, inputs, 1)


def vae_middle(name):
    yield from vae_resnet(f"{name}.mid.block_1", 512, 512)
    yield from norm(f"{name}.mid.attn_1.norm", 512)
    for part in ("q", "k", "v", "proj_out"):
        yield from conv(f"{name}.mid.attn_1.{part}", 512, 512, 1)
    yield from vae_resnet(f"{name}.mid.block_2", 512, 512)


def vae():
    channels = [128, 256, 512, 512]
    yield from conv("encoder.conv_in", 128, 3)
    at = 128
    for level, outputs in enumerate(channels):
        for i in range(2):
            yield from vae_resnet(f"encoder.down.{level}.block.{i}", at, outputs)
            at = outputs
        if level < 3:
            yield from conv(f"encoder.down.{level}.downsample.conv", at, at)
    yield from vae_middle("encoder")
    yield from norm("encoder.norm_out", at)
    yield from conv("encoder.conv_out", 8, at)
    yield from conv("quant_conv", 8, 8, 1)
    yield from conv("post_quant_conv", 4, 4, 1)
    yield from conv("decoder.conv_in", at, 4)
    yield from vae_middle("decoder")
    for level in (3, 2, 1, 0):
        for i in range(3):
            yield from vae_resnet(f"decoder.up.{level}.block.{i}", at, channels[level])
            at = channels[level]
        if level:
            yield from conv(f"decoder.up.{level}.upsample.conv", at, at)
    yield from norm("decoder.norm_out", at)
    yield from conv("decoder.conv_out", 3, at)


def clip_l():
    yield "embeddings.token_embedding.weight", [49408, 768]
    yield "embeddings.position_embedding.weight", [77, 768]
    for i in range(12):
        block = f"encoder.layers.{i}"
        for part in ("q_proj", "k_proj", "v_proj", "out_proj"):
            yield from layer(f"{block}.self_attn.{part}", 768, 768)
        yield from norm(f"{block}.layer_norm1", 768)
        yield from norm(f"{block}.layer_norm2", 768)
        yield from layer(f"{block}.mlp.fc1", 3072, 768)
        yield from layer(f"{block}.mlp.fc2", 768, 3072)
    yield from norm("final_layer_norm", 768)


def clip_g():
    yield "token_embedding.weight", [49408, 1280]
    yield "positional_embedding", [77, 1280]
    yield "text_projection", [1280, 1280]
    for i in range(32):
        block = f"transformer.resblocks.{i}"
        yield f"{block}.attn.in_proj_weight", [3840, 1280]
        yield f"{block}.attn.in_proj_bias", [3840]
        yield from layer(f"{block}.attn.out_proj", 1280, 1280)
        yield from norm(f"{block}.ln_1", 1280)
        yield from norm(f"{block}.ln_2", 1280)
        yield from layer(f"{block}.mlp.c_fc", 5120, 1280)
        yield from layer(f"{block}.mlp.c_proj", 1280, 5120)
    yield from norm("ln_final", 1280)


def tensors():
    """(name, shape) of every tensor."""
    for prefix, part in [("model.diffusion_model.", unet()), ("first_stage_model.", vae()),
                         ("conditioner.embedders.0.transformer.text_model.", clip_l()),
                         ("conditioner.embedders.1.model.", clip_g())]:
        for name, shape in part:
            yield prefix + name, shape


class Values:
    """Little-endian f16 values; blocks of one deviation are made once."""

    def __init__(self, seed):
        self.random = random.Random(seed)
        self.blocks = {}

    def block(self, inputs):
        """At least BLOCK values from any place below PERIOD on."""
        if inputs not in self.blocks:
            width = math.sqrt(3 / inputs)
            period = struct.pack(f"<{PERIOD}e", *(self.random.uniform(-width, width) for _ in range(PERIOD)))
            self.blocks[inputs] = period * (BLOCK // PERIOD + 2)
        return self.blocks[inputs]

    def write(self, f, name, shape):
        count = math.prod(shape)
        if len(shape) == 1:
            is_scale = name.endswith(".weight")
            f.write(struct.pack("<e", float(is_scale)) * count)
            return
        block, at = self.block(math.prod(shape[1:])), self.random.randrange(PERIOD)
        while count:
            part = min(count, BLOCK)
            f.write(block[2 * at:2 * (at + part)])
            count, at = count - part, (at + part) % PERIOD


def write(path, seed=0):
    header, at, listed = {"__metadata__": {"format": "pt"}}, 0, list(tensors())
    for name, shape in listed:
        size = 2 * math.prod(shape)
        header[name] = {"dtype": "F16", "shape": shape, "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    values, part = Values(seed), path.with_name(path.name + ".part")
    with open(part, "wb") as f:
        f.write(struct.pack("<Q", len(text)) + text)
        for name, shape in listed:
            values.write(f, name, shape)
    part.replace(path)  # whoever finds it finds it whole


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("out", type=Path)
    write(p.parse_args().out)


if __name__ == "__main__":
    main()
