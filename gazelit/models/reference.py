"""Checkpoints of the paper's reference implementation (github HealthX-Lab/CXRGazeLearn).

Each of its four trainings saves ``NET.pt``, the state dict of the whole network, whichever part it trains. The other
parts have their initial values, and are dropped here.

======================  ==============  ====================================================
folder of the training  stage here      how its file differs
======================  ==============  ====================================================
``CL``                  contrastive     the DenseNet under ``model.module.`` (DataParallel)
``Classfication``       supervised      the DenseNet's own ``model.classifier`` is trained
``KL``                  saliency        Res+SE encoder, decoder and saliency head are trained
``Module``              joint           its classifier takes 1984 inputs, the others' 1024
======================  ==============  ====================================================
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from gazelit.errors import InputError
from gazelit.models.classification_net import ClassificationNetwork
from gazelit.models.contrastive_net import ContrastiveNetwork
from gazelit.models.dual_unet import DualEncoderUNet
from gazelit.models.network import Network
from gazelit.models.registry import EncoderSpec
from gazelit.models.weights import check_fit

ReferenceStage = Literal["contrastive", "supervised", "saliency", "joint"]

_STEPS = 5
#: Modules by their names in the reference implementation and in gazelit.
_MODULES: dict[str, str] = {
    "model.features": "encoder.features",
    "model.classifier": "linear_classifier",
    "out_conv_image.conv2d": "saliency_head.0.0",
    "out_conv_image.BatchNorm2d": "saliency_head.0.1",
    "out_conv_image.conv_last": "saliency_head.1",
    "out_classification.linear_1": "classifier.layers.0",
    "out_classification.linear_2": "classifier.layers.3",
}
for _step in range(1, _STEPS + 1):
    _MODULES |= {
        # Levels are numbered from the finest in both; steps from the finest there, from the coarsest in gazelit.
        f"Conv{_step}.0": f"saliency_encoder.levels.{_step - 1}.0",
        f"Conv{_step}.1": f"saliency_encoder.levels.{_step - 1}.1",
        f"Up{_step}.1": f"decoder.steps.{_STEPS - _step}.up.1.0",
        f"Up{_step}.2": f"decoder.steps.{_STEPS - _step}.up.1.1",
        f"Up_conv{_step}.0": f"decoder.steps.{_STEPS - _step}.convs.0.0",
        f"Up_conv{_step}.1": f"decoder.steps.{_STEPS - _step}.convs.0.1",
        f"Up_conv{_step}.3": f"decoder.steps.{_STEPS - _step}.convs.1.0",
        f"Up_conv{_step}.4": f"decoder.steps.{_STEPS - _step}.convs.1.1",
    }
_NAMES = {name: reference for reference, name in _MODULES.items()}
#: log σ of the task weighting: not part of the network, but needed to continue training.
_LOG_SIGMA = "lg_sigma_class"
_WEIGHTING = "weighting"
_UNUSED = ("conv.", "dummy_tensor", "lg_sigma_image")
#: Parts of a file as named in the table, by the component that each becomes.
_PARTS: dict[str | None, str] = {
    "encoder": "model.features",
    "linear_classifier": "model.classifier",
    "saliency_encoder": "Conv1 to Conv5",
    "decoder": "Up1 to Up5, Up_conv1 to Up_conv5",
    "saliency_head": "out_conv_image",
    "classifier": "out_classification",
    _WEIGHTING: _LOG_SIGMA,
    None: "conv, dummy_tensor, lg_sigma_image",
}
_GAZE = {"saliency_encoder", "decoder", "saliency_head"}
#: The components that are taken from the file of each training.
_TAKEN: dict[str, set[str]] = {
    "contrastive": {"encoder"},
    "supervised": {"encoder", "linear_classifier"},
    "saliency": {"encoder", *_GAZE},
    "joint": {"encoder", *_GAZE, "classifier", _WEIGHTING},
}
_NO_OUTPUT = "no output of the network depends on it"
_UNTRAINED = "not trained in this stage"
#: Why a component is dropped, if the reason is not that it was not trained.
_REASONS = {
    ("saliency", "linear_classifier"): "frozen here; import the supervised file for it",
    ("saliency", "classifier"): "takes 1024 inputs and no output depends on it; the joint stage begins a new one",
    ("joint", "linear_classifier"): _NO_OUTPUT,
}
#: Inputs of the classifier in the file of the joint training, and in the others.
_JOINT_INPUTS = 1984
_EARLIER_INPUTS = 1024


@dataclass(frozen=True)
class FilePart:
    """A part of a reference file, and whether it is taken.

    Attributes:
        name: As the reference implementation calls it.
        tensors: Number of tensors.
        values: Number of values of these.
        component: The component that it becomes; None if it is dropped.
        reason: Why it is dropped; empty if it is taken.
    """

    name: str
    tensors: int
    values: int
    component: str | None
    reason: str


@dataclass(frozen=True)
class ReferenceImport:
    """A reference checkpoint as a network of gazelit.

    Attributes:
        network: With the checkpoint's weights, in evaluation mode.
        stage: The stage that ends with this network.
        parts: What was taken of the file and what was dropped.
        doubts: Reasons why the file may be of another stage than the given one.
        log_sigma: log σ of the task weighting, if the stage is the joint one and the file holds it.
    """

    network: Network
    stage: ReferenceStage
    parts: tuple[FilePart, ...]
    doubts: tuple[str, ...]
    log_sigma: Tensor | None


def load_reference(state_dict: Mapping[str, Tensor]) -> DualEncoderUNet:
    """The whole reference network with its weights.

    Args:
        state_dict: Of the joint training's file, with or without ``module.`` in front (DataParallel).

    Returns:
        The network in evaluation mode; on (B, 1, H, W) it gives ``logits`` (B, 3) and ``saliency_logits`` (B, 1, H, W).

    Raises:
        InputError: The file is of another stage, or a tensor is missing, unknown or of another shape; the message lists
            them.
    """
    network = import_reference(state_dict, "joint").network
    assert isinstance(network, DualEncoderUNet)
    return network


def import_reference(state_dict: Mapping[str, Tensor], stage: ReferenceStage | None = None) -> ReferenceImport:
    """Maps every tensor that a training of the reference implementation has trained.

    Args:
        state_dict: A file's, with or without ``module.`` in front.
        stage: The training that wrote the file. Unless given, it is recognised: by the classifier's inputs, by
            ``model.module.``, or by the BatchNorm layers that have counted batches.

    Raises:
        InputError: The stage is unknown, undecided or contradicts the file, or a tensor is missing, unknown or of
            another shape; the message lists them.
    """
    state, in_parallel = _plain_names(state_dict)
    if not any(name.startswith("model.features.") for name in state):
        raise InputError("not a checkpoint of the reference implementation: it holds no DenseNet under 'model.'")
    if stage is None:
        stage = _stage_of(state, in_parallel)
    elif stage not in get_args(ReferenceStage):
        raise InputError(f"stage: '{stage}' is none of {', '.join(get_args(ReferenceStage))}")
    _check_inputs(state, stage)

    names = {name: _gazelit_name(name) for name in state}
    unknown = [name for name in state if names[name] is None and not name.startswith((_LOG_SIGMA, *_UNUSED))]
    taken = {name: own for name, own in names.items() if own is not None and own.split(".")[0] in _TAKEN[stage]}
    with torch.device("meta"):
        network = _build(stage)
    expected = {_reference_name(key): value for key, value in network.state_dict().items()}
    check_fit({name: state[name] for name in taken}, expected, "the reference checkpoint", unknown)
    network.to_empty(device="cpu")
    network.load_state_dict({own: state[name] for name, own in taken.items()})
    return ReferenceImport(
        network=network.eval(),
        stage=stage,
        parts=_parts(state, names, stage),
        doubts=_doubts(state, in_parallel, stage),
        log_sigma=state.get(_LOG_SIGMA) if stage == "joint" else None,
    )


def _plain_names(state_dict: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], bool]:
    """The state dict without DataParallel's prefixes, and whether only the DenseNet had one."""
    state = {key.removeprefix("module."): value for key, value in state_dict.items()}
    in_parallel = any(name.startswith("model.module.") for name in state)
    return {name.replace("model.module.", "model.", 1): value for name, value in state.items()}, in_parallel


