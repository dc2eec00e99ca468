"""No film can end `prepare`, and films that were decoded are not lost."""

import logging
import os
import shutil
import time
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from gazelit.data.images.decoding import decode
from gazelit.data.images.guard import Workers
from gazelit.data.sources import EGDCXR
from gazelit.data.store import films as films_module
from gazelit.data.store.prepare import prepare
from gazelit.data.store.store import Store
from gazelit.errors import InputError


@pytest.fixture
def tree(cohort, tmp_path):
    """A copy of the cohort that a test may spoil."""
    shutil.copytree(cohort, tmp_path / "tree")
    return tmp_path / "tree"


def films(root):
    return sorted((root / "mimic-cxr").rglob("*.dcm"))


def prepared(root, out, **options):
    return prepare(EGDCXR(root / "egd-cxr", root / "mimic-cxr"), out, **{"size": (64, 64), "workers": 1, **options})


def hostile(job, **options):
    """A decoder that crashes or hangs on films that end in a word."""
    end = Path(job[0]).read_bytes()[-5:]
    if end == b"CRASH":
        os.abort()
    if end == b"HANG!":
        time.sleep(60)
    return decode(job, **options)


@pytest.mark.parametrize("workers", [1, 2])
def test_finding_g2_films_that_crash_or_hang_the_decoder_are_left_out_by_name(
    tree, cohort, store, tmp_path, monkeypatch, workers
):
    bad = {films(tree)[4].stem: b"CRASH", films(tree)[9].stem: b"HANG!"}
    for path in films(tree):
        path.write_bytes(path.read_bytes() + bad.get(path.stem, b""))
    monkeypatch.setattr(films_module, "decode", hostile)
    monkeypatch.setattr(films_module, "Workers", partial(Workers, seconds=2))
    made = prepared(tree, tmp_path / "made", workers=workers)
    skipped = pd.read_csv(made.path / "skipped.csv").set_index("image_id")["reason"]
    assert set(skipped.index) == set(bad)
    assert skipped[films(tree)[4].stem].endswith("the decoder crashed (SIGABRT)")
    assert skipped[films(tree)[9].stem].endswith("could not be decoded within 2 s")
    whole = Store.open(store)
    intact = ~whole.cases["image_id"].isin(bad)
    assert np.array_equal(made.images(), whole.images()[intact])
    before = (made.path / "store.json").stat().st_mtime_ns
    prepared(tree, tmp_path / "made", workers=workers)
    assert (made.path / "store.json").stat().st_mtime_ns == before


def bytes_of(store):
    return {path.name: path.read_bytes() for path in sorted(store.iterdir())}


def test_finding_c8_strict_and_later_errors_keep_decoded_films(tree, tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("gazelit"), "propagate", True)
    caplog.set_level(logging.INFO)
    bad = films(tree)[3]
    good = bad.read_bytes()
    bad.write_bytes(good[:-5000] + bytes(100))
    with pytest.raises(InputError, match=rf"1 cases cannot be used; the first: .*{bad.stem}.*pixels cannot be decoded"):
        prepared(tree, tmp_path / "s", strict=True)
    partial_store = tmp_path / ".s-partial"
    assert bad.stem in (partial_store / "skipped.csv").read_text()
    # A drive is gone for a while.
    (tree / "mimic-cxr").rename(tree / "gone")
    with pytest.raises(InputError):
        prepared(tree, tmp_path / "s")
    (tree / "gone").rename(tree / "mimic-cxr")
    shutil.copytree(partial_store, tmp_path / ".again-partial")
    caplog.clear()
    prepared(tree, tmp_path / "s")
    assert "going on after 24 of 24 cases" in caplog.text
    # The film is repaired: the others are not decoded again, and the store is as if the film had been whole at once.
    bad.write_bytes(good)
    caplog.clear()
    prepared(tree, tmp_path / "again", strict=True)
    assert "23 films are taken over" in caplog.text
    assert bytes_of(tmp_path / "again") == bytes_of(prepared(tree, tmp_path / "whole").path)
    assert not list(tmp_path.glob(".*"))


def test_finding_c8_another_request_reuses_decoded_films(tree, tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("gazelit"), "propagate", True)
    caplog.set_level(logging.INFO)
    films(tree)[3].write_bytes(b"no film")
    with pytest.raises(InputError):
        prepared(tree, tmp_path / "s", strict=True)
    films(tree)[3].unlink()
    films(tree)[7].write_bytes(films(tree)[8].read_bytes())
    caplog.clear()
    prepared(tree, tmp_path / "s", require_gaze=False)
    assert bytes_of(tmp_path / "s") == bytes_of(prepared(tree, tmp_path / "whole", require_gaze=False).path)


def test_finding_d9_a_film_replaced_by_one_of_the_same_size_is_noticed(tree, tmp_path):
    prepared(tree, tmp_path / "s")
    first = films(tree)[0]
    content, times = bytearray(first.read_bytes()), first.stat()
    os.utime(first)
    prepared(tree, tmp_path / "s")
    content[-1] ^= 0xFF
    first.write_bytes(content)
    with pytest.raises(
        InputError, match="other data or options: the content of 1 of its 120 films and masks has changed"
    ):
        prepared(tree, tmp_path / "s")
    os.utime(first, ns=(times.st_atime_ns, times.st_mtime_ns))
    with pytest.raises(InputError, match="the content of 1 of its 120 films"):
        prepared(tree, tmp_path / "s")
    names = [path.stem for path in films(tree)]
    assert not [name for name in names if name in (tmp_path / "s" / "films.csv").read_text()]


def test_finding_b3_the_log_holds_no_path_and_no_id(tree, tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("gazelit"), "propagate", True)
    caplog.set_level(logging.INFO)
    broken, missing = films(tree)[2], films(tree)[6]
    broken.write_bytes(broken.read_bytes()[:-5000])
    missing.unlink()
    prepared(tree, tmp_path / "s")
    assert "left out 1" in caplog.text
    assert "left out 1 (rows 2 of images)" in caplog.text
    for path in (broken, missing):
        assert not [part for part in path.relative_to(tree).parts[2:] if part in caplog.text]


def test_films_of_more_pixels_than_allowed_are_left_out(tree, tmp_path):
    with pytest.raises(
        InputError, match=r"no case is left of 24; first reason: .*over the limit of 1000 \(--max_pixels\)"
    ):
        prepared(tree, tmp_path / "s", max_pixels=1000)
    with pytest.raises(InputError, match="max_pixels: must be at least 1"):
        prepared(tree, tmp_path / "s", max_pixels=0)
