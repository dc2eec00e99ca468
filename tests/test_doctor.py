"""`gazelit doctor`: the faults that it finds, and that it changes nothing."""

import json

import pytest

from gazelit.cli.main import main
from gazelit.errors import InputError
from gazelit.runs import doctor as module
from gazelit.runs.doctor import doctor


def found(capsys) -> dict[str, dict[str, str]]:
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    return {line["name"]: line for line in lines}


def test_this_machine_passes_and_no_file_is_left(store, tmp_path, capsys):
    before = sorted(tmp_path.rglob("*"))
    doctor(store=store, out=tmp_path / "runs", json=True)
    findings = found(capsys)
    assert {"versions", "processors", "memory", "devices", "run folder", "store"} <= set(findings)
    assert not [line for line in findings.values() if line["state"] == "error"]
    assert sorted(tmp_path.rglob("*")) == before


def test_a_package_that_is_too_old_or_missing_is_named(monkeypatch, capsys, tmp_path):
    requirements = ["torch>=99", "no-such-package>=1", "numpy", "highdicom>=99; extra == 'dicom'"]
    monkeypatch.setattr(module.metadata, "requires", lambda _: requirements)
    with pytest.raises(InputError, match="1 of these would stop a training"):
        doctor(out=tmp_path, json=True)
    text = found(capsys)["versions"]["text"]
    assert "torch is" in text
    assert ">=99 is needed" in text
    assert "no-such-package is missing" in text
    assert "highdicom" not in text


def test_a_missing_store_and_configuration_are_errors_and_the_exit_code_says_so(tmp_path, capsys):
    code = main(["doctor", f"--store={tmp_path / 'nowhere'}", "--fit=stag1.yaml", f"--out={tmp_path}", "--json"])
    captured = capsys.readouterr()
    states = {line["name"]: line["state"] for line in map(json.loads, captured.out.splitlines())}
    assert code == 2
    assert (states["store"], states["configuration"]) == ("error", "error")
    assert "2 of these" in captured.err


@pytest.mark.parametrize(("written", "named"), [("max_epoch: 3", "max_epoch"), ("precision: bf16-true", "bf16-true")])
def test_what_fit_would_refuse_of_a_configuration_is_found_before_a_training(tmp_path, capsys, written, named):
    config = tmp_path / "own.yaml"
    config.write_text(f"trainer: {{{written}}}\n")
    with pytest.raises(InputError):
        doctor(fit=["stage1.yaml", str(config)], out=tmp_path, json=True)
    assert named in found(capsys)["configuration"]["text"]


def test_a_run_folder_that_cannot_be_made_is_an_error(tmp_path, capsys):
    (tmp_path / "file").touch()
    with pytest.raises(InputError):
        doctor(out=tmp_path / "file" / "runs", json=True)
    assert found(capsys)["run folder"]["state"] == "error"


def test_more_threads_than_processors_are_warned_of(monkeypatch, capsys, tmp_path):
    monkeypatch.setenv("OMP_NUM_THREADS", "64")
    monkeypatch.setattr(module.processors, "usable", lambda: 2)
    doctor(out=tmp_path, json=True)
    assert found(capsys)["processors"]["state"] == "warning"
