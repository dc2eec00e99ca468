"""The DICOM node: films come in, results go out, nothing is lost, and only named peers are accepted."""

import errno
import io
import json
import os
import shutil
import subprocess
import threading
import time
import urllib.request
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

import pytest
from pydicom import dcmread
from pydicom.uid import ExplicitVRLittleEndian
from pynetdicom import AE, AllStoragePresentationContexts, evt
from pynetdicom.sop_class import Verification

from gazelit import InputError
from gazelit.data.images.dicom import read_radiograph
from gazelit.deploy.dicom import serve
from gazelit.deploy.dicom.endpoint import Certificates, Peer
from gazelit.deploy.dicom.node import FULL, REFUSED, SUCCESS, listen, send
from gazelit.deploy.dicom.serve import Service, serve_dicom
from gazelit.deploy.dicom.spool import Spool
from gazelit.deploy.objects import DicomOptions, objects_of
from gazelit.deploy.preparing import Preparation
from tests.deploy.sources import chest, model, save

OPTIONS = DicomOptions(("sr", "sc"), made=datetime(2026, 1, 1))
SQUARE = (20, 60, 20, 50)


@contextmanager
def receiver(port=0, answers=SUCCESS):
    """A node that keeps the instances it is sent, as a PACS does: one of each UID."""
    kept = {}

    def keep(event):
        if answers == SUCCESS:
            kept.setdefault(event.dataset.SOPInstanceUID, event.dataset)
        return answers

    entity = AE(ae_title="PACS")
    for context in AllStoragePresentationContexts:
        entity.add_supported_context(context.abstract_syntax, [ExplicitVRLittleEndian, "1.2.840.10008.1.2.4.90"])
    server = entity.start_server(("127.0.0.1", port), block=False, evt_handlers=[(evt.EVT_C_STORE, keep)])
    try:
        yield Peer("PACS", "127.0.0.1", server.server_address[1]), kept
    finally:
        server.shutdown()


@contextmanager
def node(service, peer=None, reads=True):
    """The service as ``serve-dicom`` runs it, in threads."""
    server = listen("GAZELIT", "127.0.0.1", 0, ["MODALITY"], service.take, service.counters)
    threads = [threading.Thread(target=service.read_films)] if reads else []
    if peer is not None:
        threads.append(threading.Thread(target=service.deliver, args=(peer, "GAZELIT", None)))
    for thread in threads:
        thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        service.stop()
        for thread in threads:
            thread.join()


def store(port, *films, title="MODALITY", called="GAZELIT"):
    """Statuses of films that are sent; None if the association is refused."""
    entity = AE(ae_title=title)
    for film in films:
        entity.add_requested_context(film.SOPClassUID, film.file_meta.TransferSyntaxUID)
    if not films:
        entity.add_requested_context(Verification)
    association = entity.associate("127.0.0.1", port, ae_title=called)
    if not association.is_established:
        return None
    statuses = [association.send_c_store(film).Status for film in films] or [association.send_c_echo().Status]
    association.release()
    return statuses


