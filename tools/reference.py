"""Run SDXL requests through diffusers in float32 and write down every stage.

Shared by record_grid.py and record_cases.py. A case is a dict with these keys
(all but `prompt` optional; DEFAULTS has the rest); recorded files carry it as
JSON under `meta` in their header:

    prompt, prompt_2, negative_prompt, negative_prompt_2
                          null and "" differ; the second ones are for the second
                          text encoder and fall back on the first ones; the
                          refiner reads the first ones, as diffusers has it
    width, height         pixels
    steps, guidance_scale, guidance_rescale
    scheduler             a key of SCHEDULERS
    scheduler_config      further options, over the checkpoint's and SCHEDULERS'
    seed, samples         picture i has torch's CPU generator seeded seed + i
    refiner               whether the refiner takes part
    high_noise_fraction   0 < f < 1: base to f, refiner from there (`refiner`);
                          0: the refiner's UNet runs every step from pure noise
    refiner_strength      not null: the base runs all steps and the refiner's
                          pass is image-to-image over the finished latents
    image, mask, strength picture (and mask) files, by name; the picture is
                          scaled by PIL's LANCZOS to width x height, the mask is
                          1 where the mean of its channels is above 127.5
    clip_skip
    original_size, crops_coords_top_left, target_size and the same with
    `negative_`           [height, width] or [top, left]; null: diffusers' default
    aesthetic_score, negative_aesthetic_score
                          of the refiner
    cache_interval        above 1: DeepCache's, of the base from pure noise
    inpaint_model         the UNet has 9 input channels, see make_inpaint_model.py
    sharp_model           attention logits of hundreds, see make_sharp_model.py

Tensors are named as src/pipeline/trace.rs says, those of the refiner's part
with `refiner.` before. `timesteps` and `sigmas` are the scheduler's whole lists,
whichever part of them ran; `calls` in the header is how many calls of the UNet
there were in each part. `latents.KKK` for K > 0 is what the scheduler made of
call K - 1, in inpainting before the known part is put back; `base_latents` is
after it.
"""
import functools
from contextlib import contextmanager, nullcontext
from pathlib import Path

import diffusers
import numpy as np
import torch
import transformers
from diffusers import StableDiffusionXLImg2ImgPipeline, StableDiffusionXLInpaintPipeline, StableDiffusionXLPipeline
from PIL import Image

SDE = {"algorithm_type": "sde-dpmsolver++"}
SCHEDULERS = {
    "DDIM": ("DDIMScheduler", {}),
    "DDPM": ("DDPMScheduler", {}),
    "DPM Multi": ("DPMSolverMultistepScheduler", {}),
    "DPM Single": ("DPMSolverSinglestepScheduler", {}),
    "DPM2 Karras": ("KDPM2DiscreteScheduler", {"use_karras_sigmas": True}),
    "DPM2 a Karras": ("KDPM2AncestralDiscreteScheduler", {"use_karras_sigmas": True}),
    "Euler": ("EulerDiscreteScheduler", {}),
    "Euler a": ("EulerAncestralDiscreteScheduler", {}),
    "Heun": ("HeunDiscreteScheduler", {}),
    "LMS": ("LMSDiscreteScheduler", {}),
    "PNDM": ("PNDMScheduler", {}),
    "UniPC": ("UniPCMultistepScheduler", {}),
    "LCM": ("LCMScheduler", {}),
    "TCD": ("TCDScheduler", {}),
    "DEIS": ("DEISMultistepScheduler", {}),
    "DPM++ 2M SDE": ("DPMSolverMultistepScheduler", SDE),
    "DPM++ 3M SDE": ("DPMSolverMultistepScheduler", {**SDE, "solver_order": 3}),
    "DPM++ SDE": ("DPMSolverSDEScheduler", {}),
}

SIZES = [sign + name for sign in ("", "negative_") for name in ("original_size", "crops_coords_top_left", "target_size")]
DEFAULTS = dict(
    prompt_2=None, negative_prompt=None, negative_prompt_2=None, width=64, height=64, steps=6, scheduler="Euler",
    scheduler_config={}, guidance_scale=5.0, guidance_rescale=0.0, seed=0, samples=1, refiner=False, high_noise_fraction=0.8,
    refiner_strength=None, image=None, mask=None, strength=0.5, clip_skip=None, aesthetic_score=6.0,
    negative_aesthetic_score=2.5, cache_interval=1, inpaint_model=False, sharp_model=False, **{name: None for name in SIZES})
