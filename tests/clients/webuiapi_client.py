"""AUTOMATIC1111's API: by the `webuiapi` package, and as SillyTavern and Open WebUI call it."""

import base64
import io
import json
import sys
import threading
import time
from urllib.parse import urlparse

import requests
import webuiapi
from PIL import Image

URL = sys.argv[1]
ADDRESS = urlparse(URL)
api = webuiapi.WebUIApi(host=ADDRESS.hostname, port=ADDRESS.port, steps=2)
SIZE = {"width": 128, "height": 128}


def get(path, **params):
    reply = requests.get(f"{URL}/sdapi/v1/{path}", params=params, timeout=60)
    assert reply.status_code == 200, (path, reply.text)
    return reply.json()


def post(path, body=None):
    return requests.post(f"{URL}/sdapi/v1/{path}", json=body, timeout=300)


def picture(text):
    return Image.open(io.BytesIO(base64.b64decode(text)))


def refused(reply, *words):
    assert reply.status_code == 400, (reply.status_code, reply.text)
    body = reply.json()
    assert set(body) == {"error", "detail", "body", "errors", "code"}, body
    assert body["error"] == body["detail"]
    assert all(word in body["error"] for word in words), body


# What there is.
api.util_wait_for_ready(check_interval=0.2)
assert {"Euler a", "DPM++ 2M", "DDIM", "UniPC", "LCM"} <= set(api.util_get_sampler_names())
assert {"automatic", "karras", "sgm_uniform", "beta"} <= set(api.util_get_scheduler_names())
assert api.util_get_model_names()[0] == api.util_get_current_model() == "demo"
assert [upscaler["name"] for upscaler in api.get_upscalers()] == ["None", "Lanczos"]
assert api.get_scripts() == {"txt2img": [], "img2img": []}
assert api.get_embeddings() == {"loaded": {}, "skipped": {}}
assert api.get_memory()["ram"]["used"] > 0
assert api.get_cmd_flags()["api"] is True
styles = api.get_prompt_styles()
assert any("{prompt}" in style["prompt"] for style in styles)
for empty in [
    api.get_sd_vae,
    api.get_loras,
    api.get_hypernetworks,
    api.get_face_restorers,
    api.get_realesrgan_models,
    api.get_latent_upscale_modes,
]:
    assert empty() == [], empty
for path in ["refresh-checkpoints", "refresh-loras", "refresh-vae"]:
    assert post(path).json() is None, path
for path in ["unload-checkpoint", "reload-checkpoint", "interrupt"]:
    assert post(path).json() == {}, path
assert get("sd-modules") == [] and get("script-info") == []
assert requests.get(f"{URL}/internal/ping", timeout=60).status_code == 200

# Options, read and sent back.
options = api.get_options()
assert api.set_options(options) is None
api.util_set_model("demo")
api.set_options({"CLIP_stop_at_last_layers": 2, "sd_model_checkpoint": "demo.safetensors [abc]"})
refused(post("options", {"sd_model_checkpoint": "other"}), "sd_model_checkpoint", "other", "demo")
refused(post("options", {"samples_format": "webp"}), "samples_format", "override_settings")

# txt2img.
one = api.txt2img(prompt="a red circle", seed=7, **SIZE)
assert one.image.format == "PNG" and one.image.size == (128, 128), one.image
assert one.info["seed"] == 7 and one.info["all_seeds"] == [7]
assert one.info["sampler_name"] == "Euler a" and one.info["cfg_scale"] == 7
assert one.info["steps"] == 2 and one.info["sd_model_name"] == "demo"
assert one.info["interrupted"] is False and one.info["warnings"] == [], one.info
assert one.parameters["prompt"] == "a red circle" and one.parameters["seed"] == 7
assert one.image.info["parameters"] == one.info["infotexts"][0]
assert "RNG" not in one.info["infotexts"][0]
# Two batches of two are the seeds in order, and a picture of a batch is that seed's.
four = api.txt2img(prompt="a red circle", seed=6, batch_size=2, n_iter=2, **SIZE)
assert four.info["all_seeds"] == [6, 7, 8, 9] and len(four.images) == 4
assert four.info["batch_size"] == 2 and len(four.info["infotexts"]) == 4
assert four.images[1].tobytes() == one.image.tobytes()
assert api.txt2img(prompt="a red circle", **SIZE).info["seed"] >= 0
# The same by the jobs API: CUDA's noise and an empty negative prompt.
job = requests.post(
    f"{URL}/v1/jobs",
    json={
        "prompt": "a red circle",
        "negative_prompt": "",
        "seed": 7,
        "rng": "cuda",
        "scheduler": "Euler a",
        "scheduler_options": {"schedule_type": "uniform"},
        "num_inference_steps": 2,
        "guidance_scale": 7,
        "refiner": False,
    },
    timeout=60,
).json()
while job["status"] in ["queued", "running"]:
    time.sleep(0.05)
    job = requests.get(URL + job["links"]["self"], timeout=60).json()
kept = requests.get(URL + job["images"][0]["url"], timeout=60).content
assert Image.open(io.BytesIO(kept)).tobytes() == one.image.tobytes()

