#!/usr/bin/env python3
"""Record k-diffusion's noise levels and samplers: tests/fixtures/k_diffusion.json.

    python3 tools/make_k_diffusion_fixture.py > tests/fixtures/k_diffusion.json

Needs k-diffusion (PyPI) and scipy. For each pair of AUTOMATIC1111's samplers and
schedule types the noise levels are recorded and the latents after a run with a toy
for a UNet, with SDXL's training variances:

    x0[i] = sin(1.7 i + 0.3), noise[k][i] = cos(2.3 i + 0.9 k + 0.4)
    model(x, t)[i] = x[i]/2 + cos(i + t/100)/2

The run starts at x0 times the first level. Levels are k-diffusion's where it has
them (karras, exponential, polyexponential, and its denoiser's own, which are uniform's);
the others are what AUTOMATIC1111's modules/sd_schedulers.py says they are, written
here from their definitions: levels at timesteps of the training, with k-diffusion's
own way between those. Which sampler drops its level before the last, and which
schedule is automatic, is from its modules/sd_samplers_kdiffusion.py.

The samplers run in double precision on the float32 levels, so that differences are
those of the method.
"""
import importlib.machinery
import json
import math
import sys
import types

import numpy as np
import torch
from scipy import stats


def samplers():
    """k_diffusion.sampling and .external, without what the package's training needs."""
    package = importlib.machinery.PathFinder.find_spec("k_diffusion")
    root = types.ModuleType("k_diffusion")
    root.__path__ = list(package.submodule_search_locations)
    sys.modules["k_diffusion"] = root
    utils = types.ModuleType("k_diffusion.utils")
    utils.append_dims = lambda x, dims: x[(...,) + (None,) * (dims - x.ndim)]
    sys.modules["k_diffusion.utils"] = root.utils = utils
    from k_diffusion import external, sampling
    return sampling, external


COUNT = 4
#: Label, function, arguments, whether the level before the last is dropped, automatic schedule.
SAMPLERS = [
    ("DPM++ 2M", "dpmpp_2m", {}, False, "Karras"),
    ("DPM++ SDE", "dpmpp_sde", {}, False, "Karras"),
    ("DPM++ 2M SDE", "dpmpp_2m_sde", {}, False, "Exponential"),
    ("DPM++ 2M SDE Heun", "dpmpp_2m_sde", {"solver_type": "heun"}, False, "Exponential"),
    ("DPM++ 3M SDE", "dpmpp_3m_sde", {}, True, "Exponential"),
    ("Euler a", "euler_ancestral", {}, False, None),
    ("Euler", "euler", {}, False, None),
    ("LMS", "lms", {}, False, None),
    ("Heun", "heun", {}, False, None),
    ("DPM2", "dpm_2", {}, True, "Karras"),
    ("DPM2 a", "dpm_2_ancestral", {}, True, "Karras"),
]
STOCHASTIC = {"dpmpp_sde", "dpmpp_2m_sde", "dpmpp_3m_sde", "euler_ancestral", "dpm_2_ancestral"}
AYS = [14.615, 6.315, 3.771, 2.181, 1.342, 0.862, 0.555, 0.380, 0.234, 0.113, 0.029]


class Toy:
    """What k-diffusion wraps: a model with SDXL's variances, kept in double precision
    until they are products, as the reference code of the model does."""

    def __init__(self):
        betas = np.linspace(0.00085 ** 0.5, 0.012 ** 0.5, 1000) ** 2
        self.alphas_cumprod = torch.tensor(np.cumprod(1.0 - betas), dtype=torch.float32)

    def apply_model(self, x, t, cond=None):
        places = torch.arange(x.shape[-1], dtype=torch.float64)
        return 0.5 * x + 0.5 * torch.cos(places + t.double().reshape(-1, 1) / 100)


def with_zero(levels):
    return torch.cat([torch.as_tensor(levels).float(), torch.zeros(1)])


