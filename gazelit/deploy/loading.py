"""Loads a trained model from any of its forms."""

from __future__ import annotations

import os
from pathlib import Path

import torch

from gazelit.data.images.dicom import MAX_PIXELS
from gazelit.deploy import engines, hub, packages
from gazelit.deploy.checks import check_classes, check_size, to_device
from gazelit.deploy.inference import LoadedModel, load_model


def load(ckpt: str | os.PathLike[str], device: str | torch.device = "cpu", max_pixels: int = MAX_PIXELS) -> LoadedModel:
    """Loads a trained model.

    Args:
        ckpt: A checkpoint of ``gazelit fit``; the ``.safetensors`` of ``gazelit export-weights``; the ``.onnx``,
            ``.pt2`` or ``.xml`` of ``gazelit export``; the folder of ``gazelit package``; or ``hub:owner/name``, such
            a folder on the Hugging Face Hub, which is then downloaded.
        device: Device of the network, such as ``cuda``.
        max_pixels: Refuse films that claim more pixels.

    Raises:
        InputError: It is none of these, is damaged, does not say at what size it was trained, cannot be run on the
            device, or is a package whose reference film is read differently than where the package was made.
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
