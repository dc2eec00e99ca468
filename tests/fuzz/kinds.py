"""Every kind of input by its name, and the two functions of a fuzzer for it."""

from __future__ import annotations

import importlib
import struct
from functools import partial
from pathlib import Path

from tests.fuzz import targets
from tests.fuzz.driver import Input, Make, Read

#: Module of each kind; imported when the kind is used, because some import torch.
MODULES = {
    "films": "films", "bombs": "films", "tables": "tables", "json": "tables", "configs": "results",
    "stores": "results", "checkpoints": "results", "packages": "results",
}  # fmt: skip


def kind(name: str) -> targets.Kind:
    """The kind of that name."""
    found: targets.Kind = importlib.import_module(f"tests.fuzz.{MODULES[name]}").KINDS[name]
    return found


def fuzzer(name: str) -> tuple[Make, Read]:
    """``make`` and ``read`` of a kind, as :func:`tests.fuzz.driver.run` takes them."""
    return partial(_make, name), partial(_read, name)


def _make(name: str, index: int, seed: int, folder: Path, corpus: Path | None) -> Input:
    return targets.make(name, kind(name), index, seed, folder, corpus)


def _read(name: str, path: Path) -> None:
    kind(name).read(path)


#: Greatest number of bytes of an input that is guided by coverage; originals are smaller, except weights.
LONGEST = 2**16


def guided_targets(name: str, folder: Path) -> list[targets.Target]:
    """The targets that a guided input can name."""
    return [target for target in targets.targets_of(name, kind(name), folder) if len(target.content) < LONGEST]


def named_target(found: list[targets.Target], data: bytes) -> targets.Target:
    """The target that a guided input names by its first two bytes."""
    return found[struct.unpack("<H", data[:2])[0] % len(found)]


def put_again(name: str, files: list[Path], index: int, _: int, folder: Path, __: Path | None) -> Input:
    """``make`` of inputs that were kept."""
    data = files[index].read_bytes()
    target = named_target(guided_targets(name, folder), data)
    return Input(target.put(data[2:]), target.name)
