"""The graph that is exported: a network with its temperature, and its description in words."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from gazelit.density import log_density
from gazelit.metrics.calibration import probabilities

#: Name of the graph's input.
IMAGE = "image"
#: Outputs that a graph may have, in order, with their meaning in words.
OUTPUTS = {
    "probabilities": "(B, K) by class, the temperature applied",
    "saliency": "(B, 1, H, W) density over all pixels of the input, its padding too; sums to 1",
    "logits": "(B, K) before the temperature",
    "saliency_logits": "(B, 1, H, W) before the softmax over the pixels",
}
#: The steps before the graph (:class:`gazelit.data.images.geometry.Letterbox`), and after it for the map.
STEPS = (
    "decode the film to [0, 1], float32, bright where tissue is dense. DICOM: modality LUT, then the VOI LUT or first "
    "window (without either, the range of the pixels that are no padding), MONOCHROME1 inverted, padding 0. PNG, JPEG: "
    "grey over the largest value that the bits can hold",
    "scale it by min(H / height, W / width) with the aspect ratio kept, sides rounded and at least 1: by area averages "
    "(OpenCV INTER_AREA) where it shrinks, bilinearly (INTER_LINEAR) where it grows",
    "place it into zeros of the working size H x W, (H - h) // 2 rows from the top, (W - w) // 2 columns from the left",
    "the map on the film's own pixels is that part of `saliency`, resampled bilinearly, over its sum",
)


class InferenceGraph(nn.Module):
    """From images to probabilities and saliency maps, in float32.

    Args:
        network: In evaluation mode.
        temperature: (K,) what divides the logits; empty without a classifier.
        exclusive: Whether one class of each image is true.
    """

    temperature: Tensor

    def __init__(self, network: nn.Module, temperature: Tensor, exclusive: bool) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("temperature", temperature.detach().clone())
        self.exclusive = exclusive

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        """Runs the network.

        Args:
            image: (B, 1, H, W) in [0, 1] at the working size, letterboxed.

        Returns:
            Those of :data:`OUTPUTS` that the network has.
        """
        given = self.network(image)
        outputs: dict[str, Tensor] = {}
        if "logits" in given:
            outputs["logits"] = given["logits"].float()
            outputs["probabilities"] = probabilities(given["logits"], self.temperature, self.exclusive)
        if "saliency_logits" in given:
            outputs["saliency_logits"] = given["saliency_logits"].float()
            outputs["saliency"] = log_density(given["saliency_logits"]).exp()
        return {name: outputs[name] for name in OUTPUTS if name in outputs}


def preprocessing(size: tuple[int, int]) -> dict[str, Any]:
    """The preprocessing before the graph, in words.

    Args:
        size: Working resolution (H, W).
    """
    return {"size": list(size), "range": [0.0, 1.0], "padding": 0.0, "steps": list(STEPS)}


def traced(graph: InferenceGraph, size: tuple[int, int]) -> torch.export.ExportedProgram:
    """The graph as a program whose batch may have any size.

    Args:
        graph: In evaluation mode, on the CPU.
        size: Working resolution (H, W).
    """
    # Two images: with one, the tracer would take the batch size as a constant.
    example = torch.zeros(2, 1, *size)
    batch = torch.export.Dim("batch", min=1)
    with torch.no_grad():
        return torch.export.export(graph, (example,), dynamic_shapes={"image": {0: batch}})


def outputs_of(program: torch.export.ExportedProgram) -> list[str]:
    """Names of a traced graph's outputs, in order."""
    tree = program.call_spec.out_spec
    assert tree is not None
    return list(pytree.tree_unflatten([None] * tree.num_leaves, tree))
