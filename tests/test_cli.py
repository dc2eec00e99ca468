"""The command line as its users run it."""

import contextlib
import csv
import io
import subprocess
import sys

import pytest
import torch
import yaml

from gazelit import __version__
from gazelit.checkpoints.stamps import STAMP_KEY
from gazelit.cli.main import COMMANDS, TRAINER_COMMANDS, main
from tests.tiny import tiny


def gazelit(*arguments, cwd):
    return subprocess.run(
        [sys.executable, "-m", "gazelit", *arguments], cwd=cwd, capture_output=True, text=True, check=False
    )


def test_version_answers_without_torch(tmp_path):
    code = "import sys, gazelit.cli.main; gazelit.cli.main.main(['--version']); sys.exit('torch' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout == f"gazelit {__version__}\n"


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command, run_gazelit):
    run_gazelit(command, "--help")


def test_help_names_every_command(capsys):
    assert main([]) == 0
    text = capsys.readouterr().out
    assert all(f"  {name} " in text for name in (*COMMANDS, *TRAINER_COMMANDS))


def test_unknown_command_suggests_one(run_gazelit):
    assert "unknown command 'prepar' (did you mean 'prepare'?)" in run_gazelit("prepar", code=2)


def test_input_errors_are_one_line_without_a_traceback(tmp_path):
    result = gazelit("fit", "--config", "stage1.yaml", "--model.network.encoder.weights=null", cwd=tmp_path)
    assert result.returncode == 2
    assert "Traceback" not in result.stderr
    assert "gazelit prepare" in result.stderr.strip().splitlines()[-1]


@pytest.fixture(scope="module")
def trained(store, tmp_path_factory, lightning_imported):
    """An epoch of each stage, each handed over from the stage before: {stage: run folder}, and the output."""
    root = tmp_path_factory.mktemp("trained")
    runs, printed, parent = {}, {}, None
    for number in (1, 2, 3):
        folder = root / f"stage{number}"
        hand_over = [f"--ckpt_path={parent}"] if parent else []
        arguments = [
            "fit", "--config", f"presets/quick/stage{number}.yaml", *tiny(number, store),
            "--trainer.max_epochs=1", f"--checkpoint.dirpath={folder / 'checkpoints'}",
            f"--trainer.default_root_dir={folder}", *hand_over,
        ]  # fmt: skip
        with contextlib.chdir(root), contextlib.redirect_stderr(io.StringIO()) as said:
            assert main(arguments) == 0, said.getvalue()
        runs[number], printed[number] = folder, said.getvalue()
        parent = folder / "checkpoints" / "best.ckpt"
    return runs, printed


def checkpoint(folder, name="best"):
    return torch.load(folder / "checkpoints" / f"{name}.ckpt", weights_only=True)


def test_a_run_leaves_its_configuration_its_curve_and_its_checkpoints(trained):
    for folder in trained[0].values():
        assert (folder / "epochs.csv").read_text().splitlines()[0].startswith("epoch,step")
        assert yaml.safe_load((folder / "config.yaml").read_text())["seed_everything"] == 0
        assert {path.name for path in (folder / "checkpoints").iterdir()} == {"best.ckpt", "last.ckpt"}


def test_the_configured_stage_runs_and_says_what_was_handed_over(trained):
    runs, printed = trained
    assert "stage 'joint' (gazelit.stages.joint.JointFinetuning)" in printed[3]
    assert "hand-off from stage 'saliency'" in printed[3]
    assert "loaded encoder, saliency_encoder, decoder, saliency_head; new classifier; left behind none" in printed[3]
    assert "loaded encoder; new saliency_encoder, decoder, saliency_head" in printed[2]
    assert checkpoint(runs[3])[STAMP_KEY]["stage"] == "joint"


