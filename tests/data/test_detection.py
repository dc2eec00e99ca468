"""I-VT and I-DT against what pymovements found in the same recordings."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from gazelit.data.gaze.detection import dispersion_events, velocity_events
from gazelit.data.gaze.events import Detection, detect_fixations

ORACLE = json.loads((Path(__file__).parent / "oracles" / "pymovements_events.json").read_text())
RECORDINGS = {entry["name"]: entry for entry in ORACLE["recordings"]}


def arrays(entry):
    return np.array(entry["degrees"]), np.array(entry["ticks"]) / 1e6


@pytest.mark.parametrize("name", RECORDINGS)
def test_finding_g10_ivt_finds_what_pymovements_found(name):
    degrees, t = arrays(RECORDINGS[name])
    for expected in (found for found in RECORDINGS[name]["found"] if found["method"] == "ivt"):
        first, last = velocity_events(degrees, t, np.array([0, len(t)]), expected["velocity"])
        # pymovements leaves out events shorter than a tick, which are single samples.
        spans = [[a, b] for a, b in zip(first.tolist(), last.tolist(), strict=True) if b > a]
        assert spans == expected["spans"]


@pytest.mark.parametrize("name", RECORDINGS)
def test_finding_g10_idt_finds_what_pymovements_found(name):
    """The results agree but for the sample that ends a fixation, which pymovements counts as part of it."""
    degrees, t = arrays(RECORDINGS[name])
    for expected in (found for found in RECORDINGS[name]["found"] if found["method"] == "idt"):
        most = expected["dispersion"]
        spans = [[a, b - 1 if np.ptp(degrees[a : b + 1], axis=0).sum() > most else b] for a, b in expected["spans"]]
        first, last = dispersion_events(degrees, np.array([0, len(t)]), most, np.array([expected["samples"]]))
        assert np.column_stack([first, last]).tolist() == spans


def test_runs_of_a_store_are_apart():
    entries = list(RECORDINGS.values())
    parts = [arrays(entry) for entry in entries]
    runs = np.cumsum([0, *(len(t) for _, t in parts)])
    degrees = np.concatenate([degrees for degrees, _ in parts])
    t = np.concatenate([t for _, t in parts])
    alone = [velocity_events(*part, np.array([0, len(part[1])]), 30.0) for part in parts]
    together = velocity_events(degrees, t, runs, 30.0)
    for side in (0, 1):
        expected = np.concatenate([spans[side] + begin for spans, begin in zip(alone, runs[:-1], strict=True)])
        assert together[side].tolist() == expected.tolist()
    least = np.full(len(parts), 6)
    alone = [dispersion_events(part[0], np.array([0, len(part[1])]), 1.0, least[:1]) for part in parts]
    together = dispersion_events(degrees, runs, 1.0, least)
    for side in (0, 1):
        expected = np.concatenate([spans[side] + begin for spans, begin in zip(alone, runs[:-1], strict=True)])
        assert together[side].tolist() == expected.tolist()


def test_finding_c19_two_samples_at_one_microsecond_do_not_end_the_run():
    rng = np.random.default_rng(0)
    t = np.arange(60) / 60
    t[31] = t[30] + 1e-8
    samples = pd.DataFrame({"row": 0, "reading_id": "r", "t": t, "duration": 1 / 60, "valid": True, "kind": "sample"})
    samples = samples.assign(x=40 * rng.normal(0, 0.02, 60), y=0.0, ppd_x=40.0, ppd_y=40.0)
    found = detect_fixations(samples, Detection("ivt"))
    assert len(found) == 1
    assert found["duration"][0] == pytest.approx(1.0)


@pytest.mark.parametrize("method", ["ivt", "idt"])
def test_a_long_recording_has_as_many_fixations_as_rests(method):
    """The recording has 200,000 samples at 1 kHz, and a rest every 250 samples."""
    rng = np.random.default_rng(0)
    count = 200_000
    place = np.repeat(rng.uniform(0, 20, (count // 250, 2)), 250, axis=0) + rng.normal(0, 0.01, (count, 2))
    samples = pd.DataFrame({"row": 0, "reading_id": "r", "t": np.arange(count) / 1000, "duration": 0.001})
    samples = samples.assign(x=40 * place[:, 0], y=40 * place[:, 1], ppd_x=40.0, ppd_y=40.0, valid=True, kind="sample")
    found = detect_fixations(samples, Detection(method, velocity=100))
    assert len(found) == pytest.approx(count // 250, rel=0.02)
