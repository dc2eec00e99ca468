"""The method of `make bench` and the messages of `make bench-check`, without timing anything."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benchmarks"))
import bench
import measure


def found(low: float, median: float, high: float, against: str = "plain") -> dict:
    ratio = {"median": median, "low": low, "high": high, "rounds": 3}
    return {"machine": {}, "workloads": {"work": {"against": against, "load": 0.5, "ratios": {"ours": ratio}}}}


@pytest.mark.parametrize(
    ("now", "code", "said"),
    [
        (found(1.9, 2.0, 2.1), 0, "0 of 1 ratios moved"),
        (found(1.0, 1.1, 1.2), 1, "work, ours: slower, 1.10 (1.00 to 1.20) times, committed 2.00 (1.80 to 2.20)"),
        (found(3.0, 3.1, 3.2), 0, "work, ours: faster"),
        # A ratio to another alternative is not comparable.
        (found(1.0, 1.1, 1.2, "compiled"), 0, "0 of 1 ratios moved"),
    ],
)
def test_ratios_that_moved_by_more_than_their_spread_are_reported(now, code, said, capsys):
    assert bench.check(now, found(1.8, 2.0, 2.2)) == code
    assert said in capsys.readouterr().out


def test_ratios_are_those_of_alternating_rounds(monkeypatch):
    order = []
    costs = iter([0.1, 0.1, 1.0, 0.5, 3.0, 1.0, 8.0, 2.0])
    monkeypatch.setattr(measure, "cpu_seconds", lambda call: (call(), next(costs))[1])
    work = measure.Workload("work", {"plain": lambda: order.append("p"), "ours": lambda: order.append("o")})
    ratio = measure.measured(work, 3).ratios["ours"]
    assert (ratio.median, ratio.low, ratio.high) == (3.0, 2.0, 4.0)
    assert order == ["p", "p", "o", "o", *"popopo"]


def test_results_that_differ_are_not_compared():
    work = measure.Workload("work", {"plain": int}, lambda: 0.1, 0.01)
    with pytest.raises(ValueError, match=r"work: results differ by 1\.0e-01, allowed are 1\.0e-02"):
        measure.measured(work, 1)
