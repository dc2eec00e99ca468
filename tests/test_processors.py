"""How many processors a process may use, and how its threads wait."""

import os

import pytest
import torch

from gazelit import processors
from gazelit.errors import InputError


def machine(root, cgroup: str, files: dict[str, str]):
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/cgroup").write_text(cgroup)
    for name, text in files.items():
        (root / "sys/fs/cgroup" / name).parent.mkdir(parents=True, exist_ok=True)
        (root / "sys/fs/cgroup" / name).write_text(text)
    return root


def first_version(folder: str, quota: int) -> dict[str, str]:
    return {f"{folder}/cpu.cfs_quota_us": f"{quota}\n", f"{folder}/cpu.cfs_period_us": "100000\n"}


@pytest.fixture(autouse=True)
def sixteen(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(16)), raising=False)


@pytest.mark.parametrize(
    ("cgroup", "files", "expected"),
    [
        ("0::/\n", {}, 16),
        ("0::/\n", {"cpu.max": "max 100000\n"}, 16),
        ("0::/job\n", {"job/cpu.max": "250000 100000\n"}, 3),
        ("0::/user/job\n", {"user/job/cpu.max": "max 100000\n", "user/cpu.max": "200000 100000\n"}, 2),
        ("0::/hosts/path/of/container\n", {"cpu.max": "150000 100000\n"}, 2),
        ("4:cpu,cpuacct:/job\n", first_version("cpu,cpuacct/job", 400_000), 4),
        ("4:cpu:/\n", first_version("cpu", -1), 16),
        ("0::/\n", {"cpu.max": "10000 100000\n"}, 1),
    ],
)
def test_a_quota_counts_as_the_kernel_writes_it(tmp_path, cgroup, files, expected):
    assert processors.usable(machine(tmp_path, cgroup, files)) == expected


def test_affinity_counts_where_there_is_no_quota(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 5}, raising=False)
    assert processors.usable(tmp_path) == 2


def test_threads_sleep_while_they_wait_unless_the_user_says_otherwise(monkeypatch):
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    monkeypatch.setattr(processors, "_SETTLED", set())
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    monkeypatch.setattr(processors, "usable", lambda: 1)
    monkeypatch.setattr(os, "cpu_count", lambda: 16)
    processors.settle_threads()
    assert (os.environ["OMP_WAIT_POLICY"], os.environ["OMP_NUM_THREADS"]) == ("PASSIVE", "3")
    with processors.threads_divided(3):
        assert os.environ["OMP_NUM_THREADS"] == "3"
    monkeypatch.delenv("OMP_NUM_THREADS")
    processors.settle_threads()
    assert os.environ["OMP_NUM_THREADS"] == "1"
    # A value that gazelit set itself is divided.
    monkeypatch.setattr(processors, "usable", lambda: 8)
    with processors.threads_divided(3):
        assert os.environ["OMP_NUM_THREADS"] == "2"
    assert os.environ["OMP_NUM_THREADS"] == "1"
    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")
    processors.settle_threads()
    assert os.environ["OMP_WAIT_POLICY"] == "ACTIVE"


@pytest.mark.parametrize(("flags", "takes"), [("fpu avx512_bf16", True), ("fpu avx2", False)])
def test_bfloat16_is_recognised_by_the_processors_flags_and_auto_uses_it(tmp_path, monkeypatch, flags, takes):
    from gazelit.cli.trainer import GazeTrainer, chosen_precision

    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/cpuinfo").write_text(f"flags : {flags}\n")
    monkeypatch.setattr(processors.takes_bfloat16, "__defaults__", (tmp_path,))
    assert processors.takes_bfloat16() is takes
    expected = "bf16-mixed" if takes else "32-true"
    assert chosen_precision("auto", "cpu") == expected
    assert chosen_precision("16-mixed", "cpu") == "16-mixed"
    trainer = GazeTrainer(precision="auto", accelerator="cpu", logger=False, enable_checkpointing=False)
    assert trainer.precision == expected


@pytest.mark.parametrize("precision", ["bf16-true", "16-true", "64-true", 64])
def test_a_precision_that_would_change_the_type_of_gaze_is_refused(precision, run_gazelit, tmp_path):
    from gazelit.cli.trainer import chosen_precision

    # What Lightning would do to a position on a film of 640 rows.
    position = torch.tensor(601.3)
    assert abs(position.to(torch.bfloat16).item() - position.item()) > 1
    with pytest.raises(InputError, match=f"trainer.precision: {precision} would change the type of the gaze positions"):
        chosen_precision(precision, "cpu")
    printed = run_gazelit(
        "fit",
        "--config=presets/quick/stage2.yaml",
        f"--data.store={tmp_path}",
        f"--trainer.precision={precision}",
        code=2,
    )
    assert "error: trainer.precision:" in printed
