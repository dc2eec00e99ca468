"""Runs with names, on disk and in W&B."""

import csv
import json
import shutil

import pytest
import yaml
from wandb.proto import wandb_internal_pb2

from gazelit.stages.wandb_run import identity, tags
from tests.test_sweeps import logged, records
from tests.tiny import tiny


@pytest.fixture
def fit(run_gazelit, store):
    def run(*options, stage=2, code=0):
        return run_gazelit("fit", f"--config=presets/quick/stage{stage}.yaml", *tiny(stage, store),
                           "--trainer.max_epochs=1", *options, code=code)  # fmt: skip

    return run


def test_a_named_run_keeps_everything_in_its_folder_and_is_found_by_its_name(fit, run_gazelit, tmp_path):
    assert "test it: gazelit test --name study/first" in fit("--name=study/first")
    folder = tmp_path / "runs" / "study" / "first"
    assert {path.name for path in folder.iterdir()} == {"checkpoints", "config.yaml", "epochs.csv", "lightning_logs"}
    kept = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}

    # Neither the same stage nor another stage that starts from it may overwrite the run.
    for options in ([], [f"--start_from={folder / 'checkpoints' / 'best.ckpt'}"]):
        printed = fit("--name=study/first", *options, code=2)
        assert "--name study/first: runs/study/first holds a run; go on with it by --ckpt_path=last" in printed
    fit(f"--ckpt_path={folder / 'checkpoints' / 'best.ckpt'}", "--name=study/first", stage=3, code=2)
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == kept

    printed = fit("--name=study/first", "--ckpt_path=last", "--trainer.max_epochs=2")
    assert "resuming 'saliency'" in printed
    with (folder / "epochs.csv").open() as file:
        assert len(list(csv.DictReader(file))) == 2

    run_gazelit("test", "--name=study/first")
    assert "test/cc" in json.loads((folder / "test" / "metrics.json").read_text())
    # A run that was moved is tested where it is.
    shutil.move(folder, tmp_path / "moved")
    run_gazelit("test", "--config=moved/config.yaml")
    assert (tmp_path / "moved" / "test" / "predictions.parquet").is_file()
    assert not (tmp_path / "runs" / "study" / "first").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--name=../up"], "'../up' is no name"),
        (["--name=a b"], "'a b' is no name"),
        (["--name=a", "--checkpoint.dirpath=b"], "--name and --checkpoint.dirpath: give one of them"),
    ],
)
def test_an_invalid_or_contradictory_name_is_refused(options, message, fit):
    assert message in fit(*options, code=2)


def test_a_run_that_is_not_there_cannot_be_tested(run_gazelit):
    assert "--name nothing: there is no run runs/nothing here" in run_gazelit("test", "--name=nothing", code=2)


def test_wandb_runs_have_names_and_their_summary_is_of_the_best_checkpoint(fit, tmp_path, wandb_offline):
    import wandb

    # The first epoch is the best, whatever is learned.
    fit("--config=loggers/wandb.yaml", "--name=study/first", "--trainer.max_epochs=3", "--checkpoint.monitor=epoch",
        "--checkpoint.mode=min", "--model.optimizer.lr=0.01")  # fmt: skip
    wandb.finish()
    # What the service has not written yet.
    wandb.teardown()
    with (tmp_path / "runs" / "study" / "first" / "epochs.csv").open() as file:
        rows = list(csv.DictReader(file))
    values = ("val/cc", "val/selection", "val/nss")
    assert all(rows[0][name] != rows[-1][name] for name in values)

    summary, run = {}, None
    for content in records(tmp_path / "runs" / "wandb"):
        record = wandb_internal_pb2.Record()
        record.ParseFromString(content)
        if record.HasField("run"):
            run = record.run
        for item in record.summary.update:
            summary[item.key or "/".join(item.nested_key)] = json.loads(item.value_json)
    assert {name: summary[name] for name in values} == {name: float(rows[0][name]) for name in values}
    assert summary["best/epoch"] == 0
    assert (run.display_name, run.run_group, run.job_type) == ("study/first", "study", "saliency")
    source = yaml.safe_load((tmp_path / "runs" / "study" / "first" / "config.yaml").read_text())
    assert source["name"] == "study/first"
    assert set(run.tags) == {"egd-cxr", "synthetic", "densenet-small"}


def test_paths_are_logged_where_they_are_asked_for(fit, tmp_path, store, wandb_offline):
    import wandb

    fit("--config=loggers/wandb.yaml", "--log_paths=true")
    wandb.finish()
    # What the service has not written yet.
    wandb.teardown()
    # Without the option, no paths are logged: tests/stages/test_privacy.py.
    assert str(store).encode() in logged(tmp_path / "runs" / "wandb")


def test_wandb_names_that_are_set_elsewhere_stay(monkeypatch):
    for name in ("WANDB_RUN_GROUP", "WANDB_NAME", "WANDB_SWEEP_ID"):
        monkeypatch.delenv(name, raising=False)
    assert identity("joint", None, 3, {}) == {"job_type": "joint", "name": "joint, seed 3"}
    assert identity("joint", "a/b/c", 3, {"group": "mine"}) == {"job_type": "joint", "name": "a/b/c"}
    monkeypatch.setenv("WANDB_RUN_GROUP", "pipeline")
    monkeypatch.setenv("WANDB_NAME", "seed-1/joint")
    assert identity("joint", "a/b", 3, {}) == {"job_type": "joint"}
    monkeypatch.delenv("WANDB_NAME")
    monkeypatch.setenv("WANDB_SWEEP_ID", "x")
    assert identity("joint", None, 3, {}) == {"job_type": "joint"}
    assert tags({"source": "s" * 80, "synthetic": False}, {}) == ["s" * 64]
