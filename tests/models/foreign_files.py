"""Weight files in publishers' layouts, whose weights come from a generator and are the same on every machine."""

import numpy as np
import torch
from safetensors.torch import save_file

#: Mean and standard deviation with which the images of the recorded features are normalised.
MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.3, 0.25)


def weights(shapes):
    """Tensors by key, drawn in the order of the keys' names."""
    generator = np.random.default_rng(0)
    drawn = {key: generator.normal(0, 0.3, shapes[key]) for key in sorted(shapes)}
    return {key: torch.from_numpy(np.asarray(value, np.float32)) for key, value in drawn.items()}


def image(size):
    """(1, 1, H, W) float32 in [0, 1]."""
    return torch.from_numpy(np.random.default_rng(1).uniform(size=(1, 1, *size)).astype(np.float32))


def write(path, shapes):
    """Writes the weights as safetensors; returns the path."""
    save_file(weights(shapes), path)
    return path


def dinov2_of_meta(state):
    """timm's state of a DINOv2 with registers under Meta's names, with 4 × 4 positions and the class's."""
    meta = {key.replace("reg_token", "register_tokens"): value for key, value in state.items()}
    width = meta["cls_token"].shape[-1]
    meta["pos_embed"] = torch.randn(1, 17, width)
    meta["mask_token"] = torch.zeros(1, width)
    return meta


def in_chunks(state):
    """The state of a model of Meta's whose blocks are in chunks; this model has the first chunk."""
    return {key.replace("blocks.", "blocks.0."): value for key, value in state.items()}


def dinov3_of_meta(state):
    """timm's state of a DINOv3 with biases under Meta's names."""
    meta = {}
    for key, value in state.items():
        key = key.replace("reg_token", "storage_tokens").replace("gamma_", "ls") + (".gamma" if "gamma_" in key else "")
        meta[key] = value
    width = meta["cls_token"].shape[-1]
    for stem in [key.removesuffix("q_bias") for key in meta if key.endswith("q_bias")]:
        parts = [meta.pop(stem + "q_bias"), torch.zeros(width), meta.pop(stem + "v_bias")]
        meta[stem + "qkv.bias"] = torch.cat(parts)
        meta[stem + "qkv.bias_mask"] = torch.ones(3 * width)
    return meta | {"mask_token": torch.zeros(1, width), "rope_embed.periods": torch.ones(4)}


def eva_x(state):
    """timm's state of an EVA-02 as EVA's own code names it, with a classifier of EVA-X."""
    renamed = {
        "mlp.fc1_g": "mlp.w1", "mlp.fc1_x": "mlp.w2", "mlp.norm": "mlp.ffn_ln", "attn.norm": "attn.inner_attn_ln",
        "q_proj.bias": "q_bias", "v_proj.bias": "v_bias", "fc_norm": "norm",
    }  # fmt: skip
    # The small models have a single layer for both gates.
    renamed |= {"mlp.fc1.": "mlp.w12.", "mlp.fc2": "mlp.w3"}
    published = {}
    for key, value in state.items():
        for old, new in renamed.items():
            key = key.replace(old, new)
        published[key] = value
    width = state["cls_token"].shape[-1]
    return published | {
        "mask_token": torch.zeros(1, 1, width),
        "rope.freqs_cos": torch.ones(16, 16),
        "head.weight": torch.ones(3, width),
    }
