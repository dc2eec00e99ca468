"""``gazelit export-weights``: a checkpoint's weights in a format that cannot hold code."""

from __future__ import annotations

import logging
from pathlib import Path

from safetensors.torch import save

from gazelit.checkpoints import stamps
from gazelit.errors import InputError
from gazelit.files import atomic_path, sha256_file, write_json

logger = logging.getLogger("gazelit")


def export_weights(ckpt: str, out: Path | None = None) -> None:
    """Writes the weights of a checkpoint as ``NAME.safetensors``, and ``NAME.json`` with its stamp beside them.

    The optimiser's state is left out. Every command that reads a checkpoint takes the ``.safetensors``, but a training
    cannot be resumed from it.

    Args:
        ckpt: A checkpoint that gazelit wrote.
        out: The ``.safetensors`` to write; beside the checkpoint and under its name unless given.

    Raises:
        InputError: The checkpoint cannot be read, or ``out`` has another suffix.
    """
    target = out if out is not None else Path(ckpt).with_suffix(stamps.WEIGHTS_SUFFIX)
    if target.suffix != stamps.WEIGHTS_SUFFIX:
        raise InputError(f"out: {target} must end in {stamps.WEIGHTS_SUFFIX}")
    beside = target.with_suffix(stamps.STAMP_SUFFIX)
    tensors = write_weights(ckpt, target, beside)
    logger.info("%s: %d tensors; %s describes them", target, tensors, beside.name)


def write_weights(ckpt: str, target: Path, beside: Path) -> int:
    """Writes the weights of a checkpoint as safetensors, and what describes them as JSON.

    Args:
        ckpt: A checkpoint that gazelit wrote.
        target: The file of weights.
        beside: The file that describes them.

    Returns:
        The number of tensors.

    Raises:
        InputError: The checkpoint cannot be read.
    """
    checkpoint = stamps.read_checkpoint(ckpt)
    stamp = {**checkpoint[stamps.STAMP_KEY], "exported_from": sha256_file(ckpt)}
    # Tensors that share memory, as tied weights do, are written once each.
    state = {key: value.clone().contiguous() for key, value in checkpoint["state_dict"].items()}
    with atomic_path(target) as temporary:
        temporary.write_bytes(save(state, metadata={"format": "pt"}))
    guards = {key: checkpoint[key] for key in (stamps.GUARDS_KEY,) if key in checkpoint}
    write_json(beside, {"sha256": sha256_file(target), stamps.STAMP_KEY: stamp, **guards})
    return len(state)
