"""Fixations from samples, saccades, time windows."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gazelit.data.gaze.events import Detection, TimeWindow, clip_to_window, detect_fixations, saccades
from gazelit.errors import InputError

PPD = 40.0


def table(t, x, y=None, duration=None, row=0, reading="r", ppd=PPD):
    t = np.asarray(t, float)
    y = np.zeros(len(t)) if y is None else y
    duration = np.diff(t, append=t[-1] + (t[1] - t[0] if len(t) > 1 else 0.1)) if duration is None else duration
    return pd.DataFrame(
        {"row": row, "reading_id": reading, "t": t, "duration": duration, "x": x, "y": y}
        | {"ppd_x": ppd, "ppd_y": ppd, "valid": True, "kind": "sample"}
    )


def staircase(places, rate, seconds=0.3, noise=0.02, seed=0):
    """Samples that rest at each point (degrees) for a time, with jumps of two samples between the rests."""
    rng = np.random.default_rng(seed)
    each = int(seconds * rate)
    x = np.concatenate(
        [
            np.r_[np.full(each, a), np.linspace(a, b, 4)[1:-1]]
            for a, b in zip(places, [*places[1:], places[-1]], strict=True)
        ]
    )
    x = x + rng.normal(0, noise, len(x))
    return table(np.arange(len(x)) / rate, x * PPD, rng.normal(0, noise, len(x)) * PPD)


@pytest.mark.parametrize("method", ["ivt", "idt"])
@pytest.mark.parametrize(("rate", "noise"), [(60, 0.05), (250, 0.002)])
def test_rests_are_found_where_and_when_they_were(method, rate, noise):
    places = [0.0, 6.0, 2.0, 9.0, 4.0]
    found = detect_fixations(staircase(places, rate, noise=noise), Detection(method))
    assert len(found) == len(places)
    assert np.abs(found["x"] / PPD - places).max() < 0.25
    assert np.abs(found["duration"] - 0.3).max() < 3.5 / rate
    assert (found["kind"] == "fixation").all()
    step = (int(0.3 * rate) + 2) / rate
    assert np.abs(found["t"] - step * np.arange(5)).max() < 3.5 / rate


@pytest.mark.parametrize("method", ["ivt", "idt"])
def test_a_blink_ends_a_fixation(method):
    samples = staircase([0.0], 60, seconds=1.2)
    gone = (samples["t"] > 0.5) & (samples["t"] < 0.7)
    found = detect_fixations(samples[~gone].reset_index(drop=True), Detection(method))
    assert len(found) == 2
    assert found["t"][1] > 0.69


def test_readings_and_cases_do_not_run_together():
    samples = staircase([0.0, 6.0], 60)
    parts = [samples.assign(row=row, reading_id=reading) for row, reading in ((0, "a"), (0, "b"), (1, "c"))]
    found = detect_fixations(pd.concat(parts, ignore_index=True), Detection())
    assert found.groupby(["row", "reading_id"]).size().tolist() == [2, 2, 2]


def test_thresholds_are_in_degrees():
    # With ten times as many pixels per degree, the same pixels are a single rest.
    samples = staircase([0.0, 2.0], 60)
    assert len(detect_fixations(samples, Detection("idt"))) == 2
    assert len(detect_fixations(samples.assign(ppd_x=400.0, ppd_y=400.0), Detection("idt"))) == 1
    with pytest.raises(InputError, match="pixels per degree"):
        detect_fixations(samples.assign(ppd_x=np.nan), Detection())


def test_short_rests_are_not_fixations():
    samples = staircase([0.0, 5.0, 1.0], 250, seconds=0.05, noise=0.001)
    assert len(detect_fixations(samples, Detection(min_duration=0.1))) == 0
    assert len(detect_fixations(samples, Detection(min_duration=0.03))) == 3
    assert detect_fixations(samples.iloc[:0], Detection()).empty


def test_detected_fixations_of_the_synthetic_reader_are_its_fixations(cohort):
    """The simulation's own fixations are as many and as long, within the tracker's noise."""
    from gazelit.data.sources import EGDCXR

    recording = EGDCXR(cohort / "egd-cxr", cohort / "mimic-cxr", point="BPOG").read()
    gaze = recording.gaze()
    gaze = gaze[gaze["valid"]].assign(row=gaze["image_id"].astype("category").cat.codes)
    samples, published = (gaze[gaze["kind"] == kind] for kind in ("sample", "fixation"))
    samples = samples.sort_values(["row", "t"], ignore_index=True)
    # Noise of 0.3° at 60 Hz moves at some 13°/s.
    found = detect_fixations(samples, Detection("idt", dispersion=2.5, min_duration=0.1))
    assert len(found) == pytest.approx(len(published[published["duration"] > 0.1]), rel=0.25)
    assert found["duration"].sum() == pytest.approx(published["duration"].sum(), rel=0.15)


def test_saccades_lie_between_fixations():
    fixations = table([0.0, 0.5, 1.2], [0.0, 80.0, 80.0], np.array([0.0, 0.0, -40.0]), np.array([0.3, 0.4, 0.2]))
    found = saccades(pd.concat([fixations, fixations.assign(row=1)], ignore_index=True))
    assert found["row"].tolist() == [0, 0, 1, 1]
    assert found["t"].tolist()[:2] == pytest.approx([0.3, 0.9])
    assert found["duration"].tolist()[:2] == pytest.approx([0.2, 0.3])
    assert found["amplitude"].tolist()[:2] == pytest.approx([2.0, 1.0])
    # Up on the image is towards smaller y.
    assert found["direction"].tolist()[:2] == pytest.approx([0.0, 90.0])


FIXATIONS = table([0.1, 0.6, 1.5], [1.0, 2.0, 3.0], duration=np.array([0.4, 0.8, 0.5]))
NO_PHRASES = pd.DataFrame({"row": [], "reading_id": [], "text": [], "begin": [], "end": []})


def test_first_and_last_seconds_cut_fixations_at_the_limit():
    first = clip_to_window(FIXATIONS, TimeWindow(first=1.0), NO_PHRASES)
    assert first["duration"].tolist() == pytest.approx([0.4, 0.5])
    last = clip_to_window(FIXATIONS, TimeWindow(last=1.0), NO_PHRASES)
    assert last["duration"].tolist() == pytest.approx([0.4, 0.5])
    assert last["x"].tolist() == [2.0, 3.0]
    # The reading ends at 2.0 s.
    assert last["t"].tolist() == pytest.approx([1.0, 1.5])


def test_during_a_phrase_of_the_same_reading():
    phrases = pd.DataFrame(
        [
            (0, "r", "There is a focal Consolidation.", 0.3, 0.7),
            (0, "r", "consolidation again", 0.6, 0.8),
            (0, "other", "consolidation", 1.5, 2.0),
            (0, "r", "no effusion", 1.5, 2.0),
        ],
        columns=["row", "reading_id", "text", "begin", "end"],
    )
    inside = clip_to_window(FIXATIONS, TimeWindow(phrase="consolidation"), phrases)
    # 0.3 to 0.8 s, the overlap of the two phrases once.
    assert inside["duration"].tolist() == pytest.approx([0.2, 0.2])
    assert inside["t"].tolist() == pytest.approx([0.3, 0.6])
    assert clip_to_window(FIXATIONS, TimeWindow(phrase="fracture"), phrases).empty


@settings(max_examples=40, deadline=None)
@given(st.floats(0.05, 5), st.lists(st.floats(0.01, 0.6), min_size=1, max_size=12))
def test_a_window_and_the_rest_add_up(seconds, durations):
    durations = np.array(durations)
    gaze = table(np.cumsum(durations) - durations, np.zeros(len(durations)), duration=durations)
    total = durations.sum()
    first = clip_to_window(gaze, TimeWindow(first=seconds), NO_PHRASES)["duration"].sum()
    assert first == pytest.approx(min(seconds, total))
    if seconds < total:
        last = clip_to_window(gaze, TimeWindow(last=total - seconds), NO_PHRASES)["duration"].sum()
        assert first + last == pytest.approx(total)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: TimeWindow(), "exactly one"),
        (lambda: TimeWindow(first=1, last=1), "exactly one"),
        (lambda: TimeWindow(first=0), "window.first: must be above 0"),
        (lambda: TimeWindow(phrase="("), "no regular expression"),
        (lambda: Detection(velocity=0), "velocity: must be above 0"),
    ],
)
def test_wrong_options(make, message):
    with pytest.raises(InputError, match=message):
        make()
