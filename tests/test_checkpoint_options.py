"""The meaning of each option that names a checkpoint, command by command."""

import json
import os
import re
import shutil
import signal
from pathlib import Path

import lightning as L
import pandas as pd
import pytest
import torch
import yaml
from lightning.pytorch.trainer.call import _call_and_handle_interrupt

from gazelit.checkpoints import stamps
from gazelit.checkpoints.stamps import STAMP_KEY
from gazelit.cli.main import main
from gazelit.files import sha256_file
from tests.tiny import tiny

SHORT = [
    "--trainer.limit_train_batches=1",
    "--trainer.limit_val_batches=1",
    "--trainer.logger=false",
    "--data.loader.batch_size=3",
]


def fit(run_gazelit, stage, store, folder, *options, epochs=1, code=0):
    return run_gazelit(
        "fit", f"--config=presets/quick/stage{stage}.yaml", *tiny(stage, store), *SHORT,
        f"--trainer.max_epochs={epochs}", f"--trainer.default_root_dir={folder}",
        f"--checkpoint.dirpath={folder}/checkpoints", *options, code=code,
    )  # fmt: skip


@pytest.fixture(scope="module")
def runs(store, tmp_path_factory):
    """Stage 2, and stage 3 handed over from it, each after one step."""
    root = tmp_path_factory.mktemp("runs")

    def run(*arguments, code=0):
        assert main(list(arguments)) == code

    fit(run, 2, store, root / "two")
    fit(run, 3, store, root / "three", f"--ckpt_path={root / 'two' / 'checkpoints' / 'best.ckpt'}")
    return root


def best(folder):
    return folder / "checkpoints" / "best.ckpt"


def read(path):
    return torch.load(path, weights_only=True)


def test_finding_c2_last_is_this_runs_own_or_one_error(runs, store, run_gazelit, tmp_path):
    printed = fit(run_gazelit, 3, store, tmp_path / "empty", "--ckpt_path=last", code=2)
    assert "--ckpt_path last: " in printed.splitlines()[-1]
    assert "holds no last.ckpt" in printed.splitlines()[-1]
    assert not (tmp_path / "empty").exists()
    shutil.copytree(runs / "three", tmp_path / "three")
    printed = fit(run_gazelit, 3, store, tmp_path / "three", "--ckpt_path=last", epochs=2)
    assert f"resuming 'joint' from {tmp_path / 'three' / 'checkpoints' / 'last.ckpt'}" in printed
    assert read(tmp_path / "three" / "checkpoints" / "last.ckpt")["epoch"] == 1


@pytest.mark.parametrize("name", ["best", "hpc"])
def test_finding_c2_names_that_lightning_would_resolve_are_one_error(name, runs, store, run_gazelit, tmp_path):
    printed = fit(run_gazelit, 3, store, tmp_path / "run", f"--ckpt_path={name}", code=2)
    assert "write the file, such as RUN/checkpoints/best.ckpt" in printed.splitlines()[-1]
    printed = run_gazelit("test", f"--config={runs / 'three' / 'config.yaml'}", f"--ckpt_path={name}", code=2)
    assert "write the file" in printed.splitlines()[-1]


def test_finding_c2_a_run_is_tested_with_its_own_best_and_never_with_its_parent(runs, run_gazelit, tmp_path):
    config = runs / "three" / "config.yaml"
    assert yaml.safe_load(config.read_text())["ckpt_path"] == str(best(runs / "two"))
    for name, options in (("own", []), ("named", [f"--ckpt_path={best(runs / 'three')}"])):
        run_gazelit("test", f"--config={config}", *options, f"--trainer.default_root_dir={tmp_path / name}")
    own, named = (json.loads((tmp_path / name / "metrics.json").read_text()) for name in ("own", "named"))
    assert own == named
    run_gazelit("calibrate", f"--config={config}", "--out=calibrated.ckpt")
    assert stamps.read_checkpoint("calibrated.ckpt")[STAMP_KEY]["calibration"]["of"] == sha256_file(
        best(runs / "three")
    )
    (tmp_path / "alone").mkdir()
    shutil.copy(config, tmp_path / "alone" / "config.yaml")
    printed = run_gazelit("test", f"--config={tmp_path / 'alone' / 'config.yaml'}", code=2)
    assert f"there is no {best(tmp_path / 'alone')}" in printed.splitlines()[-1]


def test_finding_c2_for_a_folder_the_error_names_its_checkpoint(runs, store, run_gazelit, tmp_path):
    printed = fit(run_gazelit, 3, store, tmp_path / "run", f"--ckpt_path={runs / 'two'}", code=2)
    assert f"{runs / 'two'}: a folder; give the checkpoint in it: {best(runs / 'two')}" in printed.splitlines()[-1]
    assert "give a checkpoint file" in run_gazelit("lineage", str(tmp_path), code=2)


