"""The workload, the rows that every engine prints, and the table of them. Standard library only.

A row is one JSON object:

    engine, version       version: the engine's and what it stands on
    model                 the checkpoint's file name
    dtype                 weights/activations, or one name where they are the same
    width, height         pixels
    batch                 pictures in a forward; 2 for a guided UNet step
    steps                 of the picture
    backend, adapter      such as Vulkan and the GPU's name
    stage                 text encoders, UNet step, VAE decode, or picture
    seconds               every sample
    warm_up_seconds       samples from before the measured ones
    peak_bytes            on the device, or null where it cannot be told
"""
import argparse
import json
import platform
import statistics
import sys
from pathlib import Path

WORKLOAD = json.loads((Path(__file__).parent / "workload.json").read_text())
ENCODERS, STEP, DECODE, PICTURE = STAGES = ("text encoders", "UNet step", "VAE decode", "picture")
COLUMNS = ("engine", "model", "dtype", "size", "batch", "backend", "adapter", "stage", "median ms", "it/s", "peak MiB")


def fail(message):
    """Bad input: one line that has the remedy, exit status 2."""
    print(f"peers: {message}", file=sys.stderr)
    sys.exit(2)


def say(message):
    print(f"peers: {message}", file=sys.stderr, flush=True)


def engine_arguments(description):
    """What `run` passes to every engine's script."""
    p = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--model", required=True)
    p.add_argument("--size", type=int, default=WORKLOAD["size"])
    p.add_argument("--steps", type=int, default=WORKLOAD["steps"])
    p.add_argument("--repetitions", type=int, default=3)
    p.add_argument("--dtype", default="auto")
    p.add_argument("--no-warm-up", action="store_true")
    return p


class Samples:
    """Seconds by stage. Those of the warm-up are kept apart."""

    def __init__(self):
        self.warm, self.measured, self.is_warm = {}, {}, False

    def add(self, stage, seconds):
        (self.measured if self.is_warm else self.warm).setdefault(stage, []).append(seconds)

    def split(self, stage):
        """(measured, warm-up). Without a picture of warm-up the first step is apart, if there are more."""
        measured, warm = self.measured[stage], self.warm.get(stage, [])
        if stage == STEP and not warm and len(measured) > 1:
            return measured[1:], measured[:1]
        return measured, warm


def draw_all(samples, arguments, draw):
    """Calls `draw(steps)` for the warm-up, of one step, and for every measured picture."""
    if not arguments.no_warm_up:
        draw(1)
    samples.is_warm = True
    for _ in range(arguments.repetitions):
        draw(arguments.steps)


def print_rows(samples, facts, by_stage):
    """`facts` are the same in every row; `by_stage` has what differs, such as peak_bytes."""
    for stage in STAGES:
        if stage not in samples.measured:
            fail(f"{facts['engine']} gave no sign of the end of its stage {stage!r}; use the version that tools/peers/run installs")
        seconds, warm = samples.split(stage)
        row = {**facts, "batch": 2 if stage in (ENCODERS, STEP) else 1, "stage": stage, "seconds": seconds, "warm_up_seconds": warm,
               "peak_bytes": None, **by_stage.get(stage, {})}
        print(json.dumps(row), flush=True)


def spread(seconds):
    """Median and half the distance of the quartiles, in ms."""
    middle = 1e3 * statistics.median(seconds)
    if len(seconds) < 2:
        return f"{middle:.1f}"
    low, _, high = statistics.quantiles(seconds, n=4, method="inclusive")
    return f"{middle:.1f} ± {500 * (high - low):.1f}"


def cells(row):
    rate = f"{1 / statistics.median(row['seconds']):.3g}" if row["stage"] == STEP else ""
    peak = "" if row["peak_bytes"] is None else f"{row['peak_bytes'] / 2**20:.0f}"
    size = f"{row['width']}x{row['height']}"
    return [row["engine"], row["model"], row["dtype"], size, row["batch"], row["backend"], row["adapter"], row["stage"],
            spread(row["seconds"]), rate, peak]


def processor():
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def table(rows, repetitions):
    """Markdown: numbers to the right, and below it one line of what they depend on."""
    right = ("size", "batch", "median ms", "it/s", "peak MiB")
    lines = ["| " + " | ".join(COLUMNS) + " |", "|" + "|".join("---:" if c in right else "---" for c in COLUMNS) + "|"]
    lines += ["| " + " | ".join(str(cell).replace("|", "/") for cell in cells(row)) + " |" for row in rows]
    versions = dict.fromkeys(f"{row['engine']} {row['version']}" for row in rows)
    system = f"{platform.system()} {platform.release()} {platform.machine()}, {processor()}"
    steps, guidance = rows[0]["steps"], WORKLOAD["guidance_scale"]
    warm = "the first step apart" if not any(row["warm_up_seconds"] for row in rows if row["stage"] == PICTURE) else "after one of warm-up"
    pictures = "1 picture" if repetitions == 1 else f"{repetitions} pictures"
    lines += ["", f"{'; '.join(versions)}; {system}; {pictures} of {steps} steps, {warm}, "
              f"{WORKLOAD['scheduler']}, guidance {guidance:g}; median ± half the quartiles' distance"]
    return "\n".join(lines)
