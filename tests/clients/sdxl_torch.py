"""The hosted sdxl-torch API's client, as its public page has it, with `requests`."""

import base64
import io
import sys

import requests
from PIL import Image

URL = sys.argv[1]
DATA = {
    "prompt": "cinematic film still, 4k, realistic, ((cinematic photo:1.3)) of panda wearing "
    "a blue spacesuit, sitting in a bar, Fujifilm XT3, long shot, ((low light:1.4)), "
    "((looking straight at the camera:1.3)), upper body shot, somber, shallow depth of field",
    "negative_prompt": "ugly, deformed, noisy, blurry, low contrast",
    "style": "base",
    "samples": 1,
    "scheduler": "UniPC",
    "num_inference_steps": 25,
    "guidance_scale": 8,
    "strength": 0.2,
    "high_noise_fraction": 0.8,
    "seed": 468685,
    "img_width": 1024,
    "img_height": 1024,
    "refiner": True,
    "base64": False,
}


def post(path, **changes):
    return requests.post(
        URL + path, json={**DATA, **changes}, headers={"x-api-key": "any"}, timeout=300
    )


response = post("/v1/sdxl-torch")
assert response.status_code == 200, response.text
assert response.headers["content-type"] == "image/jpeg"
assert response.headers["x-seed-value"] == "468685"
for name in ["x-generation-time", "x-cost", "x-request-id"]:
    assert response.headers[name], name
picture = Image.open(io.BytesIO(response.content))
assert picture.format == "JPEG" and picture.size == (128, 128), picture

reply = post("/v1/sdxl1.0-txt2img", base64=True)
assert reply.headers["content-type"] == "application/json"
body = reply.json()
assert body["status"] == "success" and body["infer_time"] > 0, body
assert body["seed"] == 468685 and body["seeds"] == [468685], body
# The same request is the same picture.
assert base64.b64decode(body["image"]) == response.content

several = post("/v1/sdxl-torch", base64=True, samples="2", num_inference_steps="20").json()
assert len(several["image"]) == 2 and several["seeds"] == [468685, 468686]

# A form, as `requests` sends with files.
form = {k: str(v) for k, v in DATA.items()} | {"base64": "yes", "strength": "0.5"}
form.pop("img_width"), form.pop("img_height")
reply = requests.post(
    URL + "/v1/sdxl-img2img", data=form, files={"image": ("a.jpg", response.content)}, timeout=300
)
assert reply.status_code == 200, reply.text
assert base64.b64decode(reply.json()["image"])[:2] == b"\xff\xd8"

mask = io.BytesIO()
Image.new("L", (128, 128), 255).save(mask, "PNG")
reply = post(
    "/v1/sdxl-inpaint",
    image="data:image/jpeg;base64," + base64.b64encode(response.content).decode(),
    mask=base64.b64encode(mask.getvalue()).decode(),
    num_inference_steps=20,
)
assert reply.status_code == 200, reply.text

for changes, names in [
    ({"num_inference_steps": 19}, ["num_inference_steps", "19", "20", "100"]),
    ({"samples": 5}, ["samples", "5", "4"]),
    ({"img_width": 512}, ["img_width", "512"]),
    ({"scheduler": "Nope"}, ["scheduler", "Nope"]),
    ({"guidance_scale": "NaN"}, ["guidance_scale"]),
    ({"prompt": None}, ["prompt"]),
    ({"samples": 2, "base64": False}, ["base64"]),
]:
    reply = post("/v1/sdxl-torch", **changes)
    assert reply.status_code == 400, (changes, reply.status_code)
    assert all(name in reply.json()["error"] for name in names), reply.text
