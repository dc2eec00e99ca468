"""A manifest's gaze is read in pieces of bounded size, and equals the gaze of the table read whole."""

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from gazelit.data.sources import Manifest
from gazelit.data.sources.manifest_tables import read_manifest_chunks, read_manifest_table
from gazelit.data.store import gaze_rows
from gazelit.data.store.gaze_rows import GazeRows
from gazelit.data.store.prepare import prepare
from gazelit.data.store.schema import GAZE_COLUMNS, Recording
from gazelit.errors import InputError

IMAGES, ROWS, BLOCK = 12, 400, 40


@pytest.fixture
def small_pieces(monkeypatch):
    """Chunks and blocks of few rows."""
    monkeypatch.setattr("gazelit.data.tables.CHUNK_ROWS", 33)
    monkeypatch.setattr("gazelit.data.sources.manifest_tables.CHUNK_ROWS", 33)
    monkeypatch.setattr("gazelit.data.sources.manifest_gaze.BLOCK_ROWS", BLOCK)


@pytest.fixture
def manifest(tmp_path):
    """Rows of all readings in any order; one image is missing, one has no gaze."""
    rng = np.random.default_rng(3)
    ids = [f"i{number}" for number in range(IMAGES)]
    for name in ids[:-1]:
        Image.fromarray(rng.integers(0, 255, (64, 96), dtype=np.uint8)).save(tmp_path / f"{name}.png")
    pd.DataFrame({"image_id": ids, "patient_id": ids, "path": [f"{name}.png" for name in ids]}).to_csv(
        tmp_path / "images.csv", index=False
    )
    image = rng.integers(1, IMAGES, ROWS)
    gaze = pd.DataFrame(
        {
            "image_id": np.array(ids)[image],
            "x": rng.uniform(-5, 100, ROWS).round(1),
            "y": rng.uniform(-5, 70, ROWS).round(1),
            "duration": rng.uniform(0.1, 0.4, ROWS),
            "kind": rng.choice(["fixation", "sample", "peer"], ROWS),
            "reading_id": np.where(rng.random(ROWS) < 0.6, np.char.add("r", image.astype(str)), ""),
            "reader_id": rng.choice(["a", "b"], ROWS),
        }
    )
    gaze.to_csv(tmp_path / "gaze.csv", index=False)
    return tmp_path, gaze


def expected(gaze):
    """The expected gaze, computed from the whole table with pandas only."""
    gaze = gaze.assign(reading_id=gaze["reading_id"].where(gaze["reading_id"] != "", gaze["image_id"]))
    groups = gaze.groupby(["reading_id", "kind"])["duration"]
    gaze = gaze.assign(t=groups.cumsum() - gaze["duration"])
    gaze = gaze.sort_values(["reading_id", "kind", "t"], kind="stable", ignore_index=True)
    return gaze[gaze["image_id"] != f"i{IMAGES - 1}"].reset_index(drop=True)


def test_gaze_in_pieces_is_that_of_the_whole_table(manifest, small_pieces):
    folder, gaze = manifest
    recording = Manifest(folder / "images.csv", folder / "gaze.csv").read()
    pieces = list(recording.gaze_parts())
    # A block is full before its last reading begins.
    assert max(map(len, pieces)) < BLOCK + gaze["reading_id"].value_counts().iloc[1:].max()
    assert len(pieces) > 3
    together, whole = pd.concat(pieces, ignore_index=True), expected(gaze)
    for column in ("image_id", "reading_id", "reader_id", "kind", "x", "y", "duration"):
        assert together[column].tolist() == whole[column].tolist()
    assert together["t"].to_numpy() == pytest.approx(whole["t"].to_numpy(), abs=1e-12)
    inside = whole["x"].between(-0.5, 95.5, "left") & whole["y"].between(-0.5, 63.5, "left")
    assert together["valid"].tolist() == inside.tolist()
    assert recording.notes["gaze_rows_of_images_left_out"] == (gaze["image_id"] == f"i{IMAGES - 1}").sum()
    first = whole.drop_duplicates("reading_id")
    assert recording.readings["reader_id"].tolist() == first["reader_id"].tolist()
    assert recording.readings["image_id"].tolist() == first["image_id"].tolist()


