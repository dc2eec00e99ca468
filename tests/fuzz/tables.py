"""Tables, transcripts and gaze files of every source: a file of a small dataset is changed and the dataset is read.

Originals come from the synthetic writers and from the layouts that published code reads. The dataset is read as
``prepare`` reads it: images, tables and all gaze.
"""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import cv2
import h5py
import numpy as np
import pandas as pd
import pyarrow as pa

from gazelit.data.sources import (
    CXRP,
    EGDCXR,
    MIMICCXR,
    REFLACX,
    EyeAssist,
    GazeIntent,
    GazeSearch,
    GazeVaLM,
    Manifest,
    Pysaliency,
)
from gazelit.data.splits.by_patient import load_split
from gazelit.data.store.schema import Source
from gazelit.evaluation.asynchrony import read_curve
from gazelit.metrics.scanpath.regions import load_clusters
from tests.fuzz.mutations import JSON_MUTATIONS, TABLE_MUTATIONS, cut, flip_bytes
from tests.fuzz.targets import Kind, Mutation, Target, Workspace

#: Number of rows that a table keeps; more rows give the same coverage and take longer.
ROWS = 40
#: What is read of a variant of REFLACX: one reading a phase, all its files or the fixations alone.
REFLACX_VARIANTS: dict[str, tuple[tuple[int, ...], tuple[str, ...]]] = {
    "reflacx-metadata": ((1, 2, 3), ("fixation",)),
    "reflacx-reading": ((2,), ("sample", "fixation")),
}
#: Files of each dataset that are changed, as patterns, by kind.
PATTERNS: dict[str, dict[str, tuple[str, ...]]] = {
    "tables": {
        "egd-cxr": ("egd-cxr/*.csv",),
        "reflacx-metadata": ("reflacx/main_data/*.csv",),
        "mimic-cxr-jpg": ("mimic-cxr-jpg/*.csv*",),
        "manifest": ("manifest/*.csv",),
        "manifest-parquet": ("manifest/*.parquet",),
        "cxr-p": ("train-rle.csv",),
        "gazevalm": ("*/*.csv", "*/*/*.csv"),
        "eyeassist": ("*.csv", "*/*.csv"),
        "pysaliency": ("*.hdf5",),
        "single": ("split.csv", "curve.csv"),
    },
    "json": {
        "egd-cxr": ("egd-cxr/audio_segmentation_transcripts/*/transcript.json",),
        "cxr-p": ("gaze.json",),
        "reflacx-reading": ("reflacx/main_data/*/*.csv", "reflacx/gaze_data/*/gaze.csv"),
        "gazeintent": ("gaze.json",),
        "gazesearch": ("gaze.json",),
        "single": ("clusters.json",),
    },
}


def original(name: str, folder: Path) -> Path:
    """Writes a small dataset."""
    writers: dict[str, Callable[[Path], None]] = {
        "cxr-p": _write_cxr_p, "gazevalm": _write_gazevalm, "eyeassist": _write_eyeassist, "single": _write_single,
        "gazeintent": _write_searches, "gazesearch": _write_searches, "pysaliency": _write_pysaliency,
    }  # fmt: skip
    if name in writers:
        folder.mkdir(parents=True)
        writers[name](folder)
        return folder
    from gazelit.synthetic.cohort import write_cohort

    layout = re.sub("-(parquet|metadata|reading)$", "", name)
    write_cohort(folder, cases=3, format=layout, seed=5, max_side=64, workers=1)  # type: ignore[arg-type]
    for path in folder.rglob("*.csv"):
        _shorten(path)
    for path in list(folder.rglob("transcript.json"))[1:]:
        path.unlink()
    if layout == "reflacx":
        _keep_readings(folder / "reflacx", *REFLACX_VARIANTS[name])
    if name == "manifest-parquet":
        for table in (folder / "manifest").glob("*.csv"):
            pd.read_csv(table).to_parquet(table.with_suffix(".parquet"))
    return folder


