"""The orchestrator: order, skipping, resuming after SIGKILL, and refusing to mix settings."""

import contextlib
import importlib.util
import io
import json
import multiprocessing
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

import gazelit
from gazelit.cli.main import main
from gazelit.data.sources import EGDCXR
from gazelit.data.store.prepare import prepare
from gazelit.data.store.store import Store
from gazelit.errors import InputError
from gazelit.runs.pipeline import run
from gazelit.runs.stage_steps import ExternalTest, StageStep
from gazelit.runs.status import run_status
from gazelit.synthetic.cohort import write_cohort
from tests.steps_here import popen
from tests.tiny import tiny

MICRO = {
    "class_path": "gazelit.metrics.ComparedMetric",
    "init_args": {
        "metric": {
            "class_path": "torchmetrics.classification.MulticlassAccuracy",
            "init_args": {"num_classes": 3, "average": "micro"},
        },
        "prediction": "probabilities",
        "truth": "label",
    },
}


def pipeline_file(folder, store, epochs):
    stages = [
        {"name": name, "config": f"presets/quick/stage{number}.yaml", "overrides": tiny(number, store)}
        for number, name in enumerate(("contrastive", "saliency", "joint"), start=1)
    ]
    path = folder / "tiny.yaml"
    stages[-1]["calibrate"] = True
    stages[-1]["overrides"].append(f"--model.metrics={json.dumps([MICRO])}")
    path.write_text(yaml.safe_dump({"stages": stages, "overrides": [f"--trainer.max_epochs={epochs}"]}))
    return path


def command(path, store, out):
    return [
        sys.executable,
        "-m",
        "gazelit",
        "run",
        str(path),
        "--store",
        str(store),
        "--out",
        str(out),
    ]


@pytest.fixture(scope="module")
def external_store(tmp_path_factory):
    """Nine films of other patients, of the same size."""
    folder = tmp_path_factory.mktemp("elsewhere")
    write_cohort(folder / "cohort", cases=9, seed=8, max_side=128, workers=1)
    source = EGDCXR(folder / "cohort" / "egd-cxr", folder / "cohort" / "mimic-cxr")
    prepare(source, folder / "store", size=(64, 64), workers=1)
    return folder / "store"


