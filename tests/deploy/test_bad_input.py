"""A bad film, a bad model, a full disk and a bad peer each give one line that names it, and nothing half-written."""

import resource
import socket

import numpy as np
import pytest
import torch
from PIL import Image
from pynetdicom import AE
from pynetdicom.sop_class import Verification

from gazelit import InputError
from gazelit.cli.main import main
from gazelit.deploy import infer as command
from gazelit.deploy.dicom.endpoint import Peer
from gazelit.deploy.dicom.node import send
from tests.deploy.sources import chest, model, save

SQUARE = (20, 60, 20, 50)


@pytest.fixture
def loaded(monkeypatch):
    monkeypatch.setattr(command, "load_together", lambda *_: model())


def film(path, *, without=(), **attributes):
    dataset = chest((96, 80), SQUARE, **attributes)
    for name in without:
        del dataset[name]
    return save(path, dataset)


def photograph(path, mode="RGB"):
    colours = np.random.default_rng(0).integers(0, 256, (40, 50, 3)).astype(np.uint8)
    Image.fromarray(colours).convert(mode).save(path)


def text(path):
    path.write_text("no film")


#: By case: how the file is made, and the line that says what it is.
REFUSED = {
    "no image": (text, "the picture cannot be read (neither DICOM nor PNG nor JPEG)"),
    "empty": (lambda path: path.touch(), "is empty"),
    "CT": (lambda path: film(path, Modality="CT"), "is of a CT series; radiographs (CR, DX) are read"),
    "MR of several frames": (lambda path: film(path, Modality="MR", NumberOfFrames=9), "is of a MR series"),
    "colour in DICOM": (lambda path: film(path, SamplesPerPixel=3), "is a colour image"),
    "several frames": (lambda path: film(path, NumberOfFrames=2), "has several frames; a radiograph has one"),
    "no rows": (lambda path: film(path, without=["Rows"]), "a DICOM file without an image (Rows or Columns missing)"),
    "no pixels": (lambda path: film(path, without=["PixelData"]), "without an image (PixelData missing)"),
    "no bits": (lambda path: film(path, without=["BitsAllocated"]), "pixels cannot be decoded"),
}


def test_each_bad_film_gives_one_line_and_stops_no_other(tmp_path, loaded, capsys):
    (tmp_path / "films").mkdir()
    paths = {case: tmp_path / "films" / f"{number}.dcm" for number, case in enumerate(REFUSED)}
    for case, (make, _) in REFUSED.items():
        make(paths[case])
    good = film(tmp_path / "films" / "good.dcm")
    arguments = ["infer", *map(str, paths.values()), str(good), "--ckpt=x.ckpt", f"--out={tmp_path / 'out'}"]
    assert main(arguments) == 2
    lines = capsys.readouterr().err.splitlines()
    for case, (_, words) in REFUSED.items():
        assert any(f"{paths[case]}: " in line and words in line for line in lines), case
    assert lines[-1].startswith(f"gazelit: error: {len(REFUSED)} of {len(REFUSED) + 1} files could not be read: ")
    assert len(list((tmp_path / "out").glob("*_overlay.png"))) == 1
    failed = (tmp_path / "out" / "failed.csv").read_text().splitlines()
    assert [line.split(",")[0] for line in failed[1:]] == [str(number + 1) for number in range(len(REFUSED))]


def test_a_ct_series_is_one_reason_and_not_one_for_each_slice(tmp_path, loaded, capsys):
    for number in range(9):
        film(tmp_path / "series" / f"{number}.dcm", Modality="CT")
    assert main(["infer", str(tmp_path / "series"), "--ckpt=x.ckpt", f"--out={tmp_path / 'out'}"]) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.count("CT series") == 1
    assert "(and 8 more alike); all of them are in" in last


#: By case: how the file is made, and the warning beside its result.
DOUBTED = {
    "colour photograph": (lambda path: photograph(path.with_suffix(".jpg")), "warning: colour: radiographs are grey"),
    "mammogram": (lambda path: film(path, Modality="MG"), "warning: no radiograph: the header names another modality"),
    "no study": (lambda path: film(path, without=["StudyInstanceUID"]), "the film's header lacks StudyInstanceUID"),
    "no instance": (lambda path: film(path, without=["SOPInstanceUID"]), "the film's header lacks SOPInstanceUID"),
}


def test_unusual_films_are_read_with_a_one_line_warning(tmp_path, loaded, capsys):
    (tmp_path / "films").mkdir()
    for case, (make, _) in DOUBTED.items():
        make(tmp_path / "films" / f"{case}.dcm")
    options = ["--ckpt=x.ckpt", f"--out={tmp_path / 'out'}", "--dicom", "sr"]
    assert main(["infer", str(tmp_path / "films"), *options]) == 0
    printed = capsys.readouterr().err
    assert [case for case, (_, words) in DOUBTED.items() if words not in printed] == []
    assert len(list((tmp_path / "out").glob("*_overlay.png"))) == len(DOUBTED)
    assert len(list((tmp_path / "out").glob("*_sr.dcm"))) == 1


def test_a_checkpoint_of_another_project_is_named_as_such(tmp_path, capsys):
    torch.save({"state_dict": {"fc.weight": torch.zeros(2, 2)}, "epoch": 3}, tmp_path / "other.ckpt")
    path = film(tmp_path / "film.dcm")
    assert main(["infer", str(path), f"--ckpt={tmp_path / 'other.ckpt'}", f"--out={tmp_path / 'out'}"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"gazelit: error: {tmp_path / 'other.ckpt'}: not a gazelit checkpoint (it carries no stamp)")
    assert not (tmp_path / "out").exists()


def test_a_full_disk_is_one_line_and_leaves_no_half_of_a_file(tmp_path, loaded, capsys):
    path, out = film(tmp_path / "film.dcm"), tmp_path / "out"
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    # The limit is less than the 48 kB of the map.
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
    try:
        code = main(["infer", str(path), "--ckpt=x.ckpt", f"--out={out}"])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert code == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("gazelit: error: ")
    assert "the disk is full or a file may not grow" in last
    assert [path.name for path in out.iterdir()] == ["run.json"]
    # After room is made, the same command goes on.
    assert main(["infer", str(path), "--ckpt=x.ckpt", f"--out={out}"]) == 0


def test_a_busy_port_and_a_wrong_title_are_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("gazelit.deploy.dicom.serve.load_together", lambda *_: model())
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        options = ["--allow=PACS", "--to=PACS@127.0.0.1:9", f"--spool={tmp_path / 'spool'}", f"--port={port}"]
        assert main(["serve-dicom", "x.ckpt", *options]) == 2
    assert f"gazelit: error: port {port}: cannot listen on 127.0.0.1" in capsys.readouterr().err.splitlines()[-1]
    entity = AE(ae_title="PACS")
    entity.require_called_aet = True
    entity.add_supported_context(Verification)
    server = entity.start_server(("127.0.0.1", 0), block=False)
    try:
        peer = Peer("PAX", "127.0.0.1", server.server_address[1])
        with pytest.raises(
            InputError, match=rf"PAX@127\.0\.0\.1:{peer.port}: rejects the connection: does it know our title"
        ):
            send([film(tmp_path / "film.dcm")], peer, "GAZELIT")
    finally:
        server.shutdown()
