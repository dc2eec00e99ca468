"""``gazelit export-weights``: a checkpoint's weights in a format that cannot hold code."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from safetensors.torch import save

from gazelit.checkpoints import stamps
from gazelit.errors import InputError
from gazelit.files import atomic_path, sha256_file, write_json
from gazelit.models.adapters import merged_state, without_adapters

logger = logging.getLogger("gazelit")


def export_weights(ckpt: str, out: Path | None = None, merge: bool = False) -> None:
    """Writes the weights of a checkpoint as ``NAME.safetensors``, and ``NAME.json`` with its stamp beside them.

    The optimiser's state is left out. Every command that reads a checkpoint takes the ``.safetensors``, but a training
    cannot be resumed from it.

    Args:
        ckpt: A checkpoint that gazelit wrote.
        out: The ``.safetensors`` to write; beside the checkpoint and under its name unless given.
        merge: Whether low-rank adapters become part of the weights, so that the network is one without.

    Raises:
        InputError: The checkpoint cannot be read, ``out`` has another suffix, or there are no adapters to merge.
    """
    target = out if out is not None else Path(ckpt).with_suffix(stamps.WEIGHTS_SUFFIX)
    if target.suffix != stamps.WEIGHTS_SUFFIX:
        raise InputError(f"out: {target} must end in {stamps.WEIGHTS_SUFFIX}")
    beside = target.with_suffix(stamps.STAMP_SUFFIX)
    tensors = write_weights(ckpt, target, beside, merge)
    logger.info("%s: %d tensors; %s describes them", target, tensors, beside.name)


def write_weights(ckpt: str, target: Path, beside: Path, merge: bool = False) -> int:
    """Writes the weights of a checkpoint as safetensors, and what describes them as JSON.

    Args:
        ckpt: A checkpoint that gazelit wrote.
        target: The file of weights.
        beside: The file that describes them.
        merge: Whether low-rank adapters become part of the weights.

    Returns:
        The number of tensors.

    Raises:
        InputError: The checkpoint cannot be read, or there are no adapters to merge.
    """
    checkpoint = stamps.read_checkpoint(ckpt)
    if merge:
        _merge(checkpoint, ckpt)
    stamp = {**checkpoint[stamps.STAMP_KEY], "exported_from": sha256_file(ckpt)}
    # Tensors that share memory, as tied weights do, are written once each.
    state = {key: value.clone().contiguous() for key, value in checkpoint["state_dict"].items()}
    with atomic_path(target) as temporary:
        temporary.write_bytes(save(state, metadata={"format": "pt"}))
    guards = {key: checkpoint[key] for key in (stamps.GUARDS_KEY,) if key in checkpoint}
    write_json(beside, {"sha256": sha256_file(target), stamps.STAMP_KEY: stamp, **guards})
    return len(state)


def _merge(checkpoint: dict[str, Any], path: str) -> None:
    """Makes a checkpoint's low-rank adapters part of its weights, in place."""
    stamp, state = checkpoint[stamps.STAMP_KEY], checkpoint["state_dict"]
    adapted = [name for name, specification in stamp["components"].items() if "lora" in specification]
    if not adapted:
        raise InputError(f"{path}: no component has low-rank adapters; leave out merge")
    for name in adapted:
        prefix = f"network.{name}."
        plain = merged_state(stamps.component_state(checkpoint, name), stamp["components"][name]["lora"])
        state = {key: value for key, value in state.items() if not key.startswith(prefix)}
        state |= {prefix + key: value for key, value in plain.items()}
    checkpoint["state_dict"] = state
    checkpoint[stamps.STAMP_KEY] = {
        **stamp, **{field: without_adapters(stamp[field]) for field in ("network", "components")}
    }  # fmt: skip
