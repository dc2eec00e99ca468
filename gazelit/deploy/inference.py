"""Reading radiographs with a trained model: class probabilities and the predicted saliency map of each file."""

from __future__ import annotations

import logging
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
from gazelit.data.decoding import film_readers
from gazelit.data.dicom import MAX_PIXELS, Radiograph
from gazelit.data.geometry import Letterbox
from gazelit.data.guard import Lost
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
    network.load_state_dict(lineage.network_state(checkpoint), strict=True)
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


def infer(files: list[str], ckpt: Path, out: Path, overwrite: bool = False, max_pixels: int = MAX_PIXELS) -> None:
    """Reads DICOM or PNG files with a trained model.

    Writes, per file, ``<name>.json`` (class probabilities and where the model comes from), ``<name>_saliency.npy``
    (float32 density on the image's own pixels, sums to 1) and ``<name>_overlay.png``. Films are decoded in a process of
    its own; one that cannot be read, crashes the decoder or hangs is named at the end, after the others were read.

    Args:
        files: DICOM, PNG or JPEG files. Of files of the same name, the second is ``<name>_2`` and so on.
        ckpt: A checkpoint written by ``gazelit fit``.
        out: Folder for the results.
        overwrite: Replace results of the same names in ``out``, rather than refuse to begin.
        max_pixels: Refuse films that claim more pixels.

    Raises:
        InputError: The checkpoint cannot be used or predicts nothing of a film, results are there already, or a file
            could not be read (after the others were).
    """
    names = _result_names(files)
    present = [name for name in names if (out / f"{name}.json").exists()]
    if present and not overwrite:
        raise InputError(
            f"{out}: holds {len(present)} of the {len(names)} results already; "
            "choose another --out, or replace them with --overwrite true"
        )
    model = load_model(ckpt)
    notice = _notice(model.stamp)
    logger.info(notice)
    failures: list[str] = []
    with film_readers(1, max_pixels) as readers:
        for path, name, film in zip(files, names, readers.map(files), strict=True):
            if not isinstance(film, Radiograph):
                failures.append(f"{path}: {film.reason}" if isinstance(film, Lost) else film)
                continue
            reading = read_image(model, film.pixels)
            if not reading.probabilities and reading.saliency is None:
                raise InputError(
                    f"{ckpt}: stage {model.stamp['stage']} predicts neither classes nor a saliency map of a film; "
                    "give a checkpoint of a stage with a classifier or a saliency head, such as the joint fine-tuning"
                )
            _write_result(model, path, film, reading, out / name, notice)
            summary = ", ".join(f"{label} {value:.3f}" for label, value in reading.probabilities.items())
            logger.info("%s: %s", name, summary or "saliency map written")
    if failures:
        raise InputError(f"{len(failures)} of {len(files)} files could not be read: " + "; ".join(failures))


def _write_result(model: LoadedModel, path: str, film: Radiograph, reading: Reading, stem: Path, notice: str) -> None:
    """Writes the files of one result, the JSON file that names the others last."""
    result = {
        "file": Path(path).name,
        "height": film.pixels.shape[0],
        "width": film.pixels.shape[1],
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
        saliency, picture = (stem.with_name(f"{stem.name}_{end}") for end in ("saliency.npy", "overlay.png"))
        with atomic_path(saliency) as temporary:
            np.save(temporary, reading.saliency)
        with atomic_path(picture) as temporary:
            Image.fromarray(overlay(film.pixels, reading.saliency)).save(temporary)
        result |= {"saliency": saliency.name, "overlay": picture.name}
    write_json(stem.with_name(f"{stem.name}.json"), result)


def _notice(stamp: dict[str, Any]) -> str:
    if stamp["data"].get("synthetic", False):
        return "the model was trained on SYNTHETIC data: its output says nothing about any patient"
    return "research software, not a medical device: not for clinical use"


def _result_names(files: list[str]) -> list[str]:
    """A name for each file's results, no two the same, also where the file system knows no capitals."""
    stems = [Path(path).stem for path in files]
    # A name that a file has of its own is never given to a namesake of another.
    taken = {stem.casefold() for stem in stems}
    seen: set[str] = set()
    names = []
    for stem in stems:
        name, number = stem, 2
        while name.casefold() in seen or (name != stem and name.casefold() in taken):
            name, number = f"{stem}_{number}", number + 1
        seen.add(name.casefold())
        names.append(name)
    return names


def _resize(array: NDArray[np.float32], size: tuple[int, int]) -> NDArray[np.float32]:
    return np.asarray(Image.fromarray(array.astype(np.float32), mode="F").resize(size, Image.Resampling.BILINEAR))
