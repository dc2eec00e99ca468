"""Trainings side by side: order, shares of the machine, and the failure of a training."""

import os
import threading
import time

import pytest

from gazelit.errors import InputError
from gazelit.runs import parallel
from gazelit.runs.parallel import EndedError, side_by_side


def test_results_come_in_order_and_no_more_run_than_are_allowed(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(parallel.processors, "usable", lambda: 9)
    running, most, threads = [], [], []

    def task(number, share):
        running.append(number)
        most.append(len(running))
        threads.append(os.environ["OMP_NUM_THREADS"])
        assert not share.is_alone
        time.sleep(0.02 * (3 - number))
        running.remove(number)
        return number

    assert side_by_side([lambda share, n=n: task(n, share) for n in range(4)], 3) == [0, 1, 2, 3]
    assert max(most) == 3
    assert set(threads) == {"3"}
    assert "OMP_NUM_THREADS" not in os.environ


def test_a_single_training_runs_alone_and_without_limits():
    assert side_by_side([lambda share: (share.is_alone, dict(share.variables))], 4) == [(True, {})]


def test_the_first_failure_ends_the_others_and_is_reported():
    waiting, ended = threading.Event(), []

    def long(share):
        waiting.set()
        assert share.stop.wait(10)
        ended.append("long")
        raise EndedError("long: ended")

    def failing(share):
        assert waiting.wait(10)
        raise InputError("the disk is full")

    with pytest.raises(InputError, match="the disk is full"):
        side_by_side([long, failing, lambda share: ended.append("never")], 2)
    assert ended == ["long"]


@pytest.mark.parametrize(("names", "jobs", "expected"), [("4,5,6", 2, ["4,6", "5"]), ("7", 2, ["7", "7"])])
def test_gpus_are_divided(monkeypatch, names, jobs, expected):
    import torch

    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", names)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert [parallel._gpus(number, jobs)["CUDA_VISIBLE_DEVICES"] for number in range(jobs)] == expected