def until(condition, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come about"
        time.sleep(0.05)


def film(number=0, **attributes):
    return chest((96 + number, 80), SQUARE, **attributes)


def test_films_come_in_and_results_go_out_once(tmp_path):
    films = [film(number) for number in range(3)]
    service = Service(model(), OPTIONS, Spool(tmp_path / "spool"), queue_size=10)
    with receiver() as (peer, kept), node(service, peer) as port:
        assert store(port) == [SUCCESS]
        assert store(port, *films) == [SUCCESS] * 3
        until(lambda: len(kept) == 6)
        # A film that is sent again gives the same results, so the PACS has no more than before.
        assert store(port, films[0]) == [SUCCESS]
        until(lambda: service.state()["sent"] == 4)
        assert len(kept) == 6
        # A result that is routed back is not read as a film.
        capture = next(result for result in kept.values() if result.Modality == "OT")
        capture.file_meta = dcmread(save(tmp_path / "x.dcm", films[0])).file_meta
        capture.file_meta.MediaStorageSOPClassUID = capture.SOPClassUID
        capture.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.4.90"
        assert store(port, capture) == [REFUSED]
        assert store(port, film(PixelData=b"\0\0")) == [SUCCESS]
        until(lambda: service.state()["failed"] == 1)
    studies = {result.StudyInstanceUID for result in kept.values()}
    assert studies == {sent.StudyInstanceUID for sent in films}
    assert {result.Modality for result in kept.values()} == {"SR", "OT"}
    path = save(tmp_path / "film.dcm", films[1])
    prepared = Preparation(model().size, keeps_source=True)(read_radiograph(path))
    expected = objects_of(model(), model().read([prepared])[0], OPTIONS)
    assert {dcmread_bytes(content).SOPInstanceUID for content in expected.values()} <= set(kept)
    assert service.state() == {
        "received": 6, "refused": 1, "read": 4, "failed": 1, "sent": 4, "films_waiting": 0, "results_waiting": 0,
    }  # fmt: skip
    # Only films that could not be read stay.
    left = [path for path in (tmp_path / "spool").rglob("*") if path.is_file()]
    assert [path.parent.name for path in left] == ["failed"]


def dcmread_bytes(content):
    return dcmread(io.BytesIO(content))


def test_peers_that_are_not_named_are_rejected(tmp_path):
    service = Service(model(), OPTIONS, Spool(tmp_path / "spool"), queue_size=2)
    with node(service, reads=False) as port:
        assert store(port, film(), title="STRANGER") is None
        assert store(port, film(), called="OTHER") is None
        # Two films may wait. The sender of a third gets the status for no room, and no accepted film is lost.
        assert store(port, film(0), film(1), film(2)) == [SUCCESS, SUCCESS, FULL]
        assert len(Spool(tmp_path / "spool").waiting_films()) == 2
        with pytest.raises(InputError, match=rf"port {port}: cannot listen on 127\.0\.0\.1 .*--port"):
            listen("GAZELIT", "127.0.0.1", port, [], service.take, service.counters)


def test_accepted_films_survive_a_kill_and_a_receiver_that_is_down(tmp_path, monkeypatch):
    monkeypatch.setattr(serve, "_FIRST_WAIT", 0.1)
    films = [film(number) for number in range(4)]
    killed = Service(model(), OPTIONS, Spool(tmp_path / "spool"), queue_size=10)
    with node(killed, reads=False) as port:
        assert store(port, *films) == [SUCCESS] * 4
    # A killed process leaves half of a film and half of a result.
    (tmp_path / "spool" / "films" / ".half-x.dcm").write_bytes(b"half")
    (tmp_path / "spool" / "results" / ".half").mkdir()
    service = Service(model(), OPTIONS, Spool(tmp_path / "spool"), queue_size=10)
    with receiver() as (peer, _):
        pass
    with node(service, peer):
        until(lambda: service.state()["results_waiting"] == 4)
        time.sleep(0.3)
        assert service.state()["sent"] == 0
        with receiver(peer.port) as (_, kept):
            until(lambda: service.state()["sent"] == 4)
            assert {result.StudyInstanceUID for result in kept.values()} == {sent.StudyInstanceUID for sent in films}
    assert not [path for path in (tmp_path / "spool").rglob("*") if path.is_file()]


def test_on_a_full_disk_films_and_results_wait_for_room_and_nothing_is_lost(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(serve, "_FIRST_WAIT", 0.05)
    monkeypatch.setattr(serve.logger, "propagate", True)
    is_full, fsync = threading.Event(), os.fsync

    def sync(handle):
        if is_full.is_set():
            raise OSError(errno.EDQUOT, "Disk quota exceeded")
        fsync(handle)

    monkeypatch.setattr("os.fsync", sync)
    service = Service(model(), OPTIONS, Spool(tmp_path / "spool"), queue_size=10)
    with receiver() as (peer, kept):
        with node(service, reads=False) as port:
            assert store(port, film()) == [SUCCESS]
            is_full.set()
            # The sender still has the film.
            assert store(port, film(1)) == [FULL]
        service = Service(model(), OPTIONS, Spool(tmp_path / "spool"), queue_size=10)
        with node(service, peer):
            until(lambda: "films wait: the spool cannot be used (Disk quota exceeded)" in caplog.text)
            is_full.clear()
            until(lambda: service.state()["sent"] == 1)
    assert len(kept) == 2
    assert "a film is refused for the time being: the spool cannot be used" in caplog.text
    assert not [path for path in (tmp_path / "spool").rglob("*") if path.is_file()]


def test_a_receiver_that_refuses_is_named(tmp_path):
    path = save(tmp_path / "film.dcm", film())
    refused = pytest.raises(InputError, match="PACS: answered 0xA700 to Computed Radiography")
    with receiver(answers=0xA700) as (peer, _), refused:
        send([path], peer, "GAZELIT")
    with pytest.raises(InputError, match=r"PACS@127\.0\.0\.1:\d+: cannot be reached"):
        send([path], peer, "GAZELIT")


@pytest.fixture
def certificates(tmp_path):
    """A certificate that signs itself, for localhost."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    command = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=localhost"
    files = ["-addext", "subjectAltName=DNS:localhost", "-keyout", tmp_path / "key.pem", "-out", tmp_path / "own.pem"]
    subprocess.run(["openssl", *command.split(), *files], check=True, capture_output=True)
    return Certificates(tmp_path / "own.pem", tmp_path / "key.pem", tmp_path / "own.pem")


def test_encrypted_connections_need_a_known_certificate_on_both_sides(tmp_path, certificates):
    service = Service(model(), OPTIONS, Spool(tmp_path / "spool"), queue_size=2)
    path = save(tmp_path / "film.dcm", film())
    tls = certificates.server("0.0.0.0", "--host")
    server = listen("GAZELIT", "127.0.0.1", 0, ["MODALITY"], service.take, service.counters, tls)
    peer = Peer("GAZELIT", "localhost", server.server_address[1])
    try:
        send([path], peer, "MODALITY", certificates.client("far.example", "--to"))
        assert len(Spool(tmp_path / "spool").waiting_films()) == 1
        without = Certificates(authority=certificates.authority).client("far.example", "--to")
        for context in (None, without):
            with pytest.raises(InputError, match="cannot be reached"):
                send([path], peer, "MODALITY", context)
    finally:
        server.shutdown()


def test_health_is_reported_on_loopback(tmp_path):
    service = Service(model(), OPTIONS, Spool(tmp_path / "spool"), queue_size=10)
    server = serve._health_server(service, 0)
    url = f"http://127.0.0.1:{server.server_address[1]}"
    health = json.load(urllib.request.urlopen(f"{url}/health"))
    assert health["status"] == "ok"
    assert health["films_waiting"] == 0
    with pytest.raises(urllib.error.HTTPError, match="404"):
        urllib.request.urlopen(f"{url}/films")
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"to": "PACS:4242"}, "--to: 'PACS:4242' is no node; write TITLE@HOST:PORT"),
        ({"to": "PACS@127.0.0.1:99999"}, "is no node"),
        ({"to": "A-TITLE-THAT-IS-TOO-LONG@127.0.0.1:4242"}, "is no AE title"),
        ({"allow": ["BACK\\SLASH"]}, "--allow: .* is no AE title"),
        ({"allow": []}, "name the titles that may send"),
        ({"host": "0.0.0.0"}, "0.0.0.0 is reached from other machines; give --tls_certificate"),
        ({"to": "PACS@pacs.example:4242"}, "pacs.example is another machine; give --tls_authority"),
        ({"tls_certificate": Path("missing.pem")}, "tls: a certificate or key cannot be used"),
        ({"queue_size": 0}, "queue_size"),
    ],
)
def test_impossible_options_of_the_node_give_one_line(changes, message, tmp_path):
    options = {"allow": ["MODALITY"], "to": "PACS@127.0.0.1:4242", "spool": tmp_path / "spool", **changes}
    with pytest.raises(InputError, match=message):
        serve_dicom(tmp_path / "none.ckpt", **options)
    assert not (tmp_path / "spool").exists()
