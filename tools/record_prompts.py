#!/usr/bin/env python3
"""Record diffusers with another conditioning at every call: tests/fixtures/prompts.

    python3 tools/record_prompts.py --out tests/fixtures/prompts [NAME ...]

Prompts that change on the way and prompts of several parts, as AUTOMATIC1111's
program understands them (modules/prompt_parser.py, sd_samplers_cfg_denoiser.py).
What is said at each call is written out by hand below, not parsed: `said` has for
every call of the UNet the texts of the prompt's parts, `weights` their weights and
`unsaid` the negative prompt's texts (null: zeros). Each text is encoded by diffusers
alone, and the UNet is run for each; the prediction for the prompt is
u + sum of w (c - u), which diffusers then guides by. Otherwise as record_cases.py.
"""
import argparse
import functools
import json
import warnings
from pathlib import Path

import diffusers
import torch
from safetensors.torch import save_file

from record_cases import PICTURES, ROOT, STAR, is_kept
from reference import DEFAULTS, VERSIONS, Reference

RED, BLUE = "a red circle on a black background", "a blue circle on a black background"
GREEN = "a green circle on a black background"
SHAPE, SQUARE = "a red circle on a blue background", "a blue square on a black background"
HEART = "a pink heart on a green background"


def one(*texts):
    """One part a call: each text so many times."""
    return [[text] for text, times in texts for _ in range(times)]


#: Arguments; what is said at each call; weights; the negative prompts.
CASES = {
    # Half of 6 is 3; calls are counted from 0 there, so that red has four.
    "share": (dict(prompt="a [red:blue:0.5] circle on a black background", seed=41), one((RED, 4), (BLUE, 2)), [1.0], None),
    "nested": (dict(prompt="[a pink heart:a [white:yellow:4] cross:2] on a green background", seed=42),
               one((HEART, 3), ("a white cross on a green background", 2), ("a yellow cross on a green background", 1)), [1.0], None),
    "turns": (dict(prompt="a [red|blue|green] circle on a black background", negative_prompt="[noisy:blurry:0.5] picture",
                   scheduler="Euler a", steps=7, samples=2, seed=43),
              one((RED, 2), (BLUE, 1), (GREEN, 1), (RED, 1), (BLUE, 1), (GREEN, 1)), [1.0], ["noisy picture"] * 4 + ["blurry picture"] * 3),
    "parts": (dict(prompt=f"{SHAPE} AND a yellow star :0.5", scheduler="UniPC", samples=2, seed=44),
              [[SHAPE, " a yellow star"]] * 6, [1.0, 0.5], None),
    # Whole numbers count calls: two a step but for the last.
    "parts-heun": (dict(prompt=f"a [red:blue:4] circle on a black background AND {SQUARE} :-0.4 AND [green|black] background:1.2",
                        negative_prompt="", scheduler="Heun", steps=5, guidance_scale=4.0, seed=45),
                   [[RED if k <= 4 else BLUE, " " + SQUARE, (" green" if (max(k, 1) - 1) % 2 == 0 else " black") + " background"] for k in range(9)],
                   [1.0, -0.4, 1.2], [""] * 9),
    "parts-unguided": (dict(prompt=f"{SHAPE} AND {HEART} :0.7", negative_prompt="noisy", guidance_scale=1.0, seed=46),
                       [[SHAPE, " " + HEART]] * 6, [1.0, 0.7], ["noisy"] * 6),
    "weight": (dict(prompt=f"{SHAPE} :1.5", seed=47), one((SHAPE, 6)), [1.5], None),
    # Of the steps asked for, from the first that runs.
    "image": (dict(prompt="[a pink heart:a red circle:0.25] on a green background", image=STAR, strength=0.5, steps=8, seed=48),
              one((HEART, 3), ("a red circle on a green background", 1)), [1.0], None),
    "refined": (dict(prompt="a [red:blue:0.85] circle on a black background", steps=10, refiner=True, seed=49),
                one((RED, 9), (BLUE, 1)), [1.0], None),
    # The second pass goes on where the first one ends, as the hires fix does.
    "second-pass": (dict(prompt="a [red:blue:0.5] [circle:square:1.2] on a black background", refiner=True, refiner_strength=0.5, seed=50),
                    one((RED, 4), (BLUE, 2), (BLUE, 2), (SQUARE, 1)), [1.0], None),
    "second-prompts": (dict(prompt="a [red:blue:3] circle on a black background", prompt_2="a [heart|star]", seed=51),
                       [[(RED if k <= 3 else BLUE, "a heart" if (max(k, 1) - 1) % 2 == 0 else "a star")] for k in range(6)], [1.0], None),
}


