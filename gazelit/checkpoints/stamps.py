"""The stamp of a checkpoint: what it is, what it learned from, and where it comes from.

Every checkpoint carries a stamp under the key ``gazelit``: primitive values only, so that
``torch.load(weights_only=True)`` reads it. The stamp names the stage, the components of the network with their
specifications, the data the model saw, and the whole stamps of the checkpoint it started from and of its teachers.
:mod:`gazelit.checkpoints.formats` has the history of its format.
"""

from __future__ import annotations

import io
import os
import platform
import sys
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import torch

from gazelit import __version__
from gazelit.checkpoints.formats import FORMAT, MAX_GENERATIONS, migrate
from gazelit.checkpoints.seal import check_seal, write_sealed
from gazelit.errors import InputError
from gazelit.files import atomic_path, read_json, sha256_file
from gazelit.models.weights import check_is_file, read_tensors

if TYPE_CHECKING:
    from gazelit.models.network import Network

STAMP_KEY = "gazelit"
#: Beside the stamp, where ``gazelit guard`` has fitted them: guards of readings, in plain values.
GUARDS_KEY = "gazelit_guards"
#: Of exported weights, and of the file beside them that describes them; in a package that file has a name of its own.
WEIGHTS_SUFFIX, STAMP_SUFFIX = ".safetensors", ".json"
PACKAGED_STAMP = "lineage.json"
#: What every stamp holds, and of what type.
_FIELDS: dict[str, type | tuple[type, ...]] = {
    "format": int,
    "stage": str,
    "network": dict,
    "components": dict,
    "data": dict,
    "version": str,
    "versions": dict,
    "parent": (dict, type(None)),
    "teachers": list,
    "untrained": dict,
}


def make_stamp(
    *,
    stage: str,
    network: Network,
    data: Mapping[str, Any],
    seed: int | None,
    parent: Mapping[str, Any] | None,
    teachers: Sequence[Mapping[str, Any]] = (),
    untrained: Mapping[str, Sequence[str]] = MappingProxyType({}),
) -> dict[str, Any]:
    """Builds the stamp of a checkpoint.

    Args:
        stage: Name of the stage that trains.
        network: A network with the ``config`` and ``specs`` of the network contract.
        data: Provenance of the data (primitives), as ``GazeData.provenance``.
        seed: Seed of the run, if it was seeded.
        parent: ``HandOff.parent`` of the checkpoint this one started from.
        teachers: What :func:`gazelit.checkpoints.teachers.take_teachers` records of each teacher.
        untrained: What :func:`gazelit.models.untrained.left_untrained` returns.
    """
    known = set() if parent is None else {ancestor.get("sha256") for ancestor in chain(parent)}
    return {
        "format": FORMAT,
        "stage": stage,
        "network": network.config,
        "components": network.specs,
        "data": dict(data),
        "seed": seed,
        "version": __version__,
        "versions": {
            "python": platform.python_version(),
            "torch": str(torch.__version__),
            "lightning": metadata.version("lightning"),
        },
        "parent": dict(parent) if parent is not None else None,
        "teachers": [_brief(teacher, known) for teacher in teachers],
        "untrained": {component: list(names) for component, names in untrained.items()},
    }


def _brief(teacher: Mapping[str, Any], known: set[Any]) -> dict[str, Any]:
    """A teacher's record; of one that is an ancestor as well, what it comes from stands in the chain already."""
    if teacher["sha256"] not in known:
        return dict(teacher)
    # Written out twice in each generation, a network that goes on from its own teacher would have a stamp without end.
    return {**teacher, "teachers": [], "parent": None}


