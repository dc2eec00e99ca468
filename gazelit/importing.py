"""``gazelit import-reference``: a reference checkpoint as one of gazelit's."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import lightning
import torch

from gazelit import lineage
from gazelit.errors import InputError
from gazelit.files import atomic_path, sha256_file
from gazelit.models.reference import import_reference
from gazelit.models.weights import read_tensors

logger = logging.getLogger("gazelit")

#: What the reference implementation was trained on and at, as far as its code says.
_DATA: dict[str, Any] = {
    "source": "egd-cxr (the reference implementation's own preparation)",
    "synthetic": False,
    "size": [640, 512],
    "class_names": ["Normal", "CHF", "pneumonia"],
    "exclusive": True,
    "sigma": 75.5,
    "sigma_unit": "image_px",
}


def import_checkpoint(file: list[str], out: Path) -> None:
    """Writes a reference checkpoint as one that ``fit``, ``test`` and ``infer`` take.

    Stage files become checkpoints of the stage they end, to be handed over to the next; the final file becomes one of
    the joint stage. Every used tensor is mapped; unused ones are named.

    Args:
        file: The reference implementation's ``NET.pt``.
        out: The checkpoint to write.

    Raises:
        InputError: The file is no such checkpoint, or a tensor does not fit.
    """
    if len(file) != 1:
        raise InputError(f"import-reference takes one file, not {len(file)}")
    path = Path(file[0])
    state = read_tensors(path)
    if not isinstance(state, dict) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise InputError(f"{path}: not a state dict of tensors; give the file that the reference implementation saves")
    try:
        imported = import_reference(state)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    stamp = lineage.make_stamp(stage=imported.stage, network=imported.network, data=_DATA, seed=None, parent=None)
    stamp["imported"] = {"from": "HealthX-Lab/CXRGazeLearn", "sha256": sha256_file(path)}
    weights = {f"network.{key}": value for key, value in imported.network.state_dict().items()}
    if imported.stage == "joint":
        log_sigma = imported.log_sigma if imported.log_sigma is not None else torch.zeros(())
        weights["weighting.log_sigma"] = log_sigma.reshape(())
        weights["temperature"] = torch.ones(int(imported.network.classes or 0))
    checkpoint = {
        "state_dict": weights,
        "pytorch-lightning_version": lightning.__version__,
        "epoch": 0,
        "global_step": 0,
        "loops": {},
        lineage.STAMP_KEY: stamp,
    }
    with atomic_path(out) as temporary:
        torch.save(checkpoint, temporary)
    logger.info("%s: a checkpoint of stage '%s' (%d tensors)", out, imported.stage, len(weights))
    if imported.unused:
        logger.info("not used by any output: %s", ", ".join(imported.unused))
