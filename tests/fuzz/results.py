"""Checkpoints, packages, stores, features and configurations, as a stranger may hand them on.

Some have damaged bytes, which their digests reveal. Most are whole and hold something else, with digests computed
again, so that digests are no defence.
"""

from __future__ import annotations

import contextlib
import io
import json
import random
import shutil
from collections.abc import Callable, Iterator
from functools import cache, partial
from pathlib import Path
from typing import Any

from tests.fuzz.mutations import JSON_MUTATIONS, TABLE_MUTATIONS, change_values, cut, flip_bytes
from tests.fuzz.targets import Kind, Mutation, Target, UnfitError, Workspace, remove

_BYTES: tuple[Mutation, ...] = (flip_bytes, flip_bytes, cut)


# Checkpoints


def checkpoints(folder: Path) -> list[Target]:
    """A checkpoint: its bytes and, sealed again, its stamp, its weights and its guard against films unlike training."""
    from tests.release.models import checkpoint

    path = folder / "whole.ckpt"
    checkpoint(path)
    content, put = path.read_bytes(), partial(_put, folder / "a.ckpt")
    loaded = _loaded(content)
    stamp = json.dumps(loaded["gazelit"]).encode()
    guards = json.dumps(_guards(loaded["gazelit"]["data"]["class_names"])).encode()
    edits = json.dumps([0, 0, False]).encode()
    sealed: tuple[tuple[str, bytes, Callable[[Path, bytes, bytes], Path], Mutation], ...] = (
        ("stamp", stamp, _put_stamp, _still_json),
        ("guards", guards, _put_guards, _still_json),
        ("weights", edits, _put_weights, _other_weights),
    )
    return [
        Target("checkpoint, bytes", content, put, _BYTES, folder / "a.ckpt"),
        *(
            Target(f"checkpoint, {name}", whole, partial(write, folder / "a.ckpt", content), (change,))
            for name, whole, write, change in sealed
            for _ in range(2)
        ),
    ]


def _put(path: Path, content: bytes) -> Path:
    remove(path)
    path.write_bytes(content)
    return path


@cache
def _loaded(content: bytes) -> dict[str, Any]:
    import torch

    loaded: dict[str, Any] = torch.load(io.BytesIO(content), weights_only=True)
    return loaded


def _put_stamp(path: Path, whole: bytes, stamp: bytes) -> Path:
    try:
        changed = json.loads(stamp)
    except (ValueError, RecursionError) as error:
        raise UnfitError("a stamp is plain values") from error
    return _sealed(path, _loaded(whole) | {"gazelit": changed})


def _guards(classes: list[str]) -> dict[str, Any]:
    import numpy as np

    from gazelit.deploy.guards import RANGES, SIDE, Conformal, FilmDensity, Guards

    cells = np.zeros(SIDE * SIDE, np.float32)
    density = FilmDensity(cells, cells[:, None], np.ones(1, np.float32), 1.0, 2.0, 0.01, (9, 5))
    sets = Conformal(0.9, dict.fromkeys(classes, 0.5), dict.fromkeys(classes, 20), "val")
    return Guards(density, dict.fromkeys(RANGES, (0.0, 1.0)), sets).to_primitives()


def _put_guards(path: Path, whole: bytes, guards: bytes) -> Path:
    from gazelit.checkpoints.stamps import GUARDS_KEY

    try:
        changed = json.loads(guards)
    except (ValueError, RecursionError) as error:
        raise UnfitError("guards are plain values") from error
    return _sealed(path, _loaded(whole) | {GUARDS_KEY: changed})


def _put_weights(path: Path, whole: bytes, edit: bytes) -> Path:
    import torch

    state = dict(_loaded(whole)["state_dict"])
    try:
        position, form, renamed = json.loads(edit)
        name = list(state)[int(position) % len(state)]
        tensor = state[name]
        forms = (
            tensor.double, lambda: tensor.to(torch.complex64), lambda: tensor[..., None], lambda: tensor.flatten()[:0],
            tensor.bool, lambda: tensor * float("nan"), tensor.to_sparse, lambda: torch.zeros(1).expand(10**6),
            lambda: "text", lambda: None, tensor.tolist, lambda: torch.zeros(1).expand(2**20, 2**20),
            lambda: torch.quantize_per_tensor(tensor.float(), 0.1, 0, torch.quint8), lambda: tensor.to("meta"),
            lambda: {"a": tensor}, tensor.half, lambda: torch.ones(tensor.shape, dtype=torch.int64),
        )  # fmt: skip
        state[name] = forms[int(form) % len(forms)]()
        if renamed:
            state[f"{name}.x"] = state.pop(name)
    except (ValueError, TypeError, RecursionError, OverflowError) as error:
        raise UnfitError("an edit is a weight, a form, and whether it is renamed") from error
    return _sealed(path, _loaded(whole) | {"state_dict": state})


