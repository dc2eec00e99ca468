import errno
import fcntl
import json
import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from gazelit import files
from gazelit.errors import InputError
from gazelit.files import (
    atomic_path,
    building_folder,
    read_json,
    resumable_folder,
    sha256_file,
    sha256_json,
    sole_writer,
    write_json,
)
from gazelit.runs.steps import exclusive


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
    """The holder removes the file between the opening and the lock."""
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


def test_finding_g8_a_pipe_is_not_read_as_json(tmp_path):
    os.mkfifo(tmp_path / "a.json")
    with pytest.raises(InputError, match="is not a regular file"):
        read_json(tmp_path / "a.json")


def test_infinity_becomes_null_too(tmp_path):
    write_json(tmp_path / "a.json", [float("inf"), -float("inf")])
    assert read_json(tmp_path / "a.json") == [None, None]


def test_leftovers_of_a_killed_process_are_overwritten(tmp_path):
    code = "import os, signal; from pathlib import Path; from gazelit.files import atomic_path, building_folder\n"
    code += "with building_folder(Path('made')) as folder, atomic_path('a.json') as temporary:\n"
    code += "    temporary.write_text('half'); (folder / 'x').write_text('half'); (folder / 'y').mkdir()\n"
    code += "    os.kill(os.getpid(), signal.SIGKILL)"
    for _ in range(2):
        done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=False)
        assert done.returncode == -signal.SIGKILL
    # There is one temporary file of each kind, however often the process was killed.
    assert sorted(os.listdir(tmp_path)) == [".a-writing.json", ".made-building"]
    write_json(tmp_path / "a.json", [1])
    with building_folder(tmp_path / "made") as folder:
        assert not list(folder.iterdir())
        (folder / "whole").write_text("")
    assert sorted(os.listdir(tmp_path)) == ["a.json", "made"]
    assert os.listdir(tmp_path / "made") == ["whole"]


def test_two_at_once_do_not_write_into_each_others_file(tmp_path):
    with atomic_path(tmp_path / "a") as outer, atomic_path(tmp_path / "a") as inner:
        outer.write_text("outer")
        inner.write_text("inner")
        assert outer != inner
    # The outer file takes the name last.
    assert (tmp_path / "a").read_text() == "outer"
    with building_folder(tmp_path / "f") as outer, building_folder(tmp_path / "g") as inner:
        assert outer != inner
    assert sorted(os.listdir(tmp_path)) == ["a", "f", "g"]


def test_a_link_in_place_of_a_temporary_file_is_not_followed(tmp_path):
    (tmp_path / "victim").write_text("keep")
    (tmp_path / ".a-writing.json").symlink_to(tmp_path / "victim")
    with pytest.raises(InputError, match="cannot write"):
        write_json(tmp_path / "a.json", {})
    assert (tmp_path / "victim").read_text() == "keep"


def test_a_second_writer_is_kept_from_a_folder_and_the_lock_goes_with_the_first(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "LOCK_PATIENCE", 0.0)
    with sole_writer(tmp_path / "run"):
        with pytest.raises(InputError, match=r"run: another process is writing there"), sole_writer(tmp_path / "run"):
            pass
        assert os.listdir(tmp_path) == [".run-lock"]
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_written_with_a_warning(code, tmp_path, monkeypatch, caplog):
    def flock(*_):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr("fcntl.flock", flock)
    monkeypatch.setattr(files.logger, "propagate", True)
    with sole_writer(tmp_path / "run"), resumable_folder(tmp_path / "store") as partial:
        write_json(partial / "a.json", {})
        partial.rename(tmp_path / "store")
    with exclusive(tmp_path / "out"), building_folder(tmp_path / "page") as building:
        (building / "index.html").touch()
    names = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*"))
    # The lock of a pipeline stays.
    assert names == ["out", "out/.lock", "page", "page/index.html", "store", "store/a.json"]
    # If an earlier test gave the package's logger a handler, a record comes twice.
    warned = dict.fromkeys(record.getMessage() for record in caplog.records)
    assert [line.partition(":")[0] for line in warned] == [
        str(tmp_path / name) for name in (".run-lock", ".store-lock", "out/.lock")
    ]
    assert all("this file system has no locks" in line for line in warned)
