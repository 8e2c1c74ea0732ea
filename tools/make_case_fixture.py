#!/usr/bin/env python3
"""Cut a recorded run of diffusers down to what tests/engine/pipeline.rs compares.

    python3 tools/make_case_fixture.py CASE.safetensors ... --out tests/fixtures/cases

A case is a trace as `calotype generate --trace` writes it (see
src/pipeline/trace.rs for the names), recorded with diffusers in float32, its
arguments as JSON under `meta` in the header. Kept are the tokens, the
embeddings (zeros left out), the schedule, the first and last latents, the first
prediction, and the picture in float16. Needs numpy and safetensors.
"""
import argparse
import json
from pathlib import Path

import numpy as np
from safetensors import safe_open
from safetensors.numpy import save_file

KEPT = ["prompt_embeds", "pooled_prompt_embeds", "unet_time_ids", "timesteps", "sigmas", "latents.000", "noise_pred.000"]


def cut(path, out):
    with safe_open(path, "numpy") as file:
        names, meta = set(file.keys()), file.metadata()["meta"]
        tensors = {name: file.get_tensor(name) for name in names if "input_ids" in name or name in KEPT}
        for name in ["negative_prompt_embeds", "negative_pooled_prompt_embeds"]:
            values = file.get_tensor(name)
            if values.any():
                tensors[name] = values
        last = max(name for name in names if name.startswith("latents."))
        tensors[last] = file.get_tensor(last)
        tensors["decoded"] = file.get_tensor("decoded").astype(np.float16)
    target = out / Path(path).name
    save_file(tensors, target, metadata={"meta": meta})
    print(f"{target}: {target.stat().st_size} bytes, {json.loads(meta)['prompt']!r}")


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("cases", nargs="+")
    p.add_argument("--out", type=Path, required=True)
    a = p.parse_args()
    for case in a.cases:
        cut(case, a.out)


if __name__ == "__main__":
    main()
