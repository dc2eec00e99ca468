"""Checkpoints of the paper's reference implementation (github HealthX-Lab/CXRGazeLearn).

Its files are plain state dicts. Stage files hold the DenseNet alone or everything but the classifier; the final one
holds everything, beside a few tensors that no output uses.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from gazelit.errors import InputError
from gazelit.models.contrastive_net import ContrastiveNetwork
from gazelit.models.dual_unet import DualEncoderUNet
from gazelit.models.network import Network
from gazelit.models.registry import EncoderSpec
from gazelit.models.weights import check_fit

_STEPS = 5
#: Tensors that no output of the reference network depends on.
_UNUSED = ("model.classifier.", "conv.", "dummy_tensor", "lg_sigma_image")
#: log σ of its task weighting: no part of the network, but needed to train on.
LOG_SIGMA = "lg_sigma_class"
#: Modules by their names there and here.
_MODULES: dict[str, str] = {
    "model.features": "encoder.features",
    "out_conv_image.conv2d": "saliency_head.0.0",
    "out_conv_image.BatchNorm2d": "saliency_head.0.1",
    "out_conv_image.conv_last": "saliency_head.1",
    "out_classification.linear_1": "classifier.layers.0",
    "out_classification.linear_2": "classifier.layers.3",
}
for _step in range(1, _STEPS + 1):
    _MODULES |= {
        # Levels are numbered from the finest there and here; steps from the finest there, from the coarsest here.
        f"Conv{_step}.0": f"saliency_encoder.levels.{_step - 1}.0",
        f"Conv{_step}.1": f"saliency_encoder.levels.{_step - 1}.1",
        f"Up{_step}.1": f"decoder.steps.{_STEPS - _step}.up.1.0",
        f"Up{_step}.2": f"decoder.steps.{_STEPS - _step}.up.1.1",
        f"Up_conv{_step}.0": f"decoder.steps.{_STEPS - _step}.convs.0.0",
        f"Up_conv{_step}.1": f"decoder.steps.{_STEPS - _step}.convs.0.1",
        f"Up_conv{_step}.3": f"decoder.steps.{_STEPS - _step}.convs.1.0",
        f"Up_conv{_step}.4": f"decoder.steps.{_STEPS - _step}.convs.1.1",
    }


@dataclass(frozen=True)
class ReferenceImport:
    """A reference checkpoint as a network of gazelit's.

    Attributes:
        network: With the checkpoint's weights, in evaluation mode.
        stage: The stage that ends with this network: ``contrastive``, ``saliency`` or ``joint``.
        unused: Keys that no output depends on.
        log_sigma: log σ of the task weighting, if the file holds it.
    """

    network: Network
    stage: str
    unused: tuple[str, ...]
    log_sigma: Tensor | None


def load_reference(state_dict: Mapping[str, Tensor]) -> DualEncoderUNet:
    """The whole reference network with its weights.

    Args:
        state_dict: Of the final file, with or without ``module.`` in front (DataParallel).

    Returns:
        The network in evaluation mode; on (B, 1, H, W) it gives ``logits`` (B, 3) and ``saliency_logits`` (B, 1, H, W).

    Raises:
        InputError: A tensor is missing, left over or of another shape; the message lists them.
    """
    result = import_reference(state_dict)
    if not isinstance(result.network, DualEncoderUNet) or result.stage != "joint":
        raise InputError(f"the file ends stage '{result.stage}' and is not the whole network; use import_reference")
    return result.network


def import_reference(state_dict: Mapping[str, Tensor]) -> ReferenceImport:
    """Maps every used tensor of a reference checkpoint, of any of its stages.

    Args:
        state_dict: A stage's file or the final one, with or without ``module.`` in front.

    Raises:
        InputError: A tensor is missing, left over or of another shape; the message lists them.
    """
    renamed: dict[str, Tensor] = {}
    unused: list[str] = []
    unknown: list[str] = []
    log_sigma: Tensor | None = None
    for key, value in state_dict.items():
        name = key.removeprefix("module.")
        if name.startswith("model.module."):
            name = "model." + name.removeprefix("model.module.")
        ours = _rename(name)
        if name == LOG_SIGMA:
            log_sigma = value
        elif ours is not None:
            renamed[ours] = value
        elif name.startswith(_UNUSED):
            unused.append(key)
        else:
            unknown.append(key)
    components = {key.split(".")[0] for key in renamed}
    stage = _stage(components)
    network = _build(stage)
    check_fit(renamed, network.state_dict(), "the reference checkpoint", unknown)
    network.load_state_dict(renamed)
    return ReferenceImport(network.eval(), stage, tuple(unused), log_sigma)


def _rename(name: str) -> str | None:
    for theirs, ours in _MODULES.items():
        if name.startswith(f"{theirs}."):
            return ours + name.removeprefix(theirs)
    return None


def _stage(components: set[str]) -> str:
    if "classifier" in components:
        return "joint"
    if components - {"encoder"}:
        return "saliency"
    if components:
        return "contrastive"
    raise InputError("not a checkpoint of the reference implementation: none of its tensors is known")


def _build(stage: str) -> Network:
    encoder = EncoderSpec("paper-densenet201")
    if stage == "contrastive":
        return ContrastiveNetwork(encoder)
    return DualEncoderUNet(encoder, EncoderSpec("res-se"), classes=3 if stage == "joint" else None)
