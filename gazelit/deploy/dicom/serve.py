"""``gazelit serve-dicom``: a DICOM node that receives films and sends back results."""

from __future__ import annotations

import json
import logging
import queue
import signal
import threading
from datetime import datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import FrameType
from typing import Any

from gazelit.data.images.dicom import MAX_PIXELS
from gazelit.data.images.film_intake import FilmIntake
from gazelit.deploy.dicom.endpoint import Certificates, Peer, checked_title
from gazelit.deploy.dicom.keys import folder_key
from gazelit.deploy.dicom.node import Counters, listen, send
from gazelit.deploy.dicom.spool import Spool
from gazelit.deploy.inference import LoadedModel
from gazelit.deploy.objects import DEFAULT_KINDS, DicomOptions, Kind, objects_of
from gazelit.deploy.preparing import Preparation, Prepared
from gazelit.deploy.reading import Reading
from gazelit.deploy.region import SHARE
from gazelit.deploy.together import load_together
from gazelit.errors import InputError

logger = logging.getLogger("gazelit")

#: Waits between attempts to send, s: doubled from the first to the last.
_FIRST_WAIT, _LAST_WAIT = 2.0, 60.0
_LOOPBACK = "127.0.0.1"


def serve_dicom(
    ckpt: str,
    allow: list[str],
    to: str,
    spool: Path,
    title: str = "GAZELIT",
    host: str = _LOOPBACK,
    port: int = 11112,
    dicom: list[Kind] | None = None,
    share: float = SHARE,
    deidentify: bool = False,
    queue_size: int = 1000,
    health_port: int | None = None,
    device: str = "cpu",
    max_pixels: int = MAX_PIXELS,
    tls_certificate: Path | None = None,
    tls_key: Path | None = None,
    tls_authority: Path | None = None,
) -> None:
    """Receives films by C-STORE, reads them, and sends the results to another node, until it is stopped.

    A film is on disk before its sender gets the confirmation, and results are on disk until they are delivered. A
    server that was killed continues where it was. Many arguments, because each is an option of the command line.

    Args:
        ckpt: A checkpoint written by ``gazelit fit``.
        allow: Titles that may send films; all others are rejected.
        to: Where results go, as TITLE@HOST:PORT.
        spool: Folder of waiting films and results. It holds patients' films.
        title: Our own title; calls to another title are rejected.
        host: Address to listen on; others than loopback need TLS.
        port: Port to listen on.
        dicom: Kinds of results that are sent; sr and sc unless given.
        share: Share of the map's mass that the outline and the segmentation hold.
        deidentify: Remove the attributes of PS3.15's basic profile from the results.
        queue_size: Number of films that may wait; further films are refused for the time being.
        health_port: Port of ``http://127.0.0.1:PORT/health``, which gives the counters as JSON; none unless given.
        device: Where the network runs, such as ``cuda``.
        max_pixels: Films that claim more pixels are set aside.
        tls_certificate: Our certificate (PEM).
        tls_key: Its private key (PEM).
        tls_authority: Trusted certificates (PEM). Senders, and the receiver, must then present a certificate
            that it has signed.

    Raises:
        InputError: A title, port, certificate or the checkpoint cannot be used.
    """
    if not allow or queue_size < 1:
        raise InputError("allow: name the titles that may send films" if not allow else "queue_size: must be above 0")
    allowed = [checked_title(name, "--allow") for name in allow]
    peer = Peer.parse(to, "--to")
    certificates = Certificates(tls_certificate, tls_key, tls_authority)
    receiving, sending = certificates.server(host, "--host"), certificates.client(peer.host, "--to")
    model = load_together([ckpt], device, max_pixels)
    logger.info(model.notice)
    options = DicomOptions(
        tuple(dicom or DEFAULT_KINDS), share, key=folder_key(spool) if deidentify else b"", made=datetime.now()
    )
    service = Service(model, options, Spool(spool), queue_size)
    sender = threading.Thread(
        target=service.deliver, args=(peer, checked_title(title, "--title"), sending), name="gazelit-sending"
    )
    server = listen(title, host, port, allowed, service.take, service.counters, receiving)
    health = None if health_port is None else _health_server(service, health_port)
    earlier = {number: signal.signal(number, service.stop) for number in (signal.SIGTERM, signal.SIGINT)}
    logger.info("%s listens on %s:%d for %s; results go to %s", title, host, port, ", ".join(allowed), to)
    sender.start()
    try:
        service.read_films()
    finally:
        server.shutdown()
        service.stop()
        sender.join()
        if health is not None:
            health.shutdown()
            health.server_close()
        for number, handler in earlier.items():
            signal.signal(number, handler)
    logger.info("stopped: %s", json.dumps(service.state()))


