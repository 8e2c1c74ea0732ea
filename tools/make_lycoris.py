#!/usr/bin/env python3
"""Write adapters of every kind for a checkpoint folder, and what LyCORIS makes of them.

    python3 tools/make_lycoris.py models/demo/base --out tests/fixtures/lora/lycoris.safetensors

Each case is an adapter of random numbers, as LyCORIS' own module saves it, on one module
of the UNet, and the weight (and bias) that this module's own merge gives. One file has
them all: CASE/adapter/KEY are the adapter's tensors, CASE/merged/TENSOR the first, middle
and last row of what comes out; the metadata's `cases` is how much each adapter counts.

LyCORIS 4.1.3's merge of LoHa and LoKr multiplies by alpha / rank twice. Its forward pass,
which is what adapters are trained with, does so once, as do ComfyUI and AUTOMATIC1111: of
cases where alpha is not the rank, the weight is taken from there.
DoRA at a weight other than 1 follows ComfyUI's `weight_decompose`: W + weight (W' - W),
with W' of LyCORIS' merge at 1. That of PEFT is diffusers' own.
Needs torch, lycoris-lora, safetensors and, for PEFT's form, diffusers and peft.
"""
import argparse
import json
from pathlib import Path

import torch
from lycoris.modules import FullModule, GLoRAModule, IA3Module, LoConModule, LohaModule, LokrModule, NormModule, make_module
from safetensors import safe_open
from safetensors.torch import save_file

LINEAR = "down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k"  # [64, 192], no bias
SQUARE = "down_blocks.1.attentions.0.proj_in"  # [64, 64]
CONV = "down_blocks.0.resnets.0.conv1"  # [32, 32, 3, 3]
LAYER_NORM = "down_blocks.1.attentions.0.transformer_blocks.0.norm1"
GROUP_NORM = "down_blocks.0.resnets.0.norm1"
KOHYA = lambda module: "lora_unet_" + module.replace(".", "_")


def layer(weights, module):
    """The module with its own weights, in float32."""
    weight, bias = weights[f"{module}.weight"].float(), weights.get(f"{module}.bias")
    if weight.dim() == 1:
        made = torch.nn.LayerNorm(len(weight)) if "transformer" in module else torch.nn.GroupNorm(8, len(weight))
    elif weight.dim() == 2:
        made = torch.nn.Linear(*weight.shape[::-1], bias=bias is not None)
    else:
        made = torch.nn.Conv2d(*weight.shape[1::-1], weight.shape[2:], bias=bias is not None)
    made.weight.data.copy_(weight)
    if bias is not None:
        made.bias.data.copy_(bias.float())
    return made


def cases():
    """Name, module's name, LyCORIS' class, its arguments, how much it counts."""
    yield "locon", CONV, LoConModule, dict(lora_dim=3, alpha=1.5), 0.7
    yield "locon-tucker", CONV, LoConModule, dict(lora_dim=3, alpha=1.5, use_tucker=True), -0.7
    yield "loha", LINEAR, LohaModule, dict(lora_dim=4, alpha=4), 0.7
    yield "loha-alpha", LINEAR, LohaModule, dict(lora_dim=4, alpha=1), 0.7
    yield "loha-conv", CONV, LohaModule, dict(lora_dim=4, alpha=4), -1.3
    yield "loha-tucker", CONV, LohaModule, dict(lora_dim=4, alpha=4, use_tucker=True), 0.7
    yield "lokr", LINEAR, LokrModule, dict(lora_dim=2, alpha=2, factor=4), 0.7
    yield "lokr-alpha", LINEAR, LokrModule, dict(lora_dim=2, alpha=1, factor=4), 0.7
    yield "lokr-both", LINEAR, LokrModule, dict(lora_dim=1, alpha=1, factor=8, decompose_both=True), -0.7
    yield "lokr-whole", LINEAR, LokrModule, dict(lora_dim=10000, alpha=7, factor=4, full_matrix=True), 0.7
    yield "lokr-conv", CONV, LokrModule, dict(lora_dim=2, alpha=2, factor=4), 0.7
    yield "lokr-conv-whole", CONV, LokrModule, dict(lora_dim=10000, alpha=1, factor=4, full_matrix=True), 0.7
    yield "lokr-tucker", CONV, LokrModule, dict(lora_dim=2, alpha=2, factor=4, use_tucker=True), 0.7
    yield "ia3-input", LINEAR, IA3Module, dict(train_on_input=True), 0.7
    yield "ia3-output", LINEAR, IA3Module, dict(train_on_input=False), -0.7
    yield "ia3-conv", CONV, IA3Module, dict(train_on_input=True), 0.7
    yield "full", SQUARE, FullModule, {}, 0.7
    yield "full-conv", CONV, FullModule, {}, -0.7
    yield "layer-norm", LAYER_NORM, NormModule, {}, 0.7
    yield "group-norm", GROUP_NORM, NormModule, {}, 0.7
    yield "glora", LINEAR, GLoRAModule, dict(lora_dim=3, alpha=1.5), 0.7
    yield "glora-conv", CONV, GLoRAModule, dict(lora_dim=3, alpha=1.5), -0.7
    for output in [True, False]:
        end = "output" if output else "input"
        dora = dict(lora_dim=3, weight_decompose=True, wd_on_out=output)
        yield f"dora-{end}", SQUARE, LoConModule, dora | dict(alpha=1.5), 1.0
        yield f"dora-{end}-weak", LINEAR, LoConModule, dora | dict(alpha=1.5), 0.6
        yield f"dora-{end}-conv", CONV, LoConModule, dora | dict(alpha=1.5), 1.0
        yield f"doha-{end}", LINEAR, LohaModule, dora | dict(alpha=3), 1.0
        yield f"dokr-{end}", LINEAR, LokrModule, dora | dict(alpha=3, factor=4), -0.5


