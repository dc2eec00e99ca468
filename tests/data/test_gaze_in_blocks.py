"""Gaze that is read in blocks of cases equals gaze that is read whole, and takes only the memory of a block."""

import tracemalloc

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gazelit.data import working_gaze
from gazelit.data.gaze.events import TimeWindow
from gazelit.data.gaze_data import GazeData
from gazelit.data.options import GazeOptions, LoaderOptions
from gazelit.data.store.store import Store
from gazelit.data.working_gaze import GazeInBlocks, WorkingGaze, gaze_in_order
from gazelit.errors import InputError
from gazelit.evaluation.yardsticks import yardsticks


def beside(store, folder, gaze, rows):
    """A copy of a store with another table of gaze, in row groups of ``rows`` rows."""
    folder.mkdir()
    for file in store.iterdir():
        if file.is_file() and file.name != "gaze.parquet":
            (folder / file.name).symlink_to(file)
    schema = pq.read_schema(store / "gaze.parquet")
    pq.write_table(pa.Table.from_pandas(gaze, schema, preserve_index=False), folder / "gaze.parquet", rows)
    return folder


@pytest.fixture(scope="module")
def several_readings(store, tmp_path_factory):
    """Cases of three readings each; all cases have the same names of readings, in different orders."""
    gaze = pq.read_table(store / "gaze.parquet").to_pandas().sort_values(["row", "t"], kind="stable")
    gaze = gaze.reset_index(drop=True)
    third = (gaze.groupby("row").cumcount() * 3 // gaze.groupby("row")["t"].transform("size")).to_numpy()
    names = np.array(["a", "b", "c"])[(third + 2 * gaze["row"].to_numpy()) % 3]
    # The rows are in no order of cases or times.
    gaze = gaze.assign(reading_id=names, reader_id=names).sample(frac=1, random_state=0)
    return beside(store, tmp_path_factory.mktemp("blocks") / "s", gaze, 150)


@pytest.fixture
def small_blocks(monkeypatch):
    monkeypatch.setattr(working_gaze, "BLOCK_ROWS", 200)


@pytest.mark.parametrize(
    "options",
    [
        GazeOptions(),
        GazeOptions(kind="sample", readings="equal", weight="count"),
        GazeOptions(kind="detected", sigma=12, sigma_unit="image_px"),
        GazeOptions(window=TimeWindow(last=1.5)),
    ],
)
def test_blocks_of_cases_have_the_gaze_of_the_whole_table(several_readings, small_blocks, options):
    store = Store.open(several_readings, check=False)
    whole, parts = WorkingGaze.of(store, options, 2), gaze_in_order(store, options, 2)
    assert isinstance(parts, GazeInBlocks)
    cases = np.arange(len(store.cases))
    assert any(len(np.unique(whole.of_case(case).reading)) > 1 for case in cases)
    for case in [*cases, *np.random.default_rng(0).permutation(cases)]:
        for found, expected in zip(parts.of_case(case), whole.of_case(case), strict=True):
            assert found.dtype == expected.dtype
            np.testing.assert_array_equal(found, expected)


def test_little_gaze_or_gaze_by_phrase_is_read_whole(several_readings, monkeypatch):
    store = Store.open(several_readings, check=False)
    assert isinstance(gaze_in_order(store, GazeOptions(), 1), WorkingGaze)
    monkeypatch.setattr(working_gaze, "BLOCK_ROWS", 200)
    by_phrase = GazeOptions(window=TimeWindow(phrase="heart"))
    assert isinstance(gaze_in_order(store, by_phrase, 1), WorkingGaze)


def test_a_full_disk_gives_an_error_that_says_what_to_do(several_readings, small_blocks, monkeypatch):
    def full():
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("tempfile.TemporaryFile", full)
    gaze = gaze_in_order(Store.open(several_readings, check=False), GazeOptions(), 1)
    with pytest.raises(InputError, match=r"No space left on device.*TMPDIR"):
        gaze.of_case(0)


def test_yardsticks_over_blocks_are_those_over_the_whole_and_read_no_film(several_readings, monkeypatch):
    monkeypatch.setattr(Store, "images", lambda self: pytest.fail("a film was read"))
    # Films with the same pixels are searched for once, when a store is first split.
    monkeypatch.setattr("gazelit.data.splits.case_split.pixel_hashes", lambda store: np.full(len(store.cases), b""))
    monkeypatch.setattr("gazelit.data.store.store._check", lambda path, about: None)
    loader = LoaderOptions(num_workers=0, batch_size=5)
    whole = GazeData(str(several_readings), loader=loader)
    expected = yardsticks(whole), whole.provenance
    monkeypatch.setattr(working_gaze, "BLOCK_ROWS", 200)
    parts = GazeData(str(several_readings), loader=loader)
    assert (yardsticks(parts), parts.provenance) == expected
    assert isinstance(whole.cohort.gaze, WorkingGaze)
    assert isinstance(parts.cohort.gaze, GazeInBlocks)
    assert parts.reader_names == ("a", "b", "c")


def test_a_pass_over_gaze_in_order_takes_the_memory_of_a_block(store, tmp_path, monkeypatch):
    gaze = pq.read_table(store / "gaze.parquet").to_pandas().query("kind == 'fixation' and valid")
    gaze = gaze.loc[gaze.index.repeat(400)].sort_values("row", kind="stable")
    opened = Store.open(beside(store, tmp_path / "s", gaze, 5000), check=False)
    monkeypatch.setattr(working_gaze, "BLOCK_ROWS", 5000)
    peaks = {}
    for read in (WorkingGaze.of, gaze_in_order):
        tracemalloc.start()
        points = read(opened, GazeOptions(), 1)
        seconds = sum(float(points.of_case(case).points[:, 2].sum()) for case in range(len(opened.cases)))
        peaks[read] = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert seconds == pytest.approx(gaze["duration"].sum(), rel=1e-4)
    # All points alone take 28 bytes each.
    assert peaks[WorkingGaze.of] > 28 * len(gaze)
    assert peaks[gaze_in_order] < peaks[WorkingGaze.of] / 4
