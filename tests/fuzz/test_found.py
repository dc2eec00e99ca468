"""Faults that the fuzzers found, each with a small input: it gives one line, quickly, and takes little memory."""

import gzip
import json
import os
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gazelit.configs import read_config
from gazelit.data import csv_stream
from gazelit.data.sources import REFLACX
from gazelit.data.sources.egd_screen import whole_screens
from gazelit.data.sources.manifest_tables import read_manifest_chunks, read_manifest_table
from gazelit.data.sources.pysaliency import _stimuli
from gazelit.data.sources.reflacx import META_COLUMNS
from gazelit.data.splits.by_patient import load_split
from gazelit.data.store.digests import item_digests
from gazelit.data.tables import read_chunks, read_text
from gazelit.deploy.dicom.endpoint import Certificates
from gazelit.deploy.guards import Guards
from gazelit.errors import InputError
from gazelit.files import read_checksums
from gazelit.metrics.scanpath.paths import Paths, check_size
from gazelit.metrics.scanpath.regions import load_clusters
from gazelit.models.network import rebuild

TEXT = {"id": "str", "x": "float64"}


def chunks(path):
    return list(read_chunks(path, TEXT, "data"))


@pytest.mark.parametrize("end", ["\n", "\r", "\r\n"])
def test_a_huge_cell_is_named_by_record_and_column(tmp_path, end, monkeypatch):
    rows = ["id,x", *(f"a{number},1" for number in range(50_000))]
    path = tmp_path / "gaze.csv"
    path.write_text(end.join([*rows, ""]), newline="")
    assert sum(map(len, chunks(path))) == 50_000
    path.write_text(end.join([*rows, "y" * 100_000 + ",1", ""]), newline="")
    expected = r"gaze\.csv: record 50001: id is longer than 65536 bytes" if "\n" in end else "longer than 65536 bytes"
    for reading in (chunks, lambda path: read_text(path, TEXT, "data")):
        with pytest.raises(InputError, match=expected):
            reading(path)


def test_records_that_are_long_all_and_an_open_quote_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(csv_stream, "LARGEST_CHUNK", 2**21)
    path = tmp_path / "gaze.csv"
    path.write_text("id,x\n" + f"{'y' * 60_000},1\n" * 100)
    with pytest.raises(InputError, match=r"gaze\.csv: its records are too long"):
        chunks(path)
    path.write_text('id,x\n"a,1\n' + "b,2\n" * 2**20)
    with pytest.raises(InputError, match=r"gaze\.csv: its records are too long.*quote that is not closed"):
        chunks(path)


def test_a_packed_bomb_and_archives_are_refused_and_packed_tables_read(tmp_path, monkeypatch):
    path = tmp_path / "gaze.csv.gz"
    path.write_bytes(gzip.compress(b"id,x\na,1\n"))
    assert len(chunks(path)[0]) == 1
    monkeypatch.setattr(csv_stream, "UNPACKED_FREE", 2**16)
    path.write_bytes(gzip.compress(b"id,x\n" + b"a,1\n" * 2**20))
    with pytest.raises(InputError, match="unpacks to more than 100 times its size"):
        chunks(path)
    with pytest.raises(InputError, match="is an archive"):
        read_text(tmp_path / "gaze.zip", TEXT, "data")


def test_a_pipe_in_the_stead_of_a_split_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "split.csv")
    with pytest.raises(InputError, match="is no file"):
        load_split(tmp_path / "split.csv", pd.DataFrame({"image_id": ["a"]}))
    with pytest.raises(InputError, match="is no file"):
        load_split("/dev/zero", pd.DataFrame({"image_id": ["a"]}))


def test_a_table_without_rows_has_no_screens():
    empty = pd.DataFrame({"DICOM_ID": pd.Series([], dtype=str)})
    assert [len(screen) for screen in whole_screens(iter([empty]))] == [0]


def test_an_array_whose_header_is_broken_python_is_damaged(tmp_path):
    np.save(tmp_path / "a.npy", np.zeros(4))
    content = (tmp_path / "a.npy").read_bytes()
    (tmp_path / "a.npy").write_bytes(content.replace(b"'shape': (4,)", b"'shape': ((((").replace(b"}", b" "))
    with pytest.raises(InputError, match="cannot be read as an array"):
        item_digests(tmp_path / "a.npy")


def test_a_base_whose_name_no_file_can_have_is_not_there(tmp_path):
    (tmp_path / "a.yaml").write_text("base: " + "y" * 5000)
    with pytest.raises(InputError, match="no such configuration file"):
        read_config(tmp_path / "a.yaml")


def test_a_small_parquet_file_may_not_hold_any_number_of_rows(tmp_path):
    pq.write_table(pa.table({"x": pa.array(np.zeros(10**6))}), tmp_path / "a.parquet")
    with pytest.raises(InputError, match="claims more rows than it has bytes"):
        read_manifest_table(tmp_path / "a.parquet")
    with pytest.raises(InputError, match="claims more rows than it has bytes"):
        next(read_manifest_chunks(tmp_path / "a.parquet"))