def randomise(module, seed):
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in module.named_parameters():
        draw = torch.randn(parameter.shape, generator=generator)
        if name == "dora_scale":
            parameter.data.mul_(1 + 0.2 * draw)
        else:
            parameter.data.copy_(draw * (0.1 if parameter.dim() < 2 else 0.3))


def forward_weight(module):
    """The weight that the module's forward pass multiplies by."""
    seen = {}

    def op(x, weight, *args, **kwargs):
        seen["weight"] = weight
        return torch.zeros(())

    module.op, module.org_forward = op, lambda x: torch.zeros(())
    module.forward(torch.zeros(1))
    return module.org_weight + seen["weight"]


def merged(kind, original, trained, adapter, arguments, weight):
    """The weight and the bias after LyCORIS' own merge."""
    old_dora = arguments.get("weight_decompose") and not arguments["wd_on_out"]
    rebuilt = None
    if not old_dora and kind not in (IA3Module, LokrModule):
        # As LyCORIS reads a file. Its readers of IA3 and LoKr guess their arguments.
        names = kind.weight_list
        rebuilt = make_module(kind, [adapter.get(name) for name in names], "", original)
    module = rebuilt if rebuilt is not None else trained
    scaled_twice = kind in (LohaModule, LokrModule) and module.scale != 1
    if arguments.get("weight_decompose"):
        assert not scaled_twice
        whole = module.get_merged_weight(1, original.weight.shape)[0]
        return original.weight + weight * (whole - original.weight), None
    if scaled_twice:
        module.multiplier = weight
        return forward_weight(module), None
    return module.get_merged_weight(weight, original.weight.shape)


def peft_dora(folder, weights, out, cases):
    """DoRA in PEFT's form, merged by diffusers."""
    from diffusers import UNet2DConditionModel

    unet = UNet2DConditionModel.from_pretrained(folder / "unet", torch_dtype=torch.float32)
    adapter, generator = {}, torch.Generator().manual_seed(99)
    for module in [LINEAR, CONV]:
        weight = weights[f"{module}.weight"].float()
        draw = lambda *shape: torch.randn(shape, generator=generator) * 0.3
        rank, ones = 3, [1] * (weight.dim() - 2)
        norm = weight.reshape(len(weight), -1).norm(dim=1) * (1 + 0.2 * torch.randn(len(weight), generator=generator))
        adapter |= {f"unet.{module}.lora_A.weight": draw(rank, *weight.shape[1:]), f"unet.{module}.lora_B.weight": draw(len(weight), rank, *ones),
                    f"unet.{module}.lora_magnitude_vector": norm.reshape([1, -1, 1, 1]) if ones else norm}
    unet.load_lora_adapter({key.removeprefix("unet."): value.clone() for key, value in adapter.items()}, prefix=None)
    unet.fuse_lora()
    state = unet.state_dict()
    keep(out, "dora-peft", adapter, {f"{m}.weight": state[f"{m}.base_layer.weight"] for m in [LINEAR, CONV]})
    cases["dora-peft"] = 1.0


def keep(out, case, adapter, results):
    for key, value in adapter.items():
        out[f"{case}/adapter/{key}"] = value.detach().float().contiguous().clone()
    for key, value in results.items():
        rows = sorted({0, len(value) // 2, len(value) - 1}) if value.dim() > 1 else slice(None)
        out[f"{case}/merged/{key}"] = value.detach()[rows].contiguous().clone()


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("model", type=Path)
    p.add_argument("--out", type=Path, required=True)
    a = p.parse_args()
    [path] = (a.model / "unet").glob("*.safetensors")
    with safe_open(path, "pt") as file:
        weights = {key: file.get_tensor(key) for key in file.keys()}
    out, weighted = {}, {}
    with torch.no_grad():
        for seed, (case, name, kind, arguments, weight) in enumerate(cases()):
            original = layer(weights, name)
            trained = kind("", original, **arguments)
            if kind is FullModule:
                trained.weight.data.zero_()
            randomise(trained, seed)
            adapter = {key: value.detach().clone() for key, value in trained.custom_state_dict().items()} if kind not in (IA3Module, NormModule, FullModule) else (
                {"diff": trained.weight, **({"diff_b": trained.bias} if trained.bias is not None else {})} if kind is FullModule else dict(trained.state_dict()))
            new, bias = merged(kind, original, trained, adapter, arguments, weight)
            results = {f"{name}.weight": new.reshape(original.weight.shape)}
            if bias is not None:
                results[f"{name}.bias"] = bias
            keep(out, case, {f"{KOHYA(name)}.{key}": value for key, value in adapter.items()}, results)
            weighted[case] = weight
        peft_dora(a.model, weights, out, weighted)
    save_file(out, a.out, metadata={"cases": json.dumps(weighted)})
    print(f"{a.out}: {len(weighted)} cases, {a.out.stat().st_size} bytes")


if __name__ == "__main__":
    main()
