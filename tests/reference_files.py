"""Files as the four trainings of the reference implementation save them, with weights filled by formula.

The names and shapes, and the outputs to compare with, were recorded from the reference implementation's own network.
"""

import json
import math
import zlib
from pathlib import Path

import torch
from torchvision.models import densenet201

RECORDED = json.loads((Path(__file__).parent / "models" / "golden_reference.json").read_text(encoding="utf-8"))
#: Tensors that each training learns, and tensors that it uses but does not learn (their BatchNorm counts batches).
LEARNS = {
    "contrastive": ("model.",),
    "supervised": ("model.",),
    "saliency": ("Conv", "Up", "out_conv_image."),
    "joint": ("model.", "Conv", "Up", "out_conv_image.", "out_classification."),
}
RUNS = {"contrastive": ("Conv1.", "out_conv_image."), "supervised": ("out_conv_image.",), "saliency": ("model.",)}


def filled(name, shape):
    """A tensor of the formula for which the outputs were recorded: pseudo-random, of about Kaiming's size."""
    count = math.prod(shape)
    phase = (zlib.crc32(name.encode()) % 10007) / 10007 * 2 * math.pi
    sine = torch.sin(torch.arange(count, dtype=torch.float64) * 12.9898 + phase) * 43758.5453
    spread = sine - torch.floor(sine) - 0.5
    if name.endswith("running_var"):
        spread = 1 + 0.2 * spread
    elif name.endswith("running_mean"):
        spread = 0.1 * spread
    elif len(shape) == 1:
        spread = 1 + 0.2 * spread if name.endswith("weight") else 0.1 * spread
    else:
        spread = spread * math.sqrt(12) * math.sqrt(2 / math.prod(shape[1:]))
    return spread.reshape(shape).float()


def joint_state():
    """The state dict of the joint training (folder Module)."""
    with torch.device("meta"):
        densenet = densenet201(num_classes=3)
    shapes = {f"model.{name}": tuple(value.shape) for name, value in densenet.state_dict().items()}
    shapes |= {name: tuple(shape) for name, shape in RECORDED["names"].items()}
    return {name: filled(name, shape) if shape else _scalar(name) for name, shape in shapes.items()}


def _scalar(name):
    return torch.tensor(
        0.37 if name == "lg_sigma_class" else 0, dtype=torch.float32 if "sigma" in name else torch.int64
    )


def stage_state(joint, stage):
    """The state dict that a training saves: the joint network, but for the classifier's inputs and the learned tensors.

    Tensors that the stage does not learn are a single value in memory and in the file.
    """
    learned, runs = LEARNS[stage], (*LEARNS[stage], *RUNS.get(stage, ()))
    state = {}
    for name, value in joint.items():
        shape = value.shape
        if name == "out_classification.linear_1.weight" and stage != "joint":
            shape = (64, 1024)
        if name.endswith("num_batches_tracked"):
            value = torch.tensor(480 if name.startswith(runs) else 0)
        elif not name.startswith((*learned, "model.")) and value.ndim:
            value = torch.zeros(()).expand(shape)
        if stage == "contrastive" and name.startswith("model."):
            name = name.replace("model.", "model.module.", 1)
        state[name] = value
    return state


def film(height, width):
    """The film for which the outputs were recorded, (1, 1, height, width)."""
    y, x = torch.linspace(0, 1, height)[:, None], torch.linspace(0, 1, width)[None]
    return (0.5 + 0.25 * torch.sin(9 * x + 4 * y) + 0.25 * torch.cos(13 * y * x + 2))[None, None].float()
