"""Where a checkpoint comes from, and which of its parts another stage may take over.

Every checkpoint carries a stamp under the key ``gazelit``: primitive values only, so that
``torch.load(weights_only=True)`` reads it. The stamp names the stage, the components of the network with their
specifications, the data the model saw, and the whole stamps of the checkpoint it started from and of its teachers.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning
import torch

from gazelit import __version__
from gazelit.errors import InputError
from gazelit.files import atomic_path, read_json, sha256_file
from gazelit.models.network import Network
from gazelit.models.weights import check_fit, read_tensors

STAMP_KEY = "gazelit"
#: Collections whose films are those of a larger one: whoever has seen that one may have seen their patients.
ORIGINS = {"egd-cxr": "mimic-cxr", "reflacx": "mimic-cxr"}
#: Checkpoints that a stamp may name, ancestors and teachers.
MAX_GENERATIONS = 64
#: Of exported weights, and of the file beside them that describes them.
WEIGHTS_SUFFIX, STAMP_SUFFIX = ".safetensors", ".json"
#: What every stamp holds, and of what type.
_FIELDS: dict[str, type | tuple[type, ...]] = {
    "stage": str,
    "network": dict,
    "components": dict,
    "data": dict,
    "version": str,
    "versions": dict,
    "parent": (dict, type(None)),
}


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
    teachers: Sequence[Mapping[str, Any]] = (),
) -> dict[str, Any]:
    """Builds the stamp of a checkpoint.

    Args:
        stage: Name of the stage that trains.
        network: A network with the ``config`` and ``specs`` of the network contract.
        data: Provenance of the data (primitives), as ``GazeDataModule.provenance``.
        seed: Seed of the run, if it was seeded.
        parent: ``HandOff.parent`` of the checkpoint this one started from.
        teachers: What :func:`gazelit.teachers.take_teachers` records of each teacher.
    """
    known = set() if parent is None else {ancestor.get("sha256") for ancestor in chain(parent)}
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
        **({"teachers": [_brief(teacher, known) for teacher in teachers]} if teachers else {}),
    }


def _brief(teacher: Mapping[str, Any], known: set[Any]) -> dict[str, Any]:
    """A teacher's record; of one that is an ancestor as well, what it comes from stands in the chain already."""
    if teacher["sha256"] not in known:
        return dict(teacher)
    # Written out twice in each generation, a network that goes on from its own teacher would have a stamp without end.
    return {key: value for key, value in teacher.items() if key != "teachers"} | {"parent": None}