def test_finding_c3_start_from_begins_anew_also_from_the_same_stage(runs, store, run_gazelit, tmp_path):
    start = best(runs / "two")
    seen = {}

    from gazelit.stages import Stage

    def spy(self):
        seen.update(step=self.global_step, epoch=self.current_epoch)
        seen["state"] = {key: value.clone() for key, value in self.network.state_dict().items()}

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Stage, "on_train_start", spy, raising=False)
        printed = fit(run_gazelit, 2, store, tmp_path / "again", f"--start_from={start}", epochs=2)
    assert "hand-off from stage 'saliency'" in printed
    assert (seen["step"], seen["epoch"]) == (0, 0)
    before = read(start)["state_dict"]
    assert all(torch.equal(value, before[f"network.{key}"]) for key, value in seen["state"].items())
    assert pd.read_csv(tmp_path / "again" / "epochs.csv")["epoch"].tolist() == [0, 1]
    assert read(best(tmp_path / "again"))[STAMP_KEY]["parent"]["sha256"] == sha256_file(start)


def commands_of(pipeline, store, out, monkeypatch, run_gazelit):
    """The command lines of a pipeline's steps, which are not run; each step leaves the files that the next needs."""
    commands = []

    class Process:
        cpu_seconds = 0.0

        def __init__(self, arguments, *_):
            commands.append(arguments)
            folder = Path(option(arguments, "--trainer.default_root_dir") or out)
            (folder / "checkpoints").mkdir(parents=True, exist_ok=True)
            (folder / "checkpoints" / "best.ckpt").write_bytes(b"weights")
            (folder / "config.yaml").write_text("{}")
            (folder / "metrics.json").write_text("{}")

        def poll(self):
            return 0

    monkeypatch.setattr("gazelit.runs.steps.OwnProcess", Process)
    monkeypatch.setattr("gazelit.runs.steps.ForkedProcess", Process)
    run_gazelit("run", str(pipeline), f"--store={store}", f"--out={out}")
    return commands


def option(arguments, name):
    return next((argument.partition("=")[2] for argument in arguments if argument.startswith(f"{name}=")), None)


def test_finding_c3_two_steps_of_one_stage_in_a_pipeline(store, run_gazelit, tmp_path, monkeypatch):
    """The second step begins anew from the first step's weights, and does not resume its training."""
    stages = [{"name": name, "config": "presets/quick/stage2.yaml"} for name in ("first", "second")]
    (tmp_path / "twice.yaml").write_text(yaml.safe_dump({"stages": stages}))
    first, second, test, _ = commands_of(tmp_path / "twice.yaml", store, tmp_path / "out", monkeypatch, run_gazelit)
    assert option(first, "--start_from") is option(first, "--ckpt_path") is None
    assert option(second, "--start_from").endswith("first/checkpoints/best.ckpt")
    assert option(second, "--ckpt_path") is None
    assert option(test, "--ckpt_path").endswith("second/checkpoints/best.ckpt")


def test_a_pipeline_trusts_what_its_configurations_name(store, run_gazelit, tmp_path, monkeypatch):
    (tmp_path / "own_stages.py").write_text(
        "from gazelit.stages import SaliencyWarmup\nclass Own(SaliencyWarmup): ...\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "own.yaml").write_text("model: {class_path: own_stages.Own}\n")
    stages = [{"name": "own", "config": ["presets/quick/stage2.yaml", str(tmp_path / "own.yaml")]}]
    (tmp_path / "pipeline.yaml").write_text(yaml.safe_dump({"stages": stages}))
    fit_, test, report = commands_of(tmp_path / "pipeline.yaml", store, tmp_path / "out", monkeypatch, run_gazelit)
    assert (test[0], report[0]) == ("test", "report")
    assert option(test, "--trust") == option(report, "--trust") == "own_stages"
    assert option(fit_, "--trust") is None


def test_both_options_at_once_are_an_error_and_the_one_given_wins_over_a_saved_one(runs, store, run_gazelit, tmp_path):
    start = best(runs / "two")
    both = [f"--ckpt_path={start}", f"--start_from={start}"]
    assert "give one of them" in fit(run_gazelit, 3, store, tmp_path / "run", *both, code=2).splitlines()[-1]
    config = runs / "three" / "config.yaml"
    printed = run_gazelit(
        "fit", f"--config={config}", f"--start_from={best(runs / 'three')}", f"--checkpoint.dirpath={tmp_path / 'c'}"
    )
    assert "hand-off from stage 'joint'" in printed
    printed = run_gazelit("test", f"--config={config}", f"--start_from={start}", code=2)
    assert "--start_from: belongs to fit" in printed.splitlines()[-1]


def options_after_resume(run_gazelit, store, folder, *options):
    """The optimiser's options and the schedule's rate once a resumed training starts."""
    from gazelit.stages import Stage

    seen = {}

    def spy(self):
        seen["group"] = dict(self.trainer.optimizers[0].param_groups[0])
        seen["state"] = len(self.trainer.optimizers[0].state)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Stage, "on_train_start", spy, raising=False)
        fit(run_gazelit, 3, store, folder, "--ckpt_path=last", *options, epochs=2)
    assert seen["state"] > 0
    return seen["group"]


