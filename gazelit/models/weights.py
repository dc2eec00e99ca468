"""Reading tensors from files, and saying why they do not fit."""

from __future__ import annotations

import os
import pickle
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import IO, Any

import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.serialization import SourceChangeWarning

from gazelit.errors import InputError

#: Keys of a training's file under which state dicts are.
STATE_KEYS = ("state_dict", "model", "model_ema", "ema", "student", "teacher")
#: Greatest number of problems that a message names.
_SHOWN = 6


def check_is_file(path: Path) -> None:
    """Checks that a path is a file.

    Raises:
        InputError: There is no file, or a folder; for a run's folder the message names its checkpoint.
    """
    if path.is_dir():
        # Of a run and of a package.
        known = (path / "checkpoints" / "best.ckpt", path / "model.safetensors")
        found = next((file for file in known if file.is_file()), None)
        hint = f"give the checkpoint in it: {found}" if found else "give a checkpoint file"
        raise InputError(f"{path}: a folder; {hint}")
    if not path.is_file():
        raise InputError(f"{path}: no such file")


def read_tensors(path: str | os.PathLike[str]) -> Any:
    """The content of a file of tensors (``.safetensors``, or anything ``torch.save`` wrote), on the CPU.

    Raises:
        InputError: The file is missing, damaged, or holds more than tensors and primitive values.
    """
    path = Path(path)
    check_is_file(path)
    try:
        return load_file(path) if path.suffix == ".safetensors" else torch.load(path, "cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise InputError(
            f"{path}: not a readable checkpoint: it is damaged, or holds more than tensors and plain values, which "
            "is not loaded because that can run code"
        ) from error
    except Exception as error:
        # A parser may raise any kind of error for a foreign or broken file; the file is at fault.
        raise InputError(f"{path}: not a readable checkpoint ({error.__class__.__name__}); is it truncated?") from error


class _Shell:
    """Replaces an object of a pickled module; it holds its state and does nothing."""

    def __init__(self, *args: Any, **kwargs: Any) -> None: ...


class _TensorUnpickler(pickle.Unpickler):
    """Reads tensors, and shells instead of all other objects, so that a file cannot run code."""

    _ALLOWED = (
        ("torch._utils", "_rebuild_tensor"),
        ("torch._utils", "_rebuild_tensor_v2"),
        ("torch._utils", "_rebuild_parameter"),
        ("collections", "OrderedDict"),
    )

    def find_class(self, module: str, name: str) -> Any:
        """Resolves only the functions that rebuild tensors."""
        if (module, name) in self._ALLOWED or (module == "torch" and name.endswith("Storage")):
            return super().find_class(module, name)
        return type(name, (_Shell,), {})


def _load_shells(file: IO[bytes], **options: Any) -> Any:
    return _TensorUnpickler(file, **options).load()


#: The part of the module ``pickle`` that ``torch.load`` needs.
_UNPICKLING = SimpleNamespace(__name__="gazelit", Unpickler=_TensorUnpickler, load=_load_shells)


def read_state(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """The state dict in a weight file: plain, under one of ``STATE_KEYS``, or that of a pickled module.

    Args:
        path: The file; ``FILE#KEY`` if it holds several state dicts, such as a student's and a teacher's. In a single
            state dict KEY is the beginning of the keys, such as ``student.backbone``, which is then left out.

    Raises:
        InputError: The file is missing or damaged, or holds no state dict, or holds several and none is named, or
            lacks the named part.
    """
    path, chosen = _named_part(path)
    content: Any
    try:
        content = read_tensors(path)
    except InputError as error:
        if not Path(path).is_file() or not isinstance(error.__cause__, pickle.UnpicklingError):
            raise
        try:
            with warnings.catch_warnings():
                # Old files hold the source of their classes, which differs from that of the shells.
                warnings.simplefilter("ignore", SourceChangeWarning)
                content = torch.load(path, "cpu", pickle_module=_UNPICKLING, weights_only=False)
        except (RuntimeError, pickle.UnpicklingError, EOFError, TypeError, AttributeError, KeyError, ValueError):
            raise error from None
    parts = _parts(content)
    # A single state dict may have several towers.
    beginning = f"{chosen}." if chosen is not None and chosen not in parts and len(parts) < 2 else None
    content = _part(path, content, chosen if beginning is None else None)
    state = _module_state(content) if isinstance(content, _Shell) else content
    is_map = isinstance(state, dict)
    tensors = {key: value for key, value in state.items() if isinstance(value, Tensor)} if is_map else {}
    if not tensors:
        raise InputError(f"{path}: holds no state dict; give a file of weights")
    if beginning is None:
        return tensors
    whole = {key.removeprefix("module."): value for key, value in tensors.items()}
    named = {key.removeprefix(beginning): value for key, value in whole.items() if key.startswith(beginning)}
    if not named:
        known = sorted({key.partition(".")[0] for key in whole})
        raise InputError(f"{path}: has no part {chosen}; its keys begin with {', '.join(known[:_SHOWN])}")
    return named


def _named_part(path: str | os.PathLike[str]) -> tuple[Path, str | None]:
    """The file and the part of it that ``FILE#KEY`` names."""
    whole = Path(path)
    file, separator, key = str(path).rpartition("#")
    return (whole, None) if whole.exists() or not separator else (Path(file), key)


def _parts(content: Any) -> list[str]:
    """The keys of state dicts among a file's content."""
    found = [key for key in STATE_KEYS if isinstance(content, dict) and key in content]
    return [key for key in found if not isinstance(content[key], Tensor)]


def _part(path: Path, content: Any, chosen: str | None) -> Any:
    """The state dict among a file's content."""
    found = _parts(content)
    if chosen is not None and chosen not in found:
        raise InputError(f"{path}: has no part {chosen}; parts are {', '.join(found) or 'none'}")
    if chosen is None and len(found) > 1:
        raise InputError(
            f"{path}: holds several state dicts ({', '.join(found)}); name one, such as {path}#{found[-1]}"
        )
    if not found:
        return content
    # State dicts may be nested: a checkpoint's teacher has a model.
    return _part(path, content[chosen or found[0]], None)


def _module_state(shell: _Shell, prefix: str = "") -> dict[str, Tensor]:
    """The result that ``state_dict`` of the pickled module would have."""
    content = vars(shell)
    state = {
        f"{prefix}{name}": value.detach()
        for kind in ("_parameters", "_buffers")
        for name, value in content.get(kind, {}).items()
        if isinstance(value, Tensor)
    }
    for name, child in content.get("_modules", {}).items():
        if isinstance(child, _Shell):
            state |= _module_state(child, f"{prefix}{name}.")
    return state


def check_fit(
    given: Mapping[str, Tensor], expected: Mapping[str, Tensor], origin: str, unknown: Sequence[str] = ()
) -> None:
    """Checks that a state dict can be loaded strictly.

    Args:
        given: The state dict to load.
        expected: The state dict of the module that is to take it.
        origin: Beginning of the message, such as the file and component.
        unknown: Keys that are not known at all.

    Raises:
        InputError: Keys are unknown, missing or left over, or shapes differ; the message lists them.
    """
    problems = [f"{key} unknown" for key in unknown]
    problems += [f"{key} missing" for key in expected if key not in given]
    problems += [f"{key} left over" for key in given if key not in expected]
    problems += [
        f"{key} is {tuple(given[key].shape)}, not {tuple(expected[key].shape)}"
        for key in expected
        if key in given and given[key].shape != expected[key].shape
    ]
    if problems:
        more = f"; and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
        raise InputError(f"{origin} does not fit: {'; '.join(problems[:_SHOWN])}{more}")