def levels(kind, n, wrap, sampling):
    trained = wrap.sigmas
    low, high = trained[0].item(), trained[-1].item()
    last = len(trained) - 1
    at = lambda places: with_zero(wrap.t_to_sigma(places))
    if kind == "Uniform":
        return wrap.get_sigmas(n)
    if kind in ("Karras", "Exponential", "Polyexponential"):
        return getattr(sampling, "get_sigmas_" + kind.lower())(n, low, high)
    if kind == "Normal":
        return at(torch.linspace(last, 0, n))
    if kind == "SGM Uniform":
        return at(torch.linspace(last, 0, n + 1)[:-1])
    if kind == "KL Optimal":
        ramp = torch.arange(n + 1) / n
        ends = [torch.arctan(torch.tensor(level)) for level in (low, high)]
        return torch.tan(ramp * ends[0] + (1 - ramp) * ends[1])
    if kind == "Align Your Steps":
        places = np.linspace(0, 1, n)
        logs = np.interp(places, np.linspace(0, 1, len(AYS)), np.log(AYS))
        return with_zero(np.exp(logs))
    if kind == "Simple":
        return with_zero(trained[[last - int(i * (len(trained) / n)) for i in range(n)]])
    if kind == "DDIM":
        return with_zero(trained[list(range(1, len(trained), max(len(trained) // n, 1)))].flip(0))
    if kind == "Beta":
        quantiles = stats.beta.ppf(1 - np.linspace(0, 1, n), 0.6, 0.6)
        return with_zero(low + quantiles * (high - low))
    if kind == "Turbo":
        places = torch.arange(1, n + 1).flip(0) * (len(trained) / n) - 1
        return with_zero(trained[places.round().long().clamp(0, last)])
    raise ValueError(kind)


KINDS = ["Uniform", "Karras", "Exponential", "Polyexponential", "SGM Uniform", "KL Optimal", "Align Your Steps",
         "Simple", "Normal", "DDIM", "Beta", "Turbo"]


class Noise:
    """Noise by number, in the order of the draws. Within a step of `dpmpp_sde` the two
    draws are one Brownian motion's: the second, over the whole step, goes on from the
    first, in proportion to the roots of the noise levels' differences."""

    def __init__(self):
        self.drawn, self.before = 0, None

    def fresh(self):
        places = torch.arange(COUNT, dtype=torch.float64)
        self.drawn += 1
        return torch.cos(2.3 * places + 0.9 * (self.drawn - 1) + 0.4)[None]

    def __call__(self, start, end):
        start, end = float(start), float(end)
        if self.before and self.before[0] == start and end < self.before[1]:
            _, middle, first = self.before
            share = (start - middle) / (start - end)
            self.before = None
            return math.sqrt(share) * first + math.sqrt(1 - share) * self.fresh()
        noise = self.fresh()
        self.before = (start, end, noise)
        return noise


def main():
    sampling, external = samplers()
    toy = Toy()
    wraps = {"epsilon": external.CompVisDenoiser(toy), "v_prediction": external.CompVisVDenoiser(toy)}
    found = {"levels": [], "cases": [],
             "automatic": {label: kind or "Uniform" for label, _, _, _, kind in SAMPLERS}}
    start = torch.sin(1.7 * torch.arange(COUNT, dtype=torch.float64) + 0.3)[None]
    known = {}
    for n, prediction in ((7, "epsilon"), (20, "epsilon"), (11, "v_prediction")):
        wrap = wraps[prediction]
        for kind in KINDS:
            for label, function, arguments, drops, _ in SAMPLERS:
                sigmas = levels(kind, n + drops, wrap, sampling)
                if drops:
                    sigmas = torch.cat([sigmas[:-2], sigmas[-1:]])
                key = (kind, n, drops)
                if key not in known:
                    known[key] = len(known)
                    found["levels"].append([float(f"{level:.9g}") for level in sigmas.tolist()])
                extra = {"noise_sampler": Noise()} if function in STOCHASTIC else {}
                if prediction == "v_prediction":
                    extra["extra_args"] = {"cond": None}
                run = getattr(sampling, "sample_" + function)
                sigmas = sigmas.double()
                latents = run(wrap, start * sigmas[0], sigmas, disable=True, **arguments, **extra)
                found["cases"].append({"sampler": label, "schedule": kind, "steps": n, "prediction": prediction,
                                       "levels": known[key], "latents": [float(f"{x:.10g}") for x in latents[0].tolist()]})
    print(json.dumps(found, separators=(",", ":")))


if __name__ == "__main__":
    main()