def test_faults_are_those_of_the_whole_table(manifest, small_pieces):
    folder, gaze = manifest
    gaze.loc[[5, 350], "x"] = np.inf
    gaze.loc[200, "kind"] = "gaze"
    gaze.loc[[10, 300], "reading_id"] = "shared"
    gaze.loc[[10, 300], "image_id"] = ["i1", "i2"]
    gaze.loc[120, "image_id"] = "i99"
    gaze.to_csv(folder / "gaze.csv", index=False)
    reading = gaze["reading_id"].where(gaze["reading_id"] != "", gaze["image_id"])
    apart = np.flatnonzero(gaze["image_id"].groupby(reading).transform("nunique") > 1)
    assert {10, 300} <= set(apart)
    faults = Manifest(folder / "images.csv", folder / "gaze.csv").faults()
    assert [fault.split(": ", 1)[1] for fault in faults] == [
        "record 6: x is not a number",
        "record 351: x is not a number",
        "record 201: kind is none of sample, fixation, peer",
        *(f"record {row + 1}: reading_id belongs to several images" for row in apart),
        "record 121: image_id is not in images.csv",
    ]


def test_pieces_make_the_store_of_the_whole_table(manifest, small_pieces, monkeypatch, tmp_path):
    folder, _ = manifest
    monkeypatch.setattr(gaze_rows, "GROUP_ROWS", 100)
    source = Manifest(folder / "images.csv", folder / "gaze.csv")
    made = prepare(source, tmp_path / "store", (64, 64), workers=1)
    table = pd.concat(source.read().gaze_parts(), ignore_index=True)
    row = pd.Index(made.cases["image_id"]).get_indexer(table["image_id"]).astype(np.int32)
    table.insert(0, "row", row)
    file = pq.ParquetFile(made.path / "gaze.parquet")
    schema = file.schema_arrow
    with pq.ParquetWriter(tmp_path / "whole.parquet", schema, compression="zstd") as writer:
        writer.write_table(pa.Table.from_pandas(table, schema, preserve_index=False), row_group_size=100)
    assert (made.path / "gaze.parquet").read_bytes() == (tmp_path / "whole.parquet").read_bytes()
    assert file.num_row_groups == -(-len(table) // 100)


def test_each_table_of_a_source_begins_a_row_group(tmp_path):
    """Stores keep the bytes that they had before tables were read in pieces."""
    images = pd.DataFrame({"image_id": ["a", "b"]})

    def table(image, rows):
        about = {"image_id": image, "reading_id": image, "kind": "fixation", "valid": True, "duration": 0.2}
        return pd.DataFrame({**dict.fromkeys(GAZE_COLUMNS, np.nan), **about, "x": 1.0, "y": 1.0, "t": range(rows)})

    recording = Recording(
        images, [], lambda: iter([table("a", 3), table("b", 0), iter([table("b", 2), table("b", 4)])])
    )
    (tmp_path / "work").mkdir()
    rows = GazeRows.spool(recording, tmp_path)
    counts, _ = rows.write(np.array([1]), tmp_path)
    groups = pq.ParquetFile(tmp_path / "gaze.parquet").metadata
    assert [groups.row_group(number).num_rows for number in range(groups.num_row_groups)] == [0, 0, 6]
    assert counts["fixations"] == counts["valid"] == 6


def test_a_parquet_table_in_chunks_has_the_text_of_the_whole_one(tmp_path, small_pieces):
    rng = np.random.default_rng(0)
    blank = rng.random(100) < 0.05
    table = pd.DataFrame(
        {
            "image_id": pd.array(range(100), dtype="Int64"),
            "reading_id": pd.array(np.where(np.arange(100) == 90, None, np.arange(100)), dtype="Int64"),
            "x": np.where(blank, np.nan, rng.random(100)),
            "valid": pd.array(np.where(blank, None, rng.random(100) < 0.5), dtype="boolean"),
            "when": pd.Series(pd.date_range("2020-01-01", periods=100)).where(~blank),
        }
    )
    table.to_parquet(tmp_path / "t.parquet")
    chunks = list(read_manifest_chunks(tmp_path / "t.parquet"))
    assert max(map(len, chunks)) == 33
    whole = read_manifest_table(tmp_path / "t.parquet")
    pd.testing.assert_frame_equal(pd.concat(chunks, ignore_index=True), whole, check_dtype=False)
    assert whole["reading_id"].iloc[0] == "0.0"


def test_damaged_chunks_are_one_error(tmp_path):
    pq.write_table(pa.table([["a"], ["b"]], names=["x", "x"]), tmp_path / "t.parquet")
    with pytest.raises(InputError, match="cannot be read as Parquet"):
        list(read_manifest_chunks(tmp_path / "t.parquet"))
    (tmp_path / "t.csv").write_text("x,y\n1,2,3\n")
    with pytest.raises(InputError, match="more fields than its header"):
        list(read_manifest_chunks(tmp_path / "t.csv"))