def test_a_small_hdf5_file_may_not_claim_any_number_of_values(tmp_path):
    with h5py.File(tmp_path / "a.hdf5", "w") as file:
        file.attrs["type"], file.attrs["version"] = "FileStimuli", "2.1"
        file.create_dataset("filenames", shape=(10**12,), dtype="i8", chunks=(1024,))
    with pytest.raises(InputError, match=r"a\.hdf5: claims 1000000000000 values"):
        _stimuli(tmp_path / "a.hdf5")


def test_a_header_with_thousands_of_labels_is_read_without_a_frame_for_each(tmp_path, monkeypatch):
    frames = []
    made = pd.DataFrame.__init__
    monkeypatch.setattr(pd.DataFrame, "__init__", lambda self, *a, **k: (frames.append(1), made(self, *a, **k))[1])
    folder = tmp_path / "main_data" / "P1"
    folder.mkdir(parents=True)
    labels = [f"label {number}" for number in range(3000)]
    header = ",".join(["xmin", "ymin", "xmax", "ymax", "certainty", *labels])
    marks = ["TRUE" if number in (7, 2999) else "False" for number in range(3000)]
    (folder / "anomaly_location_ellipses.csv").write_text(f"{header}\n1,2,3,4,5,{','.join(marks)}\n")
    readings = pd.DataFrame({"reading_id": ["P1"], "image_id": ["a"]})
    regions = REFLACX(str(tmp_path), str(tmp_path))._regions(readings)
    assert list(regions["name"]) == ["label 7", "label 2999"]
    assert regions[["x1", "y1", "x2", "y2", "certainty"]].to_numpy().tolist() == [[1, 2, 3, 4, 5]] * 2
    assert len(frames) < 100


def test_metadata_with_thousands_of_labels_is_refused_before_each_is_read(tmp_path):
    (tmp_path / "main_data").mkdir()
    header = ",".join([*META_COLUMNS, *(f"label {number}" for number in range(4000))])
    (tmp_path / "main_data" / "metadata_phase_1.csv").write_text(f"{header}\n")
    with pytest.raises(InputError, match=r"metadata_phase_1\.csv: has 4000 label columns"):
        REFLACX(str(tmp_path), str(tmp_path), phases=(1,)).read()


def test_numbers_that_no_float_holds_are_refused_as_others(tmp_path):
    huge = 10**400
    (tmp_path / "clusters.json").write_text(json.dumps({"a": {"bandwidth": huge, "centres": [[1.0, 2.0]]}}))
    with pytest.raises(InputError, match="holds no clusters"):
        load_clusters(tmp_path / "clusters.json")
    density = {"mean": [0], "components": [], "variances": [], "noise": huge}
    with pytest.raises(InputError, match="its guards are malformed"):
        Guards.from_primitives({"density": density}, "a.ckpt", [])
    with pytest.raises(InputError, match="size: must be"):
        check_size((huge, 1))
    with pytest.raises(InputError, match="holds what is no scanpath"):
        Paths.of([[[huge, 1, 1]]], "predicted")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: !!float\n", "no readable YAML"),
        ("a: !!bool perhaps\n", "no readable YAML"),
        (f"base: {'x' * 300}/a.yaml\n", "no such configuration file"),
    ],
)
def test_values_without_a_number_and_names_too_long_are_refused(tmp_path, text, said):
    (tmp_path / "a.yaml").write_text(text)
    with pytest.raises(InputError, match=said):
        read_config(tmp_path / "a.yaml")


def test_a_base_whose_name_has_lines_is_missed_in_one_line(tmp_path):
    (tmp_path / "a.yaml").write_text("base: nowhere/a.yaml x\n\n  x\n\n  x\n")
    with pytest.raises(InputError, match="no such configuration file") as refused:
        read_config(tmp_path / "a.yaml")
    assert "\n" not in str(refused.value)


def test_a_device_in_the_stead_of_checksums_is_not_read():
    with pytest.raises(InputError, match="/dev/zero: is missing, or no regular file"):
        read_checksums(Path("/dev/zero"))


@pytest.mark.parametrize("width", [2**63, 10**400])
def test_a_network_of_a_size_that_no_integer_of_torch_holds_is_one_line(width):
    small = {"name": "res-se", "options": {"widths": [4, 4, 8, 8]}, "weights": None}
    wide = {**small, "options": {"widths": [width, 4, 8, 8]}}
    for arguments, said in (
        ({"encoder": wide}, "encoder 'res-se': options do not fit"),
        ({"encoder": small, "classes": width}, "the arguments of gazelit.models.ClassificationNetwork do not fit"),
    ):
        with pytest.raises(InputError) as refused:
            rebuild({"class_path": "gazelit.models.ClassificationNetwork", "init_args": arguments}, "a.ckpt")
        assert said in str(refused.value)
        assert "\n" not in str(refused.value)


@pytest.mark.parametrize("name", ["certificate", "key", "authority"])
def test_a_pipe_in_the_stead_of_a_certificate_is_not_waited_for(tmp_path, name):
    os.mkfifo(tmp_path / "a.pem")
    (tmp_path / "b.pem").touch()
    files = {"certificate": tmp_path / "b.pem", name: tmp_path / "a.pem"}
    with pytest.raises(InputError, match=r"a\.pem: no such file"):
        Certificates(**files).server("127.0.0.1", "host")
