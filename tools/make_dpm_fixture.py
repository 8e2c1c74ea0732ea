#!/usr/bin/env python3
"""Record diffusers' exponential solvers: tests/fixtures/dpm.json.

    python3 tools/make_dpm_fixture.py > tests/fixtures/dpm.json

Needs diffusers, scipy and torchsde. Configurations, numbers of steps and begin
indices are drawn from all that the classes read, with a fixed seed (another may be
given); what diffusers refuses or answers with NaN is left out. A case is what
differs from SDXL's configuration, timesteps, noise levels, and the latents after a
loop over a toy model. All noise is torch's on the CPU, seed 5. Unless "single" is an
argument, sums are taken in double precision where the class allows it and draws the
same noise: in single precision some are far off, where terms cancel.
"""
import inspect
import json
import random
import sys
import warnings

import torch
from diffusers import (DEISMultistepScheduler, DPMSolverMultistepScheduler, DPMSolverSDEScheduler,
                       DPMSolverSinglestepScheduler, UniPCMultistepScheduler)

warnings.filterwarnings("ignore")
SDXL = dict(num_train_timesteps=1000, beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear",
            prediction_type="epsilon", timestep_spacing="leading", steps_offset=1)
SHAPE = (1, 4, 2, 3)
SDE = dict(algorithm_type="sde-dpmsolver++")
# Name, class, forced keys, cases, and the keys to draw from.
CLASSES = [
    ("DPM Multi", DPMSolverMultistepScheduler, {}, 90,
     dict(algorithm_type=["dpmsolver++", "dpmsolver", "sde-dpmsolver++", "sde-dpmsolver"], solver_order=[1, 2, 3],
          solver_type=["midpoint", "heun", "bh2"], lower_order_final=[False], euler_at_final=[True],
          use_lu_lambdas=[True], lambda_min_clipped=[-5.1, -2.0], thresholding=[True], rescale_betas_zero_snr=[True])),
    ("DPM++ 2M SDE", DPMSolverMultistepScheduler, dict(SDE, solver_order=2), 12, dict(solver_type=["heun"])),
    ("DPM++ 3M SDE", DPMSolverMultistepScheduler, dict(SDE, solver_order=3), 12, dict(euler_at_final=[True])),
    ("DPM Single", DPMSolverSinglestepScheduler, {}, 60,
     dict(algorithm_type=["dpmsolver++", "dpmsolver", "sde-dpmsolver++"], solver_order=[1, 2, 3],
          solver_type=["midpoint", "heun"], lower_order_final=[True], lambda_min_clipped=[-2.0], thresholding=[True])),
    ("UniPC", UniPCMultistepScheduler, {}, 80,
     dict(solver_order=[1, 2, 3], solver_type=["bh1", "bh2", "midpoint"], lower_order_final=[False],
          predict_x0=[False], disable_corrector=[[0], [0, 1, 4]], thresholding=[True], rescale_betas_zero_snr=[True])),
    ("DEIS", DEISMultistepScheduler, {}, 40,
     dict(solver_order=[1, 2, 3], lower_order_final=[False], thresholding=[True])),
    ("DPM++ SDE", DPMSolverSDEScheduler, {}, 25, dict(noise_sampler_seed=[0, 7, 2**40 + 3])),
]
SHARED = dict(prediction_type=["v_prediction", "sample"], timestep_spacing=["trailing", "linspace"],
              beta_schedule=["linear", "squaredcos_cap_v2"], final_sigmas_type=["sigma_min"],
              sigma_curve=["use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas"],
              sigma_range=[dict(sigma_min=0.05, sigma_max=12.0)])


def drawn(dice, keys):
    changes = {}
    for key, values in {**SHARED, **keys}.items():
        rare = key in ("beta_schedule", "sigma_range", "lambda_min_clipped", "rescale_betas_zero_snr")
        if dice.random() > (0.15 if rare else 0.4):
            continue
        value = dice.choice(values)
        if key == "sigma_curve":
            changes[value] = True
        elif key == "sigma_range":
            changes.update(value)
        elif key == "thresholding":
            changes.update(thresholding=True, dynamic_thresholding_ratio=dice.choice([0.7, 0.95]),
                           sample_max_value=dice.choice([0.8, 1.5]))
        else:
            changes[key] = value
    if changes.get("algorithm_type") in ("dpmsolver", "sde-dpmsolver"):
        changes["final_sigmas_type"] = "sigma_min"
    return changes


def model(x, t):
    return 0.6 * torch.sin(1.3 * x + 0.01 * t) + 0.1 * x


def run(cls, config, steps, begin):
    scheduler = cls.from_config(config)
    scheduler.set_timesteps(steps)
    scheduler.set_begin_index(begin)
    generator = torch.Generator().manual_seed(5)
    noise = torch.randn(SHAPE, generator=generator)
    picture = torch.linspace(-1, 1, noise.numel()).reshape(SHAPE)
    timesteps = scheduler.timesteps[begin:]
    if "single" not in sys.argv and cls is not DPMSolverSDEScheduler and not scheduler.config.get("algorithm_type", "").startswith("sde"):
        scheduler.sigmas, noise, picture = scheduler.sigmas.double(), noise.double(), picture.double()
    x = noise * scheduler.init_noise_sigma if begin == 0 else scheduler.add_noise(picture, noise, timesteps[:1])
    extra = {"generator": generator} if "generator" in inspect.signature(scheduler.step).parameters else {}
    for t in timesteps:
        scaled = scheduler.scale_model_input(x, t)
        x = scheduler.step(model(scaled, t.float()), t, x, **extra).prev_sample
    return scheduler, x


def short(values, digits=8):
    return [float(f"{value:.{digits}g}") for value in values]


dice = random.Random(int(sys.argv[1]) if len(sys.argv) > 1 else 1)
cases = []
for name, cls, forced, count, keys in CLASSES:
    left = count
    while left:
        changes = {} if left == count else drawn(dice, keys)
        steps = dice.choice([1, 2, 3, 4, 7, 10, 14, 15, 16, 25])
        calls = 2 * steps - 1 if cls is DPMSolverSDEScheduler else steps
        begin = dice.choice([0, 0, dice.randrange(calls)])
        begin -= begin % cls.order
        try:
            scheduler, x = run(cls, {**SDXL, **changes, **forced}, steps, begin)
        except (ValueError, NotImplementedError, TypeError, IndexError, UnboundLocalError, RuntimeError):
            continue
        if not torch.isfinite(x).all() or len(scheduler.timesteps) != calls:
            continue
        left -= 1
        cases.append({"name": name, "changes": changes, "steps": steps, "begin": begin,
                      "timesteps": short(scheduler.timesteps.tolist()), "sigmas": short(scheduler.sigmas.tolist()),
                      "latents": short(x.flatten().tolist())})
lines = ",\n".join(json.dumps(case, separators=(",", ":")) for case in cases)
print(f'{{"base":{json.dumps(SDXL, separators=(",", ":"))},"cases":[\n{lines}\n]}}')
