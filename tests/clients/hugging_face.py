"""Hugging Face's InferenceClient, pointed at the service."""

import base64
import io
import sys

import requests
from huggingface_hub import InferenceClient
from huggingface_hub.errors import HfHubHTTPError
from PIL import Image

URL = sys.argv[1]
client = InferenceClient(model=URL, token="any")

picture = client.text_to_image("a red circle", seed=7, num_inference_steps=4)
assert isinstance(picture, Image.Image) and picture.size == (128, 128), picture
again = client.text_to_image("a red circle", seed=7, num_inference_steps=4)
assert picture.tobytes() == again.tobytes()
wide = client.text_to_image(
    "a red circle", negative_prompt="blue", width=1536, height=1024, guidance_scale=5.0,
    scheduler="EulerDiscreteScheduler", num_inference_steps=2, seed=3,
)
assert wide.size == (192, 128), wide.size

file = io.BytesIO()
picture.save(file, "PNG")
over = client.image_to_image(file.getvalue(), prompt="a blue square", num_inference_steps=4)
assert over.size == (128, 128) and over.tobytes() != picture.tobytes()

try:
    client.text_to_image("a", num_inference_steps=100000)
    raise SystemExit("too many steps were taken")
except HfHubHTTPError as error:
    assert error.response.status_code == 400, error
    assert "parameters.num_inference_steps is 100000" in error.response.json()["error"], error

body = {"inputs": "a red circle", "parameters": {"seed": 7, "num_inference_steps": 4}}
reply = requests.post(
    URL + "/models/stabilityai/stable-diffusion-xl-base-1.0",
    json=body, headers={"Accept": "image/jpeg"}, timeout=300,
)
assert reply.status_code == 200 and reply.headers["content-type"] == "image/jpeg", reply.text
assert reply.headers["x-seed-value"] == "7"
assert Image.open(io.BytesIO(reply.content)).format == "JPEG"
# The same as this service's own API draws.
job = requests.post(
    URL + "/v1/sdxl-torch",
    json={"prompt": "a red circle", "seed": 7, "num_inference_steps": 4}, timeout=300,
).json()
assert base64.b64decode(job["image"]) == reply.content

reply = requests.post(URL + "/", data=file.getvalue(), headers={"content-type": "image/png"}, timeout=300)
assert reply.status_code == 200, reply.text
for body in [{}, {"inputs": 3}, {"inputs": "a", "parameters": {"width": "wide"}}]:
    reply = requests.post(URL + "/", json=body, timeout=300)
    assert reply.status_code == 400 and reply.json()["error"], reply.text
