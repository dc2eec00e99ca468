"""`gazelit lineage`: the ancestry of a checkpoint in words."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

from gazelit.checkpoints.stamps import STAMP_KEY, read_checkpoint, sources
from gazelit.files import sha256_file


def print_lineage(file: list[str]) -> None:
    """Prints where checkpoints come from: one block a stage, newest first, each followed by its teachers.

    Args:
        file: Checkpoints that gazelit wrote.

    Raises:
        InputError: A file is no gazelit checkpoint.
    """
    for path in file:
        stamp = read_checkpoint(path)[STAMP_KEY]
        blocks = [_describe(source) for source in sources({"sha256": sha256_file(path), **stamp})]
        sys.stdout.write(f"{path}\n" + "\n".join(blocks) + "\n")


def _describe(stamp: Mapping[str, Any]) -> str:
    data = stamp["data"]
    versions = ", ".join(f"{name} {version}" for name, version in stamp["versions"].items())
    fields = {
        "checkpoint": stamp["sha256"],
        "components": ", ".join(stamp["components"]),
        "data": f"{data.get('source', 'unknown')}{' (synthetic)' if data.get('synthetic') else ''}",
        "fingerprint": data.get("fingerprint", "unknown"),
        "split": f"{data.get('split_sha256', 'unknown')} (seed {data.get('split_seed')})",
        **({"note": stamp["split_note"]} if stamp.get("split_note") else {}),
        "seed": stamp.get("seed"),
        **({"calibration": _calibration(stamp["calibration"])} if "calibration" in stamp else {}),
        "versions": f"gazelit {stamp['version']}, {versions}",
    }
    taught = stamp.get("taught")
    if taught:
        seeing = "image and the reader's gaze" if stamp.get("sees_gaze") else "image"
        fields = {"teaches": f"{', '.join(taught)}, seeing the {seeing}", **fields}
    title = f"{stamp['stage']}{' (teacher)' if taught else ''}\n"
    return title + "\n".join(f"  {name:<12}{value}" for name, value in fields.items())


def _calibration(record: Mapping[str, Any]) -> str:
    return (
        f"temperature fitted to {record['n']} {record['split']} cases: {record['nll_before']:.4f} to "
        f"{record['nll_after']:.4f} nats"
    )
