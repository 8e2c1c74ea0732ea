#!/usr/bin/env python3
"""Record models that were trained over noise levels (EDM), as diffusers runs them.

    python3 tools/record_edm.py

The demonstration base with the schedulers, and with mean and deviation of latents, that
Playground v2.5 and CosXL have: its pictures mean nothing, its numbers do. The runs go to
tests/fixtures/cases/edm-*.safetensors. Needs torch and diffusers.
"""
import json
from pathlib import Path

import torch
from diffusers import EDMDPMSolverMultistepScheduler, EDMEulerScheduler, StableDiffusionXLImg2ImgPipeline, StableDiffusionXLPipeline
from PIL import Image
from safetensors.torch import save_file

ROOT = Path(__file__).resolve().parent.parent
BASE = ROOT / "models/demo/base"
#: Of Playground v2.5's VAE.
LATENTS = {"latents_mean": [-1.6574, 1.886, -1.383, 2.5155], "latents_std": [8.4927, 5.9022, 6.5498, 5.2299], "scaling_factor": 0.5}
PLAYGROUND = {"_class_name": "EDMDPMSolverMultistepScheduler", "sigma_min": 0.002, "sigma_max": 80.0, "sigma_data": 0.5, "solver_order": 2}
COSXL = {"_class_name": "EDMEulerScheduler", "sigma_min": 0.002, "sigma_max": 120.0, "sigma_data": 1.0, "prediction_type": "v_prediction",
         "sigma_schedule": "exponential"}
CASES = {
    "edm-playground": dict(file=PLAYGROUND, vae=LATENTS, scheduler="DPM Multi"),
    "edm-playground-image": dict(file=PLAYGROUND, vae=LATENTS, scheduler="Euler", image="yellow-star-64.png", strength=0.6),
    "edm-cosxl": dict(file=COSXL, vae={}, scheduler="Euler"),
    "edm-cosxl-sde": dict(file=COSXL, vae={}, scheduler="DPM++ 2M SDE"),
}
CLASSES = {"Euler": (EDMEulerScheduler, {}), "DPM Multi": (EDMDPMSolverMultistepScheduler, {}),
           "DPM++ 2M SDE": (EDMDPMSolverMultistepScheduler, {"algorithm_type": "sde-dpmsolver++"})}


def record(name, file, vae, scheduler, image=None, strength=None):
    kind = StableDiffusionXLImg2ImgPipeline if image else StableDiffusionXLPipeline
    pipe = kind.from_pretrained(BASE, torch_dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    scheduler_class, options = CLASSES[scheduler]
    pipe.scheduler = scheduler_class.from_config(file, **options)
    pipe.vae.register_to_config(**vae)
    recorded, step = {}, pipe.scheduler.step

    def watched(prediction, *args, generator=None, return_dict=True):
        recorded.setdefault("noise_pred.000", prediction.clone())
        return step(prediction, *args, generator=generator, return_dict=return_dict)

    pipe.scheduler.step = watched
    case = dict(prompt="a red circle on a blue background", width=64, height=64, steps=10, guidance_scale=3.0, seed=5, samples=1, scheduler=scheduler)
    more = dict(width=64, height=64)
    if image:
        case |= dict(image=image, strength=strength)
        more = dict(image=Image.open(ROOT / "tests/fixtures/pictures" / image).convert("RGB"), strength=strength)
    latents = pipe(case["prompt"], num_inference_steps=case["steps"], guidance_scale=case["guidance_scale"],
                   generator=torch.Generator().manual_seed(case["seed"]), output_type="latent", **more).images
    recorded["base_latents"] = latents
    scale = pipe.vae.config.scaling_factor
    if vae:
        mean, std = (torch.tensor(vae[key]).view(1, 4, 1, 1) for key in ("latents_mean", "latents_std"))
        latents = latents * std / scale + mean
    else:
        latents = latents / scale
    with torch.no_grad():
        recorded["decoded"] = pipe.vae.decode(latents, return_dict=False)[0]
    case |= dict(file=file, vae=vae)
    save_file({name: tensor.float().contiguous() for name, tensor in recorded.items()}, ROOT / f"tests/fixtures/cases/{name}.safetensors",
              metadata={"meta": json.dumps(case)})


for name, case in CASES.items():
    record(name, **case)
