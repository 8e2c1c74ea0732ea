#!/usr/bin/env python3
"""Compare two traces tensor by tensor.

    python3 compare.py A.safetensors B.safetensors [--max-rel 1e-3] [--min-psnr 50] [--only NAME ...]

For every name in both files it prints the relative error of A against B
(norm of the difference over the norm of B), the largest absolute difference and,
for pictures ("decoded"), the PSNR in dB with a peak of 2.0. Integers are equal
or not. Exit code 1 if a limit is exceeded, integers or shapes differ, a value is
not finite, or (with --same-names) a name is missing on either side; 2 if a file
cannot be read. Needs numpy and safetensors.
"""
import argparse
import fnmatch
import sys

import numpy as np
from safetensors import safe_open

PICTURES = ("decoded", "init_image")
PEAK = 2.0


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("a", help="the trace in question")
    parser.add_argument("b", help="the reference")
    parser.add_argument("--max-rel", type=float, help="largest relative error allowed for tensors that are no pictures")
    parser.add_argument("--min-psnr", type=float, help="smallest PSNR allowed for pictures, in dB")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="names or patterns such as 'latents.*'; others are left out")
    parser.add_argument("--same-names", action="store_true", help="a name that is missing on either side is a failure")
    return parser.parse_args()


def read(path, patterns):
    """The tensors of a file as {name: array}, those that match one of the patterns."""
    wanted = lambda name: not patterns or any(fnmatch.fnmatch(name, pattern) for pattern in patterns)
    try:
        with safe_open(path, framework="numpy") as file:
            return {name: file.get_tensor(name) for name in file.keys() if wanted(name)}
    except Exception as error:  # safetensors raises several kinds
        print(f"error: {path}: cannot be read as safetensors: {error}", file=sys.stderr)
        sys.exit(2)


def relative(a, b):
    """Norm of the difference over the norm of b; 0 where both are zero."""
    difference, norm = np.linalg.norm(a - b), np.linalg.norm(b)
    return difference / norm if norm > 0 else (0.0 if difference == 0 else float("inf"))


def psnr(a, b):
    """In dB, infinite where they are equal."""
    mse = np.mean((a - b) ** 2)
    return float("inf") if mse == 0 else 10 * np.log10(PEAK**2 / mse)


def is_picture(name):
    return name.split(".")[-1] in PICTURES


def compare(name, a, b, limits):
    """One line about one tensor, and whether it is within the limits."""
    if a.shape != b.shape:
        return f"shapes differ: {list(a.shape)} and {list(b.shape)}", False
    if a.dtype.kind in "iub" and b.dtype.kind in "iub":
        unequal = int(np.count_nonzero(a != b))
        return ("equal" if unequal == 0 else f"{unequal} of {a.size} integers differ"), unequal == 0
    a, b = a.astype(np.float64).ravel(), b.astype(np.float64).ravel()
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        return "holds values that are not finite", False
    if a.size == 0:
        return "empty", True
    rel = relative(a, b)
    text = f"rel {rel:.3e}  max abs {np.abs(a - b).max():.3e}"
    if is_picture(name):
        decibels = psnr(a, b)
        return f"{text}  PSNR {decibels:.2f} dB", limits.min_psnr is None or decibels >= limits.min_psnr
    return text, limits.max_rel is None or rel <= limits.max_rel


def main():
    limits = arguments()
    a, b = read(limits.a, limits.only), read(limits.b, limits.only)
    common = sorted(a.keys() & b.keys())
    width = max(map(len, a.keys() | b.keys()), default=0)
    failures = 0
    for name in common:
        text, good = compare(name, a[name], b[name], limits)
        failures += not good
        print(f"{name:<{width}}  {text}{'' if good else '  FAILED'}")
    for name, side in [(n, limits.b) for n in sorted(a.keys() - b.keys())] + [(n, limits.a) for n in sorted(b.keys() - a.keys())]:
        failures += limits.same_names
        print(f"{name:<{width}}  missing in {side}{'  FAILED' if limits.same_names else ''}")
    if not common:
        print("error: the files have no name in common", file=sys.stderr)
        return 1
    print(f"{len(common)} tensors compared, {failures} failed")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
