"""The table at the end of a test: groups, three digits, numbers of cases, intervals."""

import numpy as np
import pandas as pd
from scipy import stats

from gazelit.cli.result_table import show_metrics


def rows(printed):
    """The printed cells by metric, and the headings of the groups in order."""
    lines = [line.strip() for line in printed.splitlines() if line.strip()]
    return {
        line.split("  ")[0]: [cell.strip() for cell in line.split("  ")[1:] if cell.strip()] for line in lines
    }, lines


def test_metrics_are_grouped_with_interval_and_number(capsys):
    rng = np.random.default_rng(0)
    count = 400
    cc = rng.normal(0.6, 0.1, count)
    cc[:40] = np.nan
    label = rng.integers(0, 2, count)
    score = np.clip(0.5 + 0.2 * (label - 0.5) + rng.normal(0, 0.2, count), 0.01, 0.99)
    table = pd.DataFrame({"index": range(count), "label": label, "p_A": 1 - score, "p_B": score, "cc": cc,
                          "with_gaze_p_A": 1 - label, "with_gaze_p_B": label, "mine": cc / 2})  # fmt: skip
    table.attrs["metrics"] = {"mine": {"label": "half of the CC", "higher_is_better": True}}
    metrics = {"test/loss": 0.12345, "test/cc": np.nanmean(cc), "test/auroc_macro": 0.75, "test/auroc_B": 0.75,
               "test/accuracy": 0.5, "test/selection": 1.0, "test/mine": 0.5, "test/n_without_gaze": 40.0,
               "test/with_gaze/auroc_macro": 0.8}  # fmt: skip
    show_metrics(metrics, table, np.arange(count), ["A", "B"])
    found, lines = rows(capsys.readouterr().out)
    assert lines[0].startswith("400 films of 400 patients; intervals over patients")
    headings = [lines.index(name) for name in
                ("diagnosis", "diagnosis, given the reader's gaze", "gaze map", "loss", "other")]  # fmt: skip
    assert headings == sorted(headings)
    assert found["loss"] == [] or found["loss"][0] == "0.123"
    value, interval, number = found["CC"]
    assert (value, number) == (f"{np.nanmean(cc):.3f}", "360")
    low, high = (float(bound) for bound in interval.split(" to "))
    # For a mean of so many cases the bootstrap and the normal interval agree.
    half = stats.norm.ppf(0.975) * np.nanstd(cc) / np.sqrt(360)
    assert np.allclose([low, high], [np.nanmean(cc) - half, np.nanmean(cc) + half], atol=0.002)
    # The second row of that name is of the classifier that was given gaze, which is always right here.
    assert found["AUC, mean of the classes"] == ["0.800", "1.000 to 1.000", "400"]
    assert found["AUC, B"][2] == "400"
    value, interval, number = found["half of the CC"]
    assert (value, number) == ("0.500", "360")
    assert np.allclose([float(bound) for bound in interval.split(" to ")], [low / 2, high / 2], atol=0.001)


def test_without_predictions_there_are_values_alone(capsys):
    show_metrics({"val/loss": 1.5, "val/cc": float("nan")}, None, None, [])
    printed = capsys.readouterr().out
    assert "interval" not in printed
    assert "1.500" in printed
    assert "nan" in printed