@pytest.fixture(scope="module")
def interrupted(store, tmp_path_factory):
    """A run that SIGTERM ended in stage 2 after its first epoch, then run again: folder, first step's mark, output."""
    folder = tmp_path_factory.mktemp("pipeline")
    path, out = pipeline_file(folder, store, epochs=3), folder / "run"
    first = subprocess.Popen(command(path, store, out), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 240
    while not (out / "saliency" / "checkpoints" / "last.ckpt").is_file():
        assert first.poll() is None, (out / "contrastive" / "log.txt").read_text()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    first.send_signal(signal.SIGTERM)
    assert first.wait() == 128 + signal.SIGTERM
    # The run does not count as finished, and trained stages are kept.
    assert not (out / "saliency" / "done.json").exists()
    assert run_status(out)[1].state == "interrupted"
    mark = (out / "contrastive" / "done.json").stat().st_mtime_ns
    again = subprocess.run(command(path, store, out), capture_output=True, text=True, check=False)
    return path, out, mark, again


def test_a_run_that_sigterm_ended_goes_on_and_ends(interrupted):
    _, out, mark, again = interrupted
    assert again.returncode == 0, again.stderr
    assert "contrastive: done before, skipped" in again.stderr
    assert "saliency (resumed)" in again.stderr
    assert (out / "contrastive" / "done.json").stat().st_mtime_ns == mark
    assert "resuming 'saliency'" in (out / "saliency" / "log.txt").read_text()


def test_the_chain_of_checkpoints_survives_the_resume(interrupted):
    import torch

    from gazelit.checkpoints.stamps import STAMP_KEY, chain

    best = torch.load(interrupted[1] / "joint" / "checkpoints" / "best.ckpt", weights_only=True)
    assert [stamp["stage"] for stamp in chain(best[STAMP_KEY])] == ["joint", "saliency", "contrastive"]


def test_a_resumed_stage_has_one_row_per_epoch(interrupted):
    lines = (interrupted[1] / "saliency" / "epochs.csv").read_text().splitlines()
    assert [line.split(",")[0] for line in lines] == ["epoch", "0", "1", "2"]


def test_the_run_ends_in_a_report_that_says_the_data_are_synthetic(interrupted):
    out = interrupted[1]
    metrics = json.loads((out / "metrics.json").read_text())
    wanted = [
        "test/auroc_macro",
        "test/cc",
        "test/kld",
        "test/sim",
        "test/nss",
        "baseline/centre/cc",
        "n_test",
        "seed",
        "sigma_px",
    ]
    assert [key for key in wanted if key not in metrics] == []
    further = ["test/sauc", "test/ig", "test/emd", "test/auc_borji", "test/ece", "test/brier", "test/ap_macro"]
    assert [key for key in further if key not in metrics] == []
    assert metrics["baseline/centre/ig"] == pytest.approx(0, abs=1e-6)
    page = (out / "report.html").read_text()
    assert page.count('src="data:image/png;base64,') >= 4
    assert "http" not in page.replace("http-equiv", "")
    assert "Measured on SYNTHETIC data" in page
    table = (out / "report.csv").read_text().splitlines()
    assert table[0] == "data,arm,metric,value,low,high"
    text = (out / "report.md").read_text()
    assert "synthetic" in text.lower()
    assert "## Subgroups" in text
    assert "Published figures" not in text
    assert "Checkpoints were selected on the validation split alone" in text
    # Only the joint stage measures several tasks, and the easy cohort's readers have no oracle.
    (joint,) = metrics["asynchrony"]
    epochs = pd.read_csv(out / "joint" / "epochs.csv")
    assert (joint["stage"], joint["epochs"]) == ("joint", 3)
    assert joint["kept_epoch"] == epochs["val/selection"].idxmin()
    assert joint["tasks"]["saliency"]["best_epoch"] == epochs["val/saliency_loss"].idxmin()
    assert "## Asynchrony of the tasks" in text
    assert "explainable" not in text
    assert "fitted on the val split" in text
    # The metric that the stage was given as model.metrics, which is the accuracy.
    micro = text.split("## Further metrics")[1].split("\n## ")[0]
    assert f"| multiclass accuracy, higher is better | {metrics['test/accuracy']:.3f} |" in micro
    for stage in ("contrastive", "saliency", "joint"):
        assert stage in text
    figures = [line.split("(")[1].split(")")[0] for line in text.splitlines() if line.startswith("![")]
    assert len(figures) >= 2
    assert all((out / figure).stat().st_size > 5000 for figure in figures)


def test_the_status_of_a_finished_run_has_every_step_with_its_cost(interrupted):
    _, out, _, _ = interrupted
    steps = run_status(out)
    assert {step.step for step in steps} == {str(path.parent.relative_to(out)) for path in out.rglob("done.json")}
    assert {step.state for step in steps} == {"done"}
    assert all(step.seconds > 0 and step.cpu_seconds > 0 for step in steps)
    assert [step.epochs for step in steps[:3]] == [3, 3, 3]


def test_the_report_shows_no_case_id(interrupted, store):
    import pandas as pd

    text = (interrupted[1] / "report.md").read_text()
    ids = pd.read_parquet(store / "cases.parquet")["image_id"]
    assert not any(image_id in text for image_id in ids)


def test_a_finished_run_changes_nothing(interrupted, store, run_gazelit):
    path, out, _, _ = interrupted
    before = {file: file.stat().st_mtime_ns for file in out.rglob("*.ckpt")}
    assert run_gazelit(*command(path, store, out)[3:]).count("done before, skipped") == 6
    assert {file: file.stat().st_mtime_ns for file in out.rglob("*.ckpt")} == before


def test_other_settings_in_the_same_folder_are_refused(interrupted, store, run_gazelit, tmp_path):
    path = pipeline_file(tmp_path, store, epochs=4)
    printed = run_gazelit(*command(path, store, interrupted[1])[3:], code=2)
    assert "made with other settings" in printed
    assert "Traceback" not in printed


def test_infer_reads_real_files_with_the_trained_model(interrupted, real_data, run_gazelit, tmp_path):
    import numpy as np
    from PIL import Image

    names = ["RG1_J2KI.dcm", "nih_chest_jpeg.dcm", "nih_00000001_000.png"]
    best = interrupted[1] / "joint" / "checkpoints" / "best.ckpt"
    films = [str(real_data / name) for name in names]
    options = ["--names=file", "--saliency=full", "--batch-size=2"]
    printed = run_gazelit("infer", *films, "--ckpt", str(best), "--out", "read", *options)
    assert "SYNTHETIC" in printed
    for name, shape in zip(names, [(1955, 1841), (1024, 1024), (512, 512)], strict=True):
        stem = name.rsplit(".", 1)[0]
        result = json.loads((tmp_path / "read" / f"{stem}.json").read_text())
        assert sum(result["probabilities"].values()) == pytest.approx(1, abs=1e-4)
        assert result["model"]["trained_on_synthetic_data"] is True
        saliency = np.load(tmp_path / "read" / result["saliency"])
        assert saliency.shape == shape
        assert saliency.sum(dtype=np.float64) == pytest.approx(1, abs=1e-4)
        assert saliency.min() >= 0
        # The picture has the film, the colour bar beside it and lines of text below.
        width, height = Image.open(tmp_path / "read" / result["overlay"]).size
        scale = min(1, 1024 / max(shape))
        assert 0 < height - shape[0] * scale < 200
        assert 0 < width - shape[1] * scale < 100


def test_infer_reads_the_good_files_and_names_the_bad_one(interrupted, real_data, run_gazelit, tmp_path):
    (tmp_path / "broken.dcm").write_bytes(b"not a DICOM file")
    best = interrupted[1] / "joint" / "checkpoints" / "best.ckpt"
    good = str(real_data / "nih_00000001_000.png")
    printed = run_gazelit("infer", "broken.dcm", good, "--ckpt", str(best), "--out=read", "--names=file", code=2)
    assert "1 of 2 files could not be read" in printed
    assert "broken.dcm" in printed
    assert (tmp_path / "read" / "nih_00000001_000.json").is_file()


def test_agreement_scores_the_maps_of_a_trained_model(interrupted, store, run_gazelit, tmp_path):
    out = interrupted[1]
    ckpt = out / "joint" / "checkpoints" / "best.ckpt"
    run_gazelit("agreement", str(ckpt), "--out", str(tmp_path / "a"))
    text = (tmp_path / "a" / "agreement.md").read_text()
    assert "SYNTHETIC" in text
    assert "![Film with regions" in text
    assert "data:image/png;base64" in (tmp_path / "a" / "agreement.html").read_text()
    cases = pd.read_parquet(tmp_path / "a" / "agreement_gaze.parquet")
    tested = pd.read_parquet(out / "test" / "predictions.parquet").set_index("index")
    ours = cases[cases["map"] == "predicted gaze"].set_index("index")
    for metric in ("cc", "nss", "auc_judd", "sauc"):
        assert np.allclose(ours[metric], tested.loc[ours.index, metric], atol=1e-5, equal_nan=True)
    ids = Store.open(store).cases[["image_id", "patient_id"]].to_numpy().ravel().tolist()
    for path in (tmp_path / "a").rglob("*"):
        if path.suffix in (".md", ".html", ".csv"):
            assert not [name for name in ids if name in path.read_text()]
    for options, message in (
        (["--methods", "[cam]"], "cam is none of gradcam"),
        (["--stage_config", "nowhere.yaml"], "name the config.yaml"),
    ):
        assert message in run_gazelit("agreement", str(ckpt), "--out", "b", *options, code=2)
    assert not (tmp_path / "b").exists()


def test_finding_c19_agreement_takes_no_checkpoint_of_another_split(interrupted, run_gazelit, tmp_path):
    stage = interrupted[1] / "joint"
    ckpt = stage / "checkpoints" / "best.ckpt"
    config = yaml.safe_load((stage / "config.yaml").read_text())
    config["data"]["init_args"]["split"] |= {"seed": 7, "allow_empty": True}
    (tmp_path / "other.yaml").write_text(yaml.safe_dump(config))
    arguments = ["agreement", str(ckpt), "--stage_config", "other.yaml", "--out", "a"]
    assert "was trained on another split" in run_gazelit(*arguments, code=2)
    assert not (tmp_path / "a").exists()
    printed = run_gazelit(*arguments, "--allow_other_split=true")
    assert "was trained on another split of egd-cxr (seed 0, now 7); this is allowed" in printed
    text = (tmp_path / "a" / "agreement.md").read_text()
    assert "was trained on another split" in text
    assert "this is allowed" in text


def test_finding_b2_films_of_real_cases_leave_neither_report_nor_agreement_unasked(
    interrupted, store, run_gazelit, tmp_path
):
    shutil.copytree(store, tmp_path / "real")
    about = json.loads((tmp_path / "real" / "store.json").read_text())
    (tmp_path / "real" / "store.json").write_text(json.dumps({**about, "synthetic": False}))
    shutil.copytree(interrupted[1], tmp_path / "run")
    for path in ("run/run.json", "run/joint/config.yaml"):
        text = (tmp_path / path).read_text()
        (tmp_path / path).write_text(text.replace(str(store.resolve()), str(tmp_path / "real")))
    ckpt = "run/joint/checkpoints/best.ckpt"
    for option in ([], ["--films=true"]):
        run_gazelit("report", "run", "--out", "r", *option)
        run_gazelit("agreement", ckpt, "--out", "a", *option)
        for name in ("r/report", "a/agreement"):
            text = (tmp_path / f"{name}.md").read_text()
            assert ("This page shows films and gaze of real cases" in text) == bool(option)
            assert ("No film is shown" in text) != bool(option)
        assert (tmp_path / "r" / "figures" / "cases.png").exists() == bool(option)
        assert (tmp_path / "a" / "figures" / "agreement.png").exists() == bool(option)
        assert ("base64" in (tmp_path / "a" / "agreement.html").read_text()) == bool(option)


def test_a_test_on_another_source_can_follow(interrupted, store, external_store, run_gazelit):
    path, out, _, _ = interrupted
    external = {"elsewhere": {"store": str(external_store)}}
    result = subprocess.run(
        [*command(path, store, out), f"--external={json.dumps(external)}"], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    assert result.stderr.count("done before, skipped") == 5
    table = pd.read_parquet(out / "test_on_elsewhere" / "predictions.parquet")
    cases = Store.open(external_store).cases
    assert table["image_id"].tolist() == cases["image_id"].tolist()
    text = (out / "report.md").read_text()
    assert "## External test: elsewhere" in text
    right = (
        table[[f"p_{name}" for name in ("Normal", "CHF", "pneumonia")]].to_numpy().argmax(1) == table["label"]
    ).mean()
    assert json.loads((out / "test_on_elsewhere" / "metrics.json").read_text())["test/accuracy"] == pytest.approx(right)
    assert f"{table['cc'].mean():.3f} (" in text.split("## External test")[1]


def test_a_training_by_hand_is_reported_by_its_folder_or_that_of_its_test(interrupted, run_gazelit, tmp_path):
    for stage in ("saliency", "joint"):
        shutil.copytree(interrupted[1] / stage, tmp_path / "hand" / stage)
    config = tmp_path / "hand" / "joint" / "config.yaml"
    config.write_text(config.read_text().replace(str(interrupted[1]), str(tmp_path / "hand")))
    untested = run_gazelit("report", "hand/joint", code=2)
    assert "hand/joint: a training without a test; run `gazelit test --config hand/joint/config.yaml`" in untested
    assert "no finished run, training or test" in run_gazelit("report", "hand", code=2)
    run_gazelit(
        "test", "--config=hand/joint/config.yaml", "--trainer.default_root_dir=hand/t", "--trainer.logger=false"
    )
    tested = json.loads((tmp_path / "hand" / "t" / "metrics.json").read_text())
    run_gazelit("report", "hand/joint")
    run_gazelit("report", "hand/t", "--out", "of_test")
    for folder in (tmp_path / "hand" / "t" / "report", tmp_path / "of_test"):
        found = json.loads((folder / "metrics.json").read_text())
        assert {key: found[key] for key in tested} == tested
        text = (folder / "report.md").read_text()
        assert "| joint | " in text
        assert [f"| {stage} | `" in text for stage in ("joint", "saliency", "contrastive")] == [True] * 3
        assert "Every model was tested once." in text
        # The stages' curves are found by the folders that the configurations name.
        assert "Loss and validation metrics of every stage" in text
    assert json.loads((tmp_path / "hand" / "t" / "metrics.json").read_text()) == tested
    # Beside the run from which it was copied, it is an arm like any other.
    run_gazelit("report", str(interrupted[1]), "hand/t", "--out", "both")
    assert list(json.loads((tmp_path / "both" / "metrics.json").read_text())["arms"]) == ["run: joint", "t"]
    (tmp_path / "hand" / "joint" / "epochs.csv").unlink()
    assert "hand/joint/epochs.csv: missing; it is written by `gazelit fit`" in run_gazelit("report", "hand/t", code=2)
    with (tmp_path / "hand" / "joint" / "checkpoints" / "best.ckpt").open("ab") as file:
        file.write(b"0")
    assert "best.ckpt: changed since" in run_gazelit("report", "hand/t", code=2)


def test_several_runs_stand_in_one_comparison(interrupted, run_gazelit, tmp_path):
    out = interrupted[1]
    shutil.copytree(out, tmp_path / "again")
    run_gazelit("report", str(out), "again", "--out", "both")
    arms = json.loads((tmp_path / "both" / "metrics.json").read_text())["arms"]
    assert list(arms) == ["run: joint", "again: joint"]
    for name, difference in arms["again: joint"]["differences"].items():
        assert difference["value"] == 0, name
    text = (tmp_path / "both" / "report.md").read_text()
    models = "| again: joint, single model, seed 0 | run: joint, single model, seed 0 |"
    assert f"{models} accuracy | +0.000 |" in text
    assert "Wilcoxon" in text
    assert text.count("gazelit test ") >= 2
    table = pd.read_parquet(tmp_path / "again" / "test" / "predictions.parquet")
    table.loc[3, "p_CHF"] = np.nan
    table.to_parquet(tmp_path / "again" / "test" / "predictions.parquet")
    assert "1 predictions of arm 'joint' are not numbers" in run_gazelit("report", "again", code=2)
    assert "named twice" in run_gazelit("report", str(out), str(out), code=2)


def test_a_second_run_at_the_same_time_is_refused(tmp_path, store, monkeypatch):
    import fcntl

    (tmp_path / "run").mkdir()
    monkeypatch.setattr("gazelit.files.LOCK_PATIENCE", 0.3)
    with (tmp_path / "run" / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(InputError, match="another run is at work"):
            run([StageStep("joint", "stage3.yaml")], store, tmp_path / "run")


@pytest.mark.usefixtures("steps_here")
def test_a_failed_stage_is_one_error_that_names_the_log(tmp_path, store):
    step = StageStep("joint", "presets/quick/stage3.yaml", overrides=[*tiny(3, store), "--data.labels=[Cough]"])
    with pytest.raises(InputError, match=r"step 'joint' failed \(exit code 2\).*Cough.*log\.txt"):
        run([step], store, tmp_path / "run")
    assert not (tmp_path / "run" / "joint" / "done.json").exists()
    # Nothing was trained, so other settings are not refused, and the error is that of the new settings.
    step = StageStep("joint", "presets/quick/stage3.yaml", overrides=[*tiny(3, store), "--data.labels=[Fever]"])
    with pytest.raises(InputError, match=r"Fever"):
        run([step], store, tmp_path / "run")


@pytest.mark.parametrize(
    ("stages", "message"),
    [
        ([], "has none"),
        ([StageStep("a", "stage1.yaml"), StageStep("a", "stage2.yaml")], "taken"),
        ([StageStep("test", "stage1.yaml")], "taken"),
        ([StageStep("../a", "stage1.yaml")], "plain name"),
        ([StageStep("a", "stage1.yaml", after="b")], "no earlier stage"),
    ],
)
def test_pipelines_that_cannot_run_say_why(stages, message, store, tmp_path):
    with pytest.raises(InputError, match=message):
        run(stages, store, tmp_path / "run")


def test_missing_store_says_how_to_make_one(tmp_path):
    with pytest.raises(InputError, match="gazelit prepare"):
        run([StageStep("a", "stage1.yaml")], tmp_path / "none", tmp_path / "run")
    assert os.listdir(tmp_path) == []


def arms_file(folder, stages, arms, **members):
    """A pipeline whose arms train one epoch each."""
    overrides = ["--trainer.max_epochs=1"]
    path = folder / "arms.yaml"
    path.write_text(yaml.safe_dump({"stages": stages, "arms": arms, "overrides": overrides, **members}))
    return path


@pytest.fixture(scope="module")
def compared(store, tmp_path_factory, lightning_imported):
    """The folder of two arms that share nothing, over three folds, whose steps ran in this process."""
    folder = tmp_path_factory.mktemp("arms")
    stages = [
        {"name": "alone", "config": "presets/quick/supervised.yaml", "overrides": tiny(1, store)},
        {"name": "joint", "config": "presets/quick/stage3.yaml", "after": None, "overrides": tiny(3, store)},
    ]
    path, out = arms_file(folder, stages, {"both": "joint", "diagnosis": "alone"}, folds=3), folder / "run"
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stderr(io.StringIO()) as said:
        patch.setattr("subprocess.Popen", popen)
        assert main(command(path, store, out)[3:]) == 0, said.getvalue()
    return out


def test_a_forked_training_starts_processes_as_a_fresh_one_does(store, tmp_path):
    two = [*tiny(1, store), "--trainer.devices=2", "--trainer.callbacks+=tests.start_method_note.StartMethodNote"]
    alone = {"name": "alone", "config": "presets/quick/supervised.yaml", "overrides": two}
    path, out = arms_file(tmp_path, [alone], {"diagnosis": "alone"}), tmp_path / "run"
    result = subprocess.run(command(path, store, out), capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    said = (out / "alone" / "log.txt").read_text()
    assert "Starting with 2 processes" in said
    # One of the two is forked from the run's fork server, the other is fresh.
    assert re.findall(r"further processes: (\w+)", said) == 2 * [multiprocessing.get_start_method()]


def test_a_training_beside_another_ends_in_the_weights_of_a_training_alone(store, run_gazelit, tmp_path, monkeypatch):
    import torch

    alone = {"name": "alone", "config": "presets/quick/supervised.yaml", "overrides": tiny(1, store)}
    path, out = arms_file(tmp_path, [alone], {"diagnosis": "alone"}, seeds=2), tmp_path / "run"
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    side_by_side = [*command(path, store, out), "--jobs=2"]
    result = subprocess.run(side_by_side, capture_output=True, text=True, check=False, env=environment)
    assert result.returncode == 0, result.stderr
    step = out / "seed-1" / "alone"
    words = shlex.split(json.loads((step / "done.json").read_text())["command"])[1:]
    kept = [word for word in words if not word.startswith(("--trainer.default_root_dir", "--checkpoint.dirpath"))]
    monkeypatch.chdir(out)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        run_gazelit(*kept, f"--checkpoint.dirpath={tmp_path / 'alone' / 'checkpoints'}")
    finally:
        torch.set_num_threads(threads)
    beside, alone = (
        torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
        for folder in (step, tmp_path / "alone")
    )
    assert beside.keys() == alone.keys()
    assert all(torch.equal(beside[key], alone[key]) for key in alone)


def test_arms_over_folds_test_every_case_once_and_stand_side_by_side(compared, store):
    import pandas as pd

    out = compared
    cases = pd.read_parquet(store / "cases.parquet")
    for arm in ("both", "diagnosis"):
        tables = [pd.read_parquet(out / f"fold-{fold}" / f"test_{arm}" / "predictions.parquet") for fold in range(3)]
        assert sorted(pd.concat(tables)["image_id"]) == sorted(cases["image_id"])
    metrics = json.loads((out / "metrics.json").read_text())
    assert metrics["n_test"] == len(cases)
    pooled = pd.concat(pd.read_parquet(out / f"fold-{fold}" / "test_both" / "predictions.parquet") for fold in range(3))
    assert metrics["arms"]["both"]["estimates"]["cc"]["value"] == pytest.approx(pooled["cc"].mean(), rel=1e-5)
    difference = metrics["arms"]["diagnosis"]["differences"]["auroc_macro"]
    values = [metrics["arms"][arm]["estimates"]["auroc_macro"]["value"] for arm in ("both", "diagnosis")]
    assert difference["value"] == pytest.approx(values[1] - values[0])
    text = (out / "report.md").read_text()
    assert "synthetic" in text.lower()
    assert "| both |" in text
    assert "| diagnosis |" in text
    assert "corrected resampled t" in text
    assert "Every model was tested once." in text
    assert (out / "report.html").stat().st_size > 50_000


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"arms": {"a": "nowhere"}}, "'a' tests stage 'nowhere'"),
        ({"arms": {"a b": "one"}}, "not a plain name"),
        ({"arms": {}}, "arms: there is none"),
        ({"seeds": 0}, "seeds: must be at least 1"),
        ({"jobs": 0}, "jobs: must be at least 1"),
        ({"folds": 2}, "folds: must be at least 3"),
        ({"external": {"there": ExternalTest(Path("nowhere"))}}, "external: there: nowhere is no prepared store"),
    ],
)
def test_impossible_arms_seeds_and_folds_are_refused(options, message, store, tmp_path):
    with pytest.raises(InputError, match=message):
        run([StageStep("one", "stage1.yaml")], store, tmp_path / "run", **options)


