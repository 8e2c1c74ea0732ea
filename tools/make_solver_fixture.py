#!/usr/bin/env python3
"""Record what diffusers' schedulers do: tests/fixtures/solvers.json and edm.json.

    python3 tools/make_solver_fixture.py > tests/fixtures/solvers.json
    python3 tools/make_solver_fixture.py --edm > tests/fixtures/edm.json
    python3 tools/make_solver_fixture.py --random 400 --seed 1 --double > random.json

Needs diffusers, scipy and k-diffusion. A case is a class, the file it is configured from (none:
SDXL's), options, the number of steps and the entry to start from; recorded are
timesteps, sigmas, init_noise_sigma, at which steps noise is drawn, and the latents
after a run as the pipelines do it, with a toy for a UNet:

    x0[i] = sin(1.7 i + 0.3), noise[i] = cos(2.3 i), model(x, t)[i] = x[i]/2 + cos(i + t/100)/2

The run starts at x0·init_noise_sigma, or at add_noise(x0, noise) where it starts in
the middle. `--random` makes other cases by chance, for the same test; `--double` keeps
latents in float64, because noise levels in the thousands drown float32's digits.
"""
import argparse
import json
import random

import diffusers
import torch

SDXL = {"_class_name": "EulerDiscreteScheduler", "beta_end": 0.012, "beta_schedule": "scaled_linear",
        "beta_start": 0.00085, "clip_sample": False, "interpolation_type": "linear", "num_train_timesteps": 1000,
        "prediction_type": "epsilon", "sample_max_value": 1.0, "set_alpha_to_one": False, "skip_prk_steps": True,
        "steps_offset": 1, "timestep_spacing": "leading", "trained_betas": None, "use_karras_sigmas": False}
COUNT = 16
FLOAT = torch.float32
CURVES = ("use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas")
AYS = [999, 845, 730, 587, 443, 310, 193, 116, 53, 13]
V = {"prediction_type": "v_prediction"}
SAMPLE = {"prediction_type": "sample"}
TRAILING = {"timestep_spacing": "trailing"}
SNR = {"rescale_betas_zero_snr": True, **V}
ZERO = {**SNR, **TRAILING}
LIST = {"timesteps": [999, 700, 400, 250, 100, 20]}
CLIP = {"clip_sample": True}
THRESHOLD = {"thresholding": True, "sample_max_value": 1.5, "dynamic_thresholding_ratio": 0.8}
#: What only some classes have: (options, steps) pairs.
OWN = {
    "EulerDiscreteScheduler": [(LIST, 6), ({"timesteps": AYS}, 10), ({"sigmas": [14.0, 5.0, 1.0, 0.2, 0.0]}, 4)],
    "EulerAncestralDiscreteScheduler": [(ZERO, 7), (ZERO, 3)],
    "HeunDiscreteScheduler": [(SAMPLE, 7), (LIST, 6), (CLIP, 7), ({**CLIP, **V, "clip_sample_range": 2.0}, 7),
                              ({"beta_schedule": "exp", "beta_start": 0.001}, 7)],
    "LMSDiscreteScheduler": [(SAMPLE, 7)],
    "KDPM2DiscreteScheduler": [],
    "KDPM2AncestralDiscreteScheduler": [],
    "DDIMScheduler": [(SAMPLE, 7), (ZERO, 7), ({"set_alpha_to_one": True}, 7), ({"eta": 1.0}, 7), ({"eta": 0.5, **V}, 7),
                      (CLIP, 7), ({**CLIP, "clip_sample_range": 2.0, "eta": 0.3}, 7), (THRESHOLD, 7), ({**THRESHOLD, **V}, 7)],
    "DDPMScheduler": [(SAMPLE, 7), (ZERO, 7), (CLIP, 7), (THRESHOLD, 7), ({"variance_type": "fixed_large"}, 7),
                      ({"variance_type": "fixed_small_log"}, 7), (LIST, 6), ({"beta_schedule": "sigmoid"}, 7),
                      ({"beta_schedule": "laplace"}, 7), ({"timestep_spacing": "linspace", "steps_offset": 0}, 100)],
    "PNDMScheduler": [({"set_alpha_to_one": True}, 7)] + [({"skip_prk_steps": False, **extra}, steps)
                      for extra, steps in (({}, 4), ({}, 7), ({}, 25), (V, 7), (TRAILING, 7), ({"timestep_spacing": "linspace"}, 7))],
    "LCMScheduler": [(SAMPLE, 4), (SNR, 4), (CLIP, 4), (THRESHOLD, 4), ({"timestep_scaling": 0.01}, 4),
                     ({"original_inference_steps": 100}, 30), ({"timesteps": AYS}, 10)],
    "TCDScheduler": [(SAMPLE, 4), (SNR, 4), ({"eta": 0.0}, 4), ({"eta": 1.0}, 4), ({"eta": 0.7, **V}, 9),
                     ({"original_inference_steps": 100}, 30), (LIST, 6)],
}
#: Files other than SDXL's: none of the keys, or keys that the class does not know.
BARE = {"num_train_timesteps": 1000}
STRANGE = {**SDXL, "sigma_min": 0.1, "sigma_max": 10.0, "rescale_betas_zero_snr": True, "final_sigmas_type": "sigma_min"}


