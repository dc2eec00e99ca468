"""`prepare` where nothing has changed against making the store, and augmentation against a mask that is warped.

python benchmarks/bench.py --only data_path
"""

from __future__ import annotations

import atexit
import logging
import shutil
import tempfile
from pathlib import Path

import cv2
import numpy as np
from measure import Workload

from gazelit.data.images.transforms import Augmentation
from gazelit.data.sources import REFLACX
from gazelit.data.store.inputs import INPUTS_FILE
from gazelit.data.store.prepare import prepare
from gazelit.synthetic.cohort import write_cohort

FILMS = 6


def workloads() -> list[Workload]:
    return [preparing(), augmenting()]


def preparing() -> Workload:
    """REFLACX: six films of full size, each with two readings of 1 kHz; one process decodes."""
    folder = Path(tempfile.mkdtemp())
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    logging.getLogger("gazelit").setLevel(logging.WARNING)
    write_cohort(folder / "cohort", cases=FILMS, format="reflacx", workers=1)
    source = REFLACX(
        str(folder / "cohort" / "reflacx"), str(folder / "cohort" / "mimic-cxr"), kinds=("sample", "fixation")
    )
    store = folder / "store"

    def anew() -> None:
        shutil.rmtree(store, ignore_errors=True)
        prepare(source, store, workers=1)

    def read_again() -> None:
        (store / INPUTS_FILE).unlink()
        prepare(source, store, workers=1)

    ways = {
        "made anew": anew,
        "up to date, by reading all of it": read_again,
        "up to date": lambda: prepare(source, store, workers=1),
    }
    return Workload("prepare", ways)


def augmenting() -> Workload:
    """Ten images of 640 × 512 with a letterbox and 45 fixations: albumentations with the mask as an image."""
    rng = np.random.default_rng(0)
    image = cv2.GaussianBlur(rng.integers(0, 256, (640, 512)).astype(np.uint8), (0, 0), 3)
    mask = np.zeros((640, 512), bool)
    mask[:, 20:490] = True
    points = np.column_stack([rng.uniform(0, 511, 45), rng.uniform(0, 639, 45), np.ones(45)]).astype(np.float32)
    sigma = np.full((45, 2), 15, np.float32)
    augmentation = Augmentation()

    def warped() -> None:
        for seed in range(10):
            augmentation._compose.set_random_seed(seed)
            augmentation._compose(image=image[..., None], mask=mask.astype(np.uint8), keypoints=points[:, :2])

    def as_numbers() -> None:
        for seed in range(10):
            augmentation(image, mask, points, sigma, seed)

    return Workload("augmentation", {"mask warped by albumentations": warped, "gazelit": as_numbers})