def test_the_stamp_holds_the_chain_back_to_the_first_stage(trained):
    stamp = checkpoint(trained[0][3])[STAMP_KEY]
    assert (stamp["parent"]["stage"], stamp["parent"]["parent"]["stage"]) == ("saliency", "contrastive")
    assert stamp["parent"]["parent"]["parent"] is None
    assert stamp["data"]["synthetic"] is True


def test_the_frozen_encoder_leaves_stage_2_as_it_left_stage_1(trained):
    first, second = (checkpoint(trained[0][number])["state_dict"] for number in (1, 2))
    encoder = [key for key in first if key.startswith("network.encoder.")]
    assert any("running_mean" in key for key in encoder)
    assert all(torch.equal(first[key], second[key]) for key in encoder)


def test_stage_3_starts_from_exactly_the_weights_of_stage_2(trained, store, run_gazelit, monkeypatch):
    from gazelit.stages import JointFinetuning, Stage

    seen = {}

    def spy(self):
        seen["class"] = type(self)
        seen["step"] = self.global_step
        seen["state"] = {key: value.clone() for key, value in self.state_dict().items()}

    monkeypatch.setattr(Stage, "on_fit_start", spy, raising=False)
    best = trained[0][2] / "checkpoints" / "best.ckpt"
    run_gazelit(
        "fit", "--config", "presets/quick/stage3.yaml", *tiny(3, store), "--trainer.max_epochs=1",
        "--trainer.limit_train_batches=1", "--trainer.limit_val_batches=1", f"--ckpt_path={best}",
    )  # fmt: skip
    two = checkpoint(trained[0][2])["state_dict"]
    assert (seen["class"], seen["step"]) == (JointFinetuning, 0)
    shared = [
        key for key in two if key.startswith(("network.encoder.", "network.saliency_encoder.", "network.decoder."))
    ]
    assert shared
    assert all(torch.equal(two[key], seen["state"][key]) for key in shared)


def test_the_same_stage_resumes_and_options_given_now_win(trained, store, run_gazelit):
    folder = trained[0][1]
    printed = run_gazelit(
        "fit", "--config", "presets/quick/stage1.yaml", *tiny(1, store), "--trainer.max_epochs=2",
        "--model.loss.margin=0.5", "--checkpoint.dirpath=resumed/checkpoints",
        f"--ckpt_path={folder / 'checkpoints' / 'last.ckpt'}",
    )  # fmt: skip
    assert "resuming 'contrastive'" in printed
    last = torch.load("resumed/checkpoints/last.ckpt", weights_only=True)
    assert last["epoch"] == 1
    assert last["hyper_parameters"]["loss"]["init_args"]["margin"] == 0.5


def test_test_writes_metrics_and_a_row_per_case(trained, run_gazelit, tmp_path):
    import json

    import pandas as pd

    folder = trained[0][3]
    best = folder / "checkpoints" / "best.ckpt"
    run_gazelit("test", f"--config={folder / 'config.yaml'}", f"--ckpt_path={best}", "--trainer.logger=false",
                "--trainer.default_root_dir=tested")  # fmt: skip
    metrics = json.loads((tmp_path / "tested" / "metrics.json").read_text())
    wanted = {
        "auroc_macro",
        "auroc_Normal",
        "auroc_CHF",
        "auroc_pneumonia",
        "accuracy",
        "cc",
        "kld",
        "sim",
        "nss",
        "sigma_px",
    }
    assert {f"test/{name}" for name in wanted} <= set(metrics)
    table = pd.read_parquet(tmp_path / "tested" / "predictions.parquet")
    assert {"index", "image_id", "p_Normal", "p_CHF", "p_pneumonia", "cc", "label"} <= set(table.columns)
    assert table["index"].is_unique
    assert table["cc"].mean() == pytest.approx(metrics["test/cc"], rel=1e-5)
    predicted = table[["p_Normal", "p_CHF", "p_pneumonia"]].to_numpy().argmax(1)
    assert (predicted == table["label"]).mean() == pytest.approx(metrics["test/accuracy"], rel=1e-5)


