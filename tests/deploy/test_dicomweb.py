"""Films from a DICOMweb server and results to one; servers that answer wrongly, or never, are one line."""

import io
import json
import socket
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from pydicom import dcmread

from gazelit import InputError
from gazelit.deploy import infer as command
from gazelit.deploy.dicom.web import connect, fetch_study, store
from gazelit.deploy.infer import infer
from tests.deploy.sources import chest, model, save

SQUARE = (20, 60, 20, 50)


def content(dataset):
    file = io.BytesIO()
    dataset.save_as(file, enforce_file_format=True)
    return file.getvalue()


@contextmanager
def web_server(held, status=200):
    """A server of QIDO, WADO and STOW over instances by SOPInstanceUID; with another status it answers only that."""
    requests = []

    class Handler(BaseHTTPRequestHandler):
        def answer(self, kind, body, code=200):
            self.send_response(code)
            if code == 307:
                self.send_header("Location", "http://127.0.0.1:9/elsewhere")
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def do_GET(self):
            requests.append(("GET", self.path, self.headers.get("Accept", "")))
            parts = self.path.partition("?")[0].strip("/").split("/")
            if status != 200:
                return self.answer("text/plain", b"", status)
            if parts[-1] == "series":
                found = {h.SeriesInstanceUID: h.Modality for h in held.values() if h.StudyInstanceUID == parts[-2]}
                rows = [
                    {"0020000E": {"vr": "UI", "Value": [uid]}, "00080060": {"vr": "CS", "Value": [modality]}}
                    for uid, modality in found.items()
                ]
                return self.answer("application/dicom+json", json.dumps(rows).encode(), 200 if rows else 204)
            bodies = [content(h) for h in held.values() if h.SeriesInstanceUID == parts[-1]]
            multipart = b"".join(b"--X\r\nContent-Type: application/dicom\r\n\r\n" + body + b"\r\n" for body in bodies)
            return self.answer('multipart/related; type="application/dicom"; boundary=X', multipart + b"--X--\r\n")

        def do_POST(self):
            requests.append(("POST", self.path, self.headers["Content-Type"]))
            if status != 200:
                return self.answer("text/plain", b"", status)
            body = self.rfile.read(int(self.headers["Content-Length"]))
            boundary = self.headers["Content-Type"].rpartition("boundary=")[2].strip('"').encode()
            for part in body.split(b"--" + boundary)[1:-1]:
                dataset = dcmread(io.BytesIO(part.partition(b"\r\n\r\n")[2][:-2]))
                held.setdefault(dataset.SOPInstanceUID, dataset)
            return self.answer("application/dicom+json", b"{}")

        def log_message(self, format, *args):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/dicom-web", requests
    finally:
        server.shutdown()
        server.server_close()


def test_a_study_is_fetched_read_and_answered(tmp_path, monkeypatch):
    monkeypatch.setattr(command, "load_together", lambda *_: model())
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    films = [chest((96 + number, 80), SQUARE) for number in range(2)]
    films[1].StudyInstanceUID = films[0].StudyInstanceUID
    ct = chest((96, 80), SQUARE, Modality="CT")
    ct.StudyInstanceUID = films[0].StudyInstanceUID
    held = {dataset.SOPInstanceUID: dataset for dataset in (*films, ct)}
    with web_server(held) as (url, requests):
        infer([], Path("x.ckpt"), tmp_path / "out", from_=url, study=films[0].StudyInstanceUID, to=url)
        results = [dataset for dataset in held.values() if dataset.Manufacturer == "gazelit"]
        assert sorted(result.Modality for result in results) == ["OT", "OT", "SR", "SR"]
        assert {result.StudyInstanceUID for result in results} == {films[0].StudyInstanceUID}
        written = [dcmread(path) for path in (tmp_path / "out").glob("*.dcm")]
        assert all(any(result == dataset for dataset in written) for result in results)
        # Its own results, now in the same study, are not read, and no film is read twice.
        infer([], Path("x.ckpt"), tmp_path / "again", from_=url, study=films[0].StudyInstanceUID, to=url)
        assert len(held) == 7
        # The film is asked for as it is stored, in any transfer syntax.
        assert all(
            "transfer-syntax=*" in accept for method, path, accept in requests if method == "GET" and "series/" in path
        )
        with pytest.raises(InputError, match=r"--study: the server has no film of study 1\.2\.3"):
            infer([], Path("x.ckpt"), tmp_path / "none", from_=url, study="1.2.3")
    assert not list(tmp_path.glob("gazelit-study-*"))


def test_servers_that_fail_are_one_line(tmp_path):
    path = save(tmp_path / "film.dcm", chest((96, 80), SQUARE))
    with web_server({}, status=500) as (url, _):
        with pytest.raises(InputError, match=r"dicom-web: answers 500; is it the root"):
            fetch_study(connect(url, "--from"), "1.2.3", tmp_path)
        with pytest.raises(InputError, match="answers 500"):
            store(connect(url, "--to"), [path])
    # Redirects to another server are not followed.
    with web_server({}, status=307) as (elsewhere, _), pytest.raises(InputError, match="TooManyRedirects"):
        store(connect(elsewhere, "--to"), [path])
    with pytest.raises(InputError, match="cannot be reached"):
        store(connect(url, "--to"), [path])
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(InputError, match="does not answer"):
            fetch_study(connect(url, "--from", seconds=0.3), "1.2.3", tmp_path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"from_": "http://pacs.example/dicom-web", "study": "1.2"},
            "--from: pacs.example is another machine",
        ),
        ({"to": "ftp://127.0.0.1"}, "--to: 'ftp://127.0.0.1' is no http or https address"),
        ({"from_": "http://127.0.0.1"}, "--from and --study go together"),
        ({}, "name films, or a server"),
    ],
)
def test_impossible_options_of_servers_give_one_line(options, message, tmp_path):
    with pytest.raises(InputError, match=message):
        infer([], Path("x.ckpt"), tmp_path / "out", **options)
