"""From files to batches: `prepare` against decoding alone, the loader against decoding and blurring per item, memory.

python benchmarks/data.py [--films 12] [--cases 200] [--gaze-rows 1500000]

Films of EGD-CXR's size are simulated once and linked under new ids, so that every case is decoded anew.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

# Heavy libraries are imported where they are used: every spawned worker imports this file, as it would a script.

SIZE = (640, 512)
BATCH = 16
WORKERS = 2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--films", type=int, default=12)
    parser.add_argument("--cases", type=int, default=200)
    parser.add_argument("--gaze-rows", type=int, default=1_500_000)
    options = parser.parse_args()
    from gazelit.synthetic.cohort import write_cohort

    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        gaze_log(root / "gaze", options.gaze_rows)
        write_cohort(root / "cohort", cases=options.films)
        manifest = link_cases(root, root / "plain", options.cases)
        preparation("uncompressed", manifest, root / "plain" / "store", options.cases)
        loading(root / "plain" / "store", manifest)
        compress(root / "cohort" / "mimic-cxr")
        few = max(2, options.cases // 4)
        manifest = link_cases(root, root / "compressed", few)
        preparation("JPEG 2000 lossless", manifest, root / "compressed" / "store", few)


def compress(films: Path) -> None:
    """Makes the films what archives send."""
    import imagecodecs
    import pydicom
    from pydicom.encaps import encapsulate
    from pydicom.uid import JPEG2000Lossless

    for path in films.rglob("*.dcm"):
        dataset = pydicom.dcmread(path)
        stream = imagecodecs.jpeg2k_encode(
            dataset.pixel_array, level=0, reversible=True, codecformat=0, bitspersample=dataset.BitsStored
        )
        dataset.PixelData = encapsulate([stream])
        dataset["PixelData"].VR, dataset["PixelData"].is_undefined_length = "OB", True
        dataset.file_meta.TransferSyntaxUID = JPEG2000Lossless
        dataset.save_as(path)


def link_cases(root: Path, out: Path, cases: int) -> Any:
    """A manifest of the simulated films under new ids, with their fixations."""
    import pandas as pd

    from gazelit.data.sources import Manifest

    sheet = pd.read_csv(root / "cohort" / "egd-cxr" / "master_sheet.csv", dtype=str)
    fixations = pd.read_csv(root / "cohort" / "egd-cxr" / "fixations.csv")
    images, gaze = [], []
    for number in range(cases):
        case = sheet.iloc[number % len(sheet)]
        film = root / "cohort" / "mimic-cxr" / case["path"]
        images.append(
            {
                "image_id": f"c{number}",
                "patient_id": f"p{number}",
                "path": str(film),
                **case[["Normal", "CHF", "pneumonia"]],
            }
        )
        mine = fixations[(fixations["DICOM_ID"] == case["dicom_id"]) & (fixations["X_ORIGINAL"] >= 0)]
        gaze.append(
            pd.DataFrame({"x": mine["X_ORIGINAL"], "y": mine["Y_ORIGINAL"], "duration": mine["FPOGD"]}).assign(
                image_id=f"c{number}", ppd_x=119.0, ppd_y=113.0
            )
        )
    out.mkdir()
    pd.DataFrame(images).to_csv(out / "images.csv", index=False)
    pd.concat(gaze).to_csv(out / "gaze.csv", index=False)
    return Manifest(out / "images.csv", out / "gaze.csv", ["Normal", "CHF", "pneumonia"])


def preparation(kind: str, manifest: Any, out: Path, cases: int) -> None:
    import pandas as pd

    from gazelit.data.store.prepare import prepare

    paths = pd.read_csv(manifest.images)["path"].tolist()
    seconds = {}
    for name, read in (("pydicom", _pydicom), ("gazelit", _gazelit)):
        start = time.perf_counter()
        with ProcessPoolExecutor(WORKERS, initializer=_one_thread) as pool:
            for _ in pool.map(read, paths, chunksize=4):
                pass
        seconds[name] = time.perf_counter() - start
    start, cpu = time.perf_counter(), cpu_seconds()
    prepare(manifest, out, SIZE, workers=WORKERS)
    seconds["prepare"] = time.perf_counter() - start
    busy = (cpu_seconds() - cpu) / seconds["prepare"]
    half, whole = (subprocess_memory(manifest, out.with_name(str(n)), n) for n in (cases // 2, cases))
    print(f"prepare of {cases} {kind} films, {WORKERS} processes: {seconds['prepare']:.1f} s, {busy:.2f} cores busy")
    for name in ("pydicom", "gazelit"):
        ratio = seconds["prepare"] / seconds[name]
        print(f"  decoding alone, {name}: {seconds[name]:.1f} s; prepare takes {ratio:.2f} times that")
    print(f"  largest process: {half:.0f} MB for {cases // 2} cases, {whole:.0f} MB for {cases}")


def _one_thread() -> None:
    import cv2

    cv2.setNumThreads(1)


def _pydicom(path: str) -> float:
    """A film as it is shown, by pydicom's own functions."""
    import pydicom
    from pydicom.pixels import apply_modality_lut, apply_voi_lut

    import gazelit.data.images.codecs  # noqa: F401, the same decoder of JPEG 2000

    dataset = pydicom.dcmread(path)
    shown = apply_voi_lut(apply_modality_lut(dataset.pixel_array, dataset), dataset)
    if dataset.PhotometricInterpretation == "MONOCHROME1":
        shown = shown.max() - shown
    return float(shown[0, 0])


