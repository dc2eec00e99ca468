"""Where a checkpoint comes from, and which of its parts another stage may take over.

Every checkpoint carries a stamp under the key ``gazelit``: primitive values only, so that
``torch.load(weights_only=True)`` reads it. The stamp names the stage, the components of the network with their
specifications, the data the model saw, and the whole stamp of the checkpoint it started from.
"""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning
import torch

from gazelit import __version__
from gazelit.errors import InputError
from gazelit.files import atomic_path, sha256_file
from gazelit.models.network import Network
from gazelit.models.weights import check_fit, read_tensors

STAMP_KEY = "gazelit"


@dataclass(frozen=True)
class HandOff:
    """What a hand-off did.

    Attributes:
        source_stage: Stage that wrote the checkpoint.
        loaded: Components whose weights were taken over.
        new: Components of the receiving network that the checkpoint does not have; they keep their initial weights.
        left_behind: Components of the checkpoint that the receiving network does not have.
        parent: What the receiving stage's stamp records about the checkpoint (path-free).
    """

    source_stage: str
    loaded: tuple[str, ...]
    new: tuple[str, ...]
    left_behind: tuple[str, ...]
    parent: dict[str, Any]

    def __str__(self) -> str:
        def names(components: tuple[str, ...]) -> str:
            return ", ".join(components) or "none"

        return (
            f"hand-off from stage '{self.source_stage}' (checkpoint {self.parent['sha256'][:12]}): "
            f"loaded {names(self.loaded)}; new {names(self.new)}; left behind {names(self.left_behind)}"
        )