PLAIN = ["--model.lr_scheduler=null"]
COSINE = ["--model.lr_scheduler=torch.optim.lr_scheduler.CosineAnnealingLR"]
WARM = ["--model.lr_scheduler=gazelit.stages.schedules.WarmupCosine"]


@pytest.mark.parametrize("schedule", ["none", "function of the epoch"])
def test_finding_c4_options_given_now_win(schedule, store, run_gazelit, tmp_path):
    arguments = PLAIN if schedule == "none" else [*WARM, "--model.lr_scheduler.epochs=4"]
    fit(run_gazelit, 3, store, tmp_path / "run", *arguments, "--model.optimizer.lr=0.01")
    changed = ["--model.optimizer.lr=0.004", "--model.optimizer.weight_decay=0.5", "--model.optimizer.betas=[0.5, 0.6]"]
    group = options_after_resume(run_gazelit, store, tmp_path / "run", *arguments, *changed)
    assert group["weight_decay"] == 0.5
    assert list(group["betas"]) == [0.5, 0.6]
    # A cosine over 4 epochs is at (1 + cos(π/4)) / 2 in the second.
    factor = 1 if schedule == "none" else (1 + 2**-0.5) / 2
    assert group["lr"] == pytest.approx(0.004 * factor)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (["--model.optimizer.lr=0.004"], "the learning rate was 0.01 and is 0.004 now"),
        (["--model.lr_scheduler.T_max=9"], "the lr_scheduler's T_max was 4 and is 9 now"),
        (["--model.lr_scheduler=null"], "the lr_scheduler was one and is none now"),
        (["--model.optimizer=torch.optim.SGD"], "the optimizer, or what it trains, was another"),
        (["--model.learning_rates={encoder: 0.1}"], "the number of learning_rates was 2 and is 3 now"),
    ],
)
def test_finding_c4_options_that_cannot_change_are_named(changed, message, cosine, store, run_gazelit, tmp_path):
    shutil.copytree(cosine, tmp_path / "run")
    arguments = [*COSINE, "--model.lr_scheduler.T_max=4", "--model.optimizer.lr=0.01", *changed]
    printed = fit(run_gazelit, 3, store, tmp_path / "run", "--ckpt_path=last", *arguments, epochs=2, code=2)
    assert message in printed.splitlines()[-1]
    assert "--start_from" in printed.splitlines()[-1]


def test_muon_of_timm_is_saved_resumed_and_tested_like_torchs_own(store, run_gazelit, tmp_path):
    """Of two epochs at once, and of one and a resumed one: the same weights; its class needs no ``--trust``."""
    muon = ["timm.optim.Muon", "lr=0.01", "fallback_lr_scale=0.4", "nesterov=true"]
    options = [*PLAIN, *(f"--model.optimizer{'.' if '=' in each else '='}{each}" for each in muon)]
    fit(run_gazelit, 2, store, tmp_path / "whole", *options, epochs=2)
    fit(run_gazelit, 2, store, tmp_path / "parts", *options)
    last = {name: tmp_path / name / "checkpoints" / "last.ckpt" for name in ("whole", "parts")}
    first = read(last["parts"])
    assert any("momentum_buffer" in state for state in first["optimizer_states"][0]["state"].values())
    fit(run_gazelit, 2, store, tmp_path / "parts", *options, "--ckpt_path=last", epochs=2)
    whole, parts = (read(last[name])["state_dict"] for name in ("whole", "parts"))
    assert all(torch.equal(value, parts[key]) for key, value in whole.items())
    assert any(not torch.equal(value, parts[key]) for key, value in first["state_dict"].items())
    run_gazelit("test", f"--config={tmp_path / 'parts' / 'config.yaml'}", "--trainer.logger=false")


@pytest.fixture(scope="module")
def cosine(store, tmp_path_factory):
    from gazelit.cli.main import main

    root = tmp_path_factory.mktemp("cosine") / "run"

    def run(*arguments, code=0):
        assert main(list(arguments)) == code

    fit(run, 3, store, root, *COSINE, "--model.lr_scheduler.T_max=4", "--model.optimizer.lr=0.01")
    return root


