"""`gazelit run --check`: its output for a run that is not begun, a finished run, and a run that is impossible."""

import contextlib
from types import SimpleNamespace

import lightning as L
import numpy as np
import pytest
import torch

from gazelit.cli.main import main
from gazelit.data.cohort import Cohort
from gazelit.data.datamodule import GazeDataModule
from gazelit.errors import InputError
from gazelit.models import DualEncoderUNet, EncoderSpec
from gazelit.runs.pipeline import run
from gazelit.runs.stage_steps import StageStep
from gazelit.stages import SaliencyWarmup
from gazelit.stages.measure import BatchMeasure
from tests.tiny import grouped, tiny


class InThisProcess:
    """Replaces a step's process, without the seconds that imports take."""

    cpu_seconds = 0.0

    def __init__(self, arguments, log, environment, lock):
        with log.open("a") as file, contextlib.redirect_stdout(file), contextlib.redirect_stderr(file):
            self.code = main(arguments)

    def poll(self):
        return self.code

    def terminate(self):
        pass


@pytest.fixture
def checked(store, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("gazelit.runs.steps.OwnProcess", InThisProcess)

    def check(*options, check=True):
        stage = StageStep(
            "saliency", "presets/quick/stage2.yaml", overrides=[*tiny(2, store), "--trainer.max_epochs=2", *options]
        )
        run([stage], store, tmp_path / "run", check=check)
        return capsys.readouterr().out

    return check


def test_a_run_is_tried_in_a_folder_that_is_removed_and_its_steps_are_skipped_when_they_are_done(checked, tmp_path):
    printed = checked()
    assert list(tmp_path.iterdir()) == []
    rows = {line.split()[0]: line.split() for line in printed.splitlines() if len(line.split()) > 4}
    # 16 cases are trained on in batches of 6, of which the last is dropped.
    assert rows["saliency"][1:6] == ["new", rows["saliency"][2], "s", "2", "2"]
    assert rows["test"][1] == "new"
    assert "0 of 3 steps are done; the others take about " in printed

    checked(check=False)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}
    printed = checked()
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()} == before
    assert "3 of 3 steps are done" in printed
    with pytest.raises(InputError, match="made with other settings"):
        checked("--model.saliency_loss=NSSLoss")


def test_limits_of_the_run_count_in_its_number_of_steps(checked):
    printed = checked("--trainer.limit_train_batches=0.5")
    rows = {line.split()[0]: line.split() for line in printed.splitlines() if len(line.split()) > 4}
    # Half of two batches.
    assert rows["saliency"][4] == "1"


def test_what_a_run_refuses_its_check_refuses_in_the_same_words(checked, tmp_path):
    said = []
    for check in (True, False):
        with pytest.raises(InputError) as refused:
            checked("--model.network.decoder_widths=[8]", check=check)
        said.append(str(refused.value).partition(" (see ")[0])
    assert said[0] == said[1]
    assert "step 'saliency' failed (exit code 2): " in said[0]


@pytest.mark.parametrize("unseen", [-1, None])
def test_a_check_is_refused_where_the_whole_validation_has_no_target_and_not_for_its_first_batches(
    unseen, store, tmp_path
):
    """Only the last film of the validation split, or none, has gaze."""
    module = GazeDataModule(str(store), **grouped(batch_size=1, num_workers=0, val_fraction=0.4, test_fraction=0.1))
    rows = module.rows("val")
    assert len(rows) > 2
    gaze = module.cohort.gaze
    module.cohort.gaze = gaze.without(np.isin(np.repeat(np.arange(24), np.diff(gaze.starts)), rows[:unseen]))
    module.datasets["val"].gaze = module.cohort.gaze
    encoders = [EncoderSpec("res-se", options={"widths": widths, "reduction": 4}) for widths in ([4, 4], [4])]
    stage = SaliencyWarmup(DualEncoderUNet(*encoders, [4], classes=None), frozen=[])
    trainer = L.Trainer(
        accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False, max_epochs=1,
        default_root_dir=tmp_path, callbacks=[BatchMeasure()], num_sanity_val_steps=0,
    )  # fmt: skip
    message = "no image of the validation split has a target"
    with pytest.raises(InputError, match=message) if unseen is None else contextlib.nullcontext():
        trainer.fit(stage, module)
    assert (tmp_path / "measured-fit.json").is_file() == (unseen is not None)


@pytest.mark.parametrize(
    ("labels", "seen", "order"),
    [
        # Films with all targets come first, class by class; then films with one target, then films with none.
        ([0, 0, 0, 1, 2, -1, -1], [1, 1, 0, 1, 1, 1, 0], [0, 3, 4, 1, 5, 2, 6]),
        ([[1.0, 0.0], [torch.nan] * 2, [torch.nan, 1.0], [1.0, 0.0]], [0, 1, 0, 0], [1, 0, 2, 3]),
        ([[], []], [0, 1], [1, 0]),
    ],
)
def test_films_with_targets_come_first_of_every_class(labels, seen, order):
    gaze = SimpleNamespace(starts=np.concatenate([[0], np.cumsum(seen)]))
    cohort = SimpleNamespace(labels=torch.tensor(labels), gaze=SimpleNamespace(whole=gaze))
    assert Cohort.targets_first(cohort, np.arange(len(seen))).tolist() == order
