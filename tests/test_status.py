"""`gazelit status`, on run folders made by hand."""

import fcntl
import json
import os

import pytest

from gazelit.cli.main import main
from gazelit.errors import InputError
from gazelit.files import write_json
from gazelit.runs.status import run_status

STEPS = ["seed-0/saliency", "seed-0/joint", "seed-0/test", "seed-1/saliency", "seed-1/joint", "seed-1/test", "report"]
KEY = {"key": "x", "command": "gazelit", "versions": {}}


def epochs(folder, count):
    (folder / "epochs.csv").write_text(
        "epoch,val/selection\n" + "".join(f"{number},{9 - number}\n" for number in range(count))
    )


@pytest.fixture
def run(tmp_path):
    """A run whose first seed is done; the second's first stage began 30 s ago, and had 3 of 6 epochs after 24 s."""
    commands = {"test": "test", "report": "report"}
    plan = [{"folder": step, "command": commands.get(step.rpartition("/")[2], "fit")} for step in STEPS]
    write_json(tmp_path / "plan.json", {"steps": plan})
    for step, seconds in zip(STEPS[:3], (40.0, 100.0, 20.0), strict=True):
        (tmp_path / step).mkdir(parents=True)
        write_json(tmp_path / step / "done.json", {**KEY, "seconds": seconds, "cpu_seconds": seconds / 2})
    for step in STEPS[:2]:
        epochs(tmp_path / step, 6)
    place = tmp_path / STEPS[3]
    place.mkdir(parents=True)
    epochs(place, 3)
    write_json(place / "started.json", {**KEY, "max_epochs": 6, "epochs": 0})
    now = os.stat(place / "started.json").st_mtime
    os.utime(place / "started.json", (now - 30, now - 30))
    os.utime(place / "epochs.csv", (now - 6, now - 6))
    (tmp_path / ".lock").touch()
    return tmp_path


def test_a_running_pipeline_shows_finished_and_remaining_steps(run, capsys):
    with (run / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        steps = run_status(run)
        main(["status", str(run)])
    assert [step.step for step in steps] == STEPS
    assert [step.state for step in steps] == ["done"] * 3 + ["running"] + ["waiting"] * 3
    assert [(step.epochs, step.max_epochs) for step in steps[:4]] == [(6, 6), (6, 6), (None, None), (3, 6)]
    # Three more epochs of 8 s each; other stages take as long as with the first seed; the report's time is unknown.
    assert steps[3].left_seconds == pytest.approx(24, abs=0.5)
    assert [step.left_seconds for step in steps[4:]] == [100.0, 20.0, None]
    printed = capsys.readouterr().out
    assert "3 of 7 steps done in 2 min 40 s; about 2 min 24 s left, and 1 steps without an estimate" in printed
    assert "nothing runs" not in printed


@pytest.mark.parametrize("ahead", ["started.json", "epochs.csv"])
def test_a_clock_that_was_set_back_makes_no_negative_time(ahead, run):
    # By the clock that was set back, the files were written an hour from now.
    later = os.stat(run / ".lock").st_mtime + 3600
    os.utime(run / STEPS[3] / ahead, (later, later))
    with (run / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        running = run_status(run)[3]
    assert running.state == "running"
    assert running.seconds is None if ahead == "started.json" else running.seconds == pytest.approx(30, abs=5)
    assert running.left_seconds >= 0


def test_a_stopped_run_is_shown_with_its_reason(run, capsys):
    assert run_status(run)[3].state == "interrupted"
    (run / STEPS[3] / "log.txt").write_text("$ gazelit fit\ngazelit: error: old\n\n$ gazelit fit\nepoch 3\n")
    assert run_status(run)[3].state == "interrupted"
    with (run / STEPS[3] / "log.txt").open("a") as log:
        log.write("gazelit: error: the disk is full\n")
    failed = run_status(run)[3]
    assert (failed.state, failed.note) == ("failed", "gazelit: error: the disk is full")
    assert main(["status", str(run), "--json"]) == 0
    content = json.loads(capsys.readouterr().out)
    assert [step["step"] for step in content["steps"]] == STEPS
    assert content["steps"][0] == {
        "step": STEPS[0], "state": "done", "epochs": 6, "max_epochs": 6, "seconds": 40.0, "cpu_seconds": 20.0,
        "left_seconds": 0.0, "note": "",
    }  # fmt: skip
    main(["status", str(run)])
    assert "nothing runs: give the same `gazelit run` command again to go on" in capsys.readouterr().out


def test_a_run_from_before_plans_shows_what_was_begun(run):
    (run / "plan.json").unlink()
    for number, step in enumerate(STEPS[:3]):
        write_json(run / step / "started.json", {**KEY, "command": "gazelit fit --x"})
        os.utime(run / step / "started.json", (number, number))
    write_json(run / STEPS[3] / "started.json", {**KEY, "command": "gazelit fit --x"})
    assert [(step.step, step.state) for step in run_status(run)] == [
        *((step, "done") for step in STEPS[:3]), (STEPS[3], "interrupted")
    ]  # fmt: skip


def test_a_training_alone_is_shown_with_its_epochs_and_its_best_epoch(tmp_path):
    (tmp_path / "config.yaml").write_text("trainer: {max_epochs: 5}\ncheckpoint: {monitor: val/selection, mode: min}\n")
    epochs(tmp_path, 3)
    (step,) = run_status(tmp_path)
    assert (step.state, step.epochs, step.max_epochs) == ("unfinished", 3, 5)
    assert step.note == "best: epoch 2, val/selection 7"
    epochs(tmp_path, 5)
    assert run_status(tmp_path)[0].state == "done"


def test_a_folder_without_a_run_is_refused(tmp_path):
    with pytest.raises(InputError, match="holds no run"):
        run_status(tmp_path)
    with pytest.raises(InputError, match="there is no such folder"):
        run_status(tmp_path / "nowhere")