def scheduler_of(name):
    return getattr(diffusers, name)


def has(name, key):
    return key in scheduler_of(name).__init__.__wrapped__.__code__.co_varnames


def cases():
    for name, own in OWN.items():
        order = scheduler_of(name).order
        many = 9 if name in ("LCMScheduler", "TCDScheduler") else 25
        for spacing in ("leading", "trailing", "linspace"):
            if has(name, "timestep_spacing") and name not in ("LCMScheduler", "TCDScheduler"):
                yield name, None, {"timestep_spacing": spacing}, 7, 0
        for steps in (1, 2, 3, many):
            yield name, None, {}, steps, 0
        yield name, None, V, 7, 0
        yield name, None, {}, 7, 3 * order
        yield name, None, V, many, 5 * order
        if order == 2:
            yield name, None, {}, 7, 5
        for curve in CURVES:
            if has(name, curve):
                yield name, None, {curve: True}, 7, 0
        if has(name, CURVES[0]):
            yield name, None, {CURVES[0]: True, **V}, 25, 0
            yield name, STRANGE, {CURVES[0]: True}, 7, 0
            yield name, STRANGE, {CURVES[1]: True}, 7, 0
        yield name, BARE, {}, 7, 0
        for options, steps in own:
            yield name, None, options, steps, 0
        if own:
            yield name, None, own[-1][0], own[-1][1], 2 * order


#: Models trained over noise levels: Playground v2.5's file, and CosXL's levels.
PLAYGROUND = {"_class_name": "EDMDPMSolverMultistepScheduler", "algorithm_type": "dpmsolver++", "final_sigmas_type": "zero",
              "prediction_type": "epsilon", "rho": 7.0, "sigma_data": 0.5, "sigma_max": 80.0, "sigma_min": 0.002, "solver_order": 2}
COSXL = {"_class_name": "EDMEulerScheduler", "prediction_type": "v_prediction", "sigma_data": 1.0, "sigma_max": 120.0,
         "sigma_min": 0.002, "sigma_schedule": "exponential"}
OTHER = {"_class_name": "EDMEulerScheduler", "sigma_data": 0.8, "sigma_max": 30.0, "sigma_min": 0.01, "rho": 5.0}


def edm_cases():
    for name in ("EDMEulerScheduler", "EDMDPMSolverMultistepScheduler"):
        for file in (PLAYGROUND, COSXL, OTHER):
            for options, steps, begin in (({}, 2, 0), ({}, 10, 0), ({}, 25, 0), ({}, 10, 4), (V, 10, 0), ({"sigmas": "karras"}, 7, 0),
                                          ({"sigmas": "exponential"}, 7, 3), ({"final_sigmas_type": "sigma_min"}, 7, 0),
                                          ({"sigma_min": 0.05, "sigma_max": 20.0}, 7, 0)):
                yield name, file, options, steps, begin
    yield "EDMEulerScheduler", PLAYGROUND, {}, 1, 0
    name = "EDMDPMSolverMultistepScheduler"
    for file in (PLAYGROUND, COSXL):
        for order in (1, 3):
            for steps in (4, 10, 20):
                yield name, file, {"solver_order": order}, steps, 0
        sde = {"algorithm_type": "sde-dpmsolver++"}
        for options in ({"solver_type": "heun"}, {"euler_at_final": True, "final_sigmas_type": "sigma_min"}, sde,
                        {**sde, "solver_type": "heun"}, {"lower_order_final": False, "final_sigmas_type": "sigma_min"}, THRESHOLD):
            yield name, file, options, 10, 0
            yield name, file, options, 20, 3
    # diffusers has no classes for these: k-diffusion's samplers.
    for name in KDIFFUSION:
        for file in (PLAYGROUND, COSXL, OTHER):
            for options, steps in (({}, 2), ({}, 10), (V, 7)) + (() if "Ancestral" in name else (({"sigmas": "karras"}, 7),)):
                yield name, file, options, steps, 0