# Styles, one around another.
names = [style["name"] for style in styles if "{prompt}" in style["prompt"]][:2]
styled = api.txt2img(prompt="a cat", styles=names, steps=1, **SIZE).info
assert styled["prompt"] == "a cat" and styled["styles"] == names
by_name = {style["name"]: style["prompt"] for style in styles}
wanted = "a cat"
for name in names:
    wanted = by_name[name].replace("{prompt}", wanted)
assert styled["all_prompts"] == [wanted], (styled["all_prompts"], wanted)

# Names of samplers and schedulers: a schedule behind a name is the one beside it.
karras = api.txt2img(prompt="x", seed=1, sampler_name="DPM++ 2M Karras", steps=4, **SIZE)
beside = api.txt2img(prompt="x", seed=1, sampler_name="DPM++ 2M", scheduler="Karras", steps=4, **SIZE)
uniform = api.txt2img(prompt="x", seed=1, sampler_name="DPM++ 2M", scheduler="Uniform", steps=4, **SIZE)
assert karras.image.tobytes() == beside.image.tobytes() != uniform.image.tobytes()
assert karras.info["sampler_name"] == "DPM++ 2M" and "karras" in karras.info["infotexts"][0].lower()
lacking = api.txt2img(prompt="x", sampler_name="Euler", scheduler="AYS GITS", steps=1, **SIZE)
assert "AYS GITS" in lacking.info["warnings"][0], lacking.info

# img2img: 128x96 from 200x150, cropped; denoising over half of the steps.
start = Image.new("RGB", (200, 150), (200, 30, 30))
drawn = api.img2img(
    images=[start], prompt="a blue circle", seed=3, width=128, height=96, resize_mode=1,
    denoising_strength=0.5,
)
assert drawn.image.size == (128, 96) and drawn.info["denoising_strength"] == 0.5
assert drawn.parameters["init_images"] is None
assert drawn.image.convert("RGB").resize((1, 1), Image.BOX).getpixel((0, 0))[0] > 100

# Inpainting: what the mask leaves black stays as it was.
canvas = Image.new("RGB", (128, 128), (30, 160, 40))
mask = Image.new("L", (128, 128), 0)
mask.paste(255, (64, 0, 128, 128))
kept = {}
for invert in [0, 1]:
    painted = api.img2img(
        images=[canvas], mask_image=mask, prompt="red", seed=2, denoising_strength=1.0,
        inpainting_mask_invert=invert, mask_blur=2, inpaint_full_res=False, inpainting_fill=1, **SIZE,
    )
    rgb = painted.image.convert("RGB")
    assert painted.info["warnings"] == [], painted.info
    change = lambda box: sum(
        abs(a - b)
        for p, q in zip(rgb.crop(box).get_flattened_data(), canvas.crop(box).get_flattened_data())
        for a, b in zip(p, q)
    )
    kept[invert] = change((0, 0, 40, 128)) < change((88, 0, 128, 128))
assert kept == {0: True, 1: False}, kept
part = api.img2img(images=[canvas.resize((192, 160))], mask_image=mask, prompt="red", **SIZE)
assert part.image.size == (192, 160) and part.info["warnings"] == [], part.info

# The settings inside a picture.
about = api.png_info(one.image)
assert about.info == one.info["infotexts"][0], about.info
assert about.parameters["Seed"] == "7" and about.parameters["Size-1"] == "128", about.parameters
assert about.json["items"]["calotype"], about.json
assert api.png_info(start).json == {"info": "", "items": {}, "parameters": {}}

# Progress and an end before time.
result = {}


def long():
    result["long"] = api.txt2img(prompt="long", steps=60, seed=5, **SIZE)


thread = threading.Thread(target=long)
thread.start()
seen, image, eta = [], None, 0
until = time.time() + 15
while time.time() < until and (len(set(seen)) < 3 or not image):
    now = get("progress")
    if now["progress"] > 0:
        state = now["state"]
        assert state["job_count"] == 1 and state["job"] == "scripts_txt2img", state
        seen.append(state["sampling_step"])
        image = image or now["current_image"]
        eta = max(eta, now["eta_relative"])
    time.sleep(0.05)
assert len(set(seen)) >= 3 and seen == sorted(seen), seen
assert image and picture(image).size == (128, 128) and eta > 0
assert get("progress", skip_current_image="true")["current_image"] is None
assert api.interrupt() == {}
thread.join(timeout=20)
assert not thread.is_alive()
assert len(result["long"].images) == 1 and result["long"].info["interrupted"] is True
assert result["long"].info["all_seeds"] == [5]
api.util_wait_for_ready(check_interval=0.2)

# As SillyTavern asks.
assert requests.get(f"{URL}/sdapi/v1/options", headers={"Authorization": ""}, timeout=60).ok
assert get("options")["sd_model_checkpoint"] == "demo" and "forge_preset" not in get("options")
assert [m["title"] for m in get("sd-models")][0] == "demo"
for path in ["samplers", "schedulers", "upscalers", "latent-upscale-modes", "sd-vae"]:
    assert all(isinstance(row.get("name", ""), str) for row in get(path)), path
