"""Small files of tensors in the formats that checkpoints come in, and their values by
the formats' own libraries. Needs: pip install gguf torch safetensors numpy.

    python tools/make_file_fixtures.py tests/fixtures/files
"""

import sys
from collections import OrderedDict
from pathlib import Path

import gguf
import numpy as np
import torch
from safetensors.torch import save_file

TYPES = {
    "f32": gguf.GGMLQuantizationType.F32,
    "f16": gguf.GGMLQuantizationType.F16,
    "bf16": gguf.GGMLQuantizationType.BF16,
    "q4_0": gguf.GGMLQuantizationType.Q4_0,
    "q4_1": gguf.GGMLQuantizationType.Q4_1,
    "q5_0": gguf.GGMLQuantizationType.Q5_0,
    "q5_1": gguf.GGMLQuantizationType.Q5_1,
    "q8_0": gguf.GGMLQuantizationType.Q8_0,
    "q4_K": gguf.GGMLQuantizationType.Q4_K,
    "q5_K": gguf.GGMLQuantizationType.Q5_K,
    "q6_K": gguf.GGMLQuantizationType.Q6_K,
}
ROWS, COLUMNS = 3, 512


def blocks(rng, kind):
    """Random bytes as blocks; scales are f16 that are neither NaN nor infinite."""
    values, size = gguf.GGML_QUANT_SIZES[TYPES[kind]]
    data = rng.integers(0, 256, (ROWS, COLUMNS // values, size), dtype=np.uint8)
    scales = {"q4_1": [0, 2], "q5_1": [0, 2], "q4_K": [0, 2], "q5_K": [0, 2], "q6_K": [208]}
    for at in scales.get(kind, [0]):
        half = rng.normal(0, 0.05, data.shape[:2]).astype(np.float16)
        data[:, :, at : at + 2] = half.view(np.uint8).reshape(*data.shape[:2], 2)
    return data.reshape(ROWS, -1)


def make_gguf(folder):
    rng = np.random.default_rng(1)
    writer = gguf.GGUFWriter(str(folder / "types.gguf"), "sdxl")
    writer.add_array("some.words", ["a", "longer word"])
    values = {}
    for name, kind in TYPES.items():
        if name in ("f32", "f16", "bf16"):
            wide = rng.normal(0, 1, (ROWS, COLUMNS)).astype(np.float32)
            data = gguf.quants.quantize(wide, kind)
        else:
            data = blocks(rng, name)
        values[name] = torch.from_numpy(
            np.asarray(gguf.quants.dequantize(data, kind), dtype=np.float32).copy()
        )
        writer.add_tensor(name, data, raw_dtype=kind)
    # A convolution, flattened as ComfyUI-GGUF does: [8, 4, 3, 3] in rows of 32.
    flat = rng.normal(0, 1, (9, 32)).astype(np.float32)
    data = gguf.quants.quantize(flat, gguf.GGMLQuantizationType.Q8_0)
    writer.add_array("comfy.gguf.orig_shape.conv", [8, 4, 3, 3])
    writer.add_tensor("conv", data, raw_dtype=gguf.GGMLQuantizationType.Q8_0)
    wide = gguf.quants.dequantize(data, gguf.GGMLQuantizationType.Q8_0)
    values["conv"] = torch.from_numpy(wide.reshape(8, 4, 3, 3).copy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    save_file(values, folder / "types.safetensors")


def make_fp8(folder):
    """Every code of both kinds, and what PyTorch makes of it (NaN left out)."""
    codes = torch.arange(256, dtype=torch.uint8)
    files, wide = {}, {}
    for name, dtype in (("e4m3", torch.float8_e4m3fn), ("e5m2", torch.float8_e5m2)):
        all_values = codes.view(dtype).to(torch.float32)
        some = codes[torch.isfinite(all_values)]
        files[f"{name}.weight"] = some.view(dtype)
        wide[f"{name}.weight"] = some.view(dtype).to(torch.float32)
        files[f"{name}_scaled.weight"] = some.clone().view(dtype)
        wide[f"{name}_scaled.weight"] = some.view(dtype).to(torch.float32) * 0.3
    files["e4m3_scaled.scale_weight"] = torch.tensor([0.3])
    files["e4m3_scaled.scale_input"] = torch.tensor([7.0])
    files["e5m2_scaled.weight_scale"] = torch.tensor(0.3)
    files["scaled_fp8"] = torch.zeros(2).to(torch.float8_e4m3fn)
    save_file(files, folder / "fp8.safetensors")
    save_file(wide, folder / "fp8_wide.safetensors")


def make_pickle(folder):
    torch.manual_seed(3)
    shared = torch.randn(4, 6)
    tensors = OrderedDict(
        {
            "whole": torch.randn(3, 5),
            "half": torch.randn(7).half(),
            "brain": torch.randn(2, 2, 2).bfloat16(),
            "rows": shared[1:3],
            "parameter": torch.nn.Parameter(torch.randn(4)),
            "scalar": torch.tensor(2.5),
            "ids": torch.arange(5),
        }
    )
    turned = {"turned": shared.t(), "plain": shared}
    save_file(
        {k: v.detach().float().contiguous().clone() for k, v in tensors.items()},
        folder / "pickle.safetensors",
    )
    torch.save({"state_dict": tensors, "epoch": 3, "loss": 0.5}, folder / "pickle.ckpt")
    torch.save(turned, folder / "turned.bin")
    for protocol in (3, 4):
        torch.save(dict(tensors), folder / f"protocol{protocol}.pt", pickle_protocol=protocol)
    torch.save(
        {"a": torch.randn(3)}, folder / "old.ckpt", _use_new_zipfile_serialization=False
    )


if __name__ == "__main__":
    out = Path(sys.argv[1])
    out.mkdir(parents=True, exist_ok=True)
    make_gguf(out)
    make_fp8(out)
    make_pickle(out)
