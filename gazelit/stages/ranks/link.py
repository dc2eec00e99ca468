"""A connection between two processes of a training, and how all of them find rank 0 when it begins."""

from __future__ import annotations

import contextlib
import hmac
import json
import logging
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable
from typing import Any

logger = logging.getLogger("gazelit")

#: Seconds in which all processes have to reach rank 0 when a training begins, and each to say who it is.
_MEETING, _GREETING = 60.0, 5.0
#: What a forked process (a loader's) closes: with a copy of a connection its parent would seem to live on.
_sockets: set[socket.socket] = set()


def _close_in_child() -> None:
    for inherited in _sockets:
        os.close(inherited.detach())
    _sockets.clear()


os.register_at_fork(after_in_child=_close_in_child)


class Link:
    """A connection that carries lines of JSON.

    Args:
        connection: Of a pair of processes.
    """

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        self._lock = threading.Lock()
        self._rest = b""
        connection.settimeout(1.0)
        _sockets.add(connection)

    def fileno(self) -> int:
        """The descriptor to wait for."""
        return self._socket.fileno()

    def send(self, **message: Any) -> None:
        """Sends a message; where that fails, reading tells why."""
        with self._lock, contextlib.suppress(OSError):
            self._socket.sendall(json.dumps(message).encode() + b"\n")

    def receive(self) -> list[dict[str, Any]] | None:
        """The messages that have come; None at the end of the connection."""
        try:
            received = self._socket.recv(1 << 16)
        except TimeoutError:
            return []
        except OSError:
            return None
        if not received:
            return None
        *lines, self._rest = (self._rest + received).split(b"\n")
        return [json.loads(line) for line in lines]

    def close(self) -> None:
        """Ends the connection."""
        _sockets.discard(self._socket)
        self._socket.close()


def meet(rank: int, world: int, address: str, share: Callable[[Any], Any]) -> tuple[dict[int, Link], dict[int, str]]:
    """Connects all processes of a training to rank 0; each of them must call it.

    Rank 0 listens on a free port until all have come, and no longer. Who comes has to know a key.

    Args:
        rank: Of this process.
        world: The number of processes.
        address: Of rank 0's machine.
        share: Gives all processes what rank 0 calls it with.

    Returns:
        Connections by rank, those of rank 0 to all others or the one to rank 0, and the machines of these ranks and of
        this one. A line says where a connection did not come about.
    """
    hosts = {rank: socket.gethostname()}
    if rank == 0:
        with _listener(address) as listener:
            port, key = share((listener.getsockname()[1], secrets.token_hex(16)))
            links = _accepted(listener, world, key, hosts)
        if missing := sorted(set(range(1, world)) - links.keys()):
            logger.warning("ranks %s did not reach rank 0 at port %d: nobody watches over them", missing, port)
        return links, hosts
    port, key = share(None)
    try:
        link = Link(socket.create_connection((address, port), _MEETING))
        link.send(rank=rank, host=hosts[rank], key=key)
        hosts[0] = str(_first_message(link)["host"])
    except (OSError, LookupError) as error:
        logger.warning(
            "rank %d does not reach rank 0 at %s:%d (%s): nobody watches over it", rank, address, port, error
        )
        return {}, hosts
    return {0: link}, hosts


def _listener(address: str) -> socket.socket:
    """A socket for others of this machine alone, if that is where rank 0 is looked for."""
    if address in ("localhost", "127.0.0.1"):
        return socket.create_server(("127.0.0.1", 0))
    if socket.has_dualstack_ipv6():
        return socket.create_server(("", 0), family=socket.AF_INET6, dualstack_ipv6=True)
    return socket.create_server(("", 0))


def _accepted(listener: socket.socket, world: int, key: str, hosts: dict[int, str]) -> dict[int, Link]:
    """The connections of those that came in time; their machines are added to ``hosts``."""
    links: dict[int, Link] = {}
    deadline = time.monotonic() + _MEETING
    while len(links) < world - 1 and (left := deadline - time.monotonic()) > 0:
        listener.settimeout(left)
        try:
            link = Link(listener.accept()[0])
        except TimeoutError:
            break
        try:
            greeting = _first_message(link)
            if not hmac.compare_digest(str(greeting["key"]), key):
                raise ValueError("a wrong key")
            number, hosts[number] = int(greeting["rank"]), str(greeting["host"])
        except (OSError, LookupError, TypeError, ValueError):
            # Not one of ours.
            link.close()
            continue
        link.send(host=hosts[0])
        links[number] = link
    return links


def _first_message(link: Link) -> dict[str, Any]:
    """What a process says first.

    Raises:
        TimeoutError: It says nothing.
        ConnectionError: It is gone.
    """
    deadline = time.monotonic() + _GREETING
    while time.monotonic() < deadline:
        messages = link.receive()
        if messages is None:
            raise ConnectionError("the connection was closed")
        if messages:
            return messages[0]
    raise TimeoutError("no answer")