def _shorten(path: Path) -> None:
    """Leaves out rows of a table evenly, so that rows of all films and of the calibration stay."""
    lines = path.read_text().splitlines(keepends=True)
    if path.name.startswith("metadata_phase"):
        # Each row is a reading with its own files.
        path.write_text("".join(lines[:2]))
    elif len(lines) > 2 * ROWS:
        path.write_text("".join([lines[0], *lines[1 :: len(lines) // ROWS]]))


def _keep_readings(folder: Path, phases: tuple[int, ...], kinds: tuple[str, ...]) -> None:
    """Removes the files that the variant does not read, so that every changed file is read."""
    names = {f"metadata_phase_{phase}.csv" for phase in phases}
    listed: set[str] = set()
    for path in sorted(folder.glob("main_data/metadata_phase_*.csv")):
        if path.name in names:
            listed |= set(pd.read_csv(path, dtype=str)["id"])
        else:
            path.unlink()
    for path in [*folder.glob("main_data/*/*.csv"), *folder.glob("gaze_data/*/*.csv")]:
        if path.parent.name not in listed or ("sample" not in kinds and path.name != "fixations.csv"):
            path.unlink()


def _film(path: Path, height: int, width: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), np.random.default_rng(0).integers(0, 255, (height, width)).astype(np.uint8))


def _write_cxr_p(folder: Path) -> None:
    rng = np.random.default_rng(0)
    records = []
    for number in range(3):
        name = f"1.2.826.0.1.3680043.{number}"
        _film(folder / "images" / f"{name}.png", 64, 48)
        x, y = rng.uniform(0, 1.05, (2, 12)).round(4).tolist()
        records.append({"image_id": name, "gaze_x": x, "gaze_y": y, "time": rng.integers(1, 8, 12).tolist()})
    (folder / "gaze.json").write_text(json.dumps(records))
    rows = "\n".join(f"{record['image_id']}, {'-1' if number % 2 else '1 2'}" for number, record in enumerate(records))
    (folder / "train-rle.csv").write_text(f"ImageId, EncodedPixels\n{rows}\n")


def _write_gazevalm(folder: Path) -> None:
    for task in ("Task1", "Task2"):
        for kind in ("real", "fake"):
            rows = [f"{reader},{540 + 27 * number},270,{200 + number}" for reader in ("R1", 2) for number in range(4)]
            (folder / task / f"{kind}_013").mkdir(parents=True)
            text = "participant_id,x,y,duration_ms\n" + "\n".join(rows) + "\n"
            (folder / task / f"{kind}_013" / "scanpaths.csv").write_text(text)
            _film(folder / "images" / f"{kind}_013.png", 40, 40)
        (folder / task / "expert_results.csv").write_text("File Name, R1 ,2\na.png,1,0\n")


def _write_eyeassist(folder: Path) -> None:
    for shift, (state, reader) in enumerate((("Expert", "expert1"), ("General", "generalist1"))):
        rows = [
            f"{case}.jpg,{1000 + shift + 100 * number},1400,{250 + number},{number + 1}"
            for case in (1, 2)
            for number in range(4)
        ]
        (folder / state).mkdir()
        names = "Source_File,CURRENT_FIX_X,CURRENT_FIX_Y,CURRENT_FIX_DURATION,CURRENT_FIX_INDEX\n"
        (folder / state / f"{reader}_fixations.csv").write_text(names + "\n".join(rows) + "\n")
    for case in (1, 2):
        _film(folder / "images" / f"{case}.jpg", 56, 40)
    (folder / "cases.csv").write_text(
        "case_id,patient_id,image_path,width,height,label,include\n"
        "1.jpg,p1,images/1.jpg,2000,2800,1,1\n2.jpg,p2,images/2.jpg,2000,2800,0,1\n3.jpg,p2,images/3.jpg,2000,2800,1,0\n"
    )


def _write_searches(folder: Path) -> None:
    """A file of GazeIntent, which is one of GazeSearch with a key more, over MIMIC-CXR-JPG."""
    from gazelit.synthetic.cohort import write_cohort

    write_cohort(folder / "cohort", cases=3, format="mimic-cxr-jpg", seed=5, max_side=64, workers=1)
    metadata = pd.read_csv(folder / "cohort" / "mimic-cxr-jpg" / "mimic-cxr-2.0.0-metadata.csv.gz", dtype=str)
    records = [
        {
            "name": f"{film}.jpg", "subject": 1, "task": ("edema", "lung opacity")[number % 2], "condition": "present",
            "bbox": [0, 0, 0, 0], "X": [10, 20, 30], "Y": [20, 30, 40], "T": [0.3, 0.2, 0.1], "length": 3,
            "fixOnTarget": True, "correct": 1, "split": ("train", "valid", "test")[number % 3],
            "findings": [["edema", "edema", "null"], ["null", "atelectasis", "null"]],
        }
        for number, film in enumerate(metadata["dicom_id"][:4])
    ]  # fmt: skip
    (folder / "gaze.json").write_text(json.dumps(records))


def _write_pysaliency(folder: Path) -> None:
    for number in range(2):
        _film(folder / f"{number}.png", 40, 32)
    # The layouts that tests/data/test_pysaliency_files.py compares with pysaliency's own.
    with h5py.File(folder / "stimuli.hdf5", "w") as file:
        file.attrs["type"], file.attrs["version"] = "FileStimuli", "2.1"
        file.create_dataset("filenames", data=["0.png", "1.png"], dtype=h5py.string_dtype())
    with h5py.File(folder / "fixations.hdf5", "w") as file:
        file.attrs["type"], file.attrs["version"] = "ScanpathFixations", "1.0"
        group = file.create_group("scanpaths")
        for name in ("xs", "ys", "fixation_attributes/ts", "fixation_attributes/durations"):
            group.create_dataset(name, data=np.array([[1.5, 9.0, 12.0], [2.0, 3.0, np.nan]]))
        group.create_dataset("n", data=np.array([0, 1]))
        group.create_dataset("length", data=np.array([3, 2]))
        group.create_dataset("scanpath_attributes/subject", data=np.array([0, 1]))


def _write_single(folder: Path) -> None:
    (folder / "split.csv").write_text(
        "image_id,patient_id,study_id,split\n"
        + "".join(f"i{n},p{n},s{n},{('train', 'val', 'test')[n % 3]}\n" for n in range(9))
    )
    (folder / "curve.csv").write_text("epoch,train/loss,val/loss\n0,1.5,1.4\n1,1.2,1.3\n")
    (folder / "clusters.json").write_text(json.dumps({"a": {"bandwidth": 3.5, "centres": [[1.0, 2.0], [3.0, 4.0]]}}))


def source(name: str, root: Path) -> Source:
    """The source of a dataset."""
    if name == "egd-cxr":
        return EGDCXR(str(root / "egd-cxr"), str(root / "mimic-cxr"))
    if name in REFLACX_VARIANTS:
        phases, kinds = REFLACX_VARIANTS[name]
        return REFLACX(str(root / "reflacx"), str(root / "mimic-cxr"), phases=phases, kinds=kinds)  # type: ignore[arg-type]
    if name == "mimic-cxr-jpg":
        return MIMICCXR(str(root / "mimic-cxr-jpg"))
    if name == "cxr-p":
        return CXRP(str(root / "gaze.json"), str(root / "images"), str(root / "train-rle.csv"))
    if name == "gazevalm":
        return GazeVaLM(str(root))
    if name == "eyeassist":
        return EyeAssist(str(root), str(root / "cases.csv"))
    if name in ("gazeintent", "gazesearch"):
        return (GazeIntent if name == "gazeintent" else GazeSearch)(
            str(root / "gaze.json"), str(root / "cohort" / "mimic-cxr-jpg")
        )
    if name == "pysaliency":
        return Pysaliency(str(root / "fixations.hdf5"), str(root / "stimuli.hdf5"))
    suffix = "parquet" if name.endswith("parquet") else "csv"
    tables = [str(root / "manifest" / f"{table}.{suffix}") for table in ("images", "gaze")]
    return Manifest(*tables, labels=["Normal", "CHF"], coordinates="normalised")


def targets(kind: str, folder: Path) -> list[Target]:
    """The files of all datasets that are changed."""
    return [target for name in PATTERNS[kind] for target in _targets_of_dataset(kind, name, folder)]


def _targets_of_dataset(kind: str, name: str, folder: Path) -> Iterator[Target]:
    workspace = Workspace(original(name, folder / "originals" / name), folder / name)
    found = sorted(
        path for pattern in PATTERNS[kind][name] for path in workspace.original.glob(pattern) if path.is_file()
    )
    for path in found:
        inner = str(path.relative_to(workspace.original))
        name_of_file = path.name.split(".")[0] if path.suffix in (".csv", ".gz") else path.name
        row = f"{name} {name_of_file.removesuffix('_fixations')}"
        mutations: tuple[Mutation, ...] = (flip_bytes, flip_bytes, cut)
        content, put = path.read_bytes(), partial(workspace.put, inner)
        if path.suffix == ".gz":
            yield Target(f"{row}, packed", content, put, mutations, workspace.root / inner)
            content, put = gzip.decompress(content), partial(_put_packed, workspace, inner)
        if path.suffix in (".csv", ".gz", ".json"):
            mutations = JSON_MUTATIONS if path.suffix == ".json" else TABLE_MUTATIONS
        yield Target(row, content, put, mutations, workspace.root / inner)


def _put_packed(workspace: Workspace, name: str, content: bytes) -> Path:
    return workspace.put(name, gzip.compress(content, 1))


def read(root: Path) -> None:
    """Reads everything that ``prepare`` reads except pixels, in the form in which it writes it."""
    if root.name == "single":
        ids = [f"i{number}" for number in range(9)]
        images = pd.DataFrame({"image_id": ids, "patient_id": ids, "study_id": ids})
        read_curve(root / "curve.csv")
        load_clusters(root / "clusters.json")
        load_split(root / "split.csv", images)
        return
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


KINDS = {kind: Kind(partial(targets, kind), read) for kind in PATTERNS}
