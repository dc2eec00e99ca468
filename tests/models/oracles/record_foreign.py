"""Records the features that publishers' own classes (transformers, open_clip) compute with small files.

PYTHONPATH=. python tests/models/oracles/record_foreign.py

needs transformers 5 and open_clip_torch 3. The tests do without them, because torchmetrics would import them in every
process of the suite, which takes time.
"""

import json
import tempfile
from pathlib import Path

import open_clip
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    CLIPConfig,
    CLIPModel,
    Dinov2Config,
    Dinov2Model,
    Dinov2WithRegistersConfig,
    Dinov2WithRegistersModel,
    DINOv3ViTConfig,
    DINOv3ViTModel,
    SiglipConfig,
    SiglipModel,
    SiglipVisionConfig,
    SiglipVisionModel,
)

from tests.models.foreign_files import MEAN, STD, image, weights

SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
PATCHES = {**SMALL, "image_size": 56, "patch_size": 14}
TOWER = {**PATCHES, "intermediate_size": 128}
TEXT = {**SMALL, "num_hidden_layers": 1, "intermediate_size": 64, "vocab_size": 64}
PUBLISHED = {
    "dinov2": (Dinov2Model, Dinov2Config(**PATCHES), (56, 56)),
    "dinov2-registers": (Dinov2WithRegistersModel, Dinov2WithRegistersConfig(**PATCHES), (56, 56)),
    "dinov2-swiglu": (Dinov2Model, Dinov2Config(**PATCHES, use_swiglu_ffn=True), (56, 56)),
    "dinov3": (
        DINOv3ViTModel,
        DINOv3ViTConfig(**SMALL, intermediate_size=128, num_register_tokens=4, image_size=64),
        (48, 96),
    ),
    "siglip": (SiglipVisionModel, SiglipVisionConfig(**TOWER), (56, 56)),
    "siglip-both-towers": (SiglipModel, SiglipConfig(vision_config=TOWER, text_config=TEXT), (56, 56)),
    "clip-both-towers": (CLIPModel, CLIPConfig(vision_config=TOWER, text_config=TEXT, projection_dim=16), (56, 56)),
}
OPEN_CLIP = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 56, "layers": 2, "width": 32, "head_width": 16, "patch_size": 14},
    "text_cfg": {"context_length": 8, "vocab_size": 64, "width": 32, "heads": 2, "layers": 1},
}


def normalised(size):
    mean, std = (torch.tensor(values)[:, None, None] for values in (MEAN, STD))
    return (image(size).expand(-1, 3, -1, -1) - mean) / std


def hugging_face(model_class, config, size):
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model_class(config).save_pretrained(folder)
        file = folder / "model.safetensors"
        shapes = {key: list(value.shape) for key, value in load_file(file).items()}
        # The publisher's class reads the published file.
        save_file(weights(shapes), file, metadata={"format": "pt"})
        model = model_class.from_pretrained(folder).eval()
    tower = getattr(model, "vision_model", model)
    with torch.no_grad():
        tokens = tower(pixel_values=normalised(size)).last_hidden_state
        if model_class is CLIPModel:
            tokens = tower.post_layernorm(tokens)
    return shapes, tokens


def of_open_clip(size):
    model = open_clip.model.CLIP(**OPEN_CLIP).eval()
    shapes = {key: list(value.shape) for key, value in model.state_dict().items()}
    model.load_state_dict(weights(shapes))
    visual = model.visual
    with torch.no_grad():
        return shapes, visual.ln_post(visual.transformer(visual._embeds(normalised(size))))


def patches(name, size):
    """Number of tokens that are patches; the other tokens come before them."""
    side = 16 if name == "dinov3" else 14
    return (size[0] // side) * (size[1] // side)


def main():
    recorded = {}
    for name, (model_class, config, size) in PUBLISHED.items():
        shapes, tokens = hugging_face(model_class, config, size)
        recorded[name] = (shapes, size, tokens)
    shapes, tokens = of_open_clip((56, 56))
    recorded["open_clip"] = (shapes, (56, 56), tokens)
    content = {
        name: {
            "shapes": shapes,
            "size": list(size),
            "tokens": [[round(float(value), 6) for value in token] for token in tokens[0, -patches(name, size) :]],
        }
        for name, (shapes, size, tokens) in recorded.items()
    }
    Path(__file__).with_name("foreign.json").write_text(json.dumps(content) + "\n")


if __name__ == "__main__":
    main()
