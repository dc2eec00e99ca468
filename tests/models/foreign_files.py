"""Weight files in publishers' layouts with weights that a generator gives, the same wherever they are made."""

import numpy as np
import torch
from safetensors.torch import save_file

#: What the images of the recorded features are normalised with.
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