def make_stamp(
    *,
    stage: str,
    network: Network,
    data: Mapping[str, Any],
    seed: int | None,
    parent: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """Builds the stamp of a checkpoint.

    Args:
        stage: Name of the stage that trains.
        network: A network with the ``config`` and ``specs`` of the network contract.
        data: Provenance of the data (primitives), as ``GazeDataModule.provenance``.
        seed: Seed of the run, if it was seeded.
        parent: ``HandOff.parent`` of the checkpoint this one started from.
    """
    return {
        "stage": stage,
        "network": network.config,
        "components": network.specs,
        "data": dict(data),
        "seed": seed,
        "version": __version__,
        "versions": {
            "python": platform.python_version(),
            "torch": str(torch.__version__),
            "lightning": lightning.__version__,
        },
        "parent": dict(parent) if parent is not None else None,
    }


def read_checkpoint(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Loads a stamped checkpoint onto the CPU.

    Raises:
        InputError: The file is missing, is not a checkpoint, or carries no stamp.
    """
    checkpoint = read_tensors(path)
    if not isinstance(checkpoint, dict) or STAMP_KEY not in checkpoint or "state_dict" not in checkpoint:
        raise InputError(
            f"{path}: not a gazelit checkpoint (it carries no stamp); give a checkpoint written by `gazelit fit`"
        )
    return checkpoint


def component_state(checkpoint: Mapping[str, Any], component: str) -> dict[str, torch.Tensor]:
    """The state dict of one component, with the prefixes of the stage and of ``torch.compile`` removed."""
    prefix = f"network.{component}."
    return {
        key.removeprefix(prefix).removeprefix("_orig_mod."): value
        for key, value in checkpoint["state_dict"].items()
        if key.startswith(prefix)
    }


def write_calibrated(
    path: str | os.PathLike[str], out: str | os.PathLike[str], temperature: torch.Tensor, record: Mapping[str, Any]
) -> None:
    """Writes a checkpoint anew with the temperature of its probabilities.

    Args:
        path: The checkpoint.
        out: The file to write.
        temperature: (K,).
        record: What the stamp notes of the calibration, in primitives.
    """
    checkpoint = read_checkpoint(path)
    checkpoint["state_dict"]["temperature"] = temperature
    checkpoint[STAMP_KEY]["calibration"] = {"of": sha256_file(path), **record}
    with atomic_path(Path(out)) as temporary:
        torch.save(checkpoint, temporary)


def same_specification(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two component specifications build interchangeable modules (where weights came from is no matter)."""
    return _without_weights(one) == _without_weights(other)


def hand_over(path: str | os.PathLike[str], network: Network, stage: str, other_split: bool = False) -> HandOff:
    """Loads into ``network`` exactly the components that it shares with the checkpoint, strictly.

    Args:
        path: Checkpoint of another stage.
        network: The receiving network; untouched unless every shared component fits.
        stage: Name of the receiving stage, for messages.
        other_split: Whether a checkpoint of another split was insisted on; recorded.

    Raises:
        InputError: Nothing is shared, a shared component is specified otherwise, or its tensors do not fit.
    """
    checkpoint = read_checkpoint(path)
    stamp = checkpoint[STAMP_KEY]
    theirs: dict[str, Any] = stamp["components"]
    ours = network.specs
    shared = tuple(name for name in ours if name in theirs)
    if not shared:
        raise InputError(
            f"{path}: stage '{stamp['stage']}' ({', '.join(theirs)}) and stage '{stage}' ({', '.join(ours)}) "
            "share no component; give a checkpoint of a stage that trains one of them"
        )
    check_components(path, {name: theirs[name] for name in shared}, ours)

    states = {name: component_state(checkpoint, name) for name in shared}
    for name in shared:
        check_fit(states[name], network.get_submodule(name).state_dict(), f"{path}: component '{name}'")
    for name in shared:
        network.get_submodule(name).load_state_dict(states[name], strict=True)
    return HandOff(
        source_stage=stamp["stage"],
        loaded=shared,
        new=tuple(name for name in ours if name not in theirs),
        left_behind=tuple(name for name in theirs if name not in ours),
        parent={"sha256": sha256_file(path), "other_split": other_split, **stamp},
    )


def check_components(path: str | os.PathLike[str], theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> None:
    """Checks that each of ``theirs`` is specified as in ``ours``.

    Raises:
        InputError: A component is missing or differs; the message names the fields.
    """
    for name, specification in theirs.items():
        if name not in ours:
            raise InputError(f"{path}: has a component '{name}' that the configured network lacks")
        if not same_specification(specification, ours[name]):
            raise InputError(
                f"{path}: component '{name}' differs from the configured network in "
                f"{_differences(specification, ours[name])}; use the network section the checkpoint was trained with"
            )


def check_split(
    path: str | os.PathLike[str], stamp: Mapping[str, Any], data: Mapping[str, Any], allowed: bool = False
) -> str | None:
    """Checks that neither a checkpoint nor its ancestors were trained on another split of the data at hand.

    Args:
        path: The checkpoint, for messages.
        stamp: Its stamp.
        data: Provenance of the data at hand.
        allowed: Whether the user insists.

    Returns:
        What the user should know, if anything.

    Raises:
        InputError: One of them was, and may so have been trained on patients that are tested now.
    """
    ours, sources = data.get("split_sha256"), set(str(data.get("source", "")).split("+"))
    note = None
    for ancestor in chain(stamp):
        theirs = ancestor["data"].get("split_sha256")
        if theirs is None or theirs == ours:
            continue
        if data.get("trained_on") is not None and data["trained_on"] == ancestor["data"].get("fingerprint"):
            # An external test leaves the patients of these data out.
            continue
        if not sources & set(str(ancestor["data"]["source"]).split("+")):
            note = (
                f"{path}: stage '{ancestor['stage']}' was trained on {ancestor['data']['source']}; whether it has seen "
                "patients of this test split is not known"
            )
        elif allowed:
            note = f"{path}: stage '{ancestor['stage']}' was trained on another split of these data, which is allowed"
        else:
            raise InputError(
                f"{path}: stage '{ancestor['stage']}' was trained on another split of {data['source']} (seed "
                f"{ancestor['data'].get('split_seed')}, now {data.get('split_seed')}), so it may have seen patients of "
                "this test split; use its split, or insist with --allow_other_split=true"
            )
    return note


def chain(stamp: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The stamps of a checkpoint and its ancestors, newest first."""
    current: Mapping[str, Any] | None = stamp
    while current is not None:
        yield dict(current)
        current = current.get("parent")


def print_lineage(file: list[str]) -> None:
    """Prints where checkpoints come from: one block a stage, newest first.

    Args:
        file: Checkpoints that gazelit wrote.

    Raises:
        InputError: A file is no gazelit checkpoint.
    """
    for path in file:
        stamp = read_checkpoint(path)[STAMP_KEY]
        blocks = [
            _describe({"sha256": sha256_file(path), **stamp}),
            *(_describe(one) for one in list(chain(stamp))[1:]),
        ]
        sys.stdout.write(f"{path}\n" + "\n".join(blocks) + "\n")


def _describe(stamp: Mapping[str, Any]) -> str:
    data = stamp["data"]
    versions = ", ".join(f"{name} {version}" for name, version in stamp["versions"].items())
    fields = {
        "checkpoint": stamp["sha256"],
        "components": ", ".join(stamp["components"]),
        "data": f"{data.get('source', 'unknown')}{' (synthetic)' if data.get('synthetic') else ''}",
        "fingerprint": data.get("fingerprint", "unknown"),
        "split": f"{data.get('split_sha256', 'unknown')} (seed {data.get('split_seed')})"
        + (", other than its child's, as was insisted" if stamp.get("other_split") else ""),
        "seed": stamp["seed"],
        **({"calibration": _calibration(stamp["calibration"])} if "calibration" in stamp else {}),
        "versions": f"gazelit {stamp['version']}, {versions}",
    }
    return f"{stamp['stage']}\n" + "\n".join(f"  {name:<12}{value}" for name, value in fields.items())


def _calibration(record: Mapping[str, Any]) -> str:
    return (
        f"temperature fitted to {record['n']} {record['split']} cases: {record['nll_before']:.4f} to "
        f"{record['nll_after']:.4f} nats"
    )


def _without_weights(specification: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in specification.items() if key != "weights"}


def _differences(theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> str:
    keys = sorted(key for key in {*theirs, *ours} - {"weights"} if theirs.get(key) != ours.get(key))
    return "; ".join(f"{key} ({theirs.get(key)!r} in the checkpoint, {ours.get(key)!r} configured)" for key in keys)
