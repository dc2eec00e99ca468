"""Mutated checkpoints, packages, stores and configurations, as a stranger may hand them on.

``python -m tests.fuzz.results --kind checkpoints|packages|stores|configs --count 2000 --seed 0``. Some are damaged as
bytes, which their digests tell; most are whole and hold something else, so that digests are no defence.
"""

from __future__ import annotations

import io
import json
import random
import shutil
import sys
import tempfile
from functools import cache, partial
from pathlib import Path
from typing import Any

from tests.fuzz.driver import Input, Make, main
from tests.fuzz.mutations import JSON_MUTATIONS, TABLE_MUTATIONS, change_values, cut, flip_bytes
from tests.fuzz.tables import _replace

#: A child with torch takes one gigabyte before it reads anything.
MEGABYTES = 2048.0
KINDS = ("checkpoints", "packages", "stores", "configs")


@cache
def original(kind: str) -> Path:
    """A small one of a kind, made once in each process."""
    folder = Path(tempfile.mkdtemp(prefix="fuzz-original-"))
    if kind == "configs":
        from gazelit.configs import config_root

        shutil.copytree(config_root(), folder / "configs", ignore=shutil.ignore_patterns("sweeps"))
        return folder / "configs"
    if kind == "stores":
        from gazelit.data.sources import EGDCXR
        from gazelit.data.store.prepare import prepare
        from gazelit.synthetic.cohort import write_cohort

        write_cohort(folder / "cohort", cases=6, seed=5, max_side=64, workers=1)
        prepare(
            EGDCXR(folder / "cohort" / "egd-cxr", folder / "cohort" / "mimic-cxr"),
            folder / "store",
            (32, 32),
            workers=1,
        )
        return folder / "store"
    from gazelit.release.package import package
    from tests.release.models import checkpoint

    checkpoint(folder / "a.ckpt")
    if kind == "packages":
        package(str(folder / "a.ckpt"), folder / "package")
        return folder / "package"
    return folder / "a.ckpt"


def make_checkpoint(index: int, seed: int, folder: Path, _: Path | None) -> Input:
    """A checkpoint with other bytes, or with something else in its stamp or weights, sealed again."""
    import torch

    from gazelit.checkpoints.seal import write_sealed

    rng = random.Random(f"{seed} {index}")
    path = folder / "a.ckpt"
    content = original("checkpoints").read_bytes()
    fate = rng.random()
    if fate < 0.04:
        _replace(path, rng)
        return Input(path, "no file")
    if fate < 0.3:
        path.write_bytes(rng.choice((flip_bytes, cut))(content, rng))
        return Input(path, "bytes")
    checkpoint = torch.load(io.BytesIO(content), weights_only=True)
    if fate < 0.8:
        checkpoint["gazelit"] = _changed(checkpoint["gazelit"], rng)
        kind = "stamp"
    else:
        state = checkpoint["state_dict"]
        name = rng.choice(list(state))
        tensor = state[name]
        state[name] = rng.choice(
            (
                tensor.double(), tensor.to(torch.complex64), tensor[..., None], tensor.flatten()[:0], tensor.bool(),
                tensor * float("nan"), tensor.to_sparse(), torch.zeros(1).expand(10**6), "text", None, tensor.tolist(),
            )
        )  # fmt: skip
        if rng.random() < 0.2:
            state[f"{name}.x"] = state.pop(name)
        kind = "weights"
    buffer = io.BytesIO()
    torch.save(checkpoint, buffer)
    with path.open("wb") as file:
        write_sealed(buffer.getbuffer(), file)
    return Input(path, kind)


def _changed(value: Any, rng: random.Random) -> Any:
    while True:
        try:
            return json.loads(change_values(json.dumps(value).encode(), rng))
        except (ValueError, RecursionError):
            continue