def _gazelit_name(name: str) -> str | None:
    for reference, own in _MODULES.items():
        if name.startswith(f"{reference}."):
            return own + name.removeprefix(reference)
    return None


def _reference_name(name: str) -> str:
    prefix = next(own for own in _NAMES if name.startswith(f"{own}."))
    return _NAMES[prefix] + name.removeprefix(prefix)


def _classifier_inputs(state: Mapping[str, Tensor]) -> int | None:
    weight = state.get("out_classification.linear_1.weight")
    return weight.shape[1] if weight is not None and weight.ndim == 2 else None


def _batches(state: Mapping[str, Tensor], norm: str) -> int:
    """Number of batches that a BatchNorm layer has counted; 0 also if the file has no counter."""
    counter = state.get(f"{norm}.num_batches_tracked")
    return int(counter) if counter is not None and counter.numel() == 1 else 0


def _decoder_ran(state: Mapping[str, Tensor]) -> bool:
    return _batches(state, "Up1.2") > 0


def _stage_of(state: Mapping[str, Tensor], in_parallel: bool) -> ReferenceStage:
    if _classifier_inputs(state) == _JOINT_INPUTS:
        return "joint"
    if in_parallel:
        return "contrastive"
    if _decoder_ran(state):
        return "saliency"
    # Without its prefix, the contrastive file differs from the supervised one only in this: its training also runs the
    # first level of the saliency encoder.
    if _batches(state, "model.features.norm5") > 0 and "Conv1.0.bn1.num_batches_tracked" in state:
        return "contrastive" if _batches(state, "Conv1.0.bn1") > 0 else "supervised"
    raise InputError(
        "the file does not show which training wrote it; say --stage contrastive (folder CL), supervised "
        "(Classfication), saliency (KL) or joint (Module)"
    )


