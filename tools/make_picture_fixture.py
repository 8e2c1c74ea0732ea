#!/usr/bin/env python3
"""Record what Pillow makes of pictures: tests/fixtures/pictures/.

    python3 tools/make_picture_fixture.py tests/fixtures/pictures

Needs Pillow 13 and numpy. `source.png` is resized with Lanczos to the sizes in the
names of `resize-*.png`, cut to shape by ImageOps.fit in `fit-*.png`, and, as a
mask of blots, in `mask*.png`. The others carry settings as AUTOMATIC1111's
program stores them, and an EXIF orientation.
"""
import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps
from PIL.PngImagePlugin import PngInfo

INFO = ("a cat, (red:1.2)\nin Zürich 猫\nNegative prompt: dog\nSteps: 30, Sampler: DPM++ 2M, Schedule type: Karras, "
        'CFG scale: 5.5, Seed: 42, Size: 16x8, Model: sd_xl_base_1.0, Hashes: {"vae": "63aeecb90f"}, '
        'Lora hashes: "a: 1f, b: 2e", Version: v1.10.1')
LATIN = INFO.replace(" 猫", "")


def source():
    """Noise, slopes, hard edges and flat parts."""
    x, y = np.meshgrid(np.arange(37), np.arange(23))
    picture = np.random.default_rng(1).integers(0, 256, (23, 37, 3))
    picture[:, 12:] = np.stack([x * 6.9, y * 11, (x + y) * 4.3], -1)[:, 12:]
    picture[8:15, 20:30] = (255, 0, 128)
    picture[16:, 25:] = 255
    picture[18:21, 27:30] = 0
    return Image.fromarray(picture.astype(np.uint8))


def blots():
    x, y = np.meshgrid(np.arange(37), np.arange(23))
    inside = ((x - 12) ** 2 + (y - 11) ** 2 < 60) | ((x > 25) & (y % 5 < 2))
    return Image.fromarray((inside * 255).astype(np.uint8))


def main():
    out = Path(sys.argv[1])
    out.mkdir(parents=True, exist_ok=True)
    picture = source()
    picture.save(out / "source.png", optimize=True)
    for size in [(16, 16), (61, 50), (8, 40), (37, 9), (24, 23), (1, 1), (5, 3), (61, 12), (30, 4)]:
        picture.resize(size, Image.LANCZOS).save(out / f"resize-{size[0]}x{size[1]}.png", optimize=True)
    for size in [(16, 16), (50, 20), (7, 40), (9, 17)]:
        ImageOps.fit(picture, size, Image.LANCZOS).save(out / f"fit-{size[0]}x{size[1]}.png", optimize=True)
    mask = blots()
    mask.save(out / "mask.png", optimize=True)
    # diffusers' masks: three channels, resized, above the middle.
    resized = mask.convert("RGB").resize((64, 48), Image.LANCZOS)
    array = np.asarray(resized, dtype=np.float32) / 127.5 - 1.0
    Image.fromarray(((array.mean(2) > 0) * 255).astype(np.uint8)).save(out / "mask-64x48.png", optimize=True)

    small = picture.resize((16, 8), Image.LANCZOS)
    for name, text, options in [("text", LATIN, {}), ("ztxt", LATIN, {"zip": True}), ("itxt", INFO, {}), ("itxt-z", INFO, {"zip": True})]:
        info = PngInfo()
        (info.add_itxt if "itxt" in name else info.add_text)("parameters", text, **options)
        small.save(out / f"a1111-{name}.png", pnginfo=info)
    for name, order in [("a1111", "utf-16-be"), ("little", "utf-16-le")]:
        exif = Image.Exif()
        exif.get_ifd(0x8769)[0x9286] = b"UNICODE\0" + INFO.encode(order)
        for extension in ("jpg", "webp"):
            small.save(out / f"{name}.{extension}", exif=exif, quality=80)
    # Four colours, of which none stands where another does when turned.
    corners = Image.fromarray(np.array([[[255, 0, 0], [0, 255, 0]], [[0, 0, 255], [255, 255, 255]]], np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6
    corners.resize((32, 16), Image.NEAREST).save(out / "turned.jpg", exif=exif, quality=90)
    rng = np.random.default_rng(2)
    noise = Image.fromarray(rng.integers(0, 256, (40, 48, 3)).astype(np.uint8)).resize((48, 40)).resize((24, 20))
    noise.save(out / "baseline.jpg", quality=75)
    noise.save(out / "progressive.jpg", quality=75, progressive=True)


main()
