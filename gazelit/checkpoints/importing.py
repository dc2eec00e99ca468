"""``gazelit import-reference``: a reference checkpoint as one of gazelit's."""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from gazelit.checkpoints import stamps
from gazelit.errors import InputError
from gazelit.files import sha256_file
from gazelit.models.reference import FilePart, ReferenceStage, import_reference
from gazelit.models.weights import read_tensors
from gazelit.text_table import aligned

logger = logging.getLogger("gazelit")

#: What the reference implementation was trained on, as far as its code says. Its patients are of MIMIC-CXR; which
#: of them it held out is not known.
_DATA: dict[str, Any] = {
    "source": "egd-cxr (the reference implementation's own preparation)",
    "origin": ["mimic-cxr"],
    "imported": True,
    "synthetic": False,
    "class_names": ["Normal", "CHF", "pneumonia"],
    "exclusive": True,
    "sigma": 75.5,
    "sigma_unit": "image_px",
}
#: Height and width at which it trains: half of the others' in the contrastive stage.
_SIZES: dict[str, list[int]] = {"contrastive": [320, 256]}
_FULL_SIZE = [640, 512]


def import_checkpoint(file: list[str], out: Path, stage: ReferenceStage | None = None) -> None:
    """Writes a reference checkpoint as one that ``fit``, ``test`` and ``infer`` read, and prints what was taken over.

    Args:
        file: The reference implementation's ``NET.pt``, of any of its four trainings.
        out: The checkpoint to write: of the stage that the file ends, to be handed over to the next.
        stage: The training that wrote the file; needed if the file does not show it.

    Raises:
        InputError: The file is no such checkpoint, does not show its stage, or a tensor does not fit.
    """
    if len(file) != 1:
        raise InputError(f"import-reference takes one file, not {len(file)}")
    path = Path(file[0])
    state = read_tensors(path)
    if not isinstance(state, dict) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise InputError(f"{path}: not a state dict of tensors; give the file that the reference implementation saves")
    try:
        imported = import_reference(state, stage)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    data = {**_DATA, "size": _SIZES.get(imported.stage, _FULL_SIZE)}
    stamp = stamps.make_stamp(stage=imported.stage, network=imported.network, data=data, seed=None, parent=None)
    stamp["imported"] = {"from": "HealthX-Lab/CXRGazeLearn", "sha256": sha256_file(path)}
    weights = {f"network.{key}": value for key, value in imported.network.state_dict().items()}
    if imported.network.classes is not None:
        weights["temperature"] = torch.ones(imported.network.classes)
    if imported.stage == "joint":
        log_sigma = imported.log_sigma if imported.log_sigma is not None else torch.zeros(())
        weights["weighting.log_sigma"] = log_sigma.reshape(())
    checkpoint = {
        "state_dict": weights,
        "pytorch-lightning_version": metadata.version("lightning"),
        "epoch": 0,
        "global_step": 0,
        stamps.STAMP_KEY: stamp,
    }
    stamps.save_checkpoint(checkpoint, out)
    sys.stdout.write(_table(imported.parts))
    for doubt in imported.doubts:
        logger.warning("%s: is this the file of stage '%s'? %s", path, imported.stage, doubt)
    logger.info("%s: a checkpoint of stage '%s' (%d tensors)", out, imported.stage, len(weights))


def _table(parts: Sequence[FilePart]) -> str:
    rows = [("part of the file", "tensors", "values", "becomes", "why not")]
    for part in parts:
        becomes = part.component or "dropped"
        rows.append((part.name, f"{part.tensors:,}", f"{part.values:,}", becomes, part.reason))
    return aligned(rows, left=(0, 3, 4))