def test_lineage_prints_the_chain_newest_first(trained, capfd):
    from gazelit.cli.main import main
    from gazelit.files import sha256_file

    paths = [trained[0][number] / "checkpoints" / "best.ckpt" for number in (3, 2, 1)]
    assert main(["lineage", str(paths[0])]) == 0
    printed = capfd.readouterr().out
    offsets = [printed.index(f"\n{stage}\n") for stage in ("joint", "saliency", "contrastive")]
    assert offsets == sorted(offsets)
    assert [line.split()[1] for line in printed.splitlines() if "checkpoint " in line] == [
        sha256_file(path) for path in paths
    ]
    assert printed.count("(synthetic)") == 3


def test_validate_measures_the_validation_split(trained, run_gazelit):
    folder = trained[0][3]
    best = folder / "checkpoints" / "best.ckpt"
    run_gazelit("validate", f"--config={folder / 'config.yaml'}", f"--ckpt_path={best}", "--trainer.default_root_dir=v")
    with open("v/lightning_logs/version_0/metrics.csv") as file:
        row = next(csv.DictReader(file))
    with (folder / "epochs.csv").open() as file:
        trained_row = next(csv.DictReader(file))
    # The stored checkpoint gives the values that were logged in training.
    for key in ("val/loss", "val/cc", "val/auroc_macro"):
        assert float(row[key]) == pytest.approx(float(trained_row[key]), rel=1e-4)


def test_predict_writes_probabilities(trained, run_gazelit, tmp_path):
    import pandas as pd

    folder = trained[0][3]
    run_gazelit("predict", f"--config={folder / 'config.yaml'}", f"--ckpt_path={folder / 'checkpoints' / 'best.ckpt'}",
                "--trainer.logger=false", "--trainer.default_root_dir=predicted")  # fmt: skip
    table = pd.read_parquet(tmp_path / "predicted" / "predictions.parquet")
    assert table[["p_Normal", "p_CHF", "p_pneumonia"]].sum(axis=1).to_numpy() == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--ckpt_path=missing.ckpt"], "missing.ckpt: no such file"),
        (["--ckpt_path=noise.ckpt"], "noise.ckpt: not a readable checkpoint"),
        (["--ckpt_path=plain.ckpt"], "plain.ckpt: not a gazelit checkpoint"),
        (["--model.network.encoder.name=no-such-encoder"], "no-such-encoder"),
        (["--data.labels=[Normal,Cough]"], "Cough"),
    ],
)
def test_bad_input_is_one_clear_error(arguments, message, store, run_gazelit, tmp_path):
    (tmp_path / "noise.ckpt").write_bytes(b"noise")
    torch.save({"state_dict": {}}, tmp_path / "plain.ckpt")
    printed = run_gazelit("fit", "--config", "presets/quick/stage1.yaml", *tiny(1, store), *arguments, code=2)
    assert message in printed.splitlines()[-1]
    assert "Traceback" not in printed


def test_another_encoder_is_refused_by_name(trained, store, run_gazelit):
    best = trained[0][1] / "checkpoints" / "best.ckpt"
    printed = run_gazelit(
        "fit", "--config", "presets/quick/stage2.yaml", *tiny(2, store),
        '--model.network.encoder={"name": "resnet18"}', f"--ckpt_path={best}", code=2,
    )  # fmt: skip
    assert "component 'encoder' differs" in printed
    assert "densenet-small" in printed


def test_testing_with_a_checkpoint_of_another_stage_is_refused(trained, run_gazelit):
    folder = trained[0][3]
    wrong = trained[0][2] / "checkpoints" / "best.ckpt"
    printed = run_gazelit("test", f"--config={folder / 'config.yaml'}", f"--ckpt_path={wrong}", code=2)
    assert "written by stage 'saliency', but the configuration is of stage 'joint'" in printed
