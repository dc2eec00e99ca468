"""Reading radiographs with a trained model: class probabilities and the predicted saliency map of each file."""

from __future__ import annotations

import logging
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib import colormaps
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from gazelit import __version__, lineage
from gazelit.data.dicom import read_radiograph
from gazelit.data.geometry import Letterbox
from gazelit.errors import InputError
from gazelit.files import atomic_path, sha256_file, write_json
from gazelit.metrics.calibration import probabilities as probabilities_of
from gazelit.models.network import Network, rebuild

logger = logging.getLogger("gazelit")

#: Longest side of an overlay picture.
OVERLAY_SIDE = 1024


@dataclass(frozen=True)
class LoadedModel:
    """A trained network with what its checkpoint says of it.

    Attributes:
        network: In evaluation mode.
        stamp: The checkpoint's stamp (see :mod:`gazelit.lineage`).
        sha256: Of the checkpoint file.
        temperature: (K,) what divides the logits; empty without a classifier.
    """

    network: Network
    stamp: dict[str, Any]
    sha256: str
    temperature: Tensor

    @property
    def size(self) -> tuple[int, int]:
        """Working resolution (H, W) the network was trained at."""
        height, width = self.stamp["data"]["size"]
        return int(height), int(width)


@dataclass(frozen=True)
class Reading:
    """What a model says of one radiograph.

    Attributes:
        probabilities: By class name; empty for a network without a classifier.
        saliency: (H, W) float32 on the pixels of the original image, sums to 1; None without a saliency head.
    """

    probabilities: dict[str, float]
    saliency: NDArray[np.float32] | None


def load_model(ckpt: Path) -> LoadedModel:
    """Rebuilds the network of a checkpoint, without its training code and without fetching pretrained weights.

    Raises:
        InputError: The file is no gazelit checkpoint, or does not say at what size it was trained.
    """
    checkpoint = lineage.read_checkpoint(ckpt)
    stamp = checkpoint[lineage.STAMP_KEY]
    if "size" not in stamp["data"]:
        raise InputError(f"{ckpt}: does not record the size of its training images; train it with a GazeDataModule")
    network = rebuild(stamp["network"], str(ckpt))
    state = {
        key.removeprefix("network.").replace("_orig_mod.", ""): value
        for key, value in checkpoint["state_dict"].items()
        if key.startswith("network.")
    }
    network.load_state_dict(state, strict=True)
    temperature = checkpoint["state_dict"].get("temperature", torch.ones(network.classes or 0))
    return LoadedModel(network.eval(), stamp, sha256_file(ckpt), temperature)


def read_image(model: LoadedModel, image: NDArray[np.float32]) -> Reading:
    """Runs the model on one image.

    Args:
        model: See :func:`load_model`.
        image: (H, W) float32 in [0, 1], dense tissue bright, as :func:`gazelit.data.dicom.read_radiograph` gives it.
    """
    letterbox = Letterbox.fit(image.shape[0], image.shape[1], model.size)
    batch = torch.from_numpy(letterbox.apply(image))[None, None].float()
    with torch.inference_mode():
        outputs = model.network(batch)
    probabilities: dict[str, float] = {}
    if "logits" in outputs:
        names = model.stamp["data"]["class_names"]
        exclusive = model.stamp["data"].get("exclusive", True)
        values = probabilities_of(outputs["logits"], model.temperature, exclusive)[0]
        probabilities = {name: round(float(value), 6) for name, value in zip(names, values, strict=True)}
    saliency = None
    if "saliency_logits" in outputs:
        density = outputs["saliency_logits"][0, 0].float().flatten().softmax(0).view(model.size)
        restored = np.clip(letterbox.restore(density.numpy()), 0, None)
        saliency = (restored / restored.sum(dtype=np.float64)).astype(np.float32)
    return Reading(probabilities, saliency)


def overlay(image: NDArray[np.float32], saliency: NDArray[np.float32]) -> NDArray[np.uint8]:
    """The image with its saliency map laid over it: (h, w, 3) uint8, longest side at most ``OVERLAY_SIDE``."""
    scale = min(1.0, OVERLAY_SIDE / max(image.shape))
    height, width = (max(1, round(side * scale)) for side in image.shape)
    grey = _resize(image, (width, height))
    heat = _resize(saliency / saliency.max(), (width, height))
    colour = colormaps["inferno"](np.clip(heat, 0, 1))[..., :3]
    # Strong where the model expects a look, absent where it does not, so that the film stays readable.
    alpha = 0.65 * np.clip(heat, 0, 1)[..., None] ** 0.7
    blended = (1 - alpha) * grey[..., None] + alpha * colour
    return np.round(255 * np.clip(blended, 0, 1)).astype(np.uint8)


def infer(files: list[str], ckpt: Path, out: Path) -> None:
    """Reads DICOM or PNG files with a trained model.

    Writes, per file, ``<name>.json`` (class probabilities and where the model comes from), ``<name>_saliency.npy``
    (float32 density on the image's own pixels, sums to 1) and ``<name>_overlay.png``.

    Args:
        files: DICOM, PNG or JPEG files.
        ckpt: A checkpoint written by ``gazelit fit``.
        out: Folder for the results.

    Raises:
        InputError: The checkpoint cannot be used, or a file could not be read (after the others were).
    """
    model = load_model(ckpt)
    notice = _notice(model.stamp)
    logger.info(notice)
    failures: list[str] = []
    for path, name in zip(files, _result_names(files), strict=True):
        try:
            radiograph = read_radiograph(Path(path))
        except InputError as error:
            failures.append(str(error))
            continue
        reading = read_image(model, radiograph.pixels)
        result = {
            "file": Path(path).name,
            "height": radiograph.pixels.shape[0],
            "width": radiograph.pixels.shape[1],
            "probabilities": reading.probabilities,
            "notice": notice,
            "model": {
                "checkpoint_sha256": model.sha256,
                "stage": model.stamp["stage"],
                "trained_on_synthetic_data": bool(model.stamp["data"].get("synthetic", False)),
                "gazelit": __version__,
            },
        }
        if reading.saliency is not None:
            with atomic_path(out / f"{name}_saliency.npy") as temporary:
                np.save(temporary, reading.saliency)
            with atomic_path(out / f"{name}_overlay.png") as temporary:
                Image.fromarray(overlay(radiograph.pixels, reading.saliency)).save(temporary)
            result |= {"saliency": f"{name}_saliency.npy", "overlay": f"{name}_overlay.png"}
        write_json(out / f"{name}.json", result)
        summary = ", ".join(f"{label} {value:.3f}" for label, value in reading.probabilities.items())
        logger.info("%s: %s", path, summary or "saliency map written")
    if failures:
        raise InputError(f"{len(failures)} of {len(files)} files could not be read: " + "; ".join(failures))


def _notice(stamp: dict[str, Any]) -> str:
    if stamp["data"].get("synthetic", False):
        return "the model was trained on SYNTHETIC data: its output says nothing about any patient"
    return "research software, not a medical device: not for clinical use"


def _result_names(files: list[str]) -> list[str]:
    stems = [Path(path).stem for path in files]
    repeated = {stem for stem, count in Counter(stems).items() if count > 1}
    return [f"{stem}_{number}" if stem in repeated else stem for number, stem in enumerate(stems, start=1)]


def _resize(array: NDArray[np.float32], size: tuple[int, int]) -> NDArray[np.float32]:
    return np.asarray(Image.fromarray(array.astype(np.float32), mode="F").resize(size, Image.Resampling.BILINEAR))
