"""``gazelit package``: writes a trained model as a folder to share."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import numpy as np
from PIL import Image

from gazelit.checkpoints.exporting import write_weights
from gazelit.deploy.inference import LoadedModel, load_model
from gazelit.deploy.packages import (
    CARD,
    CHECKSUMS,
    CONFIG,
    FILES,
    LINEAGE,
    METRICS,
    ONNX,
    REFERENCE,
    REFERENCE_FILM,
    WEIGHTS,
    config_of,
    load_package,
    reference_of,
)
from gazelit.errors import InputError
from gazelit.files import building_folder, is_free, sha256_file, write_checksums, write_json
from gazelit.release.card import card
from gazelit.release.export import export
from gazelit.release.parity import synthetic_films
from gazelit.release.tested import find_run, tested

logger = logging.getLogger("gazelit")


def package(
    ckpt: str, out: Path, run: Path | None = None, onnx: bool = False, license: str = "other", title: str | None = None
) -> None:
    """Packs a trained model into a folder in the layout of the Hugging Face Hub.

    The folder holds ``model.safetensors`` (weights, which cannot hold code), ``config.json`` (network, size, classes,
    temperature, preprocessing), ``lineage.json`` (the stamp), ``README.md`` (the model card), ``metrics.json``,
    ``reference.png`` with ``reference.json`` (a synthetic film and the model's outputs for it, which
    :func:`gazelit.load` compares), and ``SHA256SUMS`` of all but the card. Nothing is uploaded.

    Args:
        ckpt: A checkpoint that predicts classes or maps.
        out: The folder to make.
        run: The run folder that tested the model and has its metrics; the run folder of the checkpoint unless given.
        onnx: Whether to add ``model.onnx``.
        license: Licence of the weights, as named on the Hub; ``other`` says that the training data's agreement decides.
        title: Title of the model card; the folder's name unless given.

    Raises:
        InputError: The checkpoint cannot be used, the folder is not empty, or the run did not test the checkpoint.
    """
    if not is_free(out):
        raise InputError(f"{out}: is not empty; choose another --out")
    model = load_model(ckpt)
    found = run if run is not None else find_run(ckpt)
    hashes = [sha for sha in (sha256_file(ckpt), model.stamp.get("exported_from")) if sha]
    metrics = None if found is None else tested(found, hashes, ckpt)
    if metrics is None:
        logger.warning("%s: lies in no finished run; the package has no metrics (name the run with --run)", ckpt)
    with building_folder(out) as folder:
        write_weights(ckpt, folder / WEIGHTS, folder / LINEAGE)
        packed = load_model(folder / WEIGHTS)
        write_json(folder / CONFIG, config_of(packed))
        if metrics is not None:
            write_json(folder / METRICS, metrics)
        _write_reference(packed, folder)
        if onnx:
            export(str(folder / WEIGHTS), "onnx", folder / ONNX)
        text = card(packed, title or out.resolve().name, license, metrics, onnx)
        (folder / CARD).write_text(text, encoding="utf-8")
        load_package(folder)
        # The card has no hash, because users edit it.
        counted = [name for name in FILES if name != CARD and (folder / name).is_file()]
        write_checksums(folder / CHECKSUMS, counted)
        total = sum((folder / name).stat().st_size for name in FILES if (folder / name).is_file())
    logger.info("%s: %.1f MB; read %s before you share it", out, total / 1e6, out / CARD)


def _write_reference(model: LoadedModel, folder: Path) -> None:
    film = synthetic_films(model.size, 1)[0]
    Image.fromarray(np.round(255 * film).astype(np.uint8)).save(folder / REFERENCE_FILM)
    with Image.open(folder / REFERENCE_FILM) as picture:
        picture.load()
        reading = model.predict(picture)
    (folder / REFERENCE).write_text(json.dumps(reference_of(reading)) + "\n", encoding="utf-8")