def _check_inputs(state: Mapping[str, Tensor], stage: ReferenceStage) -> None:
    inputs = _classifier_inputs(state)
    if inputs == _JOINT_INPUTS and stage != "joint":
        raise InputError(
            f"stage: the file's classifier takes {inputs} inputs, as the joint training alone has it, so the file does "
            f"not end stage '{stage}'; say --stage joint"
        )
    if inputs == _EARLIER_INPUTS and stage == "joint":
        raise InputError(
            f"stage: the file's classifier takes {inputs} inputs and not {_JOINT_INPUTS}, so an earlier training wrote "
            "it; say --stage contrastive (folder CL), supervised (Classfication) or saliency (KL)"
        )


def _doubts(state: Mapping[str, Tensor], in_parallel: bool, stage: ReferenceStage) -> tuple[str, ...]:
    doubts = []
    if stage in ("contrastive", "supervised") and _decoder_ran(state):
        doubts.append("its decoder has counted batches, which only the saliency and joint trainings make it do")
    if stage in ("saliency", "joint") and not _decoder_ran(state):
        doubts.append("its decoder has counted no batch, so that it may be untrained")
    if stage in ("supervised", "saliency") and in_parallel:
        doubts.append("its DenseNet stands under 'model.module.', as the contrastive training writes it")
    return tuple(doubts)


def _parts(state: Mapping[str, Tensor], names: Mapping[str, str | None], stage: ReferenceStage) -> tuple[FilePart, ...]:
    members: dict[str | None, list[Tensor]] = {component: [] for component in _PARTS}
    for name, value in state.items():
        own = _WEIGHTING if name == _LOG_SIGMA else names[name]
        members[own.split(".")[0] if own is not None else None].append(value)
    parts = []
    for component, tensors in members.items():
        if not tensors:
            continue
        reason = _NO_OUTPUT if component is None else _REASONS.get((stage, component), _UNTRAINED)
        is_taken = component in _TAKEN[stage]
        parts.append(
            FilePart(
                name=_PARTS[component],
                tensors=len(tensors),
                values=sum(tensor.numel() for tensor in tensors),
                component=component if is_taken else None,
                reason="" if is_taken else reason,
            )
        )
    return tuple(parts)


def _build(stage: ReferenceStage) -> Network:
    encoder = EncoderSpec("paper-densenet201")
    if stage == "contrastive":
        return ContrastiveNetwork(encoder)
    if stage == "supervised":
        return ClassificationNetwork(encoder)
    return DualEncoderUNet(encoder, EncoderSpec("res-se"), classes=3 if stage == "joint" else None)
