#!/usr/bin/env python3
"""Write a textual inversion of random vectors and what diffusers makes of it.

    python3 tools/record_inversion.py models/demo/base --out tests/fixtures/embeddings

Written are ink-splash.safetensors (`clip_l`, `clip_g`), the same as ink-both.pt, its first
half as ink-one.pt in AUTOMATIC1111's form, and recorded.safetensors: of each
prompt below, with load_textual_inversion's words for NAME in it, the embeddings in
float32 and `pooled`, which is text encoder 2's projection at the end of the text.
diffusers itself takes it at the largest id where the configuration's `eos_token_id` is 2,
as SDXL's is, and that is the inversion's then; ComfyUI and AUTOMATIC1111 do not.
Needs torch, diffusers, safetensors.
"""
import argparse
import json
from pathlib import Path

import torch
from diffusers import StableDiffusionXLPipeline
from safetensors.torch import save_file

PROMPTS = ["a red NAME circle", "NAME", "NAME, a blue square, NAME"]
VECTORS = 3


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("model", type=Path)
    p.add_argument("--out", type=Path, required=True)
    a = p.parse_args()
    pipe = StableDiffusionXLPipeline.from_pretrained(a.model, torch_dtype=torch.float32)
    encoders = {"clip_l": (pipe.text_encoder, pipe.tokenizer), "clip_g": (pipe.text_encoder_2, pipe.tokenizer_2)}
    generator, vectors = torch.Generator().manual_seed(5), {}
    for key, (encoder, tokenizer) in encoders.items():
        table = encoder.get_input_embeddings().weight
        vectors[key] = torch.randn((VECTORS, table.shape[1]), generator=generator) * table.std().item()
        pipe.load_textual_inversion(vectors[key].clone(), token="<ink>", text_encoder=encoder, tokenizer=tokenizer)
    out = {}
    with torch.no_grad():
        for i, prompt in enumerate(PROMPTS):
            text = prompt.replace("NAME", "<ink>")
            embeds, negative, _, _ = pipe.encode_prompt("a circle", negative_prompt=text, do_classifier_free_guidance=True)
            out[f"{i}.negative"] = negative
            embeds = pipe.encode_prompt(text, do_classifier_free_guidance=False)[0]
            assert torch.equal(embeds, negative)
            out[f"{i}.prompt_embeds"] = embeds
            encoder, tokenizer = encoders["clip_g"]
            ids = tokenizer(pipe.maybe_convert_prompt(text, tokenizer), padding="max_length", max_length=77, return_tensors="pt").input_ids
            states = encoder(ids).last_hidden_state
            end = (ids[0] == tokenizer.eos_token_id).int().argmax()
            out[f"{i}.pooled"] = encoder.text_projection(states[:, end])
    save_file(vectors, a.out / "ink-splash.safetensors")
    # As AUTOMATIC1111 trains for one encoder, and as PyTorch has SDXL's.
    one = {"string_to_token": {"*": 265}, "string_to_param": {"*": vectors["clip_l"]}, "name": "ink", "step": 500, "sd_checkpoint": None}
    torch.save(one, a.out / "ink-one.pt")
    torch.save(vectors, a.out / "ink-both.pt")
    keep = {name: value[:, :24].contiguous() if value.dim() == 3 else value for name, value in out.items() if "negative" not in name}
    save_file(keep, a.out / "recorded.safetensors", metadata={"prompts": json.dumps(PROMPTS)})
    print({name: tuple(value.shape) for name, value in keep.items()})


if __name__ == "__main__":
    main()