def test_finding_g6_a_calibrated_checkpoint_has_the_same_bytes_again(runs, run_gazelit):
    for name in ("a.ckpt", "b.ckpt"):
        run_gazelit("calibrate", f"--config={runs / 'three' / 'config.yaml'}", f"--out={name}")
    assert sha256_file("a.ckpt") == sha256_file("b.ckpt")


def test_exported_weights_stand_for_their_checkpoint(runs, store, run_gazelit, tmp_path):
    from PIL import Image
    from safetensors.torch import load_file

    run_gazelit("export-weights", str(best(runs / "three")), "--out=model.safetensors")
    stored = read(best(runs / "three"))
    weights = load_file("model.safetensors")
    assert weights.keys() == stored["state_dict"].keys()
    assert all(torch.equal(value, stored["state_dict"][key]) for key, value in weights.items())
    about = json.loads((tmp_path / "model.json").read_text())
    assert about["sha256"] == sha256_file("model.safetensors")
    assert about[STAMP_KEY]["exported_from"] == sha256_file(best(runs / "three"))
    config = f"--config={runs / 'three' / 'config.yaml'}"
    run_gazelit("test", config, "--ckpt_path=model.safetensors", "--trainer.default_root_dir=exported")
    run_gazelit("test", config, "--trainer.default_root_dir=original")
    assert (tmp_path / "exported" / "metrics.json").read_text() == (tmp_path / "original" / "metrics.json").read_text()
    printed = fit(run_gazelit, 3, store, tmp_path / "from", "--ckpt_path=model.safetensors")
    assert "hand-off from stage 'joint'" in printed
    Image.effect_noise((80, 96), 40).save("film.png")
    run_gazelit("infer", "film.png", "--ckpt=model.safetensors", "--out=read")
    printed = run_gazelit("calibrate", config, "--ckpt_path=model.safetensors", "--out=c.ckpt", code=2)
    assert "give the .ckpt" in printed.splitlines()[-1]
    about["sha256"] = "0" * 64
    (tmp_path / "model.json").write_text(json.dumps(about))
    assert "not the weights that model.json describes" in run_gazelit("lineage", "model.safetensors", code=2)
    (tmp_path / "model.json").unlink()
    assert "model.json: no such file" in run_gazelit("lineage", "model.safetensors", code=2)


def test_fit_ends_with_the_checkpoint_its_criterion_and_the_next_command(run_gazelit, store, tmp_path):
    printed = fit(run_gazelit, 3, store, tmp_path / "run")
    checkpoint = tmp_path / "run" / "checkpoints" / "best.ckpt"
    score = float(pd.read_csv(tmp_path / "run" / "epochs.csv")["val/selection"].iloc[0])
    assert f"best checkpoint: {checkpoint} (val/selection {score:.4g})" in printed
    (command,) = [line.split("test it: gazelit ")[1] for line in printed.splitlines() if "test it: gazelit " in line]
    run_gazelit(*command.split(), "--trainer.logger=false", f"--trainer.default_root_dir={tmp_path}")
    assert (tmp_path / "predictions.parquet").is_file()


@pytest.mark.parametrize("presses", [1, 2])
def test_ctrl_c_ends_with_130_and_says_how_to_resume(run_gazelit, store, tmp_path, monkeypatch, presses):
    def interrupt(self):
        for _ in range(presses):
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr("gazelit.stages.joint.JointFinetuning.on_train_epoch_start", interrupt)
    # A process that a shell starts in the background ignores SIGINT.
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        printed = fit(run_gazelit, 3, store, tmp_path / "run", code=130)
    finally:
        # Lightning ignores further signals in a process that it takes to be ending.
        signal.signal(signal.SIGINT, handler)
    last = tmp_path / "run" / "checkpoints" / "last.ckpt"
    saved = rf"interrupted: last\.ckpt is of step 1(, its validation is run again)?; go on with --ckpt_path={last}\n"
    assert re.search("interrupted: no epoch was finished" if presses == 2 else saved, printed)
    assert last.is_file() == (presses == 1)


def test_ctrl_c_that_lightning_turns_into_an_exit_ends_any_command_with_130(monkeypatch, capsys):
    def command(args):
        trainer = L.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False)

        def interrupted():
            raise KeyboardInterrupt

        _call_and_handle_interrupt(trainer, interrupted)

    monkeypatch.setattr("gazelit.cli.training.GazeCLI", command)
    handler = signal.getsignal(signal.SIGINT)
    try:
        assert main(["test", "--config=stage1.yaml"]) == 130
    finally:
        signal.signal(signal.SIGINT, handler)
    assert capsys.readouterr().err.endswith("gazelit: interrupted\n")
