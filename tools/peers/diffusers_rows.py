#!/usr/bin/env python3
"""Times diffusers on the workload, on whatever device torch has, and prints rows.

Every stage ends with a synchronisation. Text encoders: `encode_prompt`. UNet step:
from one `callback_on_step_end` to the next; a picture's first one begins with the
UNet's call. VAE decode: from the last step's end to the end of `vae.decode`, so it
has the change to f32 that diffusers makes for SDXL's VAE. Picture: the whole call.
"""
import math
import os
import time
from pathlib import Path

import rows
import sdxl_config

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # nothing is fetched: the configurations are written here
try:
    import diffusers
    import torch
    import transformers
except ImportError as e:
    rows.fail(f"{e}; tools/peers/run installs diffusers, or install diffusers, transformers, torch and accelerate")

DTYPES = {"f16": torch.float16, "bf16": torch.bfloat16, "f32": torch.float32}
NAMES = {dtype: name for name, dtype in DTYPES.items()}
F32_ON_CPU_BYTES = 18 << 30  # weights of 14 GB and room to work


def device():
    if torch.accelerator.is_available():
        return torch.accelerator.current_accelerator().type
    return "cpu"


def available_memory():
    """Bytes to be had without swapping, where Linux says it."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        return 1024 * int(next(line.split()[1] for line in lines if line.startswith("MemAvailable")))
    except (OSError, StopIteration):
        return math.inf


def choose_dtype(asked, place):
    if asked != "auto":
        return DTYPES[asked]
    if place != "cpu":
        return torch.float16
    if available_memory() >= F32_ON_CPU_BYTES:
        return torch.float32
    rows.say("diffusers: less than 18 GiB are free for f32, bf16 is taken")
    return torch.bfloat16


def load(model, dtype, place):
    diffusers.utils.logging.set_verbosity_error()
    diffusers.utils.logging.disable_progress_bar()
    folder = Path(model)
    pipeline = diffusers.StableDiffusionXLPipeline
    if folder.is_dir():
        pipe = pipeline.from_pretrained(model, torch_dtype=dtype)
    else:
        configs = Path(__file__).parents[2] / "target" / "peers" / "sdxl-config"
        sdxl_config.write_folder(configs)
        pipe = pipeline.from_single_file(model, config=str(configs), torch_dtype=dtype)
    pipe.scheduler = diffusers.EulerDiscreteScheduler.from_config(pipe.scheduler.config, timestep_spacing=rows.WORKLOAD["spacing"])
    pipe.set_progress_bar_config(disable=True)
    return pipe.to(place)


class Watch:
    """Times the stages of a pipeline's calls."""

    def __init__(self, pipe, place):
        self.pipe, self.place = pipe, place
        self.samples, self.peaks, self.decode_dtype = rows.Samples(), {}, None
        self.last = None
        self.encode_prompt, self.decode = pipe.encode_prompt, pipe.vae.decode
        pipe.encode_prompt, pipe.vae.decode = self.on_encode, self.on_decode
        pipe.unet.register_forward_pre_hook(self.on_unet)

    def now(self):
        if self.place != "cpu":
            torch.accelerator.synchronize()
        return time.perf_counter()

    def end(self, stage, start):
        now = self.now()
        self.samples.add(stage, now - start)
        if self.place == "cuda":
            self.peaks[stage] = max(self.peaks.get(stage, 0), torch.cuda.max_memory_allocated())
            torch.cuda.reset_peak_memory_stats()
        self.last = now

    def on_encode(self, *args, **kwargs):
        start = self.now()
        result = self.encode_prompt(*args, **kwargs)
        self.end(rows.ENCODERS, start)
        self.last = None
        return result

    def on_unet(self, *_):
        if self.last is None:
            self.last = self.now()

    def on_step(self, _pipe, index, _timestep, tensors):
        self.end(rows.STEP, self.last)
        rows.say(f"diffusers: step {index + 1}")
        return tensors

    def on_decode(self, latents, *args, **kwargs):
        self.decode_dtype = latents.dtype
        result = self.decode(latents, *args, **kwargs)
        self.end(rows.DECODE, self.last)
        return result

    def draw(self, size, steps):
        w = rows.WORKLOAD
        start = self.now()
        self.pipe(w["prompt"], negative_prompt=w["negative_prompt"], width=size, height=size, num_inference_steps=steps,
                  guidance_scale=w["guidance_scale"], generator=torch.Generator("cpu").manual_seed(w["seed"]),
                  callback_on_step_end=self.on_step)
        self.samples.add(rows.PICTURE, self.now() - start)


def backend(place):
    """(interface, adapter)"""
    if place == "cuda":
        name = "ROCm" if torch.version.hip else "CUDA"
        return f"{name} {torch.version.hip or torch.version.cuda}", torch.cuda.get_device_name()
    return ("MPS" if place == "mps" else place.upper()), rows.processor()


def main():
    a = rows.engine_arguments(__doc__).parse_args()
    if a.dtype != "auto" and a.dtype not in DTYPES:
        rows.fail(f"diffusers: --dtype {a.dtype} is not known; choose auto, f16, bf16 or f32")
    place = device()
    dtype = choose_dtype(a.dtype, place)
    rows.say(f"diffusers: loading, {NAMES[dtype]} on {place}")
    try:
        pipe = load(a.model, dtype, place)
    except (OSError, ValueError, KeyError) as e:
        rows.fail(f"diffusers: {a.model}: {str(e).splitlines()[0]}; give an SDXL checkpoint, a .safetensors file or a diffusers folder")
    watch = Watch(pipe, place)
    try:
        rows.draw_all(watch.samples, a, lambda steps: watch.draw(a.size, steps))
    except torch.OutOfMemoryError:
        rows.fail("diffusers: the device has too little memory; try a smaller --size or --dtype f16")
    watch.peaks[rows.PICTURE] = max(watch.peaks.values(), default=None)
    interface, adapter = backend(place)
    facts = dict(
        engine="diffusers", version=f"{diffusers.__version__} (torch {torch.__version__}, transformers {transformers.__version__})",
        model=Path(a.model).name, dtype=NAMES[dtype], width=a.size, height=a.size, steps=a.steps, backend=interface, adapter=adapter)
    by_stage = {stage: {"peak_bytes": watch.peaks.get(stage)} for stage in rows.STAGES}
    by_stage[rows.DECODE]["dtype"] = NAMES[watch.decode_dtype]
    rows.print_rows(watch.samples, facts, by_stage)


if __name__ == "__main__":
    main()
