"""OpenAI's Python client, pointed at the service."""

import base64
import io
import sys
import time
import urllib.parse

import requests
from openai import BadRequestError, NotFoundError, OpenAI
from PIL import Image

URL = sys.argv[1]
client = OpenAI(base_url=URL + "/v1", api_key="any", max_retries=0)
SEED = {"seed": 7}


def decoded(item):
    return base64.b64decode(item.b64_json)


models = client.models.list()
assert [model.id for model in models] == ["demo"], models
assert client.models.retrieve("demo").owned_by == "calotype"
assert client.models.retrieve("gpt-image-1").id == "gpt-image-1"
try:
    client.models.retrieve("nope-9000")
    raise SystemExit("an unknown model was found")
except NotFoundError:
    pass

reply = client.images.generate(model="gpt-image-1", prompt="a red circle", extra_body=SEED)
assert len(reply.data) == 1 and reply.created > 0 and reply.output_format == "png"
picture = Image.open(io.BytesIO(decoded(reply.data[0])))
assert picture.format == "PNG" and picture.size == (128, 128), picture

assert reply.usage.total_tokens == 0 and reply.usage.input_tokens_details.text_tokens == 0, reply

# The same bytes again, and of a job with the same settings.
again = client.images.generate(prompt="a red circle", extra_body=SEED)
assert decoded(again.data[0]) == decoded(reply.data[0])
settings = {"prompt": "a red circle", "negative_prompt": "blue", "seed": 9, "guidance_scale": 4}
ours = client.images.generate(
    prompt=settings["prompt"],
    extra_body={"seed": 9, "negative_prompt": "blue", "steps": 3, "cfg_scale": 4},
)
job = requests.post(f"{URL}/v1/jobs", json={**settings, "num_inference_steps": 3}, timeout=60).json()
for _ in range(600):
    job = requests.get(f"{URL}/v1/jobs/{job['id']}", timeout=60).json()
    if job["status"] not in ("queued", "running"):
        break
    time.sleep(0.05)
assert job["status"] == "done", job
kept = requests.get(urllib.parse.urljoin(URL, job["images"][0]["url"]), timeout=60).content
assert kept == decoded(ours.data[0]), "a job's picture is another"

# By URL, the same bytes.
reply2 = client.images.generate(prompt="a red circle", response_format="url", extra_body=SEED)
assert reply2.data[0].url.startswith(URL + "/v1/results/"), reply2
assert requests.get(reply2.data[0].url, timeout=60).content == decoded(reply.data[0])

several = client.images.generate(
    prompt="a red circle", n=2, size="1536x1024", quality="high", output_format="webp", user="me",
    background="auto", moderation="low",
    extra_body={"seed": 7, "negative_prompt": "blue", "steps": 2, "guidance_scale": 4},
)
assert len(several.data) == 2 and several.size == "192x128", several.size
assert Image.open(io.BytesIO(decoded(several.data[1]))).format == "WEBP"

events = list(
    client.images.generate(
        prompt="a red circle", stream=True, partial_images=2,
        extra_body={"seed": 7, "steps": 12},
    )
)
kinds = [event.type for event in events]
assert kinds[-1] == "image_generation.completed", kinds
assert kinds.count("image_generation.partial_image") == 2, kinds
assert [event.partial_image_index for event in events[:-1]] == [0, 1]
assert Image.open(io.BytesIO(base64.b64decode(events[0].b64_json))).format == "JPEG"
assert Image.open(io.BytesIO(base64.b64decode(events[-1].b64_json))).size == (128, 128)

file = io.BytesIO()
picture.save(file, "PNG")
over = client.images.edit(
    image=("a.png", file.getvalue()), prompt="a blue square", extra_body={"seed": 3}
)
assert decoded(over.data[0]) != decoded(reply.data[0])

# Only the transparent half of the mask is painted anew.
mask = Image.new("RGBA", picture.size, (0, 0, 0, 255))
mask.paste((0, 0, 0, 0), (64, 0, 128, 128))
hole = io.BytesIO()
mask.save(hole, "PNG")
part = client.images.edit(
    image=[("a.png", file.getvalue())], mask=("m.png", hole.getvalue()),
    prompt="a yellow star on a black background", extra_body={"seed": 3, "steps": 8},
)
part = Image.open(io.BytesIO(decoded(part.data[0]))).convert("RGB")


def difference(box):
    a, b = part.crop(box).tobytes(), picture.convert("RGB").crop(box).tobytes()
    return sum(abs(x - y) for x, y in zip(a, b)) / len(a)


kept, anew = difference((0, 0, 48, 128)), difference((64, 0, 128, 128))
assert anew > 2 * kept, f"{anew} anew, {kept} kept"

varied = client.images.create_variation(
    image=("a.png", file.getvalue()), n=2, size="1024x1024", response_format="b64_json",
    extra_body={"seed": 3},
)
assert len(varied.data) == 2 and varied.size == "128x128", varied.size
first, second = (decoded(item) for item in varied.data)
assert first != second and first != decoded(reply.data[0])

for arguments, param in [
    ({"n": 11}, "n"),
    ({"size": "huge"}, "size"),
    ({"size": "1000x1000", "extra_body": {"steps": 0}}, "steps"),
    ({"output_format": "gif"}, "output_format"),
    ({"response_format": "hex"}, "response_format"),
]:
    try:
        client.images.generate(prompt="a", **arguments)
        raise SystemExit(f"{arguments} was taken")
    except BadRequestError as error:
        assert error.param == param and error.type == "invalid_request_error", error
