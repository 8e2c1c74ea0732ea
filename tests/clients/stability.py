"""Stability AI's REST API, version 1, as its documentation's examples call it."""

import base64
import io
import sys

import requests
from PIL import Image

URL = sys.argv[1]
ENGINE = f"{URL}/v1/generation/stable-diffusion-xl-1024-v1-0"
PROMPT = "a red circle on a blue background"


def post(path="/text-to-image", accept="application/json", form=None, files=None, **body):
    headers = {"Accept": accept, "Authorization": "Bearer any"}
    json = None if form else {"text_prompts": [{"text": PROMPT}], **body}
    return requests.post(
        ENGINE + path, json=json, data=form, files=files, headers=headers, timeout=300
    )


def artifacts(reply):
    assert reply.status_code == 200, reply.text
    for artifact in reply.json()["artifacts"]:
        assert artifact["finishReason"] == "SUCCESS"
        picture = Image.open(io.BytesIO(base64.b64decode(artifact["base64"])))
        assert picture.format == "PNG", picture
        yield picture.convert("RGB"), artifact["seed"]


def picture(reply):
    ((one, _),) = artifacts(reply)
    return one


def distance(a, b):
    assert a.size == b.size
    return sum(abs(x - y) for x, y in zip(a.tobytes(), b.tobytes()))


# Text to image, and the same picture elsewhere: 7 is the default of cfg_scale.
fast = dict(steps=4, seed=5)
reply = post(cfg_scale=7, height=1024, width=1024, samples=1, **fast)
plain = picture(reply)
assert plain.size == (128, 128), plain
assert distance(picture(post(**fast)), plain) == 0


def own(**fields):
    fields = dict(prompt=PROMPT, guidance_scale=7, num_inference_steps=4, seed=5) | fields
    reply = requests.post(URL + "/v1/sdxl-torch", json=fields, timeout=300).json()
    return Image.open(io.BytesIO(base64.b64decode(reply["image"]))).convert("RGB")


def alike(jpeg, png):
    return distance(jpeg, png) / len(png.tobytes()) < 6


assert alike(own(), plain)

# A picture's bytes.
reply = post(accept="image/png", **fast)
assert reply.status_code == 200, reply.text
assert reply.headers["content-type"] == "image/png"
assert reply.headers["Seed"] == "5" and reply.headers["Finish-Reason"] == "SUCCESS"
assert Image.open(io.BytesIO(reply.content)).convert("RGB").tobytes() == plain.tobytes()

# Several samples; a seed that is drawn; sizes.
seeds = [seed for _, seed in artifacts(post(samples=3, seed=9, cfg_scale=1, width=512, height=512))]
assert seeds == [9, 10, 11], seeds
drawn = [seed for _ in range(2) for _, seed in artifacts(post(seed=0, cfg_scale=1))]
assert drawn[0] != drawn[1] and all(0 < seed < 2**32 for seed in drawn), drawn
assert picture(post(width=1536, height=1024, cfg_scale=1)).size == (192, 128)
assert picture(post(width=128, height=192, cfg_scale=1)).size == (128, 192)


# Prompts and their weights.
def prompted(*prompts):
    return picture(post(text_prompts=[{"text": t, "weight": w} for t, w in prompts], **fast))


positive = (PROMPT, 1)
assert distance(prompted(positive), plain) == 0
negative = prompted(positive, ("green", -1))
assert distance(negative, plain) > 0
assert alike(own(negative_prompt="green"), negative)
assert distance(prompted(positive, ("dark", 0.5)), prompted(positive, ("dark", 2))) > 0

# Samplers, styles, and what is accepted without effect.
small = dict(width=512, height=512, cfg_scale=1, **fast)
unstyled = picture(post(**small))
for sampler in (
    "DDIM DDPM K_DPMPP_2M K_DPMPP_2S_ANCESTRAL K_DPM_2 "
    "K_DPM_2_ANCESTRAL K_EULER K_EULER_ANCESTRAL K_HEUN K_LMS"
).split():
    assert picture(post(sampler=sampler, **small)).size == (64, 64)
for style in (
    "3d-model analog-film anime cinematic comic-book digital-art enhance fantasy-art isometric "
    "line-art low-poly modeling-compound neon-punk origami photographic pixel-art tile-texture"
).split():
    assert distance(picture(post(style_preset=style, **small)), unstyled) > 0, style
assert distance(picture(post(clip_guidance_preset="FAST_BLUE", extras={}, **small)), unstyled) == 0

