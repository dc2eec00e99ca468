"""The DICOM node that receives films, and the client that sends results (PS3.4, storage service class)."""

from __future__ import annotations

import logging
import ssl
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from pydicom import dcmread
from pydicom.uid import (
    ComputedRadiographyImageStorage,
    DeflatedExplicitVRLittleEndian,
    DigitalXRayImageStorageForPresentation,
    DigitalXRayImageStorageForProcessing,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    SecondaryCaptureImageStorage,
)
from pynetdicom import AE, evt
from pynetdicom.sop_class import Verification  # type: ignore[attr-defined]
from pynetdicom.transport import ThreadedAssociationServer

from gazelit.data.images import codecs
from gazelit.data.images.pictures import faults
from gazelit.deploy.dicom.endpoint import Peer
from gazelit.deploy.dicom.origin import is_own_result
from gazelit.errors import InputError

logger = logging.getLogger("gazelit")

#: Storage classes of films.
FILM_CLASSES = (
    ComputedRadiographyImageStorage,
    DigitalXRayImageStorageForPresentation,
    DigitalXRayImageStorageForProcessing,
    SecondaryCaptureImageStorage,
)
_SYNTAXES = [ExplicitVRLittleEndian, ImplicitVRLittleEndian, DeflatedExplicitVRLittleEndian, *codecs.SYNTAXES]
#: Statuses of C-STORE (PS3.4 table B.2-1): out of resources, not what its class says, not understood.
SUCCESS, FULL, REFUSED, NOT_UNDERSTOOD = 0x0000, 0xA700, 0xA900, 0xC000
#: Longest wait for a peer, s.
_PATIENCE = 30


class Counters:
    """Counts of the service since its start; threads share them."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter(dict.fromkeys(("received", "refused", "read", "failed", "sent"), 0))

    def add(self, name: str) -> None:
        """Counts one."""
        with self._lock:
            self._counts[name] += 1

    def as_dict(self) -> dict[str, int]:
        """The counts by name."""
        with self._lock:
            return dict(self._counts)


def listen(
    title: str,
    host: str,
    port: int,
    allowed: Sequence[str],
    take: Callable[[str, bytes], bool],
    counters: Counters,
    tls: ssl.SSLContext | None = None,
) -> ThreadedAssociationServer:
    """Starts to receive films, in threads of its own.

    Args:
        title: Our title; calls to another title are rejected.
        host: Where to listen.
        port: Where to listen.
        allowed: Titles that may call.
        take: Called with a film's UID and file; false if there is no room.
        counters: Counts of received films.
        tls: TLS context of encrypted connections.

    Raises:
        InputError: The port is taken.
    """
    entity = AE(ae_title=title)
    entity.require_called_aet = True
    entity.require_calling_aet = list(allowed)
    entity.maximum_associations = 10
    entity.network_timeout = entity.acse_timeout = entity.dimse_timeout = _PATIENCE
    entity.add_supported_context(Verification)
    for film_class in FILM_CLASSES:
        entity.add_supported_context(film_class, _SYNTAXES)

    def store(event: evt.Event) -> int:
        status = taken(event)
        if status != SUCCESS:
            counters.add("refused")
        # Last of all, so that a film that is counted is on disk.
        counters.add("received")
        return status

    def taken(event: evt.Event) -> int:
        with_header = _header(event)
        if with_header is None:
            return NOT_UNDERSTOOD
        uid, own = with_header
        if own:
            logger.warning("a result of gazelit's own came back and is refused; route only films to this node")
            return REFUSED
        return SUCCESS if take(uid, event.encoded_dataset()) else FULL

    try:
        server = entity.start_server(
            (host, port), block=False, ssl_context=tls, evt_handlers=[(evt.EVT_C_STORE, store)]
        )
    except OSError as error:
        raise InputError(
            f"port {port}: cannot listen on {host} ({error.strerror}); choose another with --port"
        ) from error
    assert isinstance(server, ThreadedAssociationServer)
    return server


def _header(event: evt.Event) -> tuple[str, bool] | None:
    """UID of a received object, and whether it is a result of gazelit; None if it cannot be understood."""
    try:
        with faults("film", "cannot be understood"):
            dataset = event.dataset
            uid = str(dataset.SOPInstanceUID)
            return (uid, is_own_result(dataset)) if uid else None
    except InputError:
        return None


def send(files: Sequence[Path], peer: Peer, title: str, tls: ssl.SSLContext | None = None) -> None:
    """Sends DICOM files to a node; all of them, or an error.

    Args:
        files: The files.
        peer: The node.
        title: Our title.
        tls: Of an encrypted connection.

    Raises:
        InputError: The node cannot be reached, rejects us, or does not store a file.
    """
    entity = AE(ae_title=title)
    entity.network_timeout = entity.acse_timeout = entity.dimse_timeout = entity.connection_timeout = _PATIENCE
    datasets = [dcmread(path) for path in files]
    for dataset in datasets:
        context = (dataset.SOPClassUID, dataset.file_meta.TransferSyntaxUID)
        if context not in [(known.abstract_syntax, known.transfer_syntax[0]) for known in entity.requested_contexts]:
            entity.add_requested_context(*context)
    arguments: dict[str, Any] = {} if tls is None else {"tls_args": (tls, peer.host)}
    association = entity.associate(peer.host, peer.port, ae_title=peer.title, **arguments)
    if not association.is_established:
        rejected = "rejects the connection: does it know our title, and is its title right?"
        reason = rejected if association.is_rejected else "cannot be reached"
        raise InputError(f"{peer.title}@{peer.host}:{peer.port}: {reason}")
    try:
        for dataset in datasets:
            try:
                status = association.send_c_store(dataset).get("Status")
            except ValueError as error:
                # No accepted presentation context.
                name = dataset.SOPClassUID.name
                raise InputError(f"{peer.title}: does not take {name} in the form it is in") from error
            # A warning (0xB000 and on) is stored as well.
            if status is None or (status != SUCCESS and status >> 12 != 0xB):
                answer = "did not answer" if status is None else f"answered 0x{status:04X}"
                raise InputError(f"{peer.title}: {answer} to {dataset.SOPClassUID.name}")
    finally:
        association.release()
