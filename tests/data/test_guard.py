"""Workers may crash, hang or take too much memory; the parent goes on and names the job."""

import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest

from gazelit.data.images.guard import Lost, Workers


def work(job):
    what, value = job
    if what == "crash":
        os.abort()
    if what == "hang":
        if isinstance(value, str):
            Path(value).touch()
        time.sleep(60)
    if what == "slow":
        while not Path(value).exists():
            time.sleep(0.05)
        time.sleep(0.5)
        return "slept"
    if what == "exit":
        os._exit(3)
    if what == "raise":
        raise KeyError("a patient's name")
    if what == "memory":
        try:
            return np.ones(value, np.uint8).nbytes
        except MemoryError:
            return "refused"
    if what == "killed once":
        if not Path(value).exists():
            Path(value).write_text("")
            os.kill(os.getpid(), signal.SIGKILL)
        return "second time"
    if what == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if what == "print":
        for stream in (1, 2):
            os.write(stream, b"a patient's name")
    return value


def test_finding_g2_a_job_that_kills_its_worker_loses_only_that_job(tmp_path, capfd):
    jobs = [
        *(("plain", 0), ("crash", 1), ("plain", 2), ("exit", 3), ("plain", 4), ("hang", 5), ("print", 6)),
        *(
            ("memory", 10**9),
            ("memory", 10**6),
            ("killed once", str(tmp_path / "mark")),
            ("killed", 0),
            ("raise", 11),
            ("plain", 12),
        ),
    ]
    with Workers(work, 2, memory=300 * 2**20, seconds=1.5) as pool:
        results = list(pool.map(jobs))
    assert results == [
        *(0, Lost("the decoder crashed (SIGABRT)"), 2, Lost("the decoder ended (exit code 3)"), 4),
        *(Lost("could not be decoded within 1.5 s"), 6, "refused", 10**6, "second time"),
        *(Lost("the decoder crashed (SIGKILL)"), Lost("the decoder failed (KeyError)"), 12),
    ]
    assert "patient" not in "".join(capfd.readouterr())


def test_results_come_in_order_and_jobs_are_not_taken_far_ahead():
    taken = []

    def jobs():
        for number in range(40):
            taken.append(number)
            yield ("plain", number)

    with Workers(work, 2, memory=2**30) as pool:
        results = pool.map(jobs())
        assert next(results) == 0
        assert len(taken) <= 9
        assert list(results) == list(range(1, 40))


def test_a_first_job_that_hangs_does_not_delay_the_others(tmp_path):
    with Workers(work, 2, memory=2**30, seconds=60) as pool:
        begun = time.monotonic()
        # The hanging process reports its start long before the other process has a result.
        results = pool.map([("slow", str(tmp_path / "begun")), ("hang", str(tmp_path / "begun"))])
        assert next(results) == "slept"
        assert time.monotonic() - begun < 30


def test_processes_end_with_the_pool():
    with Workers(work, 2, memory=2**30, seconds=60) as pool:
        results = pool.map([("plain", 0), ("hang", 0), ("hang", 0)])
        next(results)
        processes = [worker._process for worker in pool._workers]
    assert all(process.poll() is not None for process in processes)


def test_a_worker_that_cannot_start_is_not_reported_as_a_bad_film(monkeypatch):
    monkeypatch.setattr("sys.executable", "/bin/false")
    with Workers(work, 1, memory=2**30) as pool, pytest.raises(RuntimeError, match="cannot start"):
        list(pool.map([("plain", 0)]))