def _gazelit(path: str) -> float:
    from gazelit.data.images.dicom import read_radiograph

    return float(read_radiograph(path).pixels[0, 0])


def cpu_seconds() -> float:
    usage = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(spent.ru_utime + spent.ru_stime for spent in usage)


def subprocess_memory(manifest: Any, out: Path, cases: int) -> float:
    """Peak memory (MB) of `gazelit prepare` on the first cases, the largest of its processes."""
    import pandas as pd

    images = pd.read_csv(manifest.images, dtype=str).head(cases)
    gaze = pd.read_csv(manifest.gaze, dtype=str)
    folder = out.with_name(f"{out.name}-tables")
    folder.mkdir()
    images.to_csv(folder / "images.csv", index=False)
    gaze[gaze["image_id"].isin(images["image_id"])].to_csv(folder / "gaze.csv", index=False)
    command = [
        *("prepare", "--source=Manifest", f"--source.images={folder}/images.csv", f"--source.gaze={folder}/gaze.csv"),
        *(f"--out={out}", f"--size={list(SIZE)}", f"--workers={WORKERS}"),
    ]
    return peak_memory(command)


def peak_memory(arguments: list[str]) -> float:
    """Peak resident memory (MB) of a gazelit command, the largest of its processes."""
    script = (
        "import resource, sys; from gazelit.cli.main import main; code = main(sys.argv[1:]);"
        "print(max(resource.getrusage(w).ru_maxrss for w in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)));"
        "sys.exit(code)"
    )
    run = subprocess.run([sys.executable, "-c", script, *arguments], capture_output=True, text=True, check=True)
    return int(run.stdout.split()[-1]) / 1024


class PerItem:
    """What loaders do without a store: decode the film, blur the fixations at its full size, shrink both."""

    def __init__(self, manifest: Any, cases: int) -> None:
        import pandas as pd

        self.images = pd.read_csv(manifest.images).head(cases)
        self.gaze = dict(list(pd.read_csv(manifest.gaze).groupby("image_id")))

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, row: int) -> tuple[Any, Any]:
        import cv2
        import torch

        from gazelit.data.images.dicom import read_radiograph
        from gazelit.data.images.geometry import Letterbox

        case = self.images.iloc[row]
        pixels = read_radiograph(case["path"]).pixels
        counts = np.zeros(pixels.shape, np.float32)
        points = self.gaze[case["image_id"]]
        x, y = points["x"].to_numpy(), points["y"].to_numpy()
        inside = (x < pixels.shape[1]) & (y < pixels.shape[0])
        np.add.at(counts, (y[inside], x[inside]), points["duration"].to_numpy()[inside])
        blurred = cv2.GaussianBlur(counts, (501, 501), 0)
        box = Letterbox.fit(*pixels.shape, SIZE)
        return torch.from_numpy(box.apply(pixels)), torch.from_numpy(box.apply(blurred))


class Bare:
    """The images of a memory map, as float32, and nothing else."""

    def __init__(self, images: np.ndarray) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, row: int) -> Any:
        import torch

        return torch.from_numpy(self.images[row].astype(np.float32) / 255)[None]


