"""Mutated tables, transcripts and gaze files through every source.

``python -m tests.fuzz.tables --kind tables|json --count 2000 --seed 0``. Originals come from the synthetic writers; one
file of a dataset is changed, and the dataset is read as ``prepare`` reads it: images, tables, all of the gaze.
"""

from __future__ import annotations

import gzip
import json
import os
import random
import shutil
import sys
import tempfile
from functools import cache
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pyarrow as pa

from gazelit.data.sources import CXRP, EGDCXR, MIMICCXR, REFLACX, Manifest
from gazelit.data.store.schema import Source
from tests.fuzz.driver import Input, main
from tests.fuzz.mutations import JSON_MUTATIONS, TABLE_MUTATIONS, flip_bytes

#: Files of each dataset that are changed, as patterns.
TABLES = {
    "egd-cxr": ("egd-cxr/*.csv",),
    "reflacx": ("reflacx/main_data/*.csv",),
    "mimic-cxr-jpg": ("mimic-cxr-jpg/*.csv*",),
    "manifest": ("manifest/*.csv",),
    "manifest-parquet": ("manifest/*.parquet",),
    "cxr-p": ("train-rle.csv",),
}
JSON = {
    "egd-cxr": ("egd-cxr/audio_segmentation_transcripts/*/transcript.json",),
    "cxr-p": ("gaze.json",),
    "reflacx": ("reflacx/main_data/*/*.csv", "reflacx/gaze_data/*/gaze.csv"),
}


@cache
def original(name: str) -> Path:
    """A small dataset, made once in each process."""
    folder = Path(tempfile.mkdtemp(prefix="fuzz-original-"))
    if name == "cxr-p":
        _write_cxr_p(folder)
        return folder
    from gazelit.synthetic.cohort import write_cohort

    cohort = folder / "cohort"
    write_cohort(cohort, cases=6, format=name.removesuffix("-parquet"), seed=5, max_side=64, workers=1)
    if name == "manifest-parquet":
        for table in (cohort / "manifest").glob("*.csv"):
            pd.read_csv(table).to_parquet(table.with_suffix(".parquet"))
    return cohort


def _write_cxr_p(folder: Path) -> None:
    rng = np.random.default_rng(0)
    records = []
    for number in range(4):
        name = f"1.2.826.0.1.3680043.{number}"
        (folder / "images").mkdir(exist_ok=True)
        cv2.imwrite(str(folder / "images" / f"{name}.png"), rng.integers(0, 255, (64, 48)).astype(np.uint8))
        x, y = rng.uniform(0, 1.05, (2, 30)).round(4).tolist()
        records.append({"image_id": name, "gaze_x": x, "gaze_y": y, "time": rng.integers(1, 8, 30).tolist()})
    (folder / "gaze.json").write_text(json.dumps(records))
    rows = "\n".join(f"{record['image_id']}, {'-1' if number % 2 else '1 2'}" for number, record in enumerate(records))
    (folder / "train-rle.csv").write_text(f"ImageId, EncodedPixels\n{rows}\n")


def source(name: str, root: Path) -> Source:
    """The source of a dataset."""
    both = ("sample", "fixation")
    if name == "egd-cxr":
        return EGDCXR(str(root / "egd-cxr"), str(root / "mimic-cxr"))
    if name == "reflacx":
        return REFLACX(str(root / "reflacx"), str(root / "mimic-cxr"), kinds=both)
    if name == "mimic-cxr-jpg":
        return MIMICCXR(str(root / "mimic-cxr-jpg"))
    if name == "cxr-p":
        return CXRP(str(root / "gaze.json"), str(root / "images"), str(root / "train-rle.csv"))
    suffix = "parquet" if name.endswith("parquet") else "csv"
    tables = [str(root / "manifest" / f"{table}.{suffix}") for table in ("images", "gaze")]
    return Manifest(*tables, labels=["Normal", "CHF"], coordinates="normalised")


def make_table(index: int, seed: int, folder: Path, _: Path | None) -> Input:
    """A dataset with a table changed."""
    return _make(TABLES, index, seed, folder)


def make_json(index: int, seed: int, folder: Path, _: Path | None) -> Input:
    """A dataset with a transcript, or a file of gaze, changed."""
    return _make(JSON, index, seed, folder)


def _make(patterns: dict[str, tuple[str, ...]], index: int, seed: int, folder: Path) -> Input:
    rng = random.Random(f"{seed} {index}")
    name = list(patterns)[index % len(patterns)]
    root = folder / name
    # Links of the file system, not copies: the file that is changed gets one of its own.
    shutil.copytree(original(name), root, copy_function=os.link)
    files = sorted(path for pattern in patterns[name] for path in root.glob(pattern) if path.is_file())
    target = rng.choice(files)
    content = target.read_bytes()
    target.unlink()
    kind = f"{name} {target.stem.removesuffix('.csv') if patterns is TABLES else target.name}"
    fate = rng.random()
    if fate < 0.02:
        _replace(target, rng)
        return Input(root, kind)
    packed = target.suffix == ".gz"
    if packed and rng.random() < 0.9:
        content = gzip.decompress(content)
    mutations = JSON_MUTATIONS if target.suffix == ".json" else TABLE_MUTATIONS
    chosen = flip_bytes if target.suffix == ".parquet" else rng.choice(mutations)
    content = chosen(content, rng)
    if packed and rng.random() < 0.9:
        content = gzip.compress(content)
    target.write_bytes(content)
    return Input(root, kind)


def _replace(target: Path, rng: random.Random) -> None:
    """Nothing, a folder, a link to itself, or a pipe in a file's stead."""
    kind = rng.choice(("nothing", "folder", "loop", "pipe"))
    if kind == "folder":
        target.mkdir()
    elif kind == "loop":
        target.symlink_to(target)
    elif kind == "pipe":
        os.mkfifo(target)


def read(root: Path) -> None:
    """Everything that ``prepare`` reads but the pixels, in the form in which it writes it."""
    recording = source(root.name, root).read()
    recording.check()
    gaze = recording.gaze()
    tables = ("images", "regions", "phrases", "masks", "readings", "recordings")
    for table in [*(getattr(recording, name) for name in tables), gaze]:
        pd.util.hash_pandas_object(table, index=False)
        pa.Table.from_pandas(table)
    valid = gaze[gaze["valid"]]
    assert np.isfinite(valid[["x", "y", "t", "duration"]].to_numpy()).all()
    assert not recording.images[["height", "width"]].isna().any(axis=None)


if __name__ == "__main__":
    arguments = sys.argv[1:]
    kind = "tables"
    if "--kind" in arguments:
        at = arguments.index("--kind")
        kind = arguments[at + 1]
        del arguments[at : at + 2]
    if kind not in ("tables", "json"):
        sys.exit("--kind: tables or json")
    sys.exit(main(make_table if kind == "tables" else make_json, read, __doc__ or "", arguments))
