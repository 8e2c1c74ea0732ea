#!/usr/bin/env python3
"""Record what torch.randn draws on the CPU: tests/fixtures/randn.json.

    python3 tools/make_noise_fixture.py > tests/fixtures/randn.json

Needs torch. A case is a seed and the sizes of the draws made one after another
from one generator. Of a draw longer than 40 only the first and last 20 values
are kept, with the mean and the mean of the absolute values.
"""
import json

import torch

SEEDS = [0, 1, 468685, 2**32 + 5, 999999999999999, 2**64 - 1]
SIZES = [1, 2, 7, 15, 16, 17, 31, 33, 100, 1000, 16384]
SEQUENCES = [[1, 16, 1, 2], [7, 33, 7, 15, 1], [16, 17, 100], [3, 1, 1000, 3, 16384, 1], [624, 625, 1]]


def record(values):
    values = values.double()
    edge = 20 if len(values) > 40 else len(values)
    tail = values[-20:].tolist() if len(values) > 40 else []
    short = lambda xs: [float(f"{x:.9g}") for x in xs]
    return {"n": len(values), "first": short(values[:edge].tolist()), "last": short(tail),
            "mean": values.mean().item(), "mean_abs": values.abs().mean().item()}


cases = []
for seed in SEEDS:
    for sizes in [[n] for n in SIZES] + SEQUENCES:
        generator = torch.Generator("cpu").manual_seed(seed)
        cases.append({"seed": seed, "draws": [record(torch.randn(n, generator=generator)) for n in sizes]})
lines = ",\n".join(json.dumps(case, separators=(",", ":")) for case in cases)
print(f'{{"torch":"{torch.__version__}","cases":[\n{lines}\n]}}')