def _other_weights(_: bytes, rng: random.Random) -> bytes:
    return json.dumps([rng.randrange(10**6), rng.randrange(10**6), rng.random() < 0.2]).encode()


def _still_json(content: bytes, rng: random.Random) -> bytes:
    return change_values(content, rng)


def _sealed(path: Path, checkpoint: dict[str, Any]) -> Path:
    import torch

    from gazelit.checkpoints.seal import write_sealed

    buffer = io.BytesIO()
    try:
        torch.save(checkpoint, buffer)
    except Exception as error:
        raise UnfitError("torch does not write it") from error
    remove(path)
    with path.open("wb") as file:
        write_sealed(buffer.getbuffer(), file)
    return path


def read_checkpoint(path: Path) -> None:
    """Reads a checkpoint as ``infer`` does, and uses its guards."""
    import numpy as np

    from gazelit.deploy.inference import load_model

    model = load_model(path)
    if model.guards is not None:
        model.guards.density.score(np.zeros(model.size, np.float32))
        model.guards.prediction_set(dict.fromkeys(model.class_names, 0.5), model.is_exclusive)


# Packages


def packages(folder: Path) -> list[Target]:
    """A package: each of its files, with checksums that are computed again or not."""
    from gazelit.release.package import package
    from tests.release.models import checkpoint

    whole = folder / "originals"
    whole.mkdir()
    checkpoint(whole / "a.ckpt")
    package(str(whole / "a.ckpt"), whole / "package")
    return list(_files(whole / "package", folder / "package", _adjust_package))


def _adjust_package(workspace: Workspace, changed: str) -> None:
    """Computes every digest again, as an attacker would."""
    if changed == "SHA256SUMS":
        return
    from gazelit.checkpoints.stamps import STAMP_KEY
    from gazelit.files import sha256_file

    root = workspace.root
    for path in sorted(root.glob("*.json")):
        if path.name == changed:
            continue
        about = json.loads(path.read_text())
        if isinstance(about, dict) and isinstance(about.get("sha256"), str) and STAMP_KEY in about:
            about["sha256"] = sha256_file(root / "model.safetensors")
            workspace.replace(path.name, json.dumps(about).encode())
    sums = root / "SHA256SUMS"
    lines = [
        f"{sha256_file(root / line.split('  ', 1)[1])}  {line.split('  ', 1)[1]}"
        for line in sums.read_text().splitlines()
    ]
    workspace.replace("SHA256SUMS", "".join(f"{line}\n" for line in lines).encode())


def read_package(path: Path) -> None:
    """Reads a package as ``infer`` and ``verify`` do."""
    from gazelit.deploy.packages import load_package
    from gazelit.files import read_checksums

    read_checksums(path / "SHA256SUMS")
    load_package(path)


# Stores


def stores(folder: Path) -> list[Target]:
    """A store and a folder of features: each of their files, with sizes and samples adjusted or not."""
    from gazelit.data.sources import EGDCXR
    from gazelit.data.store.features import write_features
    from gazelit.data.store.prepare import prepare
    from gazelit.synthetic.cohort import write_cohort

    whole = folder / "originals"
    write_cohort(whole / "cohort", cases=3, seed=5, max_side=64, workers=1)
    source = EGDCXR(str(whole / "cohort" / "egd-cxr"), str(whole / "cohort" / "mimic-cxr"))
    prepare(source, whole / "store", (32, 32), workers=1)
    write_features(whole / "features", _request(), (4,), lambda start: [_rows()[start:]])
    return [
        *_files(whole / "store", folder / "store", _adjust_store),
        *_files(whole / "features", folder / "features", None),
    ]


def _request() -> Any:
    from gazelit.data.store.features import FeatureRequest

    return FeatureRequest("pooled", "float32", "f" * 64, 3, 1, {"name": "res-se", "options": {"widths": [2]}}, "e" * 64)


def _rows() -> Any:
    import numpy as np

    return np.arange(12, dtype=np.float32).reshape(3, 4)


def _adjust_store(workspace: Workspace, changed: str) -> None:
    if changed == "store.json":
        return
    about = json.loads((workspace.root / "store.json").read_text())
    about["bytes"] = {name: (workspace.root / name).stat().st_size for name in about["bytes"]}
    about["samples"] = {}
    workspace.replace("store.json", json.dumps(about).encode())


