#!/usr/bin/env python3
"""Record CUDA's randn by a numpy port of Philox4x32-10: tests/fixtures/philox.json.

    python3 tools/make_philox_fixture.py > tests/fixtures/philox.json

Each case is a seed and the draws made from it, one after the other; of long draws
only the first and last four numbers are kept.
"""
import json

import numpy as np

MASK = np.uint64(0xFFFFFFFF)


def words(seed, draw, n):
    index = np.arange(n, dtype=np.uint64)
    zero = np.zeros(n, dtype=np.uint64)
    c = [zero + np.uint64(draw), zero, index, zero]
    k0, k1 = seed & 0xFFFFFFFF, seed >> 32
    for _ in range(10):
        p0, p1 = c[0] * np.uint64(0xD2511F53), c[2] * np.uint64(0xCD9E8D57)
        c = [(p1 >> np.uint64(32)) ^ c[1] ^ np.uint64(k0), p1 & MASK,
             (p0 >> np.uint64(32)) ^ c[3] ^ np.uint64(k1), p0 & MASK]
        k0, k1 = (k0 + 0x9E3779B9) & 0xFFFFFFFF, (k1 + 0xBB67AE85) & 0xFFFFFFFF
    return c[0].astype(np.float64), c[1].astype(np.float64)


def randn(seed, draw, n):
    # curand_normal.h's constants are floats.
    inverse, turn = float(np.float32(2.3283064e-10)), float(np.float32(2.3283064e-10 * 6.2831855))
    x, y = words(seed, draw, n)
    radius = np.sqrt(-2.0 * np.log(x * inverse + inverse / 2))
    return (radius * np.sin(y * turn + turn / 2)).astype(np.float32)


CASES = {0: [16, 6], 1: [5], 42: [1000, 3], 2**32 + 5: [8], 5: [8], 2**64 - 1: [4], 9876543210123456789: [65536, 4]}
cases = []
for seed, lengths in CASES.items():
    draws = []
    for draw, n in enumerate(lengths):
        values = [float(f"{x:.9g}") for x in randn(seed, draw, n)]
        draws.append({"n": n, "first": values[:4], "last": values[-4:]})
    cases.append({"seed": seed, "draws": draws})
lines = ",\n".join(json.dumps(case, separators=(",", ":")) for case in cases)
print(f'{{"cases":[\n{lines}\n]}}')