KDIFFUSION = {"EulerAncestralDiscreteScheduler": "sample_euler_ancestral", "HeunDiscreteScheduler": "sample_heun",
              "LMSDiscreteScheduler": "sample_lms"}


def run_k_diffusion(name, file, options):
    """The same run by k-diffusion's sampler of that name, over the levels of EDMEulerScheduler."""
    import sys
    from types import ModuleType, SimpleNamespace
    # Its evaluation wants packages that its samplers do not.
    sys.modules.setdefault("clip", ModuleType("clip"))
    import k_diffusion
    scheduler, steps = run("EDMEulerScheduler", file, *options)[0], options[1]
    data, sigmas = scheduler.config.sigma_data, scheduler.sigmas
    sign = -1 if scheduler.config.prediction_type == "v_prediction" else 1
    generator = torch.Generator("cpu").manual_seed(0)

    def denoiser(x, sigma, **_):
        squares = sigma**2 + data**2
        out = model(x / squares**0.5, 0.25 * sigma.log())
        return x * data**2 / squares + sign * out * sigma * data / squares**0.5

    places = torch.arange(COUNT, dtype=FLOAT).reshape(1, 2, 2, 4)
    keywords = {"noise_sampler": lambda *_: torch.randn((1, 2, 2, 4), generator=generator)} if "Ancestral" in name else {}
    sampler = getattr(k_diffusion.sampling, KDIFFUSION[name])
    x = torch.sin(1.7 * places + 0.3) * scheduler.init_noise_sigma
    x = sampler(denoiser, x, sigmas, disable=True, **keywords)
    timesteps, levels = scheduler.timesteps, sigmas
    if name.startswith("Heun"):
        timesteps = torch.cat([timesteps[:1], timesteps[1:].repeat_interleave(2)])
        levels = torch.cat([sigmas[:1], sigmas[1:-1].repeat_interleave(2), sigmas[-1:]])
    draws = ("1" if "Ancestral" in name else "0") * len(timesteps)
    return SimpleNamespace(timesteps=timesteps, sigmas=levels, init_noise_sigma=scheduler.init_noise_sigma), x.flatten().tolist(), draws


def chosen(count, seed):
    rng = random.Random(seed)
    for _ in range(count):
        name = rng.choice(list(OWN))
        distilled = name in ("LCMScheduler", "TCDScheduler")
        options = {"prediction_type": rng.choice(["epsilon", "v_prediction"])}
        if not distilled:
            options["timestep_spacing"] = rng.choice(["leading", "trailing", "linspace"])
            options["steps_offset"] = rng.choice([0, 1, 3])
        if has(name, CURVES[0]) and rng.random() < 0.6:
            options[rng.choice(CURVES)] = True
        if has(name, "rescale_betas_zero_snr") and options["prediction_type"] != "epsilon":
            options["rescale_betas_zero_snr"] = rng.random() < 0.3
        if has(name, "clip_sample") and name != "TCDScheduler":
            options["clip_sample"] = rng.random() < 0.3
            options["clip_sample_range"] = rng.uniform(0.5, 4)
        if has(name, "thresholding") and name != "TCDScheduler" and rng.random() < 0.3:
            options |= {"thresholding": True, "sample_max_value": rng.uniform(1, 3), "dynamic_thresholding_ratio": rng.random()}
        if name in ("DDIMScheduler", "PNDMScheduler"):
            options["set_alpha_to_one"] = rng.random() < 0.5
        if name in ("DDIMScheduler", "TCDScheduler"):
            options["eta"] = rng.choice([0.0, rng.random(), 1.0])
        if name == "DDPMScheduler":
            options["variance_type"] = rng.choice(["fixed_small", "fixed_small_log", "fixed_large"])
        if name == "PNDMScheduler":
            options["skip_prk_steps"] = rng.random() < 0.5
        if rng.random() < 0.3:
            options |= {"beta_schedule": rng.choice(["linear", "scaled_linear", "squaredcos_cap_v2"]),
                        "beta_start": rng.uniform(1e-4, 2e-3), "beta_end": rng.uniform(5e-3, 2e-2)}
        steps = rng.randint(4, 50 if distilled else 60)
        begin = rng.choice([0, rng.randrange(steps)]) * scheduler_of(name).order
        # diffusers runs into a timestep of −1 at these.
        if options.get("timestep_spacing") == "trailing" and steps in (61,):
            continue
        yield name, None, options, steps, begin


