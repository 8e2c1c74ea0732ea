"""Hugging Face's InferenceClient, pointed at the service, and its HTTP API by hand."""

import base64
import io
import sys

import requests
from huggingface_hub import InferenceClient
from huggingface_hub.errors import HfHubHTTPError
from PIL import Image

URL = sys.argv[1]
PROMPT = "a red circle on a blue background"
client = InferenceClient(model=URL, token="any")


def pixels(picture):
    return picture.convert("RGB").tobytes()


def distance(a, b):
    return sum(abs(x - y) for x, y in zip(pixels(a), pixels(b)))


def post(path, accept=None, **body):
    headers = {"Accept": accept} if accept else {}
    return requests.post(URL + path, json=body, headers=headers, timeout=300)


# Text to image, with every parameter that the client knows.
settings = dict(
    negative_prompt="green",
    height=64,
    width=80,
    num_inference_steps=3,
    guidance_scale=5.0,
    scheduler="EulerDiscreteScheduler",
    seed=42,
)
first = client.text_to_image(PROMPT, **settings)
assert first.format == "PNG" and first.size == (80, 64), first
assert pixels(client.text_to_image(PROMPT, **settings)) == pixels(first)
for changes in [dict(seed=43), dict(negative_prompt="red"), dict(scheduler="DDIM")]:
    assert pixels(client.text_to_image(PROMPT, **(settings | changes))) != pixels(first), changes

# The same request elsewhere is the same picture.
reply = requests.post(
    URL + "/v1/sdxl-torch",
    json=dict(
        prompt=PROMPT,
        negative_prompt="green",
        num_inference_steps=3,
        guidance_scale=5,
        scheduler="Euler",
        seed=42,
        base64=False,
    ),
    timeout=300,
)
square = client.text_to_image(PROMPT, **(settings | dict(height=128, width=128)))
assert distance(Image.open(io.BytesIO(reply.content)), square) / len(pixels(square)) < 6

# Without parameters; sizes of a model of 1024 pixels; a style beyond the client's own.
assert client.text_to_image(PROMPT).size == (128, 128)
assert client.text_to_image(PROMPT, width=1024, height=1024, num_inference_steps=1).size == (128, 128)
styled = client.text_to_image(PROMPT, **settings, extra_body={"style": "anime"})
assert pixels(styled) != pixels(first)

# Image to image.
start = io.BytesIO()
first.save(start, "PNG")
start = start.getvalue()
changed = dict(num_inference_steps=4, guidance_scale=1, seed=1)
weak = client.image_to_image(start, prompt="a green square", strength=0.25, **changed)
strong = client.image_to_image(start, prompt="a green square", strength=1.0, **changed)
assert weak.size == strong.size == (80, 64)
assert distance(weak, first) < distance(strong, first)
to_size = client.image_to_image(
    start, prompt="a", target_size={"width": 64, "height": 96}, **changed
)
assert to_size.size == (64, 96), to_size
# Without a prompt the client sends base64 alone, and without anything the bare bytes.
assert client.image_to_image(start, **changed).size == (80, 64)
assert client.image_to_image(start).size == (80, 64)
mask = io.BytesIO()
Image.new("L", first.size, 0).save(mask, "PNG")
kept = client.image_to_image(
    start, prompt="a", mask_image=base64.b64encode(mask.getvalue()).decode(), **changed
)
assert distance(kept, first) < distance(strong, first)

# Models by name, and every format.
parameters = dict(seed=7, num_inference_steps=1, guidance_scale=1, width=64, height=64)
for path in ["/", "/models/gpt2", "/models/stabilityai/stable-diffusion-xl-base-1.0"]:
    for accept, kind in [
        (None, "png"),
        ("*/*", "png"),
        ("image/*", "png"),
        ("image/png", "png"),
        ("image/jpeg", "jpeg"),
        ("image/webp, image/png;q=0.5", "webp"),
    ]:
        reply = post(path, accept, inputs=PROMPT, parameters=parameters, options={"use_cache": False})
        assert reply.status_code == 200, reply.text
        assert reply.headers["content-type"] == f"image/{kind}", (path, accept)
        assert Image.open(io.BytesIO(reply.content)).format == kind.upper()
        assert reply.headers["x-seed-value"] == "7"
png = post("/", inputs=PROMPT, parameters=parameters).content
answer = post("/", "application/json", inputs=PROMPT, parameters=parameters).json()
assert base64.b64decode(answer["data"][0]["b64_json"]) == png and answer["seed"] == 7

# What is wrong is named as the client wrote it.
for parameters, names in [
    (dict(num_inference_steps=0), ["parameters.num_inference_steps", "0"]),
    (dict(width=8, height=8), ["parameters.width", "8"]),
    (dict(scheduler="Nope"), ["parameters.scheduler", "Nope"]),
    (dict(guidance_scale=-1), ["parameters.guidance_scale", "-1"]),
    (dict(extra_body={"style": "nope"}), ["parameters.style", "nope"]),
    (dict(extra_body={"seed": "many"}), ["parameters.seed", "many"]),
]:
    try:
        client.text_to_image(PROMPT, **parameters)
        raise AssertionError(parameters)
    except HfHubHTTPError as error:
        assert error.response.status_code == 400, error
        assert all(name in str(error) for name in names), error
for reply, code, name in [
    (post("/", parameters={}), 400, "inputs"),
    (post("/", inputs="???", parameters={"prompt": "a"}), 400, "inputs"),
    (post("/", "text/html", inputs="a"), 400, "Accept"),
    (requests.post(URL + "/", data="{", timeout=60), 400, "JSON"),
    (requests.get(URL + "/models/a/b", timeout=60), 405, "Allow"),
    (post("/models/a/b/c", inputs="a"), 404, "path"),
]:
    assert reply.status_code == code, reply.text
    assert name in reply.json()["error"], reply.text
