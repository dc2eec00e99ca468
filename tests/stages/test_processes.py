"""Several processes: one without a case, one that dies, and a batch system's SIGTERM to all of them."""

import os
import signal
import subprocess
import sys
import time

import pandas as pd
import pytest

from gazelit.data.splits.by_patient import save_split
from gazelit.data.store.store import Store
from gazelit.stages.checkpointing import GRACE
from tests.tiny import tiny


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
    """A fit of two processes that would go on for long."""

    def __init__(self, folder, store, *options):
        command = [
            sys.executable, "-m", "gazelit", "fit", "--config=presets/quick/stage3.yaml", *tiny(3, store),
            "--trainer.max_epochs=4000", "--data.loader.batch_size=4", "--trainer.devices=2", "--trainer.strategy=ddp",
            "--checkpoint.dirpath=run/checkpoints", *options,
        ]  # fmt: skip
        self.folder = folder
        self.log = (folder / "log.txt").open("w+")
        self.process = subprocess.Popen(command, cwd=folder, stdout=self.log, stderr=subprocess.STDOUT)
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
    # One process has no film to give gaze to either.
    gaze = ["--model.network.classifier_pooling=gaze", "--model.gaze_at_test=true"]
    # Its state is a list, which stays empty in that process.
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
    # Of one case both are the distance of its confidence from 0 or 1.
    assert epochs["val/multiclass_calibration_error"].tolist() == pytest.approx(epochs["val/ece"].tolist(), abs=1e-6)
    run_gazelit(
        "test", "--config=run/config.yaml", "--ckpt_path=run/checkpoints/last.ckpt", "--trainer.logger=false",
        "--trainer.default_root_dir=tested", "--trainer.devices=1", "--trainer.strategy=auto",
    )  # fmt: skip
    assert len(pd.read_parquet(tmp_path / "tested" / "predictions.parquet")) == 1


@pytest.mark.parametrize("killed", ["child", "main"])
def test_finding_g9_where_one_process_is_killed_the_other_ends_in_bounded_time(killed, store, tmp_path):
    training = Training(tmp_path, store)
    os.kill(training.process.pid if killed == "main" else training.child, signal.SIGKILL)
    # Its own error, Lightning's watch over children (every 5 s) or ours over the parent; on a busy machine.
    assert training.end(within=GRACE + 15) != 0