def read_checkpoint(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Loads a stamped checkpoint, or exported weights with the stamp beside them, onto the CPU.

    Args:
        path: A ``.ckpt``, or the ``.safetensors`` of :func:`gazelit.exporting.export_weights`.

    Raises:
        InputError: The file is missing, is not a checkpoint, or carries no stamp or a malformed one.
    """
    checkpoint = _read_exported(Path(path)) if Path(path).suffix == WEIGHTS_SUFFIX else read_tensors(path)
    if not isinstance(checkpoint, dict) or STAMP_KEY not in checkpoint:
        raise InputError(
            f"{path}: not a gazelit checkpoint (it carries no stamp); give a checkpoint written by `gazelit fit`"
        )
    state = checkpoint.get("state_dict")
    if not isinstance(state, dict) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise InputError(f"{path}: not a gazelit checkpoint (it holds no weights)")
    _check_stamp(path, checkpoint[STAMP_KEY])
    return checkpoint


def _read_exported(path: Path) -> dict[str, Any]:
    state = read_tensors(path)
    about = read_json(path.with_suffix(STAMP_SUFFIX))
    if not isinstance(about, dict) or STAMP_KEY not in about:
        raise InputError(f"{path.with_suffix(STAMP_SUFFIX)}: not what `gazelit export-weights` writes")
    if about.get("sha256") != sha256_file(path):
        raise InputError(
            f"{path}: not the weights that {path.with_suffix(STAMP_SUFFIX).name} describes; export them anew"
        )
    return {"state_dict": state, STAMP_KEY: about[STAMP_KEY]}


def _check_stamp(path: str | os.PathLike[str], stamp: Any) -> None:
    """Checks the form of a stamp, which may be a stranger's: whatever reads it relies on these types."""
    pending, generations = [stamp], 0
    while pending:
        current = pending.pop()
        generations += 1
        if generations > MAX_GENERATIONS:
            raise InputError(f"{path}: its stamp holds more than {MAX_GENERATIONS} checkpoints that it comes from")
        for field, kind in _FIELDS.items():
            if not isinstance(current, dict) or not isinstance(current.get(field), kind):
                raise InputError(f"{path}: its stamp is malformed (field '{field}'); it was not written by gazelit")
        if not all(isinstance(one, dict) for one in current["components"].values()):
            raise InputError(f"{path}: its stamp is malformed (field 'components'); it was not written by gazelit")
        teachers = current.get("teachers", [])
        if not isinstance(teachers, list) or not all(isinstance(one, dict) and "sha256" in one for one in teachers):
            raise InputError(f"{path}: its stamp is malformed (field 'teachers'); it was not written by gazelit")
        pending += teachers
        if current["parent"] is not None:
            pending.append(current["parent"])


def component_state(checkpoint: Mapping[str, Any], component: str) -> dict[str, torch.Tensor]:
    """The state dict of one component, with the prefixes of the stage and of ``torch.compile`` removed."""
    prefix = f"network.{component}."
    return {
        key.removeprefix(prefix).removeprefix("_orig_mod."): value
        for key, value in checkpoint["state_dict"].items()
        if key.startswith(prefix)
    }


def network_state(checkpoint: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """The state dict of the whole network, with the prefixes of the stage and of ``torch.compile`` removed."""
    return {
        key.removeprefix("network.").replace("_orig_mod.", ""): value
        for key, value in checkpoint["state_dict"].items()
        if key.startswith("network.")
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
    save_checkpoint(checkpoint, Path(out))


def save_checkpoint(checkpoint: Mapping[str, Any], out: Path) -> None:
    """Writes a checkpoint, whole or not at all; the same content gives the same bytes."""
    # Given a path, torch.save puts the temporary file's name into the archive.
    with atomic_path(out) as temporary, temporary.open("wb") as file:
        torch.save(dict(checkpoint), file)


def same_specification(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two component specifications build interchangeable modules (where weights came from is no matter)."""
    return _without_weights(one) == _without_weights(other)


def hand_over(path: str | os.PathLike[str], network: Network, stage: str, split_note: str | None = None) -> HandOff:
    """Loads into ``network`` exactly the components that it shares with the checkpoint, strictly.

    Args:
        path: Checkpoint of another stage.
        network: The receiving network; untouched unless every shared component fits.
        stage: Name of the receiving stage, for messages.
        split_note: What :func:`check_split` says of it; recorded, so that reports repeat it.

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
        parent={**stamp, "sha256": sha256_file(path), "split_note": split_note},
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
    """Checks that no checkpoint, ancestor or teacher of theirs may have seen patients of the test split at hand.

    They have not if they were trained on the same split of the same data, or on data of the same split file
    (``gazelit split``), or if the data at hand leave the patients of their store out (an external test).

    Args:
        path: The checkpoint, for messages.
        stamp: Its stamp.
        data: Provenance of the data at hand.
        allowed: Whether the user insists.

    Returns:
        What the user should know, if anything; without the path, because it is recorded.

    Raises:
        InputError: One of them was trained on another split of the same data, on a collection that the data at hand
            are part of or that is part of them, or on patients nobody recorded.
    """
    note = None
    for ancestor in sources(stamp):
        problem = _overlap(ancestor, data)
        if problem is None:
            continue
        text = f"stage '{ancestor['stage']}' {problem}"
        if not _shares_patients(ancestor["data"], data):
            note = note or text
        elif allowed:
            note = f"{text}; this is allowed (--allow_other_split)"
        else:
            raise InputError(
                f"{path}: {text}, so it may have seen patients of this test split; train both on one split "
                "(`gazelit split STORE STORE --out FILE`, --data.split_file=FILE), or insist with "
                "--allow_other_split=true"
            )
    return note


def _overlap(ancestor: Mapping[str, Any], data: Mapping[str, Any]) -> str | None:
    """What is amiss between the data that a stage was trained on and those at hand."""
    theirs = ancestor["data"]
    split = theirs.get("split_sha256")
    if split is not None and split == data.get("split_sha256"):
        return None
    joint = theirs.get("split_file_sha256")
    if joint is not None and joint == data.get("split_file_sha256"):
        return None
    if data.get("trained_on") is not None and data["trained_on"] == theirs.get("fingerprint"):
        return None
    source, ours = theirs.get("source"), data.get("source", "these data")
    if split is None:
        return f"was trained on {source or 'data it does not name'}, and on which of their patients is not recorded"
    if not _shares_patients(theirs, data):
        return f"was trained on {source}; whether it has seen patients of this test split is not known"
    if source != ours:
        return f"was trained on {source}, which shares patients with {ours}"
    return f"was trained on another split of {ours} ({_split_differences(theirs, data)})"


def _shares_patients(theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> bool:
    """Whether two data sets may hold the same patients: parts of one collection, and not one simulated, one real."""
    if bool(theirs.get("synthetic")) != bool(ours.get("synthetic")):
        return False
    return bool(_collections(theirs) & _collections(ours))


def _collections(data: Mapping[str, Any]) -> set[str]:
    names = {name for name in str(data.get("source") or "").split("+") if name}
    names |= {ORIGINS[name] for name in names if name in ORIGINS}
    return names | set(data.get("origin") or [])


def _split_differences(theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> str:
    """The settings in which two splits differ, by name."""
    settings = sorted(
        key for key in {*theirs, *ours} if key in ("fold", "folds", "fingerprint") or key.startswith("split_")
    )
    differences = [
        f"{key.removeprefix('split_')} {theirs.get(key)}, now {ours.get(key)}"
        for key in settings
        if theirs.get(key) != ours.get(key) and key != "split_sha256"
    ]
    return "; ".join(differences) or "the settings are the same, the cases are not"


def chain(stamp: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The stamps of a checkpoint and its ancestors, newest first."""
    current: Mapping[str, Any] | None = stamp
    while current is not None:
        yield dict(current)
        current = current.get("parent")


def sources(stamp: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The stamps of a checkpoint, of its ancestors, and of the teachers of each with theirs: all that it learned from.

    Each is followed by its teachers.
    """
    for current in chain(stamp):
        yield current
        for teacher in current.get("teachers", ()):
            yield from sources(teacher)


def _without_weights(specification: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in specification.items() if key != "weights"}


def _differences(theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> str:
    keys = sorted(key for key in {*theirs, *ours} - {"weights"} if theirs.get(key) != ours.get(key))
    return "; ".join(f"{key} ({theirs.get(key)!r} in the checkpoint, {ours.get(key)!r} configured)" for key in keys)