assert post("options", {"sd_model_checkpoint": "demo"}).ok
progress = get("progress")
assert progress["progress"] == 0 and progress["state"]["job_count"] == 0, progress
reply = post(
    "txt2img",
    {
        "url": URL,
        "auth": "",
        "prompt": "a portrait",
        "negative_prompt": "blurry",
        "sampler_name": "DDIM",
        "scheduler": "Karras",
        "steps": 2,
        "cfg_scale": 7,
        "width": 128,
        "height": 128,
        "restore_faces": True,
        "enable_hr": False,
        "hr_upscaler": "Latent",
        "hr_scale": 1.5,
        "hr_additional_modules": [],
        "denoising_strength": 0.7,
        "hr_second_pass_steps": 0,
        "override_settings": {"CLIP_stop_at_last_layers": 3},
        "override_settings_restore_afterwards": True,
        "clip_skip": 3,
        "save_images": True,
        "send_images": True,
        "do_not_save_grid": False,
        "do_not_save_samples": False,
        "alwayson_scripts": {"ADetailer": {"args": [True, {"ad_model": "face_yolov8n.pt"}]}},
    },
)
assert reply.ok and picture(reply.json()["images"][0]).size == (128, 128), reply.text
info = json.loads(reply.json()["info"])
assert info["clip_skip"] == 3 and info["negative_prompt"] == "blurry"
for word in ["Karras", "restore_faces", "ADetailer"]:
    assert any(word in warning for warning in info["warnings"]), (word, info["warnings"])

# As Open WebUI asks: sizes of larger models, and whole options sent back.
options = get("options")
options["sd_model_checkpoint"] = "demo"
assert post("options", options).ok
reply = post(
    "txt2img", {"prompt": "a fox", "batch_size": 2, "width": 512, "height": 512, "steps": 2}
).json()
assert len(reply["images"]) == 2 and isinstance(reply["info"], str)
assert json.loads(reply["info"])["sampler_name"] == "Euler"
assert reply["parameters"]["width"] == 512 and reply["parameters"]["cfg_scale"] == 7

# Other ways to ask.
quick = {"prompt": "x", "steps": 1, "width": 128, "height": 128}
info = json.loads(post("txt2img", {**quick, "width": "133", "seed": None}).json()["info"])
assert info["width"] == 128
reply = post("txt2img", {**quick, "send_images": False}).json()
assert reply["images"] == [] and json.loads(reply["info"])["seed"] >= 0
reply = post("txt2img", {**quick, "override_settings": {"samples_format": "webp"}}).json()
assert picture(reply["images"][0]).format == "WEBP"
other = {"override_settings": {"sd_model_checkpoint": "juggernaut.safetensors", "eta_noise_seed_delta": 1}}
warnings = json.loads(post("txt2img", {**quick, **other}).json()["info"])["warnings"]
assert "juggernaut" in warnings[1] or "juggernaut" in warnings[0], warnings
assert len(warnings) == 2, warnings
reply = post("txt2img", {**quick, "refiner_checkpoint": "None", "script_name": ""})
assert reply.ok, reply.text

# What is refused.
for body, words in [
    ({"sampler_name": "Nope"}, ["sampler_name", "Nope"]),
    ({"steps": 0}, ["steps", "0"]),
    ({"steps": "many"}, ["steps", "many"]),
    ({"cfg_scale": 1000}, ["cfg_scale"]),
    ({"batch_size": 0}, ["batch_size"]),
    ({"batch_size": 10, "n_iter": 10}, ["batch_size", "n_iter"]),
    ({"seed": -(2**63) - 1}, ["seed"]),
    ({"styles": ["no such style at all"]}, ["styles"]),
    ({"enable_hr": True}, ["enable_hr", "width"]),
    ({"script_name": "X/Y/Z plot"}, ["script_name", "X/Y/Z"]),
    ({"refiner_checkpoint": "refiner"}, ["refiner_checkpoint", "refiner"]),
    ({"override_settings": {"CLIP_stop_at_last_layers": 99}}, ["CLIP_stop_at_last_layers", "99"]),
]:
    refused(post("txt2img", {**quick, **body}), *words)
encoded = "data:image/png;base64," + webuiapi.raw_b64_img(canvas)
assert post("img2img", {**quick, "steps": 2, "init_images": [encoded]}).ok
refused(post("img2img", quick), "init_images")
refused(post("img2img", {**quick, "init_images": ["???"]}), "init_images")
refused(post("img2img", {**quick, "init_images": [encoded] * 2}), "init_images", "2")
assert post("img2img", {**quick, "init_images": [encoded], "denoising_strength": 0}).ok
refused(post("img2img", {**quick, "init_images": [encoded], "denoising_strength": -1}), "denoising_strength")
refused(post("img2img", {**quick, "init_images": [encoded], "resize_mode": 7}), "resize_mode")
refused(post("png-info", {"image": "aGk="}), "image")
reply = requests.get(f"{URL}/sdapi/v1/nothing", timeout=60)
assert reply.status_code == 404 and reply.json() == {"detail": "Not Found"}
assert requests.get(f"{URL}/sdapi/v1/txt2img", timeout=60).status_code == 405
