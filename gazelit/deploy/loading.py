"""A trained model from whatever it is kept in."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from gazelit.data.images.dicom import MAX_PIXELS
from gazelit.deploy import engines, hub, packages
from gazelit.deploy.checks import check_classes, check_size, to_device
from gazelit.deploy.inference import LoadedModel, load_model
from gazelit.errors import InputError
from gazelit.files import sha256_json


def load(ckpt: str | os.PathLike[str], device: str | torch.device = "cpu", max_pixels: int = MAX_PIXELS) -> LoadedModel:
    """Loads a trained model.

    Args:
        ckpt: A checkpoint of ``gazelit fit``; the ``.safetensors`` of ``gazelit export-weights``; the ``.onnx``,
            ``.pt2`` or ``.xml`` of ``gazelit export``; the folder of ``gazelit package``; or ``hub:owner/name``, such
            a folder on the Hugging Face Hub, which is then downloaded.
        device: Where the network is to be, such as ``cuda``.
        max_pixels: Refuse films that claim more pixels.

    Raises:
        InputError: It is none of these, is damaged, does not say at what size it was trained, cannot be run on the
            device, or is a package whose reference film is not read as it was where the package was made.
    """
    name = os.fspath(ckpt)
    if name.startswith(hub.PREFIX):
        return packages.load_package(hub.fetch(name), device, max_pixels)
    if packages.is_package(name):
        return packages.load_package(name, device, max_pixels)
    if engines.format_of(name) is not None:
        return _exported(Path(name), device, max_pixels)
    return load_model(name, device, max_pixels)


def _exported(path: Path, device: str | torch.device, max_pixels: int) -> LoadedModel:
    target = to_device(torch.nn.Identity(), device)
    exported = engines.read_exported(path, target)
    data = exported.stamp["data"]
    check_size(data, path)
    check_classes(data, exported.network.classes or 0, exported.temperature, path)
    return LoadedModel(
        exported.network,
        exported.stamp,
        exported.sha256,
        exported.temperature,
        str(path),
        target,
        max_pixels,
        guards=exported.guards,
    )


def load_together(
    ckpts: Sequence[str | os.PathLike[str]],
    device: str | torch.device = "cpu",
    max_pixels: int = MAX_PIXELS,
    dropout_passes: int = 0,
) -> LoadedModel:
    """Loads several models as one, whose readings are the mean and say how far the networks agree.

    Args:
        ckpts: One or more models of the same size and classes, such as of several seeds or folds.
        device: See :func:`load`.
        max_pixels: See :func:`load`.
        dropout_passes: How often each network is run with its dropout on (Monte Carlo dropout); 0 for once without.

    Raises:
        InputError: One cannot be used, they differ in size or classes, or ``dropout_passes`` is 1 or negative.
    """
    if dropout_passes < 0 or dropout_passes == 1:
        raise InputError(f"mc_dropout: {dropout_passes} passes have no spread; give 2 or more, or 0 for none")
    models = [load(ckpt, device, max_pixels) for ckpt in ckpts]
    first, others = models[0], models[1:]
    for other in others:
        for what in ("size", "class_names", "outputs"):
            if getattr(other, what) != getattr(first, what):
                raise InputError(f"{other.name}: its {what.replace('_', ' ')} are not those of {first.name}")
    if not others:
        return replace(first, dropout_passes=dropout_passes)
    synthetic = any(model.stamp["data"].get("synthetic", False) for model in models)
    stamp = {**first.stamp, "data": {**first.stamp["data"], "synthetic": synthetic}}
    return replace(
        first,
        stamp=stamp,
        sha256=sha256_json([model.sha256 for model in models]),
        members=tuple((model.network, model.temperature) for model in others),
        dropout_passes=dropout_passes,
        # Guards promise something of one network's probabilities, not of the mean's.
        guards=None,
    )
