"""A damaged checkpoint, run or package is recognised, and none of its weights is used."""

import hashlib
import json
import random
import subprocess

import pytest
import torch

import gazelit
from gazelit.checkpoints import stamps
from gazelit.checkpoints.seal import check_seal
from gazelit.errors import InputError
from gazelit.files import write_json
from gazelit.release.package import package
from gazelit.runs.steps import digests_of
from tests.release import models


@pytest.fixture(scope="module")
def sealed(tmp_path_factory):
    """A checkpoint with its seal, as every command writes it."""
    folder = tmp_path_factory.mktemp("sealed")
    plain = models.checkpoint(folder / "plain.ckpt")
    stamps.save_checkpoint(torch.load(plain, weights_only=True), folder / "best.ckpt")
    return folder / "best.ckpt"


def flipped(content: bytes, position: int, bit: int) -> bytes:
    changed = bytearray(content)
    changed[position] ^= 1 << bit
    return bytes(changed)


def test_torch_ignores_the_seal(sealed):
    plain = torch.load(sealed.with_name("plain.ckpt"), weights_only=True)
    read = torch.load(sealed, weights_only=True)
    assert check_seal(sealed)
    assert not check_seal(sealed.with_name("plain.ckpt"))
    assert read["state_dict"].keys() == plain["state_dict"].keys()
    assert all(torch.equal(read["state_dict"][key], value) for key, value in plain["state_dict"].items())


def test_torch_alone_loads_a_flipped_bit_and_gazelit_refuses_it(sealed, tmp_path):
    content = sealed.read_bytes()
    draw = random.Random(7)
    damaged = tmp_path / "damaged.ckpt"
    silent = 0
    anywhere = [draw.randrange(len(content)) for _ in range(40)]
    for position in (*anywhere, *range(len(content) - 90, len(content), 9)):
        damaged.write_bytes(flipped(content, position, draw.randrange(8)))
        try:
            torch.load(damaged, weights_only=True)
            silent += 1
        except Exception:
            pass
        with pytest.raises(InputError, match=r"damaged\.ckpt: ") as error:
            stamps.read_checkpoint(damaged)
        assert "\n" not in str(error.value)
    assert silent > 25


def test_a_cut_checkpoint_is_one_line(sealed, tmp_path, run_gazelit):
    content = sealed.read_bytes()
    for length in (0, 1, 60, len(content) // 2, len(content) - 1):
        (tmp_path / "cut.ckpt").write_bytes(content[:length])
        with pytest.raises(InputError, match=r"cut\.ckpt: "):
            stamps.read_checkpoint(tmp_path / "cut.ckpt")
    printed = run_gazelit("verify", str(tmp_path / "cut.ckpt"), code=2)
    assert printed.count("\n") == 2
    assert "cut.ckpt: is damaged or cut" in printed


def test_checkpoints_are_verified_with_and_without_a_seal(sealed, tmp_path, run_gazelit):
    assert "every byte as it was written" in run_gazelit("verify", str(sealed))
    plain = sealed.with_name("plain.ckpt")
    assert "every part agrees with its CRC-32" in run_gazelit("verify", str(plain))
    content = plain.read_bytes()
    weight = max(torch.load(plain, weights_only=True)["state_dict"].values(), key=torch.numel)
    (tmp_path / "plain.ckpt").write_bytes(flipped(content, content.index(weight.numpy().tobytes()) + 9, 0))
    assert "plain.ckpt: is damaged" in run_gazelit("verify", str(tmp_path / "plain.ckpt"), code=2)
    run_gazelit("export-weights", str(sealed), "--out", str(tmp_path / "w.safetensors"))
    assert "tensors: every byte" in run_gazelit("verify", str(tmp_path / "w.safetensors"))
    assert "holds no store, features, run or package" in run_gazelit("verify", str(tmp_path), code=2)
    assert "there is no such file" in run_gazelit("verify", str(tmp_path / "nothing"), code=2)


@pytest.fixture
def run(sealed, tmp_path):
    """A run of one step and its report, with the files that verification reads."""
    step = tmp_path / "run" / "joint"
    (step / "checkpoints").mkdir(parents=True)
    (step / "checkpoints" / "best.ckpt").write_bytes(sealed.read_bytes())
    (step / "config.yaml").write_text("model: {}\n")
    (step / "epochs.csv").write_text("epoch,loss\n0,1.5\n")
    (step / "log.txt").write_text("goes on\n")
    write_json(step / "started.json", {"key": "k", "command": "gazelit fit"})
    write_json(step / "done.json", {"key": "k", "seconds": 1.0, "files": digests_of(step)})
    write_json(tmp_path / "run" / "plan.json", {"steps": []})
    return tmp_path / "run"


def test_a_run_names_every_file_that_differs(run, run_gazelit):
    step = run / "joint"
    (step / "log.txt").write_text("goes on and on\n")
    assert "3 files as they were written, 1 checkpoints read" in run_gazelit("verify", str(run))
    content = (step / "checkpoints" / "best.ckpt").read_bytes()
    (step / "checkpoints" / "best.ckpt").write_bytes(flipped(content, 5000, 3))
    (step / "epochs.csv").unlink()
    (run / "plan.json").write_text('{"steps": [')
    printed = run_gazelit("verify", str(run), code=2)
    assert f"{step / 'checkpoints' / 'best.ckpt'}: differs from what was written" in printed
    assert f"{step / 'epochs.csv'}: is missing" in printed
    assert f"{run / 'plan.json'}: cannot be read as JSON" in printed
    assert printed.count("\n") == 4
    assert "3 files differ" in printed


def test_a_training_by_hand_and_an_older_run_are_verified_as_far_as_possible(run, run_gazelit):
    step = run / "joint"
    (step / "done.json").unlink()
    assert "a training by hand records digests of its checkpoints alone" in run_gazelit("verify", str(step))
    (step / "epochs.csv").write_text("epoch,loss\n0,1.5\n1,")
    assert "epochs.csv: is cut, or no table" in run_gazelit("verify", str(step), code=2)
    (step / "epochs.csv").write_text("epoch,loss\n0,1.5\n")
    write_json(step / "done.json", {"key": "k", "seconds": 1.0})
    assert "1 of 1 steps were made before digests" in run_gazelit("verify", str(run))


def test_a_package_is_compared_with_its_checksums(sealed, tmp_path, run_gazelit):
    package(str(sealed), tmp_path / "chest")
    assert "6 files as they were written" not in run_gazelit("verify", str(tmp_path / "chest"))
    # sha256sum is the oracle for the format of the file.
    done = subprocess.run(["sha256sum", "-c", "SHA256SUMS"], cwd=tmp_path / "chest", capture_output=True, text=True)
    assert done.returncode == 0
    assert done.stdout.count(": OK") == 5
    (tmp_path / "chest" / "README.md").write_text("my own words\n")
    run_gazelit("verify", str(tmp_path / "chest"))
    weights = tmp_path / "chest" / "model.safetensors"
    weights.write_bytes(flipped(weights.read_bytes(), 3000, 1))
    assert "model.safetensors: differs from what was written" in run_gazelit("verify", str(tmp_path / "chest"), code=2)
    with pytest.raises(InputError, match="not the weights that"):
        gazelit.load(tmp_path / "chest")


def test_digests_are_those_of_another_program(run):
    files = json.loads((run / "joint" / "done.json").read_text())["files"]
    for name, digest in files.items():
        assert hashlib.sha256((run / "joint" / name).read_bytes()).hexdigest() == digest
    assert set(files) == {"config.yaml", "epochs.csv", "checkpoints/best.ckpt"}
