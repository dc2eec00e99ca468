"""`prepare` where nothing has changed, against making the store.

python benchmarks/bench.py --only data_path
"""

from __future__ import annotations

import atexit
import logging
import shutil
import tempfile
from pathlib import Path

from measure import Workload

from gazelit.data.sources import REFLACX
from gazelit.data.store.inputs import INPUTS_FILE
from gazelit.data.store.prepare import prepare
from gazelit.synthetic.cohort import write_cohort

FILMS = 6


def workloads() -> list[Workload]:
    return [preparing()]


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