def _folder(kind: str, mutate: Any, index: int, seed: int, folder: Path) -> Input:
    rng = random.Random(f"{seed} {index}")
    root = folder / kind
    shutil.copytree(original(kind), root)
    target = rng.choice(sorted(path for path in root.rglob("*") if path.is_file()))
    name = target.suffix if kind == "configs" else target.name
    if rng.random() < 0.04:
        target.unlink()
        _replace(target, rng)
    else:
        target.write_bytes(mutate(target, target.read_bytes(), rng))
    if kind == "stores" and rng.random() < 0.9 and (root / "store.json").is_file() and target.name != "store.json":
        # As one who means it would: sizes and samples are those of what is there.
        about = json.loads((root / "store.json").read_text())
        about["bytes"] = {file: (root / file).stat().st_size for file in about["bytes"] if (root / file).is_file()}
        about["samples"] = {}
        (root / "store.json").write_text(json.dumps(about))
    return Input(root if kind != "configs" else target, f"{kind} {name}")


def _mutated_file(path: Path, content: bytes, rng: random.Random) -> bytes:
    if path.suffix == ".json":
        return rng.choice(JSON_MUTATIONS)(content, rng)
    return rng.choice((flip_bytes, flip_bytes, cut))(content, rng)


def _mutated_yaml(path: Path, content: bytes, rng: random.Random) -> bytes:
    if path.suffix != ".yaml":
        return content
    fate = rng.random()
    if fate < 0.4:
        lines = content.decode().splitlines()
        rng.shuffle(lines) if fate < 0.1 else lines.insert(rng.randrange(len(lines) + 1), rng.choice(_LINES))
        return "\n".join(lines).encode()
    return rng.choice((flip_bytes, cut, *TABLE_MUTATIONS[-2:]))(content, rng)


_LINES = (
    "a: &a [*a]", "base: .", "base: ../../../../etc/passwd", "base: [base]", "? [1, 2]", "<<: *x", "base: stage1.yaml",
    "x: !!python/object/apply:os.system ['true']", "- - - -", "a: " + "[" * 3000, "\t\tx: 1", "a: &b {b: *b}",
    "x: 1e999999", "x: 0x" + "f" * 5000, "x: 2026-13-45", "%YAML 9.9", "--- ---",
    "x: &x [1,1,1,1,1,1,1,1]\ny: &y [*x,*x,*x,*x,*x,*x,*x,*x]\nz: &z [*y,*y,*y,*y,*y,*y,*y,*y]\nw: [*z,*z,*z,*z,*z,*z]",
)  # fmt: skip


MAKERS: dict[str, Make] = {
    "checkpoints": make_checkpoint,
    "packages": lambda index, seed, folder, _: _folder("packages", _mutated_file, index, seed, folder),
    "stores": lambda index, seed, folder, _: _folder("stores", _mutated_file, index, seed, folder),
    "configs": lambda index, seed, folder, _: _folder("configs", _mutated_yaml, index, seed, folder),
}


def make(kind: str, index: int, seed: int, folder: Path, corpus: Path | None) -> Input:
    """An input of a kind."""
    return MAKERS[kind](index, seed, folder, corpus)


def read(path: Path) -> None:
    """Reads one as the commands do."""
    if path.name == "stores":
        from gazelit.data.store.store import Store

        store = Store.open(path)
        assert store.size[0] > 0
        assert len(store.letterboxes) == len(store.cases) == len(store.images())
        for table in ("regions", "phrases", "readings", "recordings"):
            store.table(table)
        store.gaze("sample")
        store.masks(0)
    elif path.name == "packages":
        from gazelit.deploy.packages import load_package

        load_package(path)
    elif path.suffix == ".ckpt":
        from gazelit.deploy.inference import load_model

        load_model(path)
    else:
        from gazelit.configs import read_config

        read_config(path)


if __name__ == "__main__":
    arguments = sys.argv[1:]
    at = arguments.index("--kind")
    kind = arguments[at + 1]
    del arguments[at : at + 2]
    sys.exit(main(partial(make, kind), read, __doc__ or "", arguments, megabytes=MEGABYTES))
