"""``gazelit app``: starts the page."""

from __future__ import annotations

import errno
import importlib.util
import logging
import socket
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from gazelit.deploy.dicom.endpoint import Certificates
from gazelit.errors import InputError
from gazelit.runs.run_file import RUN_FILE, read_run_file

logger = logging.getLogger("gazelit")

#: Host names of the page for browsers on this machine.
_LOOPBACK_NAMES = ("127.0.0.1", "localhost", "::1", "[::1]")
_EVERY_ADDRESS = ("0.0.0.0", "::")


def app(
    ckpt: Path | list[Path] | None = None,
    store: Path | None = None,
    runs: list[Path] | None = None,
    host: str = "127.0.0.1",
    port: int = 8750,
    names: list[str] | None = None,
    tls_certificate: Path | None = None,
    tls_key: Path | None = None,
    mc_dropout: int = 0,
    guards: Path | None = None,
    device: str = "cpu",
) -> None:
    """Serves a page that reads films, browses a store and shows reports, until it is interrupted.

    Films that are dropped on the page stay in memory, and only the printed address opens the page. Many arguments,
    because each is an option of the command line.

    Args:
        ckpt: The model; that of the first run unless given. With several checkpoints readings are their mean, with its
            spread.
        store: The prepared store; that of the first run unless given.
        runs: Finished runs whose reports are shown, or folders with such runs in them.
        host: Address to listen at; one that other machines reach needs a certificate.
        port: Port to listen at; 0 for any that is free.
        names: Further host names of the page, such as this machine's name in its network.
        tls_certificate: PEM file with the certificate.
        tls_key: PEM file with its key.
        mc_dropout: Passes with dropout on; their mean and spread are shown. 0 for one pass without.
        guards: A file of ``gazelit guard`` for several checkpoints or passes with dropout.
        device: Where the network runs, such as ``cuda``.

    Raises:
        InputError: There is nothing to show, a file or the address cannot be used, or the port is busy.
    """
    if importlib.util.find_spec("starlette") is None or importlib.util.find_spec("uvicorn") is None:
        raise InputError("app: needs starlette and uvicorn, of the extra 'app'; pip install 'gazelit[app]'")
    if tls_key is not None and tls_certificate is None:
        raise InputError("tls_key: goes with --tls_certificate; give both")
    if host in _EVERY_ADDRESS and not names:
        raise InputError(f"host: {host} is every address of this machine; give the page's host names with --names")
    Certificates(tls_certificate, tls_key).server(host, "host")
    tls = None if tls_certificate is None else (tls_certificate, tls_key)
    folders = list(runs or [])
    ckpts = [] if ckpt is None else list(ckpt) if isinstance(ckpt, list) else [ckpt]
    ckpts, store = _of_run(folders, ckpts, store)
    if not ckpts and store is None and not folders:
        raise InputError("app: has nothing to show; give --ckpt, --store, --runs or several of them")
    with _listen(host, port) as listener:
        _serve(listener, host, names or [], tls, Shown(ckpts, mc_dropout, guards, device, store, folders))


@dataclass(frozen=True)
class Shown:
    """The content of the page; the attributes are :func:`app`'s parameters."""

    ckpts: Sequence[Path]
    mc_dropout: int
    guards: Path | None
    device: str
    store: Path | None
    runs: Sequence[Path]


def _serve(
    listener: socket.socket,
    host: str,
    names: Sequence[str],
    tls: tuple[Path, Path | None] | None,
    shown: Shown,
) -> None:
    """Loads the content of the page, and serves it until it is interrupted."""
    import uvicorn

    # They take seconds to import; wrong options have been reported before.
    from gazelit.data.store.store import Store
    from gazelit.deploy.app.library import Library
    from gazelit.deploy.app.reading_room import ReadingRoom
    from gazelit.deploy.app.reports import Reports
    from gazelit.deploy.app.server import Access, make_server
    from gazelit.deploy.together import load_together

    port = listener.getsockname()[1]
    access = Access([*_LOOPBACK_NAMES, host, *names], port, tls is not None)
    room = None
    if shown.ckpts:
        model = load_together(shown.ckpts, shown.device, dropout_passes=shown.mc_dropout, guards=shown.guards)
        room = ReadingRoom(model)
    library = None if shown.store is None else Library(Store.open(shown.store), room)
    server = make_server(access, room, library, Reports(shown.runs) if shown.runs else None)
    certificate, key = tls or (None, None)
    config = uvicorn.Config(
        server,
        # For privacy requests are not logged, and answers do not name a library.
        access_log=False,
        log_config=None,
        server_header=False,
        ssl_certfile=certificate,
        ssl_keyfile=key,
        timeout_graceful_shutdown=5,
    )
    if room is not None:
        logger.info(room.model.notice)
    called = names[0] if names else f"[{host}]" if ":" in host else host
    scheme = "https" if tls else "http"
    logger.info("open %s://%s:%d/?key=%s   (Ctrl-C ends it)", scheme, called, port, access.key)
    try:
        with suppress(KeyboardInterrupt):
            uvicorn.Server(config).run(sockets=[listener])
    finally:
        if library is not None:
            library.stop_survey()


def _of_run(folders: Sequence[Path], ckpts: list[Path], store: Path | None) -> tuple[list[Path], Path | None]:
    """Model and store; those of the first run if not given."""
    found = []
    for folder in folders:
        if not folder.is_dir():
            raise InputError(f"runs: there is no folder {folder}; give what `gazelit run` made")
        own = [path for path in (folder, *sorted(folder.iterdir())) if (path / RUN_FILE).is_file()]
        if not own:
            raise InputError(f"runs: {folder} holds no finished run ({RUN_FILE} is missing); `gazelit run` makes one")
        found += own
    if found and (not ckpts or store is None):
        about = read_run_file(found[0])
        ckpts = ckpts or [found[0] / about["trained"][0]["checkpoint"]]
        store = store or Path(about["store"])
    return ckpts, store


def _listen(host: str, port: int) -> socket.socket:
    """A bound socket, so that a busy port is reported before a model is loaded."""
    if not 0 <= port <= 65_535:
        raise InputError(f"port: must be 0 to 65535, not {port}")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
    except (OSError, UnicodeError) as error:
        raise InputError(f"host: '{host}' is no address of this machine; give one such as 127.0.0.1") from error
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(address)
        # Until then another process could still bind the same port.
        listener.listen()
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            raise InputError(f"port: {port} is in use; give another --port, or 0 for any that is free") from error
        if error.errno == errno.EACCES:
            raise InputError(f"port: {port} is reserved for the system; give one above 1023") from error
        raise InputError(f"host: '{host}' is no address of this machine; give one such as 127.0.0.1") from error
    return listener
