"""`gazelit run --check`: what it says of a run that is not begun, of one that is done, and of one that cannot be."""

import contextlib

import pytest

from gazelit.cli.main import main
from gazelit.errors import InputError
from gazelit.runs.pipeline import run
from gazelit.runs.stage_steps import StageStep
from tests.tiny import tiny


class InThisProcess:
    """A step's process, without the seconds that imports take."""

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


def test_limits_of_the_run_itself_count_in_what_it_will_take(checked):
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
