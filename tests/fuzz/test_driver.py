"""The fuzz driver sees every way in which a reader can fail, and goes on."""

import os
import time
from collections import Counter

from gazelit.errors import InputError
from tests.fuzz.driver import Input, run, table

WAYS = ("accepted", "refused", "traceback", "crash", "hang", "memory", "wait")
#: The driver's name for each failure.
RESULTS = dict(zip(WAYS, WAYS, strict=True)) | {"wait": "hang"}


def make(index, seed, folder, corpus):
    path = folder / f"{index}.txt"
    path.write_text(WAYS[index % len(WAYS)])
    return Input(path, "a kind")


def read(path):
    way = path.read_text()
    if way == "refused":
        raise InputError(f"{path}: no")
    if way == "traceback":
        raise KeyError(way)
    if way == "crash":
        os.abort()
    if way == "hang":
        while True:
            pass
    if way == "wait":
        time.sleep(60)
    if way == "memory":
        return len(bytearray(os.urandom(1)) * 300_000_000)
    return None


def test_every_failure_is_recorded_and_the_run_goes_on(tmp_path):
    limits = {"seconds": 0.3, "megabytes": 250, "patience": 2}
    outcomes = list(run(make, read, 9, workers=1, keep=tmp_path / "kept", **limits))
    assert [outcome.index for outcome in outcomes] == list(range(9))
    assert all(outcome.result == RESULTS[WAYS[outcome.index % len(WAYS)]] for outcome in outcomes)
    assert Counter(path.name.split("-")[1] for path in (tmp_path / "kept").iterdir()) == Counter(
        ["traceback.txt", "crash.txt", "hang.txt", "hang.txt", "memory.txt"]
    )
    assert "a kind" in table(outcomes)
