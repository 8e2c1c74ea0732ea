"""Write SDXL base's configurations and tokenizers, so that diffusers reads a single file without a network."""
import json
from pathlib import Path

MERGES = Path(__file__).parents[2] / "models" / "clip" / "merges.txt"
CLIP = dict(vocab_size=49408, max_position_embeddings=77, bos_token_id=0, eos_token_id=2, pad_token_id=1)
CONFIGS = {
    "unet": dict(
        _class_name="UNet2DConditionModel", sample_size=128, in_channels=4, out_channels=4, layers_per_block=2, block_out_channels=[320, 640, 1280],
        down_block_types=["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
        up_block_types=["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
        transformer_layers_per_block=[1, 2, 10], attention_head_dim=[5, 10, 20], cross_attention_dim=2048,
        use_linear_projection=True, addition_embed_type="text_time", addition_time_embed_dim=256,
        projection_class_embeddings_input_dim=2816),
    "vae": dict(
        _class_name="AutoencoderKL", sample_size=1024, latent_channels=4, layers_per_block=2, scaling_factor=0.13025,
        block_out_channels=[128, 256, 512, 512], down_block_types=["DownEncoderBlock2D"] * 4,
        up_block_types=["UpDecoderBlock2D"] * 4, force_upcast=True),
    "text_encoder": dict(
        CLIP, architectures=["CLIPTextModel"], model_type="clip_text_model", hidden_size=768, intermediate_size=3072,
        num_hidden_layers=12, num_attention_heads=12, hidden_act="quick_gelu", projection_dim=768),
    "text_encoder_2": dict(
        CLIP, architectures=["CLIPTextModelWithProjection"], model_type="clip_text_model", hidden_size=1280,
        intermediate_size=5120, num_hidden_layers=32, num_attention_heads=20, hidden_act="gelu", projection_dim=1280),
}
SCHEDULER = dict(_class_name="EulerDiscreteScheduler", beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear",
                 num_train_timesteps=1000, prediction_type="epsilon", steps_offset=1, timestep_spacing="leading")
INDEX = dict(
    _class_name="StableDiffusionXLPipeline", force_zeros_for_empty_prompt=True,
    scheduler=["diffusers", "EulerDiscreteScheduler"], unet=["diffusers", "UNet2DConditionModel"], vae=["diffusers", "AutoencoderKL"],
    text_encoder=["transformers", "CLIPTextModel"], text_encoder_2=["transformers", "CLIPTextModelWithProjection"],
    tokenizer=["transformers", "CLIPTokenizer"], tokenizer_2=["transformers", "CLIPTokenizer"])


def byte_symbols():
    """CLIP's printable stand-ins of the 256 bytes, in the order of its vocabulary."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    return [chr(b) for b in printable] + [chr(256 + n) for n in range(256 - len(printable))]


def write(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


def write_tokenizer(folder, pad):
    merges = MERGES.read_text(encoding="utf-8")
    pairs = [line.replace(" ", "") for line in merges.splitlines()[1:] if line]
    symbols, end = byte_symbols(), "<|endoftext|>"
    words = symbols + [s + "</w>" for s in symbols] + pairs + ["<|startoftext|>", end]
    write(folder / "vocab.json", {word: i for i, word in enumerate(words)})
    (folder / "merges.txt").write_text(merges, encoding="utf-8")
    special = dict(bos_token="<|startoftext|>", eos_token=end, unk_token=end, pad_token=pad)
    write(folder / "special_tokens_map.json", special)
    write(folder / "tokenizer_config.json", dict(special, tokenizer_class="CLIPTokenizer", model_max_length=77, do_lower_case=True))


def write_folder(folder):
    for name, config in CONFIGS.items():
        write(folder / name / "config.json", config)
    write(folder / "scheduler" / "scheduler_config.json", SCHEDULER)
    write_tokenizer(folder / "tokenizer", "<|endoftext|>")
    write_tokenizer(folder / "tokenizer_2", "!")
    write(folder / "model_index.json", INDEX)
