import fcntl
import json
import os
import stat
from pathlib import Path

import pytest

from gazelit.errors import InputError
from gazelit.files import atomic_path, read_json, resumable_folder, sha256_file, sha256_json, write_json


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "table.csv"
    path.write_text("old")
    with pytest.raises(UnicodeEncodeError), atomic_path(path) as temporary:
        temporary.write_text("half \udcff", encoding="utf-8")
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["table.csv"]


def test_a_finished_file_has_the_permissions_of_the_umask(tmp_path):
    write_json(tmp_path / "a.json", {})
    (tmp_path / "plain").write_text("")
    modes = {stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("a.json", "plain")}
    assert len(modes) == 1


def test_nan_becomes_null_because_json_has_none(tmp_path):
    write_json(tmp_path / "a.json", {"x": [float("nan"), 1.5], "y": (True, None)})
    assert json.loads((tmp_path / "a.json").read_text()) == {"x": [None, 1.5], "y": [True, None]}


def test_folder_that_cannot_be_made_is_an_input_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot write"), atomic_path(tmp_path / "file" / "x.json"):
        pass


@pytest.mark.parametrize("content", ["{", "\xff\xfe"])
def test_broken_json_names_the_file(tmp_path, content):
    path = tmp_path / "broken.json"
    path.write_text(content, encoding="latin-1")
    with pytest.raises(InputError, match=r"broken\.json"):
        read_json(path)


def test_hashes_are_those_of_the_standard(tmp_path):
    (tmp_path / "abc").write_bytes(b"abc")
    # FIPS 180-2, appendix B.1
    assert sha256_file(tmp_path / "abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert sha256_json({"b": 1, "a": [1, 2]}) == sha256_json({"a": [1, 2], "b": 1})
    assert sha256_json({"a": 1}) != sha256_json({"a": 2})


def test_finding_g9_a_file_is_on_the_disk_before_and_after_it_gets_its_name(tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path / "nowhere"))
    events = []
    sync, replace = os.fsync, Path.replace

    def recorded_sync(handle):
        events.append(("sync", Path(os.readlink(f"/proc/self/fd/{handle}")).suffix))
        sync(handle)

    def recorded_replace(self, target):
        assert self.parent == tmp_path
        events.append(("replace", self.suffix))
        return replace(self, target)

    monkeypatch.setattr(os, "fsync", recorded_sync)
    monkeypatch.setattr(Path, "replace", recorded_replace)
    write_json(tmp_path / "a.json", {})
    assert events == [("sync", ".json"), ("replace", ".json"), ("sync", "")]


def test_finding_c19_a_lock_that_lost_its_name_does_not_count(tmp_path, monkeypatch):
    """The file that was opened is removed by its holder before the lock on it is had."""
    lock_file = tmp_path / ".out-lock"
    real, calls = fcntl.flock, []

    def flock(file, operation):
        if not calls:
            lock_file.unlink()
        calls.append(file.fileno())
        real(file, operation)

    monkeypatch.setattr(fcntl, "flock", flock)
    with resumable_folder(tmp_path / "out"):
        assert len(calls) == 2
        with pytest.raises(InputError, match="another process is writing it"), resumable_folder(tmp_path / "out"):
            pass
        assert lock_file.exists()
    assert not lock_file.exists()


@pytest.mark.parametrize("content", ["[" * 100_000, "1" * 10_000])
def test_finding_g7_json_that_no_parser_takes_is_one_error(tmp_path, content):
    (tmp_path / "a.json").write_text(content)
    with pytest.raises(InputError, match=r"a\.json: cannot be read as JSON"):
        read_json(tmp_path / "a.json")


def test_finding_g8_a_pipe_is_no_json(tmp_path):
    os.mkfifo(tmp_path / "a.json")
    with pytest.raises(InputError, match="is not a regular file"):
        read_json(tmp_path / "a.json")


def test_infinity_becomes_null_too(tmp_path):
    write_json(tmp_path / "a.json", [float("inf"), -float("inf")])
    assert read_json(tmp_path / "a.json") == [None, None]
