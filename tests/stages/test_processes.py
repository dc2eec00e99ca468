"""Several processes: a process without a case, a lost process, and a batch system's SIGTERM to all of them."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest

from gazelit.data.splits.by_patient import save_split
from gazelit.data.store.store import Store
from gazelit.stages.ranks.watch import LOST
from tests.environment import importing_tests
from tests.forked_ranks import LIMIT, TIMEOUT, TRAININGS
from tests.tiny import tiny

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def split_file(store, tmp_path_factory):
    """A split with one case for validation and one for the test."""
    cases = Store.open(store).cases
    split = pd.Series("train", index=cases.index)
    split.iloc[0], split.iloc[1] = "val", "test"
    path = tmp_path_factory.mktemp("split") / "split.json"
    save_split(path, cases, split)
    return path


class Training:
    """A fit of two processes that would run for a long time."""

    def __init__(self, folder, store, *options):
        command = [
            sys.executable, "-m", "gazelit", "fit", "--config=presets/quick/stage3.yaml", *tiny(3, store),
            "--trainer.max_epochs=4000", "--data.loader.batch_size=4", "--trainer.devices=2", "--trainer.strategy=ddp",
            "--checkpoint.dirpath=run/checkpoints", *options,
        ]  # fmt: skip
        self.folder = folder
        self.log = (folder / "log.txt").open("w+")
        self.process = subprocess.Popen(
            command, cwd=folder, stdout=self.log, stderr=subprocess.STDOUT, env=importing_tests()
        )
        deadline = time.monotonic() + 240
        while not (folder / "run" / "checkpoints" / "last.ckpt").is_file():
            assert self.process.poll() is None, self.said()
            assert time.monotonic() < deadline, self.said()
            time.sleep(0.05)
        children = f"/proc/{self.process.pid}/task/{self.process.pid}/children"
        with open(children) as file:
            self.child = int(file.read().split()[0])

    def said(self):
        self.log.seek(0)
        return self.log.read()

    def end(self, within):
        """Waits for both to end; returns the main process's exit code."""
        deadline = time.monotonic() + within
        code = self.process.wait(timeout=within)
        while os.path.exists(f"/proc/{self.child}"):
            assert time.monotonic() < deadline, "the other process still lives"
            time.sleep(0.1)
        return code


def test_finding_c19_and_g9_one_validation_case_on_two_processes_and_sigterm_to_both(
    store, split_file, tmp_path, run_gazelit
):
    # One process has no film with gaze either.
    gaze = ["--model.network.classifier_pooling=gaze", "--model.gaze_at_test=true"]
    # The metric's state is a list, which stays empty in that process.
    own = (
        "--model.metrics=[{class_path: gazelit.metrics.ComparedMetric, init_args: {metric: "
        "{class_path: torchmetrics.classification.MulticlassCalibrationError, init_args: {num_classes: 3}}, "
        "prediction: probabilities, truth: label}}]"
    )
    training = Training(tmp_path, store, f"--data.split.file={split_file}", "--data.split.allow_empty=true", *gaze, own)
    for process in (training.process.pid, training.child):
        os.kill(process, signal.SIGTERM)
    code = training.end(within=60)
    assert code == 128 + signal.SIGTERM, training.said()
    assert "terminated by SIGTERM; last.ckpt is of " in training.said()
    epochs = pd.read_csv(tmp_path / "run" / "epochs.csv")
    assert epochs[["val/selection", "val/cc", "val/with_gaze/brier", "train/loss"]].notna().all().all()
    assert len(epochs) >= 1
    # For a single case, both errors are the distance of its confidence from 0 or 1.
    assert epochs["val/multiclass_calibration_error"].tolist() == pytest.approx(epochs["val/ece"].tolist(), abs=1e-6)
    run_gazelit(
        "test", "--config=run/config.yaml", "--ckpt_path=run/checkpoints/last.ckpt", "--trainer.logger=false",
        "--trainer.default_root_dir=tested", "--trainer.devices=1", "--trainer.strategy=auto",
    )  # fmt: skip
    assert len(pd.read_parquet(tmp_path / "tested" / "predictions.parquet")) == 1


def names(rank, line):
    """Whether a line names another rank as the cause of an end."""
    return " ends: " in line and f"rank {rank} ({socket.gethostname()})" in line


def test_a_frozen_process_is_ended_with_a_line_that_names_it(store, tmp_path):
    training = Training(
        tmp_path, store, "--ranks.limit_s=6", "--trainer.callbacks+=tests.rank_faults.RankFault",
        "--trainer.callbacks.rank=1", "--trainer.callbacks.fault=frozen", "--trainer.callbacks.step=30",
    )  # fmt: skip
    assert training.end(within=90) == LOST, training.said()
    ends = [line for line in training.said().splitlines() if " ends: " in line]
    assert len(ends) == 1, training.said()
    assert names(1, ends[0])
    # The step is that of its last sign of life, which is a second old.
    assert re.search(r"it was .*\bstep \d+ \(epoch \d+\).*; resume from last.ckpt$", ends[0]), ends[0]
    assert "no sign of life from rank 1 " in training.said()
    assert "Traceback" not in training.said()


@pytest.fixture(scope="module")
def faults(tmp_path_factory):
    """How trainings of forked processes ended, with their output, by fault, number of processes and rank."""
    out = tmp_path_factory.mktemp("faults")
    done = subprocess.run(
        [sys.executable, "-m", "tests.forked_ranks", str(out)], capture_output=True, text=True, check=True, cwd=ROOT
    )
    found = {}
    for row in map(json.loads, done.stdout.splitlines()):
        key = row["fault"], row["world"], row["rank"]
        found[key] = row, (out / " ".join(map(str, key)) / "log.txt").read_text()
    return found


@pytest.mark.parametrize(("fault", "world", "rank"), TRAININGS)
def test_finding_g9_if_one_process_is_lost_the_others_end_and_name_it(fault, world, rank, faults):
    row, said = faults[fault, world, rank]
    ends = [line for line in said.splitlines() if " ends: " in line]
    if fault == "all frozen":
        # A batch system suspends a job in this way, and no process is lost.
        assert row["codes"] == [0] * world, said
        assert not ends, said
        return
    if "terminated" in fault:
        assert row["codes"] == [128 + signal.SIGTERM] * world, said
        assert not ends, said
        return
    own = {"killed": -signal.SIGKILL, "frozen": None, "slow": LOST, "failed": 1}[fault]
    others = 1 if fault == "failed" else LOST
    assert row["codes"] == [own if number == rank else others for number in range(world)], said
    assert all(names(rank, line) for line in ends), said
    assert len(ends) == world - (fault != "slow"), said
    # Only the error itself has a traceback, not an exchange that failed because of it.
    assert said.count("Traceback") == (fault == "failed"), said
    if fault == "slow":
        assert f"gazelit: waiting for rank {rank} (" in said
        assert "in step 3 (epoch 0), in tests.rank_faults.on_train_batch_start" in ends[0]
    if fault == "failed":
        assert ends[0].endswith("ended with an error: planted")
    bound = {"killed": 0, "failed": 0, "frozen": LIMIT, "slow": TIMEOUT}[fault]
    # Time that a busy machine may add.
    assert row["seconds"] < bound + 15