def read_checkpoint(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Loads a stamped checkpoint, or exported weights with the stamp beside them, onto the CPU.

    A stamp of an older format is brought into today's (:mod:`gazelit.checkpoints.formats`).

    Args:
        path: A ``.ckpt``, or the ``.safetensors`` of :func:`gazelit.checkpoints.exporting.export_weights`.

    Raises:
        InputError: The file is missing, is damaged, is not a checkpoint, or carries no stamp, a malformed one, or one
            of a later version of gazelit.
    """
    if Path(path).suffix == WEIGHTS_SUFFIX:
        checkpoint = _read_exported(Path(path))
    else:
        check_is_file(Path(path))
        check_seal(path)
        checkpoint = read_tensors(path)
    if not isinstance(checkpoint, dict) or STAMP_KEY not in checkpoint:
        raise InputError(
            f"{path}: not a gazelit checkpoint (it carries no stamp); give a checkpoint written by `gazelit fit`"
        )
    state = checkpoint.get("state_dict")
    if not isinstance(state, dict) or not all(_is_plain(value) for value in state.values()):
        raise InputError(f"{path}: not a gazelit checkpoint (it holds no weights)")
    check_stamp(path, checkpoint[STAMP_KEY])
    return checkpoint


def _is_plain(value: Any) -> bool:
    """Whether it is a tensor that a network may take: dense, and of real numbers."""
    if not isinstance(value, torch.Tensor) or value.is_quantized or value.is_complex():
        return False
    # One on the device "meta" has a shape and no numbers.
    return value.layout == torch.strided and not value.is_meta


def _read_exported(path: Path) -> dict[str, Any]:
    state = read_tensors(path)
    beside, packaged = path.with_suffix(STAMP_SUFFIX), path.with_name(PACKAGED_STAMP)
    if packaged.is_file() and not beside.is_file():
        beside = packaged
    about = read_json(beside)
    if not isinstance(about, dict) or STAMP_KEY not in about:
        raise InputError(f"{beside}: not what `gazelit export-weights` writes")
    if about.get("sha256") != sha256_file(path):
        raise InputError(f"{path}: not the weights that {beside.name} describes; export them anew")
    return {"state_dict": state, **{key: about[key] for key in (STAMP_KEY, GUARDS_KEY) if key in about}}


def check_stamp(path: str | os.PathLike[str], stamp: Any) -> None:
    """Brings a stamp into today's format, in place, and checks its form: whatever reads it relies on these types.

    Args:
        path: Begins the message: the file.
        stamp: What it holds as its stamp, which may be a stranger's.

    Raises:
        InputError: It is none, or one of a later version of gazelit.
    """
    migrate(stamp, path)
    pending, generations = [stamp], 0
    while pending:
        current = pending.pop()
        generations += 1
        if generations > MAX_GENERATIONS:
            raise InputError(f"{path}: its stamp holds more than {MAX_GENERATIONS} checkpoints that it comes from")
        for field, kind in _FIELDS.items():
            if not isinstance(current, dict) or field not in current or not isinstance(current[field], kind):
                raise InputError(f"{path}: its stamp is malformed (field '{field}'); it was not written by gazelit")
        if not all(isinstance(specification, dict) for specification in current["components"].values()):
            raise InputError(f"{path}: its stamp is malformed (field 'components'); it was not written by gazelit")
        if not all(_is_names(names) for names in current["untrained"].values()):
            raise InputError(f"{path}: its stamp is malformed (field 'untrained'); it was not written by gazelit")
        teachers = current["teachers"]
        if not all(isinstance(teacher, dict) and "sha256" in teacher for teacher in teachers):
            raise InputError(f"{path}: its stamp is malformed (field 'teachers'); it was not written by gazelit")
        pending += teachers
        if current["parent"] is not None:
            pending.append(current["parent"])


def _is_names(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(name, str) for name in value)


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
    """Writes a checkpoint, whole or not at all; the same content gives the same bytes.

    Args:
        checkpoint: What to save.
        out: The file.

    Raises:
        InputError: It cannot be written; what was there stays.
    """
    # In memory first: torch reports a full disk as an error of its own archive, and puts the name of the file that it
    # is given into the archive.
    content = io.BytesIO()
    torch.save(_canonical(dict(checkpoint)), content)
    try:
        with atomic_path(out) as temporary, temporary.open("wb") as file:
            write_sealed(content.getbuffer(), file)
    except OSError as error:
        raise InputError(
            f"{out}: cannot be written ({error.strerror or error}); make room and resume, an earlier checkpoint "
            "of this name is untouched"
        ) from error


def _canonical(value: Any) -> Any:
    """The same content, so that equal contents give equal bytes.

    A pickle refers back to strings and containers that are one object; those of a resumed run are one or several
    otherwise than those of an undisturbed one.
    """
    if isinstance(value, str):
        return sys.intern(value) if type(value) is str else value
    if type(value) in (list, tuple):
        return type(value)(_canonical(item) for item in value)
    if type(value) in (dict, OrderedDict):
        copy = type(value)((_canonical(key), _canonical(item)) for key, item in value.items())
        if hasattr(value, "_metadata"):
            copy._metadata = _canonical(value._metadata)
        return copy
    return value


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