class Service:
    """Reads films as they come, one after the other, and delivers results in another thread.

    Args:
        model: The model that reads.
        options: The DICOM results that are made.
        spool: Folder of waiting films and results.
        queue_size: Number of films that may wait.
    """

    def __init__(self, model: LoadedModel, options: DicomOptions, spool: Spool, queue_size: int) -> None:
        self.counters = Counters()
        self._model, self._options, self._spool, self._queue_size = model, options, spool, queue_size
        self._lock = threading.Lock()
        self._stopped, self._deliverable = threading.Event(), threading.Event()
        self._queue: queue.Queue[str] = queue.Queue()
        self._waiting: set[str] = set()
        for name in spool.waiting_films():
            self._enqueue(name)
        if spool.waiting_results():
            self._deliverable.set()

    def take(self, uid: str, content: bytes) -> bool:
        """Stores a film that came over the network; false if too many wait, or the spool cannot be written."""
        with self._lock:
            if len(self._waiting) >= self._queue_size:
                return False
        try:
            name = self._spool.add_film(uid, content)
        except (InputError, OSError) as error:
            logger.warning("a film is refused for the time being: %s", _reason(error))
            return False
        self._enqueue(name)
        return True

    def _enqueue(self, name: str) -> None:
        with self._lock:
            if name not in self._waiting:
                self._waiting.add(name)
                self._queue.put(name)

    def stop(self, number: int = 0, frame: FrameType | None = None) -> None:
        """Ends :meth:`read_films` after the current film, and :meth:`deliver`; also a handler of signals."""
        self._stopped.set()
        self._deliverable.set()

    def state(self) -> dict[str, int]:
        """Counters, and the numbers of waiting films and results."""
        with self._lock:
            waiting = len(self._waiting)
        return {
            **self.counters.as_dict(),
            "films_waiting": waiting,
            "results_waiting": len(self._spool.waiting_results()),
        }

    def read_films(self) -> None:
        """Reads films until the service is stopped; if the spool cannot be written, they wait until it can."""
        # One at a time, so that a film's result does not depend on other films.
        intake = FilmIntake(Preparation(self._model.size, keeps_source=True), self._model.max_pixels)
        wait = _FIRST_WAIT
        while not self._stopped.is_set():
            try:
                name = self._queue.get(timeout=0.2)
            except queue.Empty:
                continue
            with self._lock:
                # From here on the same film, sent again, is read again.
                self._waiting.discard(name)
            try:
                self._read(name, intake)
                wait = _FIRST_WAIT
            except OSError as error:
                logger.warning("films wait: %s; next attempt in %g s", _reason(error), wait)
                self._enqueue(name)
                self._stopped.wait(wait)
                wait = min(2 * wait, _LAST_WAIT)

    def _read(self, name: str, intake: FilmIntake[Prepared]) -> None:
        path = self._spool.film(name)
        if not path.is_file():
            # Sent twice, and done with the first.
            return
        try:
            (reading,) = self._model.read([intake.read(path)])
            assert isinstance(reading, Reading)
            objects = objects_of(self._model, reading, self._options)
        except InputError as error:
            self._spool.set_aside(name)
            self.counters.add("failed")
            logger.warning("%s: set aside: %s", name, str(error).replace(str(path), "the film"))
            return
        self._spool.add_results(name, objects)
        self.counters.add("read")
        for warning in reading.warnings:
            logger.warning("%s: warning: %s", name, warning)
        self._deliverable.set()

    def deliver(self, peer: Peer, title: str, tls: Any) -> None:
        """Sends results until the service is stopped; a failed delivery is tried again."""
        wait = _FIRST_WAIT
        while not self._stopped.is_set():
            self._deliverable.wait()
            self._deliverable.clear()
            try:
                for name in self._spool.waiting_results():
                    if self._stopped.is_set():
                        return
                    send(self._spool.result_files(name), peer, title, tls)
                    self._spool.remove_results(name)
                    self.counters.add("sent")
                    wait = _FIRST_WAIT
            except (InputError, OSError) as error:
                logger.warning("results wait: %s; next attempt in %g s", _reason(error), wait)
                self._stopped.wait(wait)
                wait = min(2 * wait, _LAST_WAIT)
                self._deliverable.set()


def _reason(error: InputError | OSError) -> str:
    """An error's message without the path, which may have a film's name in it."""
    return str(error) if isinstance(error, InputError) else f"the spool cannot be used ({error.strerror or error})"


def _health_server(service: Service, port: int) -> ThreadingHTTPServer:
    class Health(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            found = self.path == "/health"
            content = json.dumps({"status": "ok", **service.state()} if found else {"error": "see /health"}).encode()
            self.send_response(200 if found else 404)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: Any) -> None:
            """Requests for the health are not logged."""

    try:
        server = ThreadingHTTPServer((_LOOPBACK, port), Health)
    except OSError as error:
        raise InputError(f"health_port: {port} cannot be used ({error.strerror})") from error
    threading.Thread(target=server.serve_forever, name="gazelit-health", daemon=True).start()
    return server
