"""Data for a logger that uploads must not hold planted names of host, folders and options."""

import os
import re
import socket
import subprocess
import sys

import yaml

from gazelit.stages.privacy import without_paths
from tests.test_sweeps import logged
from tests.tiny import tiny

CANARY = "canaryofthehospital"


def test_finding_b3_no_host_path_argument_or_remote_reaches_wandb(store, tmp_path):
    folder = tmp_path / CANARY
    folder.mkdir()
    (folder / "store").symlink_to(store)
    git = {"GIT_CONFIG_GLOBAL": os.devnull}
    subprocess.run(["git", "init", "-q", str(folder)], check=True, env={**os.environ, **git})
    subprocess.run(["git", "-C", str(folder), "remote", "add", "origin", f"https://{CANARY}.org/x.git"], check=True)
    (folder / "sitecustomize.py").write_text(f"import socket\nsocket.gethostname = lambda: '{CANARY}'\n")
    # Without variables that earlier runs of this process have set, such as the address of their service.
    environment = {key: value for key, value in os.environ.items() if "WANDB" not in key}
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{closed.getsockname()[1]}"
    # W&B does not answer, so the data that would have been sent are kept.
    environment |= {"WANDB_BASE_URL": address, "PYTHONPATH": f"{folder}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}
    command = [
        sys.executable, "-m", "gazelit", "fit", "--config=presets/quick/stage2.yaml", *tiny(2, folder / "store"),
        "--config=loggers/wandb.yaml", "--trainer.max_epochs=1", f"--checkpoint.dirpath={folder}/run/checkpoints",
        f"--trainer.default_root_dir={folder}",
    ]  # fmt: skip
    result = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert f"W&B does not answer at {address} ([Errno 111] Connection refused): the run is kept" in result.stderr
    # Only the console output names the folder.
    (kept,) = re.findall(r"the W&B run is kept in (\S+), and `wandb sync (?:\S+)` sends it", result.stderr)
    assert f"`wandb sync {kept}` sends it" in result.stderr
    assert list((folder / kept).glob("*.wandb"))
    runs = folder / "runs" / "wandb" / "wandb"
    content = logged(runs)
    assert b"val/cc" in content
    assert b"densenet-small" in content
    assert CANARY.encode() not in content
    # The other files that `wandb sync` would send.
    for file in runs.rglob("files/**/*"):
        assert not file.is_file() or CANARY.encode() not in file.read_bytes(), file
    # The run's own record, which stays on the machine, is complete.
    assert yaml.safe_load((folder / "run" / "config.yaml").read_text())["data"]["init_args"]["store"].endswith("store")


def test_paths_are_left_out_and_metrics_and_classes_are_not():
    config = {
        "checkpoint": {"monitor": "val/selection", "dirpath": "runs/a"}, "ckpt_path": "x.ckpt", "weights": "imagenet",
        "model": {"class_path": "torch.optim.Adam", "files": ["/data/a", "~/b", 3]}, "config": ["stage1.yaml"],
    }  # fmt: skip
    assert without_paths(config) == {
        "checkpoint": {"monitor": "val/selection", "dirpath": "(path)"}, "ckpt_path": "(path)", "weights": "imagenet",
        "model": {"class_path": "torch.optim.Adam", "files": ["(path)", "(path)", 3]}, "config": ["(path)"],
    }  # fmt: skip
