"""Stability's REST API, version 1, as its documentation calls it with `requests`."""

import base64
import io
import sys

import requests
from PIL import Image

URL = sys.argv[1]
ENGINE = URL + "/v1/generation/stable-diffusion-xl-1024-v1-0"
HEADERS = {"Accept": "application/json", "Authorization": "Bearer any"}
BODY = {
    "text_prompts": [
        {"text": "a red circle on a blue background", "weight": 1},
        {"text": "blurry", "weight": -1},
    ],
    "cfg_scale": 7, "height": 1024, "width": 1024, "samples": 1, "steps": 10, "seed": 7,
    "sampler": "K_DPMPP_2M", "clip_guidance_preset": "FAST_BLUE",
}


def picture(artifact):
    return Image.open(io.BytesIO(base64.b64decode(artifact["base64"])))


reply = requests.post(ENGINE + "/text-to-image", headers=HEADERS, json=BODY, timeout=300)
assert reply.status_code == 200, reply.text
(artifact,) = reply.json()["artifacts"]
assert artifact["seed"] == 7 and artifact["finishReason"] == "SUCCESS"
assert picture(artifact).size == (128, 128) and picture(artifact).format == "PNG"

png = requests.post(
    ENGINE + "/text-to-image", headers={**HEADERS, "Accept": "image/png"}, json=BODY, timeout=300
)
assert png.content == base64.b64decode(artifact["base64"])
assert png.headers["seed"] == "7" and png.headers["finish-reason"] == "SUCCESS"

two = requests.post(
    ENGINE + "/text-to-image", headers=HEADERS, timeout=300,
    json={**BODY, "samples": 2, "seed": 0, "style_preset": "low-poly", "width": 1536},
).json()["artifacts"]
assert len(two) == 2 and two[1]["seed"] == two[0]["seed"] + 1
assert picture(two[0]).size == (192, 128)

form = {
    "init_image_mode": "IMAGE_STRENGTH", "image_strength": 0.35, "steps": 10, "cfg_scale": 7,
    "samples": 1, "seed": 3, "text_prompts[0][text]": "a yellow star",
    "text_prompts[0][weight]": 0.8, "text_prompts[1][text]": "red", "text_prompts[1][weight]": -1,
}
files = {"init_image": ("a.png", png.content, "image/png")}
reply = requests.post(ENGINE + "/image-to-image", headers=HEADERS, files=files, data=form, timeout=300)
assert reply.status_code == 200, reply.text
assert picture(reply.json()["artifacts"][0]).size == (128, 128)

mask = Image.new("L", (128, 128), 0)
mask.paste(255, (64, 0, 128, 128))
data = io.BytesIO()
mask.save(data, "PNG")
results = {}
for source in ["MASK_IMAGE_WHITE", "MASK_IMAGE_BLACK"]:
    files = {"init_image": png.content, "mask_image": data.getvalue()}
    reply = requests.post(
        ENGINE + "/image-to-image/masking", headers=HEADERS, files=files, timeout=300,
        data={**form, "mask_source": source},
    )
    assert reply.status_code == 200, reply.text
    results[source] = picture(reply.json()["artifacts"][0]).convert("RGB")
original = Image.open(io.BytesIO(png.content)).convert("RGB")


def difference(made, box):
    a, b = made.crop(box).tobytes(), original.crop(box).tobytes()
    return sum(abs(x - y) for x, y in zip(a, b)) / len(a)


left, right = (0, 0, 48, 128), (80, 0, 128, 128)
white, black = results["MASK_IMAGE_WHITE"], results["MASK_IMAGE_BLACK"]
assert difference(white, right) > difference(white, left)
assert difference(black, left) > difference(black, right)

engines = requests.get(URL + "/v1/engines/list", headers=HEADERS, timeout=60).json()
assert engines[0]["type"] == "PICTURE", engines
assert requests.get(URL + "/v1/user/balance", headers=HEADERS, timeout=60).status_code == 200

for changes, message in [
    ({"steps": 151}, "steps is 151: must be from 10 to 150"),
    ({"cfg_scale": 36}, "cfg_scale is 36: must be from 0 to 35"),
    ({"sampler": "K_EULR"}, 'sampler is "K_EULR"'),
    ({"text_prompts": []}, "text_prompts is 0"),
    ({"text_prompts": [{"weight": 1}]}, "text_prompts[0].text is missing"),
    ({"style_preset": "nope nope"}, "style_preset is"),
]:
    reply = requests.post(ENGINE + "/text-to-image", headers=HEADERS, json={**BODY, **changes}, timeout=60)
    assert reply.status_code == 400, (changes, reply.text)
    error = reply.json()
    assert error["message"].startswith(message) and error["id"] and error["name"], error
