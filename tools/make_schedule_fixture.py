#!/usr/bin/env python3
"""Record diffusers' Euler timesteps and sigmas: tests/fixtures/schedules.json.

    python3 tools/make_schedule_fixture.py > tests/fixtures/schedules.json

Needs diffusers and scipy. A case is what differs from SDXL's configuration, the
number of steps, init_noise_sigma, and timesteps and sigmas; of more than 60
entries every 37th is kept, and the last (`indices` says which).
"""
import json
import sys

import diffusers
import torch

SDXL = dict(num_train_timesteps=1000, beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear",
            prediction_type="epsilon", timestep_spacing="leading", steps_offset=1)
STEPS = [1, 2, 7, 20, 25, 50, 999, 1000]
V = dict(prediction_type="v_prediction")
VARIANTS = [(dict(timestep_spacing=spacing), STEPS) for spacing in ("leading", "trailing", "linspace")] + [
    (dict(timestep_spacing="trailing"), [61, 103, 995]),
    (dict(use_karras_sigmas=True), STEPS),
    (dict(use_karras_sigmas=True, timestep_spacing="trailing", sigma_min=0.05, sigma_max=20.0), [7, 25]),
    (dict(use_exponential_sigmas=True), [2, 7, 25]),
    (dict(use_beta_sigmas=True), [2, 7, 25]),
    (dict(beta_schedule="linear", beta_start=0.0001, beta_end=0.02, timestep_spacing="linspace"), [1, 10, 25]),
    (dict(beta_schedule="squaredcos_cap_v2"), [10, 25]),
    (dict(rescale_betas_zero_snr=True, timestep_spacing="trailing", **V), [1, 7, 25]),
    (dict(timestep_type="continuous", **V), [7, 25]),
    (dict(interpolation_type="log_linear"), [7, 25]),
    (dict(final_sigmas_type="sigma_min"), [7, 25]),
    (dict(trained_betas=[0.001, 0.01, 0.02, 0.03, 0.04, 0.05, 0.06, 0.07, 0.08, 0.09], num_train_timesteps=10), [1, 5, 10]),
    (dict(num_train_timesteps=1100, beta_schedule="linear", steps_offset=0), [10, 33]),
]


def short(values, digits=9):
    return [float(f"{value:.{digits}g}") for value in values]


cases = []
for changes, counts in VARIANTS:
    for steps in counts:
        scheduler = diffusers.EulerDiscreteScheduler(**{**SDXL, **changes})
        scheduler.set_timesteps(steps)
        timesteps, sigmas = scheduler.timesteps, scheduler.sigmas
        assert timesteps.dtype == sigmas.dtype == torch.float32
        n = len(timesteps)
        indices = list(range(n)) if n <= 60 else sorted({*range(0, n, 37), n - 1})
        tail = sigmas[n:].tolist()
        cases.append({"changes": changes, "steps": steps, "init_noise_sigma": float(scheduler.init_noise_sigma),
                      "calls": n, "indices": indices if n > 60 else None,
                      "timesteps": short(timesteps[indices].tolist()), "sigmas": short(sigmas[indices].tolist()),
                      "after": short(tail)})
lines = ",\n".join(json.dumps(case, separators=(",", ":")) for case in cases)
base = json.dumps(SDXL, separators=(",", ":"))
print(f'{{"diffusers":"{diffusers.__version__}","base":{base},"cases":[\n{lines}\n]}}')
