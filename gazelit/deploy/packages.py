"""Packages of a trained model: their content, and the check that they read films here as where they were made."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from gazelit.checkpoints.stamps import PACKAGED_STAMP
from gazelit.data.images.dicom import MAX_PIXELS
from gazelit.deploy.graph import preprocessing
from gazelit.deploy.inference import LoadedModel, load_model
from gazelit.deploy.reading import Reading
from gazelit.errors import InputError
from gazelit.files import changed_files, read_checksums, read_json

#: Files of a package.
CONFIG, WEIGHTS, LINEAGE = "config.json", "model.safetensors", PACKAGED_STAMP
CARD, METRICS, CHECKSUMS = "README.md", "metrics.json", "SHA256SUMS"
REFERENCE, REFERENCE_FILM, ONNX = "reference.json", "reference.png", "model.onnx"
#: All files of a package; no other file of a folder is uploaded.
FILES = (CONFIG, WEIGHTS, LINEAGE, CARD, METRICS, REFERENCE, REFERENCE_FILM, ONNX, f"{ONNX}.json", CHECKSUMS)
MODEL_TYPE = "gazelit"
#: Entries of ``config.json`` that must equal those of the stamp; names of classes and sentences may change with
#: versions.
_DECISIVE = ("image_size", "id2label", "exclusive", "temperature")
#: The reference map is compared as the mass in so many rows and columns of cells.
_GRID = (16, 12)
#: Largest difference of a reading from the reference: that of other processors and kernels in float32.
LARGEST_PROBABILITY_DIFFERENCE, LEAST_CC = 1e-3, 0.999


def is_package(path: str | os.PathLike[str]) -> bool:
    """Whether a path is the folder of a package."""
    return (Path(path) / CONFIG).is_file() and (Path(path) / WEIGHTS).is_file()


def config_of(model: LoadedModel) -> dict[str, Any]:
    """The content of a package's ``config.json``: all that is needed to run its weights.

    The keys that other tools know (``architectures``, ``id2label``, ``label2id``) have their form.
    """
    network = model.stamp["network"]
    names = model.class_names
    return {
        "model_type": MODEL_TYPE,
        "architectures": [str(network["class_path"]).rpartition(".")[2]],
        "network": network,
        "image_size": list(model.size),
        "preprocessing": preprocessing(model.size),
        "id2label": {str(number): name for number, name in enumerate(names)},
        "label2id": {name: number for number, name in enumerate(names)},
        "exclusive": model.is_exclusive,
        "temperature": [round(float(value), 8) for value in model.temperature],
        "gazelit_version": model.stamp["version"],
        "notice": model.notice,
    }


def load_package(
    folder: str | os.PathLike[str], device: str | torch.device = "cpu", max_pixels: int = MAX_PIXELS
) -> LoadedModel:
    """Loads a package and reads its reference film with it.

    Args:
        folder: Folder of ``gazelit package``.
        device: See :func:`gazelit.deploy.inference.load_model`.
        max_pixels: See :func:`gazelit.deploy.inference.load_model`.

    Raises:
        InputError: A file is missing or changed, or the reference film is read differently than where the package was
            made.
    """
    folder = Path(folder)
    model = replace(load_model(folder / WEIGHTS, device, max_pixels), name=str(folder))
    config = read_json(folder / CONFIG)
    if not isinstance(config, dict) or config.get("model_type") != MODEL_TYPE:
        raise InputError(f"{folder / CONFIG}: not what `gazelit package` writes")
    expected = config_of(model)
    wrong = sorted(key for key in _DECISIVE if config.get(key) != expected[key])
    if wrong:
        raise InputError(
            f"{folder / CONFIG}: {', '.join(wrong)} is not that of {WEIGHTS} and {LINEAGE}; get the package anew"
        )
    check_reference(model, folder)
    return model


def verify_package(folder: Path) -> tuple[list[str], str]:
    """Compares a package's files with their checksums, and reads its reference film.

    The model card has no checksum, so that it may be edited before a package is passed on.

    Args:
        folder: What ``gazelit package`` made.

    Returns:
        The faults, a line for each file, and a description of what was compared.
    """
    found: list[str] = []
    compared = "packed before checksums were recorded"
    try:
        if (folder / CHECKSUMS).is_file():
            sums = read_checksums(folder / CHECKSUMS)
            found = changed_files(folder, sums)
            compared = f"{len(sums)} files as they were written"
        if not found:
            load_package(folder)
    except InputError as error:
        found.append(str(error))
    return found, f"{compared}; the reference film is read as where the package was made"


def reference_of(reading: Reading) -> dict[str, Any]:
    """The values of a reading that are kept for comparison with other readings of the same film."""
    density = reading.saliency
    return {
        "film": REFERENCE_FILM,
        "probabilities": reading.probabilities,
        "map": None if density is None else _cells(density).round(8).tolist(),
    }


def check_reference(model: LoadedModel, folder: Path) -> None:
    """Reads a package's reference film.

    Args:
        model: The model of the package.
        folder: The package.

    Raises:
        InputError: The film is missing or damaged, or is read differently than where the package was made.
    """
    found = folder / REFERENCE
    reference = read_json(found)
    if not isinstance(reference, dict) or not isinstance(reference.get("probabilities"), dict):
        raise InputError(f"{found}: not what `gazelit package` writes")
    if not (folder / REFERENCE_FILM).is_file():
        raise InputError(f"{folder / REFERENCE_FILM}: no such file; get the package anew")
    try:
        with Image.open(folder / REFERENCE_FILM) as picture:
            picture.load()
            reading = model.predict(picture)
    except (OSError, SyntaxError) as error:
        raise InputError(f"{folder / REFERENCE_FILM}: not a readable picture; get the package anew") from error
    problem = _difference(reference, reference_of(reading))
    if problem is not None:
        raise InputError(
            f"{folder}: its reference film is not read here as where the package was made ({problem}); get it anew, or "
            "install the versions that its README names"
        )


def _difference(reference: Mapping[str, Any], found: Mapping[str, Any]) -> str | None:
    expected, given = reference["probabilities"], found["probabilities"]
    if expected.keys() != given.keys():
        return "its classes are others"
    if not all(isinstance(value, float) for value in expected.values()):
        return f"{REFERENCE} holds probabilities that are no numbers"
    largest = max((abs(expected[name] - given[name]) for name in expected), default=0.0)
    if not largest <= LARGEST_PROBABILITY_DIFFERENCE:
        return f"a probability differs by {largest:.2g}"
    if (reference.get("map") is None) != (found["map"] is None):
        return "only one of the two has a map"
    if found["map"] is None:
        return None
    try:
        before, after = (np.asarray(cells["map"], np.float64).reshape(_GRID).ravel() for cells in (reference, found))
    except (TypeError, ValueError, OverflowError):
        return f"{REFERENCE} holds no map of {_GRID[0]} x {_GRID[1]} cells"
    # A flat map has no correlation.
    correlation = 1.0 if np.allclose(before, after, atol=1e-7) else float(np.corrcoef(before, after)[0, 1])
    return None if correlation >= LEAST_CC else f"the map has a CC of {correlation:.4f} with the reference"


def _cells(density: NDArray[np.float32]) -> NDArray[np.float64]:
    """The share of a map's mass in each cell of a grid."""
    cells = cv2.resize(density, (_GRID[1], _GRID[0]), interpolation=cv2.INTER_AREA).astype(np.float64)
    mass: NDArray[np.float64] = cells / cells.sum()
    return mass
