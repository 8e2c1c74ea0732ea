#!/usr/bin/env python3
"""Write the single file that the tests read.

    python3 tools/make_single_fixture.py tests/fixtures/single.safetensors

A very small SDXL base is made with diffusers and transformers, filled with
numbers that follow from each tensor's name, and converted by
to_single_file.py. diffusers' own conversion must give the names and numbers
back. Needs torch, diffusers, transformers, safetensors and numpy.
"""
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace

import torch
from diffusers import AutoencoderKL, EulerDiscreteScheduler, UNet2DConditionModel
from diffusers.loaders import single_file_utils
from safetensors.torch import load_file
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

HERE = Path(__file__).resolve().parent


def fill(model):
    """Element i of a tensor is (sum of the name's bytes, each times its place from 1, + i) mod 251."""
    state = model.state_dict()
    for name, tensor in state.items():
        start = sum((i + 1) * b for i, b in enumerate(name.encode()))
        tensor.copy_(((torch.arange(tensor.numel()) + start) % 251).to(tensor.dtype).reshape(tensor.shape))
    return model.half()


def clip(cls, width, heads, act, projection):
    return cls(CLIPTextConfig(vocab_size=514, hidden_size=width, intermediate_size=2 * width + 4, num_hidden_layers=2,
                              num_attention_heads=heads, hidden_act=act, projection_dim=projection,
                              max_position_embeddings=77, eos_token_id=2, bos_token_id=0, pad_token_id=1))


def make(folder):
    down = ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D")
    models = {
        "text_encoder": clip(CLIPTextModel, 8, 2, "quick_gelu", 8),
        "text_encoder_2": clip(CLIPTextModelWithProjection, 12, 3, "gelu", 10),
        "unet": UNet2DConditionModel(
            sample_size=12, down_block_types=down, up_block_types=tuple(b.replace("Down", "Up") for b in reversed(down)),
            block_out_channels=(4, 8, 12), layers_per_block=1, transformer_layers_per_block=(1, 1, 2),
            attention_head_dim=(1, 2, 4), cross_attention_dim=20, use_linear_projection=True, norm_num_groups=4,
            addition_embed_type="text_time", addition_time_embed_dim=4, projection_class_embeddings_input_dim=10 + 6 * 4),
        "vae": AutoencoderKL(block_out_channels=(4, 8, 8), down_block_types=("DownEncoderBlock2D",) * 3,
                             up_block_types=("UpDecoderBlock2D",) * 3, layers_per_block=1, norm_num_groups=2,
                             sample_size=48, scaling_factor=0.5, force_upcast=False),
    }
    for name, model in models.items():
        fill(model).save_pretrained(folder / name)
    EulerDiscreteScheduler(prediction_type="v_prediction", beta_start=0.00085, beta_end=0.012).save_pretrained(folder / "scheduler")
    for name, pad in [("tokenizer", "<|endoftext|>"), ("tokenizer_2", "!")]:
        (folder / name).mkdir()
        (folder / name / "tokenizer_config.json").write_text(json.dumps({"pad_token": pad, "model_max_length": 77}))
    index = {"text_encoder": ["transformers", "CLIPTextModel"], "force_zeros_for_empty_prompt": True}
    (folder / "model_index.json").write_text(json.dumps(index))
    return models


def check(out, models):
    """Converts back with diffusers and compares."""
    state = load_file(out)
    utils, width = single_file_utils, SimpleNamespace(config=SimpleNamespace(hidden_size=12))
    back = {
        "unet": utils.convert_ldm_unet_checkpoint(dict(state), dict(models["unet"].config)),
        "vae": utils.convert_ldm_vae_checkpoint(dict(state), dict(models["vae"].config)),
        "text_encoder": utils.convert_ldm_clip_checkpoint(dict(state), remove_prefix="conditioner.embedders.0.transformer."),
    }
    # diffusers cuts the fused matrix by the projection's first size, which is the width in every release.
    del state["conditioner.embedders.1.model.text_projection"]
    back["text_encoder_2"] = utils.convert_open_clip_checkpoint(width, state, prefix="conditioner.embedders.1.model.")
    for name, model in models.items():
        want = {k: v for k, v in model.state_dict().items() if not k.endswith("position_ids") and k != "text_projection.weight"}
        assert want.keys() == back[name].keys(), (name, want.keys() ^ back[name].keys())
        assert all(torch.equal(want[k], back[name][k]) for k in want), name


def main():
    out = sys.argv[1]
    with tempfile.TemporaryDirectory() as temp:
        models = make(Path(temp))
        subprocess.run([sys.executable, HERE / "to_single_file.py", temp, out], check=True)
    check(out, models)


if __name__ == "__main__":
    main()
