#!/usr/bin/env python3
"""Times stable-diffusion.cpp on the workload, through cyllama's Vulkan build, and prints rows.

sd.cpp tells of its stages in log lines and of steps through its progress callback; both
are timed by this program's clock as they come. Text encoders: from the call to
`get_learned_condition completed`. UNet step: from one call of the progress callback to
the next; sd.cpp computes the two halves of a guided step one after the other. VAE
decode: from the end of sampling to `decode_first_stage completed`. Picture: the whole
call. peak_bytes is what sd.cpp says it allocates: all weights, and the stage's compute
buffer. Its `discrete` schedule has other timesteps than `leading`, and as many of them.
"""
import os
import re
import sys
import tempfile
import time
from pathlib import Path

import rows

DEVICE = re.compile(r"ggml_vulkan: \d+ = (.*) \([^()]*\) \| uma")  # name (driver)
BUFFER = re.compile(r"(\w+) compute buffer size: *([\d.]+) MB")
WEIGHTS = re.compile(r"total params memory size = *([\d.]+) *MB")
OWNERS = {"clip": rows.ENCODERS, "unet": rows.STEP, "vae": rows.DECODE}
LOG_WARNING = 2


def load_library():
    """(cyllama.sd, what ggml said on stderr while it looked for devices)"""
    with tempfile.TemporaryFile() as said:
        kept = os.dup(2)
        os.dup2(said.fileno(), 2)
        try:
            import cyllama.sd as sd
        except ImportError as e:
            os.dup2(kept, 2)
            rows.fail(f"{e}; tools/peers/run installs cyllama-vulkan; tools/setup installs the Vulkan loader that it needs")
        finally:
            os.dup2(kept, 2)
            os.close(kept)
        said.seek(0)
        return sd, said.read().decode(errors="replace")


def again_with_any_device():
    """sd.cpp passes over processors that pose as GPUs, such as lavapipe, unless they are named."""
    rows.say("sd.cpp: no Vulkan GPU; Vulkan device 0 is taken, whatever it is (GGML_VK_VISIBLE_DEVICES=0)")
    os.environ["GGML_VK_VISIBLE_DEVICES"] = "0"
    os.execv(sys.executable, [sys.executable, *sys.argv])


class Watch:
    """Listens to sd.cpp."""

    def __init__(self):
        self.samples, self.weights, self.buffers = rows.Samples(), 0.0, {}
        self.start = self.last = None
        self.sampling, self.complaints = False, []

    def end(self, stage):
        now = time.perf_counter()
        self.samples.add(stage, now - self.last)
        self.last = now
        rows.say(f"sd.cpp: {stage} done")

    def log(self, level, text):
        if level >= LOG_WARNING:
            self.complaints.append(text.strip())
        if found := WEIGHTS.search(text):
            self.weights = float(found[1]) * 2**20
        if found := BUFFER.search(text):
            self.buffers[found[1]] = max(self.buffers.get(found[1], 0.0), float(found[2]) * 2**20)
        if self.start is None:
            return
        if "get_learned_condition completed" in text:
            self.end(rows.ENCODERS)
            self.sampling = True
        elif "sampling completed" in text:
            self.sampling, self.last = False, time.perf_counter()
        elif "decode_first_stage completed" in text:
            self.end(rows.DECODE)

    def progress(self, step, _steps, _seconds):
        if not self.sampling:
            return
        if step == 0:
            self.last = time.perf_counter()
        else:
            self.end(rows.STEP)

    def draw(self, sd, context, size, steps):
        w = rows.WORKLOAD
        self.start = self.last = time.perf_counter()
        context.generate(
            prompt=w["prompt"], negative_prompt=w["negative_prompt"], width=size, height=size, seed=w["seed"], sample_steps=steps,
            cfg_scale=w["guidance_scale"], sample_method=sd.SampleMethod.EULER, scheduler=sd.Scheduler.DISCRETE)
        self.samples.add(rows.PICTURE, time.perf_counter() - self.start)
        self.start = None

    def peak(self, stage):
        owners = [owner for owner, its in OWNERS.items() if stage in (its, rows.PICTURE)]
        heard = [self.buffers[owner] for owner in owners if owner in self.buffers]
        return int(self.weights + max(heard)) if self.weights and heard else None


def main():
    a = rows.engine_arguments(__doc__).parse_args()
    sd, said = load_library()
    types = {"auto": sd.SDType.F16, "f16": sd.SDType.F16, "f32": sd.SDType.F32}
    if a.dtype not in types:
        rows.fail(f"sd.cpp: --dtype {a.dtype} is not timed; choose auto, f16 or f32")
    devices = DEVICE.findall(said)
    if not devices and "GGML_VK_VISIBLE_DEVICES" not in os.environ:
        again_with_any_device()
    if not devices:
        rows.fail("sd.cpp: no Vulkan device; tools/setup installs a driver, and GGML_VK_VISIBLE_DEVICES names the device")
    watch = Watch()
    sd.set_log_callback(watch.log)
    sd.set_progress_callback(watch.progress)
    dtype = types[a.dtype]
    rows.say(f"sd.cpp: loading, {devices[0]}")
    try:
        context = sd.SDContext(sd.SDContextParams(model_path=a.model, wtype=dtype))
        rows.draw_all(watch.samples, a, lambda steps: watch.draw(sd, context, a.size, steps))
    except (RuntimeError, FileNotFoundError, ValueError) as e:
        # Its last complaint says more than the exception.
        why = watch.complaints[-1] if watch.complaints else " ".join(str(e).split())
        rows.fail(f"sd.cpp: {a.model}: {why}; give an SDXL .safetensors file, and a smaller --size where memory was short")
    import cyllama

    facts = dict(
        engine="sd.cpp", version=f"of cyllama-vulkan {cyllama.__version__}", model=Path(a.model).name,
        # ggml keeps activations in f32
        dtype="f16/f32" if dtype == sd.SDType.F16 else "f32",
        width=a.size, height=a.size, steps=a.steps, backend="Vulkan", adapter=devices[0])
    rows.print_rows(watch.samples, facts, {stage: {"peak_bytes": watch.peak(stage)} for stage in rows.STAGES})


if __name__ == "__main__":
    main()
