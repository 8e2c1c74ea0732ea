#!/usr/bin/env python3
"""Times calotype on the workload, through `calotype generate --json`, and prints rows.

Every picture is a run of the program. Text encoders: `seconds.encode`, which has the
reading of their weights too. UNet step: a picture's mean, `seconds.denoise` by the
number of steps; the warm-up's picture of one step is taken off first, because the first
step of every run is cold. VAE decode: `seconds.decode`. Picture: the three together.
"""
import json
import subprocess
import tempfile
from pathlib import Path

import rows


def draw(program, model, size, steps, dtype):
    w = rows.WORKLOAD
    with tempfile.TemporaryDirectory() as folder:
        command = [
            program, "generate", w["prompt"], "--negative-prompt", w["negative_prompt"], "--seed", w["seed"], "--scheduler", w["scheduler"],
            "--scheduler-option", f"timestep_spacing={w['spacing']}", "--guidance-scale", w["guidance_scale"], "--steps", steps,
            "--width", size, "--height", size, "--model", model, "--dtype", dtype, "--vae-tiling", "off", "--json", "--quiet",
            "--out", Path(folder) / "picture.png"]
        try:
            done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
        except OSError as e:
            rows.fail(f"calotype: {program}: {e.strerror}; build it (cargo build --release) or name it with --calotype")
    if done.returncode:
        rows.fail(f"calotype: {' '.join(done.stderr.split())}")
    return json.loads(done.stdout)


def step_seconds(samples, denoise, steps):
    """The mean of the steps after the first one, as far as that one's time is known."""
    first = samples.warm.get(rows.STEP)
    return (denoise - first[0]) / (steps - 1) if first and steps > 1 else denoise / steps


def add(samples, seconds, steps):
    samples.add(rows.ENCODERS, seconds["encode"])
    samples.add(rows.STEP, step_seconds(samples, seconds["denoise"], steps))
    samples.add(rows.DECODE, seconds["decode"])
    samples.add(rows.PICTURE, seconds["encode"] + seconds["denoise"] + seconds["decode"])


def main():
    p = rows.engine_arguments(__doc__)
    p.add_argument("--calotype", required=True, help="the program")
    a = p.parse_args()
    if a.dtype not in ("auto", "f16", "f32"):
        rows.fail(f"calotype: --dtype {a.dtype} is not known; choose auto, f16 or f32")
    samples, report = rows.Samples(), {}

    def picture(steps):
        rows.say(f"calotype: a picture, steps: {steps}")
        report.update(draw(a.calotype, a.model, a.size, steps, a.dtype))
        add(samples, report["seconds"], steps)

    rows.draw_all(samples, a, picture)
    weights, activations = report["dtype"], report["activations"]
    facts = dict(
        engine="calotype", version=report["version"], model=Path(a.model).name,
        dtype=weights if weights == activations else f"{weights}/{activations}",
        width=a.size, height=a.size, steps=a.steps, backend=report["backend"].capitalize(), adapter=report["adapter"])
    rows.print_rows(samples, facts, {rows.PICTURE: {"peak_bytes": report["peak_device_bytes"]}})


if __name__ == "__main__":
    main()