def read_store(path: Path) -> None:
    """Reads a store as trainings, ``inspect`` and ``verify`` do."""
    import numpy as np

    from gazelit.data.store.features import open_features
    from gazelit.data.store.store import Store
    from gazelit.data.store.verify import verify_store

    if path.name == "features":
        np.asarray(open_features(path, _request())).sum()
        return
    store = Store.open(path)
    assert store.size[0] > 0
    assert len(store.letterboxes) == len(store.cases) == len(store.images())
    for table in ("regions", "phrases", "readings", "recordings"):
        store.table(table)
    store.gaze("sample")
    store.masks(0)
    verify_store(path)


# Configurations


def configs(folder: Path) -> list[Target]:
    """The shipped configurations."""
    from gazelit.configs import config_root

    shutil.copytree(config_root(), folder / "originals", ignore=shutil.ignore_patterns("sweeps"))
    workspace = Workspace(folder / "originals", folder / "configs")
    found = []
    for path in sorted(workspace.original.rglob("*.yaml")):
        name = str(path.relative_to(workspace.original))
        put = partial(_put_config, workspace, name)
        found.append(Target("configuration", path.read_bytes(), put, _YAML, workspace.root / name))
    return found


def _put_config(workspace: Workspace, name: str, content: bytes) -> Path:
    return workspace.put(name, content) / name


def _other_lines(content: bytes, rng: random.Random) -> bytes:
    lines = content.decode().splitlines()
    if rng.random() < 0.2:
        rng.shuffle(lines)
    else:
        lines.insert(rng.randrange(len(lines) + 1), rng.choice(_LINES))
    return "\n".join(lines).encode()


_LINES = (
    "a: &a [*a]", "base: .", "base: ../../../../etc/passwd", "base: [base]", "? [1, 2]", "<<: *x", "base: stage1.yaml",
    "x: !!python/object/apply:os.system ['true']", "- - - -", "a: " + "[" * 3000, "\t\tx: 1", "a: &b {b: *b}",
    "x: 1e999999", "x: 0x" + "f" * 5000, "x: 2026-13-45", "%YAML 9.9", "--- ---", "base: /dev/zero", "base: /dev/stdin",
    "x: " + "1:" * 2000 + "1", "x: " + "9" * 100_000, "x: 190:20:30.15", "? " * 3000, "a: |\n" + "  x\n" * 2000,
    "x: !!binary " + "A" * 10_000, "x: !!set {a, b}", "x: !!omap [a: 1]", "x: !!float nan", "\u2028x: 1", "x: \x00",
    "x: &x [1,1,1,1,1,1,1,1]\ny: &y [*x,*x,*x,*x,*x,*x,*x,*x]\nz: &z [*y,*y,*y,*y,*y,*y,*y,*y]\nw: [*z,*z,*z,*z,*z,*z]",
)  # fmt: skip
_YAML: tuple[Mutation, ...] = (_other_lines, _other_lines, flip_bytes, cut, *TABLE_MUTATIONS[-3:])


def read_configuration(path: Path) -> None:
    """Reads a configuration as every command with ``--config`` does: merges it and checks its names."""
    from gazelit import trust
    from gazelit.configs import read_config
    from gazelit.errors import InputError
    from gazelit.parsing import read_saved

    content = read_config(path)
    with contextlib.suppress(InputError):
        read_saved(path)
    with trust.trust_until_end():
        trust.trust_names(content, str(path))


def _files(whole: Path, root: Path, adjust: Callable[[Workspace, str], None] | None) -> Iterator[Target]:
    """Each file of a folder, as bytes, and with digests adjusted three times as often."""
    workspace = Workspace(whole, root)
    for path in sorted(path for path in whole.rglob("*") if path.is_file()):
        name = str(path.relative_to(whole))
        mutations = JSON_MUTATIONS if path.suffix == ".json" else _BYTES
        for adjustment in (None, adjust, adjust, adjust) if adjust is not None else (None,):
            put = partial(_put_adjusted, workspace, name, adjustment)
            yield Target(f"{root.name} {name}", path.read_bytes(), put, mutations, root / name)


def _put_adjusted(
    workspace: Workspace, name: str, adjust: Callable[[Workspace, str], None] | None, content: bytes
) -> Path:
    root = workspace.put(name, content)
    if adjust is not None:
        adjust(workspace, name)
    return root


KINDS = {
    "checkpoints": Kind(checkpoints, read_checkpoint),
    "packages": Kind(packages, read_package),
    "stores": Kind(stores, read_store),
    "configs": Kind(configs, read_configuration),
}
