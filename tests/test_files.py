import json
import os
import stat

import pytest

from gazelit.errors import InputError
from gazelit.files import atomic_path, read_json, sha256_file, sha256_json, write_json


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