def model(x, t):
    places = torch.arange(COUNT, dtype=FLOAT).reshape(x.shape)
    return x / 2 + torch.cos(places + float(t) / 100) / 2


def run(name, file, options, steps, begin):
    given = {key: value for key, value in options.items() if key not in ("eta", "timesteps", "sigmas")}
    if file and file.get("_class_name", "").startswith("EDM") and "sigmas" in options:
        given["sigma_schedule"] = options["sigmas"]
        options = {key: value for key, value in options.items() if key != "sigmas"}
    scheduler = scheduler_of(name).from_config(file or SDXL, **given)
    lists = {key: options[key] for key in ("timesteps", "sigmas") if key in options}
    scheduler.set_timesteps(**(lists or {"num_inference_steps": steps}))
    places = torch.arange(COUNT, dtype=FLOAT).reshape(1, 2, 2, 4)
    x, noise = torch.sin(1.7 * places + 0.3), torch.cos(2.3 * places)
    if hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(begin)
    timesteps = scheduler.timesteps[begin:]
    x = scheduler.add_noise(x, noise, timesteps[:1]) if begin else x * scheduler.init_noise_sigma
    draws, randn, keywords = [], torch.randn, {}
    variables = scheduler.step.__code__.co_varnames
    if "generator" in variables:
        keywords["generator"] = torch.Generator("cpu").manual_seed(0)
    if "eta" in variables and "eta" in options:
        keywords["eta"] = options["eta"]

    def counted(*args, **kwargs):
        draws[-1] = 1
        return randn(*args, **{**kwargs, "dtype": torch.float32}).to(FLOAT)

    torch.randn = counted
    for t in timesteps:
        draws.append(0)
        out = model(scheduler.scale_model_input(x, t), t)
        x = scheduler.step(out, t, x, **keywords, return_dict=False)[0]
    torch.randn = randn
    return scheduler, x.flatten().tolist(), "".join(map(str, draws))


def short(values, digits=8):
    rounded = [float(f"{float(value):.{digits}g}") for value in values]
    return [int(value) if value == int(value) else value for value in rounded]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--random", type=int)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--edm", action="store_true")
    parser.add_argument("--double", action="store_true")
    arguments = parser.parse_args()
    if arguments.double:
        global FLOAT
        FLOAT = torch.float64
    lines = []
    for name, file, options, steps, begin in chosen(arguments.random, arguments.seed) if arguments.random else edm_cases() if arguments.edm else cases():
        if name.startswith("KDPM2") and not any(curve in options for curve in CURVES):
            options = {**options, "use_karras_sigmas": False}
        if name.startswith("PNDM") and steps < 4 and options.get("skip_prk_steps") is False:
            continue
        if name in KDIFFUSION and file and file.get("_class_name", "").startswith("EDM"):
            scheduler, latents, draws = run_k_diffusion(name, file, (options, steps, begin))
        else:
            scheduler, latents, draws = run(name, file, options, steps, begin)
        if not all(abs(value) < 1e6 for value in latents):
            continue
        case = {"class": name, "options": options, "steps": steps, "begin": begin, "init": float(scheduler.init_noise_sigma),
                "timesteps": short(scheduler.timesteps), "draws": draws, "latents": short(latents)}
        if file:
            case["file"] = file
        if hasattr(scheduler, "sigmas"):
            case["sigmas"] = short(scheduler.sigmas)
        lines.append(json.dumps(case, separators=(",", ":")))
    base = json.dumps(SDXL, separators=(",", ":"))
    print(f'{{"diffusers":"{diffusers.__version__}","file":{base},"cases":[\n' + ",\n".join(lines) + "\n]}")


main()
