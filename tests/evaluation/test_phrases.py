"""Looks at named findings: shares computed by hand, a known lag, and a control without any relation."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from gazelit.data.gaze.events import TimeWindow, clip_to_window
from gazelit.errors import InputError
from gazelit.evaluation.phrases import looks_at_findings
from gazelit.reporting.phrases import phrases

LAG = 1.5


def reading(number, rng, lag=LAG):
    """A reader who looks at the box about (20, 20) for a second, ``lag`` before the words, and elsewhere otherwise."""
    begin = rng.uniform(5, 15)
    t = np.arange(0, 25, 0.25)
    on = (t >= begin - lag) & (t < begin + 1 - lag)
    xy = np.where(on[:, None], [20, 20], [70, 60]) + rng.normal(0, 1, (len(t), 2))
    gaze = pd.DataFrame(
        {"row": number, "reading_id": f"r{number}", "t": t, "duration": 0.25, "x": xy[:, 0], "y": xy[:, 1]}
    )
    words = {"row": number, "reading_id": f"r{number}", "text": "there is a Nodule", "begin": begin, "end": begin + 1}
    return gaze, words


def made(count=30, shape="box"):
    rng = np.random.default_rng(0)
    gaze, words = zip(*(reading(number, rng) for number in range(count)), strict=True)
    corners = {"x1": 10.0, "y1": 10.0, "x2": 30.0, "y2": 30.0}
    tables = {
        "regions": pd.DataFrame(
            [{"row": number, "name": "nodule", "shape": shape, **corners} for number in range(count)]
        ),
        "phrases": pd.DataFrame(words),
    }
    cases = pd.DataFrame({"patient_id": [str(number) for number in range(count)]})
    return SimpleNamespace(
        table=tables.get, gaze=lambda _: pd.concat(gaze, ignore_index=True), cases=cases, path="store"
    )


@pytest.mark.parametrize("shape", ["box", "ellipse"])
def test_the_curve_has_its_top_at_the_lag_of_the_readers(shape):
    table = looks_at_findings(made(shape=shape), {"nodule": "nodule"}, [0, 0.75, LAG, 3])
    curve = table.groupby("lag")[["said", "moved", "whole"]].mean()
    assert curve["said"].idxmax() == LAG
    assert curve.loc[LAG, "said"] > 0.85
    assert curve.loc[3, "said"] < 0.2
    # One second of 25 is spent there, so this is the share of the control and of the whole reading.
    assert curve["whole"].to_numpy() == pytest.approx(0.04, abs=0.01)
    assert curve["moved"].to_numpy() == pytest.approx(0.04, abs=0.015)


def test_a_share_is_what_counting_milliseconds_gives():
    store = made(1)
    gaze, words = store.gaze("fixation"), store.table("phrases").iloc[0]
    inside = gaze["x"].between(10, 30) & gaze["y"].between(10, 30)
    lag = 1.1
    clock = np.arange(words["begin"] - lag, words["end"] - lag, 0.001)
    number = np.floor(clock / 0.25).astype(int)
    table = looks_at_findings(store, {"nodule": "NODULE"}, [lag])
    assert table["said"].item() == pytest.approx(inside.to_numpy()[number].mean(), abs=2e-3)


def test_impossible_questions_give_one_line():
    with pytest.raises(InputError, match=r"no reading says one of heart on a film where it is marked"):
        looks_at_findings(made(2), {"heart": "heart"}, [0])
    with pytest.raises(InputError, match=r"findings\.nodule: is no regular expression"):
        looks_at_findings(made(2), {"nodule": "("}, [0])
    for lags in ([np.nan], [0.0, 0.0, 100.0], []):
        with pytest.raises(InputError, match="lags: give one or several different numbers of seconds"):
            phrases("nowhere", "nowhere", {"nodule": "nodule"}, lags)
    with pytest.raises(InputError, match=r"window\.lag: goes with window\.phrase"):
        TimeWindow(first=3, lag=1)


def test_targets_can_be_the_gaze_during_a_phrase():
    store = made(3)
    gaze = store.gaze("fixation")
    during, before = (
        clip_to_window(gaze, TimeWindow(phrase="nodule", lag=lag), store.table("phrases")) for lag in (0.0, LAG)
    )
    assert during["x"].median() > 60
    assert before["x"].median() == pytest.approx(20, abs=1)
