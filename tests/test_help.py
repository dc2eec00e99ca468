"""Help answers at once and names commands and options; and the shipped configurations."""

import gc
import inspect
import subprocess
import sys

import pytest
import yaml

from gazelit.cli.fit_help import option_names, short_help
from gazelit.cli.main import COMMANDS, TRAINER_COMMANDS
from gazelit.cli.signature import described, load
from gazelit.configs import config_root

#: A value of each option that the help of `fit` names, for the stage that has it.
VALUES = {
    "--preset": "quick",
    "--name": "first",
    "--seed_everything": "1",
    "--ckpt_path": "x.ckpt",
    "--start_from": "x.ckpt",
    "--checkpoint.monitor": "val/cc",
    "--checkpoint.mode": "max",
    "--checkpoint.dirpath": "x",
    "--allow_other_split": "true",
    "--data.store": "x",
    "--data.labels": "[A, B]",
    "--data.exclusive": "false",
    "--data.downscale": "2",
    "--data.gaze.sigma": "2",
    "--data.gaze.sigma_unit": "px",
    "--data.gaze.kind": "sample",
    "--data.split.seed": "1",
    "--data.split.file": "x.csv",
    "--data.loader.batch_size": "2",
    "--data.loader.num_workers": "0",
    "--data.augmentation.enabled": "false",
    "--model.optimizer.lr": "0.1",
    "--model.lr_scheduler": "gazelit.stages.schedules.WarmupCosine",
    "--model.learning_rates": "{encoder: 0.1}",
    "--model.frozen": "[encoder]",
    "--model.network.encoder.name": "resnet18",
    "--model.network.encoder.weights": "null",
    "--model.loss": "gazelit.losses.NTXentLoss",
    "--model.weighting": "gazelit.losses.FAMO",
    "--model.on_nonfinite": "skip",
    "--trainer.max_epochs": "1",
    "--trainer.accelerator": "cpu",
    "--trainer.devices": "1",
    "--trainer.precision": "32-true",
    "--trainer.accumulate_grad_batches": "2",
    "--trainer.fast_dev_run": "true",
    "--trainer.callbacks+": "EMAWeightAveraging",
    "--log_paths": "true",
}


def test_help_of_commands_for_small_files_imports_no_heavy_library():
    code = (
        "import sys; from gazelit.cli.main import main\n"
        "for name in ('lineage', 'encoders', 'report', 'agreement', 'configs', 'import-reference', 'infer', 'push'):\n"
        "    try: main([name, '--help'])\n"
        "    except SystemExit: pass\n"
        "for name in ('fit', 'test', 'calibrate'): main([name, '--help'])\n"
        "sys.exit(bool({'torch', 'lightning', 'pandas', 'matplotlib'} & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (result.returncode, result.stderr) == (0, "")
    assert "--films" in result.stdout


def test_lineage_and_encoders_do_not_import_lightning():
    code = "import sys, gazelit.checkpoints.ancestry as a; print({'lightning', 'timm'} & set(sys.modules));"
    code += "import gazelit.models.catalogue; print({'lightning'} & set(sys.modules))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.split() == ["set()", "set()"]


def test_reports_and_agreements_import_no_library_of_training():
    code = "import sys, gazelit.reporting.collect, gazelit.reporting.agreement, gazelit.models.registry\n"
    code += "gazelit.models.registry.build_encoder({'name': 'res-se'})\n"
    code += (
        "heavy = {'lightning', 'torchmetrics', 'torchvision', 'timm', 'segmentation_models_pytorch', 'torch._dynamo',"
        " 'torch.distributed.fsdp', 'sympy'}\n"
    )
    code += "print(heavy & set(sys.modules))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "set()"


def test_a_run_imports_nothing_that_its_steps_import():
    code = "import sys, gazelit.runs.pipeline; print({'lightning', 'torch'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"


@pytest.mark.parametrize("name", COMMANDS)
def test_described_functions_are_the_called_functions(name):
    target = COMMANDS[name].target
    said, is_so = described(target), load(target)
    assert inspect.signature(said, eval_str=True).parameters == inspect.signature(is_so, eval_str=True).parameters
    assert inspect.getdoc(said) == inspect.getdoc(is_so)


@pytest.mark.parametrize("command", TRAINER_COMMANDS)
def test_help_of_training_fits_two_screens_and_names_the_full_help(command):
    lines = short_help(command).splitlines()
    assert len(lines) <= 100
    assert max(map(len, lines)) <= 100
    assert any(f"gazelit {command} --help.all" in line for line in lines)


def test_every_option_that_the_help_names_is_accepted(run_gazelit, capfd):
    named = [name for name in option_names() if name not in ("--config", "--trust", "--debug")]
    named = [name + "+" * (name == "--trainer.callbacks") for name in named]
    assert set(named) == set(VALUES)
    for stage, left_out in (("stage1", "--model.weighting"), ("stage3", "--model.loss")):
        options = [f"{name}={value}" for name, value in VALUES.items() if name not in (left_out, "--name", "--preset")]
        run_gazelit("fit", f"--config={stage}.yaml", "--print_config", *options)


def test_shipped_configurations_are_listed_shown_and_copied(run_gazelit, capfd, tmp_path):
    from gazelit.cli.main import main

    main(["configs"])
    listed = [line.split()[0] for line in capfd.readouterr().out.splitlines()]
    assert set(listed) == {str(path.relative_to(config_root())) for path in config_root().rglob("*.yaml")}
    main(["configs", "sweeps"])
    assert [line.split()[0] for line in capfd.readouterr().out.splitlines()] == [
        "sweeps/contrastive.yaml", "sweeps/joint.yaml"
    ]  # fmt: skip
    main(["configs", "show", "sweeps/joint.yaml"])
    assert yaml.safe_load(capfd.readouterr().out)["program"] == "gazelit"
    main(["configs", "copy", "sweeps/joint.yaml"])
    assert (tmp_path / "joint.yaml").read_bytes() == (config_root() / "sweeps/joint.yaml").read_bytes()
    assert "joint.yaml: is there already" in run_gazelit("configs", "copy", "sweeps/joint.yaml", code=2)
    assert "did you mean sweeps/joint.yaml?" in run_gazelit("configs", "show", "sweeps/jont.yaml", code=2)
    assert "--out: goes with" in run_gazelit("configs", "list", "--out=x", code=2)


def test_the_collector_stays_out_of_imports_and_is_on_afterwards_though_one_fails(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "heavy_probe.py").write_text("import gc\ndef collected(state=gc.isenabled()):\n    return state\n")
    (tmp_path / "broken_probe.py").write_text("raise ImportError('broken')")
    assert load("heavy_probe:collected")() is False
    assert gc.isenabled()
    with pytest.raises(ImportError, match="broken"):
        load("broken_probe:anything")
    assert gc.isenabled()