# Image to image, as a form.
small_one = picture(post(width=512, height=512, **fast))
start = io.BytesIO()
small_one.save(start, "PNG")
start = start.getvalue()


def form(path="/image-to-image", accept="application/json", files=None, **fields):
    fields = {"text_prompts[0][text]": "a green square", "steps": 6, "cfg_scale": 1, "seed": 3} | fields
    return post(path, accept, form=fields, files={"init_image": start} | (files or {}))


kept = picture(form(image_strength=0.8))
redrawn = picture(form(image_strength=0))
assert distance(kept, small_one) < distance(redrawn, small_one)
schedule = picture(form(init_image_mode="STEP_SCHEDULE", step_schedule_start=0.65))
assert distance(schedule, picture(form())) == 0
picture(form(image_strength=1))
weighed = {"text_prompts[0][weight]": "1", "text_prompts[1][text]": "red", "text_prompts[1][weight]": "-1"}
assert distance(picture(form(**weighed, cfg_scale=7)), picture(form(cfg_scale=7))) > 0
reply = form(accept="image/png")
assert reply.headers["Seed"] == "3" and reply.content[:4] == b"\x89PNG"


# Masks: the left half is painted anew.
def png(image):
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def halves(left, right):
    image = Image.new("L", small_one.size, right)
    image.paste(left, (0, 0, 32, 64))
    return image


def masking(files=None, **fields):
    return form("/image-to-image/masking", files=files, **fields)


transparent = small_one.copy()
transparent.putalpha(halves(0, 255))
masked = [
    picture(masking({"mask_image": png(halves(255, 0))}, mask_source="MASK_IMAGE_WHITE")),
    picture(masking({"mask_image": png(halves(0, 255))}, mask_source="MASK_IMAGE_BLACK")),
    picture(masking({"init_image": png(transparent)}, mask_source="INIT_IMAGE_ALPHA")),
]
left, right = ((0, 0, 24, 64), (40, 0, 64, 64))
for one in masked:
    assert distance(one.crop(left), small_one.crop(left)) > distance(one.crop(right), small_one.crop(right))
assert distance(masked[0], masked[1]) == 0

# The account.
engines = requests.get(URL + "/v1/engines/list", timeout=60).json()
assert len(engines) == 1 and engines[0]["type"] == "PICTURE" and engines[0]["id"], engines
assert requests.get(URL + "/v1/user/balance", timeout=60).json() == {"credits": None}
account = requests.get(URL + "/v1/user/account", timeout=60).json()
assert account["id"] == "anybody" and account["organizations"] == [], account

# What is wrong is named as the client wrote it.
for reply, names in [
    (post(text_prompts=[]), ["text_prompts"]),
    (post(text_prompts=[{"text": "a", "weight": -1}]), ["text_prompts", "above 0"]),
    (post(text_prompts=[{"weight": 1}]), ["text_prompts[0].text", "missing"]),
    (post(width=1000, height=1024), ["width", "1000", "64"]),
    (post(cfg_scale=36), ["cfg_scale", "36", "35"]),
    (post(steps=151), ["steps", "151", "150"]),
    (post(steps=0), ["steps", "0"]),
    (post(samples=11), ["samples", "11", "10"]),
    (post(seed=2**32), ["seed", "4294967295"]),
    (post(sampler="K_NOPE"), ["sampler", "K_NOPE", "K_EULER"]),
    (post(style_preset="nope"), ["style_preset", "nope"]),
    (post(accept="image/png", samples=2), ["samples", "application/json"]),
    (post(accept="text/html"), ["Accept", "text/html"]),
    (form(image_strength=1.5), ["image_strength", "1.5"]),
    (form(init_image_mode="X"), ["init_image_mode", "STEP_SCHEDULE"]),
    (form(files={"init_image": b"no picture"}), ["init_image"]),
    (masking(mask_source="MASK_IMAGE_WHITE"), ["mask_image", "missing"]),
    (masking(mask_source="X"), ["mask_source", "INIT_IMAGE_ALPHA"]),
]:
    error = reply.json()
    assert reply.status_code == 400 and error["name"] == "bad_request", (names, reply.text)
    assert error["id"] == reply.headers["x-request-id"]
    assert all(name in error["message"] for name in names), (names, error)
for reply, code, name in [
    (requests.get(ENGINE + "/text-to-image", timeout=60), 405, "method_not_allowed"),
    (post("/image-to-image/upscale"), 404, "not_found"),
]:
    assert reply.status_code == code and reply.json()["name"] == name, reply.text
