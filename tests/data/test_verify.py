"""A store is as it was written, or the changed films are named."""

import json
import shutil

import numpy as np
import pytest

from gazelit.data.store.store import Store
from gazelit.errors import InputError


@pytest.fixture
def copy(store, tmp_path):
    shutil.copytree(store, tmp_path / "copy")
    return tmp_path / "copy"


def test_an_untouched_store_is_verified(store, run_gazelit):
    assert "files as they were written, 24 cases" in run_gazelit("verify", str(store))


def test_finding_d5_zeros_in_the_images_are_found_and_the_films_named(copy, run_gazelit):
    # One byte of row 3 and all of rows 10 to 12; a film has 4,096 pixels after a header of 128 bytes.
    with (copy / "images.npy").open("r+b") as file:
        file.seek(128 + 3 * 4096 + 2000)
        byte = file.read(1)
        file.seek(-1, 1)
        file.write(bytes([byte[0] ^ 1]))
        file.seek(128 + 10 * 4096)
        file.write(bytes(3 * 4096))
    printed = run_gazelit("verify", str(copy), code=2)
    assert "images.npy: 4 of 24 films differ: rows 3, 10–12" in printed
    assert "1 file differs from what was written" in printed


def test_finding_d5_opening_a_store_notices_damage_that_samples_meet(copy):
    with (copy / "images.npy").open("r+b") as file:
        file.seek(128)
        file.write(bytes(90_000))
    with pytest.raises(InputError, match=r"images\.npy: its content is not what was written; .gazelit verify"):
        Store.open(copy)


def test_finding_d5_damaged_tables_and_masks_are_named(copy, run_gazelit):
    masks = np.load(copy / "masks.npy", mmap_mode="r+")
    masks[5, 3, 3] ^= 1
    masks.flush()
    content = bytearray((copy / "gaze.parquet").read_bytes())
    content[len(content) // 2] ^= 1
    (copy / "gaze.parquet").write_bytes(content)
    (copy / "phrases.parquet").unlink()
    printed = run_gazelit("verify", str(copy), code=2)
    assert "masks.npy: 1 masks differ, of the cases in rows 1" in printed
    assert "gaze.parquet: differs" in printed
    assert "phrases.parquet: is missing" in printed


def test_finding_d5_damaged_digests_are_reported(copy, run_gazelit):
    (copy / "digests.json").write_text("{}")
    assert "digests.json: is missing or differs" in run_gazelit("verify", str(copy), code=2)


def test_finding_d5_a_store_without_digests_is_one_line_and_opens(copy, run_gazelit):
    about = json.loads((copy / "store.json").read_text())
    for name in ("sha256", "samples", "digests"):
        del about[name]
    (copy / "store.json").write_text(json.dumps(about))
    assert "was prepared before digests were recorded" in run_gazelit("verify", str(copy), code=2)
    assert len(Store.open(copy).cases) == 24