def test_the_page_on_export_runs_and_its_figures_are_those_of_the_report(interrupted, run_gazelit, tmp_path):
    # OpenVINO is not imported here, because its import sends a report to its makers.
    has_openvino = importlib.util.find_spec("openvino") is not None
    import onnx
    from PIL import Image

    run_folder = interrupted[1]
    (tmp_path / "best.ckpt").symlink_to(run_folder / "joint" / "checkpoints" / "best.ckpt")
    (tmp_path / "RUN").symlink_to(run_folder)
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (90, 71)).astype(np.uint8)).save(tmp_path / "film.png")
    page = (Path(__file__).resolve().parents[1] / "docs" / "export.md").read_text()
    lines = [line for block in re.findall(r"```sh\n(.*?)```", page, re.S) for line in block.splitlines()]
    commands = [shlex.split(line, comments=True) for line in lines]
    assert [command[1] for command in commands] == [*["export"] * 3, "infer", "export", "package", "infer"]
    for _, *arguments in commands:
        if "openvino" not in arguments or has_openvino:
            run_gazelit(*arguments)
    film = np.random.default_rng(1).random((90, 71), dtype=np.float32)
    for trained, file in (("RUN/joint_calibration/calibrated.ckpt", "chest/model.onnx"), ("best.ckpt", "best.xml")):
        if file != "best.xml" or has_openvino:
            expected, reading = (gazelit.load(tmp_path / name).predict(film) for name in (trained, file))
            assert reading.probabilities == pytest.approx(expected.probabilities, abs=1e-4)
            np.testing.assert_allclose(reading.saliency, expected.saliency, rtol=1e-2, atol=1e-7)
    measured = json.loads((run_folder / "metrics.json").read_text())
    cost = json.loads((tmp_path / "int8.onnx.json").read_text())["cost"]
    assert "SYNTHETIC" in cost["on"]
    assert cost["films"] == measured["n_test"]
    names = {"macro AUC": "auroc_macro", "CC": "cc", "NSS": "nss"}
    for row in cost["metrics"]:
        assert row["float32"] == pytest.approx(measured[f"test/{names.pop(row['metric'])}"], abs=1e-5)
        assert row["change"] == pytest.approx(row["int8"] - row["float32"])
        assert abs(row["change"]) < 0.2
    assert not names
    weights = {str(value.dtype) for value in map(onnx.numpy_helper.to_array, onnx.load("int8.onnx").graph.initializer)}
    assert "int8" in weights
    assert (tmp_path / "int8.onnx").stat().st_size < (tmp_path / "best.onnx").stat().st_size
    packed = json.loads((tmp_path / "chest" / "metrics.json").read_text())
    for key in ("auroc_macro", "cc", "nss", "ece_corrected"):
        cells = packed["model"]["metrics"][key]
        assert cells["value"] == pytest.approx(measured[f"test/{key}"], abs=1e-6)
        assert (cells["low"], cells["high"]) == (measured[f"test/{key}_low"], measured[f"test/{key}_high"])
    card = (tmp_path / "chest" / "README.md").read_text()
    assert card.split("---\n")[2].lstrip().startswith("# Chest gaze")
    for words in ("| CC |", "Checkpoints were selected on the validation split alone", "fitted to"):
        assert words in card


def test_packing_a_model_that_the_run_did_not_test_names_the_tested_models(interrupted, run_gazelit, tmp_path):
    best = interrupted[1] / "joint" / "checkpoints" / "best.ckpt"
    printed = run_gazelit("package", str(best), "--out", "chest", code=2)
    assert "did not test" in printed
    assert "joint_calibration/calibrated.ckpt; give one of these" in printed
    assert not (tmp_path / "chest").exists()