class Scripted(Reference):
    """Tells the UNet what the script says, whatever the pipeline hands to it."""

    def play(self, pipe, said, weights, unsaid, case):
        unet, calls, encoded = pipe.unet.forward, [], {}

        def encode(text):
            if text not in encoded:
                first, second = text if isinstance(text, tuple) else (text, text)
                # The refiner reads the first encoder's.
                second = second if pipe.text_encoder is not None else first
                embeds, _, pooled, _ = pipe.encode_prompt(prompt=first, prompt_2=second, do_classifier_free_guidance=False,
                                                          clip_skip=case["clip_skip"])
                encoded[text] = embeds, pooled
            return encoded[text]

        def predict(sample, timestep, text, zeros, added, row, **kwargs):
            embeds, pooled = encode(text)
            if zeros:
                embeds, pooled = torch.zeros_like(embeds), torch.zeros_like(pooled)
            n = sample.shape[0]
            added = {"text_embeds": pooled.repeat(n, 1), "time_ids": added["time_ids"][row]}
            return unet(sample, timestep, encoder_hidden_states=embeds.repeat(n, 1, 1), added_cond_kwargs=added, **kwargs)[0]

        @functools.wraps(unet)
        def forward(sample, timestep, *args, encoder_hidden_states=None, added_cond_kwargs=None, **kwargs):
            k = len(calls)
            calls.append(timestep)
            n = case["samples"]
            guided = sample.shape[0] == 2 * n
            x, first, last = sample[-n:], slice(0, n), slice(-n, None)
            negative = None if unsaid is None else unsaid[k]
            zeros = negative is None and pipe.config.force_zeros_for_empty_prompt
            kwargs["return_dict"] = False
            u = predict(x, timestep, negative if not zeros and negative is not None else said[k][0] if zeros else "", zeros,
                        added_cond_kwargs, first, **kwargs)
            p = u.clone()
            for text, weight in zip(said[k], weights):
                p += weight * (predict(x, timestep, text, False, added_cond_kwargs, last, **kwargs) - u)
            return (torch.cat([u, p]) if guided else p,)

        pipe.unet.forward = forward

    def run_base(self, case, arguments, out, calls, jitter):
        pipe = self.inpaint if case["mask"] else self.image if case["image"] else self.base
        self.play(pipe, *self.script, case)
        return super().run_base(case, arguments, out, calls, jitter)

    def run_refiner(self, case, arguments, latents, out, calls, jitter):
        said, weights, unsaid = self.script
        steps = len([name for name in out if name.startswith("noise_pred.")])
        self.play(self.refiner, said[steps:], weights, unsaid and unsaid[steps:], case)
        return super().run_refiner(case, arguments, latents, out, calls, jitter)


def record(name, reference, out):
    arguments, said, weights, unsaid = CASES[name]
    case = {**DEFAULTS, **arguments}
    reference.script = said, weights, unsaid
    tensors, latents, calls, refiner_calls = reference.run(case)
    assert len(calls) + len(refiner_calls) == len(said), (name, calls, refiner_calls)
    kept = {n: t for n, t in tensors.items() if is_kept(n, tensors, []) and "input_ids" not in n and "embeds" not in n and "time_ids" not in n}
    meta = {**case, "calls": [len(calls), len(refiner_calls)], "said": said, "weights": weights, "unsaid": unsaid, **VERSIONS}
    target = out / f"{name}.safetensors"
    save_file(kept, target, metadata={"meta": json.dumps(meta)})
    print(f"{name}: calls {meta['calls']}, std {latents.std():.2f}, {target.stat().st_size} bytes", flush=True)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("names", nargs="*", help="of cases; all if none is given")
    p.add_argument("--base", type=Path, default=ROOT / "models/demo/base")
    p.add_argument("--refiner", type=Path, default=ROOT / "models/demo/refiner")
    p.add_argument("--out", type=Path, required=True)
    a = p.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    diffusers.logging.set_verbosity_error()
    a.out.mkdir(parents=True, exist_ok=True)
    reference = Scripted(a.base, a.refiner, [PICTURES, ROOT / "models/demo/pictures"])
    with torch.no_grad():
        for name in a.names or CASES:
            record(name, reference, a.out)


if __name__ == "__main__":
    main()
