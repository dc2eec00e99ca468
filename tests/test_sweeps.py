"""W&B, offline: sweeps as an agent runs them, a resumed run, and images only on request."""

import pytest
import yaml
from wandb.sdk.launch.sweeps.utils import create_sweep_command, create_sweep_command_args

from gazelit.configs import config_root
from tests.tiny import tiny

SWEEPS = sorted((config_root() / "sweeps").glob("*.yaml"))


pytestmark = pytest.mark.usefixtures("wandb_offline")


def draw(parameter):
    """A value as a sweep would draw it."""
    return parameter["value"] if "value" in parameter else parameter.get("values", [parameter.get("max")])[-1]


def agent_command(sweep, drawn):
    """The command line that `wandb agent` builds, by its own functions."""
    arguments = create_sweep_command_args({"args": {key: {"value": value} for key, value in drawn.items()}})
    command = []
    for part in create_sweep_command(list(sweep["command"])):
        if part == "${env}":
            command.append("/usr/bin/env")
        elif part == "${args}":
            command += arguments["args"]
        else:
            command.append(part)
    return command


@pytest.mark.parametrize("path", SWEEPS, ids=[path.stem for path in SWEEPS])
def test_the_agents_command_trains(path, store, tmp_path, run_gazelit):
    import wandb

    sweep = yaml.safe_load(path.read_text())
    drawn = {key: draw(parameter) for key, parameter in sweep["parameters"].items()}
    stage = 3 if path.stem == "joint" else 1
    if "ckpt_path" in drawn:
        run_gazelit("fit", "--config=stage2.yaml", *tiny(2, store), "--trainer.max_epochs=1",
                    "--checkpoint.dirpath=parent", "--trainer.logger=false", "--data.downscale=1")  # fmt: skip
        drawn["ckpt_path"] = str(tmp_path / "parent" / "best.ckpt")
    env, program, *words = agent_command(sweep, drawn)
    assert (env, program) == ("/usr/bin/env", "gazelit")
    # The same arguments, followed by options that make the training small.
    run_gazelit(*words, *tiny(stage, store), "--data.downscale=1", "--trainer.max_epochs=1")
    wandb.finish()
    wandb.teardown()
    metric = sweep["metric"]["name"]
    epochs = next((tmp_path / "runs" / "wandb").rglob("epochs.csv")).read_text()
    assert metric in epochs.splitlines()[0]
    # The criterion has the same meaning in all runs, whatever objective is drawn.
    assert metric.startswith("val/")
    assert "loss" not in metric
    assert metric != "val/selection"
    assert next((tmp_path / "runs" / "wandb").rglob("*.wandb")).stat().st_size > 1000


def records(folder):
    """The records of offline runs, in order; they are LevelDB logs with blocks of 32 KiB and headers of 7 bytes."""
    for file in sorted(folder.rglob("*.wandb")):
        data = file.read_bytes()
        position, content = 7, b""
        while position + 7 <= len(data):
            if 2**15 - position % 2**15 < 7:
                position += 2**15 - position % 2**15
                continue
            length, kind = int.from_bytes(data[position + 4 : position + 6], "little"), data[position + 6]
            part = data[position + 7 : position + 7 + length]
            # Record types: whole, first, middle, last.
            content = part if kind in (1, 2) else content + part
            if kind in (1, 4):
                yield content
            position += 7 + length


def logged(folder):
    """All items that offline runs hold."""
    return b"".join(records(folder))


def test_a_resumed_run_keeps_its_id_and_logs_config_metrics_and_hashes_but_no_image(store, run_gazelit, tmp_path):
    import wandb

    from gazelit.files import sha256_file

    options = [*tiny(2, store), "--checkpoint.dirpath=run/checkpoints", "--config=loggers/wandb.yaml"]
    run_gazelit("fit", "--config=presets/quick/stage2.yaml", *options, "--trainer.max_epochs=1")
    wandb.finish()
    best = tmp_path / "run" / "checkpoints" / "best.ckpt"
    digest = sha256_file(best)
    printed = run_gazelit("fit", "--config=presets/quick/stage2.yaml", *options, "--trainer.max_epochs=2",
                          "--ckpt_path=run/checkpoints/last.ckpt")  # fmt: skip
    wandb.finish()
    # What the service has not written yet.
    wandb.teardown()
    assert "resuming" in printed
    folder = tmp_path / "runs" / "wandb"
    ids = {file.stem.removeprefix("run-") for file in folder.rglob("*.wandb")}
    assert ids == {yaml.safe_load((tmp_path / "run" / "wandb.json").read_text())["id"]}
    content = logged(folder)
    for wanted in ("val/cc", "SaliencyWarmup", "densenet-small", digest):
        assert wanted.encode() in content, wanted
    assert b"media/images" not in content
    assert not list(folder.rglob("*.png"))


def test_another_stage_is_another_run(store, run_gazelit, tmp_path):
    import wandb

    common = ["--config=loggers/wandb.yaml", "--trainer.max_epochs=1"]
    run_gazelit("fit", "--config=presets/quick/stage2.yaml", *tiny(2, store), *common,
                "--checkpoint.dirpath=a/checkpoints")  # fmt: skip
    wandb.finish()
    run_gazelit("fit", "--config=presets/quick/stage3.yaml", *tiny(3, store), *common,
                "--checkpoint.dirpath=b/checkpoints", "--ckpt_path=a/checkpoints/best.ckpt")  # fmt: skip
    wandb.finish()
    ids = [yaml.safe_load((tmp_path / name / "wandb.json").read_text())["id"] for name in "ab"]
    assert ids[0] != ids[1]


def test_images_are_logged_where_they_are_asked_for(store, run_gazelit, tmp_path):
    import wandb

    options = [*tiny(2, store), "--config=loggers/wandb.yaml", "--trainer.max_epochs=1"]
    more = ["--trainer.callbacks+=gazelit.stages.panels.LogSaliencyMaps", "--trainer.callbacks.cases=2"]
    run_gazelit("fit", "--config=presets/quick/stage2.yaml", *options, *more)
    wandb.finish()
    assert len(list((tmp_path / "runs" / "wandb").rglob("*.png"))) == 2
    printed = run_gazelit("fit", "--config=presets/quick/stage2.yaml", *tiny(2, store), *more, code=2)
    assert "no logger takes images" in printed