TEXTS = ("prompt", "prompt_2", "negative_prompt", "negative_prompt_2")
EMBEDS = ("prompt_embeds", "negative_prompt_embeds", "pooled_prompt_embeds", "negative_pooled_prompt_embeds")
VERSIONS = {"diffusers": diffusers.__version__, "transformers": transformers.__version__, "torch": torch.__version__}


def clone(tensor):
    return torch.as_tensor(tensor).detach().float().contiguous().clone()


def picture(path, width, height):
    """[1, 3, height, width] from -1 to 1."""
    image = Image.open(path).convert("RGB").resize((width, height), Image.LANCZOS)
    values = np.asarray(image, dtype=np.float32) / 127.5 - 1.0
    return torch.from_numpy(values).permute(2, 0, 1)[None].contiguous()


@contextmanager
def recorded(pipe, out, prefix, calls, jitter):
    """Within it, what passes through the UNet and the scheduler is put into `out`, timesteps into `calls`."""
    unet_forward, scheduler_step = pipe.unet.forward, pipe.scheduler.step

    def forward(sample, timestep, *args, **kwargs):
        if not calls:
            out[prefix + "unet_time_ids"] = clone(kwargs["added_cond_kwargs"]["time_ids"])
        calls.append(float(timestep))
        result = unet_forward(sample, timestep, *args, **kwargs)
        return tuple(x * (1 + jitter * torch.randn(x.shape)) for x in result) if jitter else result

    # The pipelines look at the signature: without it they would not pass the generators and eta on.
    @functools.wraps(scheduler_step)
    def step(output, timestep, sample, *args, **kwargs):
        k = len(calls) - 1
        if k == 0:
            out[prefix + "latents.000"] = clone(sample)
            out[prefix + "timesteps"] = clone(pipe.scheduler.timesteps)
            if hasattr(pipe.scheduler, "sigmas"):
                out[prefix + "sigmas"] = clone(pipe.scheduler.sigmas)
        out[f"{prefix}noise_pred.{k:03d}"] = clone(output)
        result = scheduler_step(output, timestep, sample, *args, **kwargs)
        out[f"{prefix}latents.{k + 1:03d}"] = clone(result[0])
        return result

    pipe.unet.forward, pipe.scheduler.step = forward, step
    try:
        yield
    finally:
        del pipe.unet.forward, pipe.scheduler.step


@contextmanager
def cached(pipe, interval):
    """Within it, DeepCache reuses the UNet's features, up to the shallowest branch."""
    from DeepCache import DeepCacheSDHelper

    helper = DeepCacheSDHelper(pipe=pipe)
    helper.set_params(cache_interval=interval, cache_branch_id=0)
    helper.enable()
    try:
        yield
    finally:
        helper.disable()