def loading(store: Path, manifest: Any) -> None:
    from torch.utils.data import DataLoader

    from gazelit.data.datamodule import GazeDataModule
    from gazelit.data.options import AugmentationOptions, LoaderOptions
    from gazelit.data.store.store import Store

    def loader(dataset: Any) -> Any:
        return DataLoader(dataset, BATCH, num_workers=WORKERS, persistent_workers=True)

    rates = {}
    for augment in (True, False):
        module = GazeDataModule(
            str(store),
            loader=LoaderOptions(batch_size=BATCH, num_workers=WORKERS),
            augmentation=AugmentationOptions(enabled=augment),
        )
        rates[augment] = per_second(module.train_dataloader(), 8, lambda one, epoch: one.sampler.set_epoch(epoch))
    slow = per_second(loader(PerItem(manifest, 48)), 1)
    bare = per_second(loader(Bare(Store.open(store).images())), 8)
    print(f"loader, {WORKERS} workers: decoding and blurring per item {slow:.1f} images/s")
    print(f"  from the store, augmented {rates[True]:.0f} images/s: {rates[True] / slow:.0f} times")
    print(f"  not augmented {rates[False]:.0f} images/s: {rates[False] / bare:.0%} of a bare memory-mapped read")


def per_second(loader: Any, epochs: int, set_epoch: Any = None) -> float:
    """Images a second over some epochs, after one that starts the workers (unless there is one epoch alone)."""
    count = 0
    start = time.perf_counter()
    for epoch in range(epochs + (epochs > 1)):
        if set_epoch:
            set_epoch(loader, epoch)
        if epoch == 1:
            count, start = 0, time.perf_counter()
        for batch in loader:
            image = batch["image"] if isinstance(batch, dict) else batch[0] if isinstance(batch, list) else batch
            count += len(image)
    return count / (time.perf_counter() - start)


def gaze_log(root: Path, rows: int) -> None:
    """Memory and time of `gazelit prepare` on an ``eye_gaze.csv`` of EGD-CXR's size; the pictures are small."""
    import pandas as pd
    from PIL import Image

    from gazelit.synthetic.cohort import write_cohort

    write_cohort(root / "small", cases=60, max_side=64)
    egd, images = root / "small" / "egd-cxr", root / "small" / "mimic-cxr"
    sheet = pd.read_csv(egd / "master_sheet.csv", dtype=str, keep_default_na=False)
    log = pd.read_csv(egd / "eye_gaze.csv")
    log = log[log["DICOM_ID"].str.len() == 44]
    picture = root / "picture.jpg"
    Image.fromarray(np.zeros((305, 254), np.uint8)).save(picture)
    sheets = []
    copies = -(-rows // len(log))
    for copy in range(copies):
        # Every copy of the log is of other images.
        new = {old: f"{copy:08x}{old[8:]}" for old in sheet["dicom_id"]}
        log.assign(DICOM_ID=log["DICOM_ID"].map(new)).to_csv(
            egd / "eye_gaze.csv", index=False, header=copy == 0, mode="w" if copy == 0 else "a"
        )
        paths = [f"files/p10/p10000000/s50000000/{one}.dcm" for one in new.values()]
        sheets.append(sheet.assign(dicom_id=list(new.values()), path=paths, patient_id=str(copy)))
        for path in paths:
            target = (images / path).with_suffix(".jpg")
            target.parent.mkdir(parents=True, exist_ok=True)
            target.symlink_to(picture)
    pads = {"image_top_pad": "0", "image_bottom_pad": "0", "image_left_pad": "534", "image_right_pad": "534"}
    pd.concat(sheets).assign(**pads).to_csv(egd / "master_sheet.csv", index=False)
    size = (egd / "eye_gaze.csv").stat().st_size / 1e6
    start = time.perf_counter()
    command = ["prepare", "--source=EGDCXR", f"--source.root={egd}", f"--source.images={images}"]
    memory = peak_memory([*command, f"--out={root / 'store'}", "--size=[64, 64]", "--workers=1"])
    seconds = time.perf_counter() - start
    print(
        f"eye_gaze.csv of {copies * len(log):,} rows ({size:.0f} MB) and {len(sheets) * len(sheet):,} small pictures: "
        f"{memory:.0f} MB of memory, {seconds:.0f} s"
    )


if __name__ == "__main__":
    main()