class Reference:
    """The base's and the refiner's pipelines, loaded once."""

    def __init__(self, base, refiner, pictures):
        self.pictures = [Path(p) for p in pictures]
        self.base = StableDiffusionXLPipeline.from_pretrained(base, torch_dtype=torch.float32)
        self.config = self.base.scheduler.config
        parts, zeros = self.base.components, self.base.config.force_zeros_for_empty_prompt
        image = {**parts, "force_zeros_for_empty_prompt": zeros}
        self.image = StableDiffusionXLImg2ImgPipeline(**image)
        self.inpaint = StableDiffusionXLInpaintPipeline(**image)
        self.refiner = refiner and StableDiffusionXLImg2ImgPipeline.from_pretrained(
            refiner, vae=self.base.vae, text_encoder_2=self.base.text_encoder_2, tokenizer_2=self.base.tokenizer_2,
            torch_dtype=torch.float32)
        for pipe in (self.base, self.image, self.inpaint, self.refiner):
            if pipe is not None:
                pipe.set_progress_bar_config(disable=True)

    def find(self, name):
        return next(folder / name for folder in self.pictures if (folder / name).exists())

    def scheduler(self, case):
        name, options = SCHEDULERS[case["scheduler"]]
        if name == "DPMSolverSDEScheduler":
            seeds = [case["seed"] + i for i in range(case["samples"])]
            options = {**options, "noise_sampler_seed": seeds if len(seeds) > 1 else seeds[0]}
        return getattr(diffusers, name).from_config(self.config, **options, **case["scheduler_config"])

    def tokens(self, case, out):
        for tokenizer, suffix in ((self.base.tokenizer, ""), (self.base.tokenizer_2, "_2")):
            for key, name in (("prompt", "input_ids"), ("negative_prompt", "negative_input_ids")):
                text = case[key + suffix] if case[key + suffix] is not None else case[key]
                if text is not None:
                    ids = tokenizer(text, padding="max_length", max_length=77, truncation=True).input_ids
                    out[name + suffix] = torch.tensor([ids], dtype=torch.int32)

    def run(self, case, jitter=0.0, decode=True):
        """The tensors of a case, and the timesteps of the base's and the refiner's calls."""
        torch.manual_seed(0)
        case = {**DEFAULTS, **case}
        out, calls, refiner_calls = {}, [], []
        generators = [torch.Generator("cpu").manual_seed(case["seed"] + i) for i in range(case["samples"])]
        common = dict(**{key: case[key] for key in TEXTS}, num_inference_steps=case["steps"],
                      guidance_scale=case["guidance_scale"], guidance_rescale=case["guidance_rescale"], clip_skip=case["clip_skip"],
                      num_images_per_prompt=case["samples"], generator=generators, output_type="latent")
        common |= {key: tuple(case[key]) for key in SIZES if case[key] is not None}
        alone = case["refiner"] and case["high_noise_fraction"] == 0
        split = case["refiner"] and case["refiner_strength"] is None and 0 < case["high_noise_fraction"] < 1
        if alone:
            latents = self.first_noise(case, generators)
        else:
            if split:
                common["denoising_end"] = case["high_noise_fraction"]
            latents = self.run_base(case, dict(common), out, calls, jitter)
            common.pop("denoising_end", None)
        if case["refiner"]:
            if alone:
                common |= dict(denoising_start=0.0, strength=1.0)
            elif split:
                common["denoising_start"] = case["high_noise_fraction"]
            else:
                common["strength"] = case["refiner_strength"]
            latents = self.run_refiner(case, common, latents, out, refiner_calls, jitter)
        if decode:
            with torch.no_grad():
                out["decoded"] = clone(self.base.vae.decode(latents / self.base.vae.config.scaling_factor, return_dict=False)[0])
        return out, latents, calls, refiner_calls

    def run_base(self, case, arguments, out, calls, jitter):
        pipe = self.inpaint if case["mask"] else self.image if case["image"] else self.base
        pipe.scheduler = self.scheduler(case)
        self.tokens(case, out)
        self.embed(pipe, case, out, "")
        width, height, samples = case["width"], case["height"], case["samples"]
        if case["image"]:
            image = picture(self.find(case["image"]), width, height).repeat(samples, 1, 1, 1)
            out["init_image"] = clone(image)
            arguments |= dict(image=image, strength=case["strength"])
        if case["mask"]:
            mask = picture(self.find(case["mask"]), width, height).mean(1, keepdim=True)
            out["mask"] = (mask > 0).float().repeat(samples, 1, 1, 1)
            arguments["mask_image"] = out["mask"].clone()
        if case["mask"] or not case["image"]:
            arguments |= dict(width=width, height=height)
        interval = case["cache_interval"]
        with cached(pipe, interval) if interval > 1 else nullcontext(), recorded(pipe, out, "", calls, jitter):
            latents = pipe(**arguments).images
        out["base_latents"] = clone(latents)
        return latents

    def run_refiner(self, case, arguments, latents, out, calls, jitter):
        pipe = self.refiner
        pipe.scheduler = self.scheduler(case)
        self.embed(pipe, case, out, "refiner.")
        arguments |= {key: case[key] for key in ("aesthetic_score", "negative_aesthetic_score")}
        with recorded(pipe, out, "refiner.", calls, jitter):
            return pipe(image=latents, **arguments).images

    def first_noise(self, case, generators):
        scheduler = self.scheduler(case)
        scheduler.set_timesteps(case["steps"])
        shape = (1, 4, case["height"] // 8, case["width"] // 8)
        return torch.cat([torch.randn(shape, generator=g) for g in generators]) * scheduler.init_noise_sigma

    def embed(self, pipe, case, out, prefix):
        texts = {key: case[key] for key in TEXTS}
        with torch.no_grad():
            encoded = pipe.encode_prompt(**texts, do_classifier_free_guidance=True, clip_skip=case["clip_skip"])
        out.update({prefix + name: clone(tensor) for name, tensor in zip(EMBEDS, encoded)})
