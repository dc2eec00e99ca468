"""Connections between processes of a training: how all of them reach rank 0 when it begins."""

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
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

logger = logging.getLogger("gazelit")

#: Seconds in which all processes have to reach rank 0 when a training begins, and in which each has to identify itself.
_MEETING, _GREETING = 60.0, 5.0
#: Bytes of a first message at most.
_LONGEST = 1000
#: Connections that a forked process (a loader's) closes. With a copy open, its parent would still seem to be alive.
_sockets: set[socket.socket] = set()


def _close_in_child() -> None:
    for inherited in _sockets:
        os.close(inherited.detach())
    _sockets.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_close_in_child)


class Link:
    """A connection that carries lines of JSON.

    Attributes:
        socket: What is waited for.
    """

    def __init__(self, connection: socket.socket) -> None:
        self.socket = connection
        self._lock = threading.Lock()
        self._rest = b""
        connection.settimeout(1.0)
        _sockets.add(connection)

    def send(self, **message: Any) -> None:
        """Sends a message; if that fails, the next :meth:`receive` finds the connection closed."""
        with self._lock, contextlib.suppress(OSError):
            self.socket.sendall(json.dumps(message).encode() + b"\n")

    def receive(self) -> list[dict[str, Any]] | None:
        """The messages that have arrived; None at the end of the connection."""
        try:
            received = self.socket.recv(1 << 16)
        except TimeoutError:
            return []
        except OSError:
            return None
        if not received:
            return None
        *lines, self._rest = (self._rest + received).split(b"\n")
        return [json.loads(line) for line in lines]

    def first(self) -> Any:
        """Reads the first message and nothing after it.

        Raises:
            TimeoutError: None comes.
            ConnectionError: The other process is gone.
        """
        deadline = time.monotonic() + _GREETING
        line = b""
        while not line.endswith(b"\n"):
            if time.monotonic() > deadline or len(line) > _LONGEST:
                raise TimeoutError("no answer")
            with contextlib.suppress(TimeoutError):
                if not (byte := self.socket.recv(1)):
                    raise ConnectionError("the connection was closed")
                line += byte
        return json.loads(line)

    def close(self) -> None:
        """Ends the connection."""
        _sockets.discard(self.socket)
        self.socket.close()


@dataclass(frozen=True)
class Member:
    """A process of a training.

    Attributes:
        rank: Its number.
        host: Its machine.
        process: Its id there.
    """

    rank: int
    host: str
    process: int

    def __str__(self) -> str:
        return f"rank {self.rank} ({self.host})"


def meet(rank: int, world: int, address: str, share: Callable[[Any], Any]) -> tuple[Member, dict[Member, Link]]:
    """Connects all processes of a training to rank 0; every process must call it.

    Rank 0 listens on a free port until all have connected, and no longer. A process that connects must know a key.

    Args:
        rank: Of this process.
        world: The number of processes.
        address: Of rank 0's machine.
        share: Broadcasts rank 0's value to all processes.

    Returns:
        This process, and its connections: those of rank 0 to all others, or the one to rank 0. A missing connection is
        logged.
    """
    own = Member(rank, socket.gethostname(), os.getpid())
    if rank == 0:
        with _listener(address) as listener:
            port, key = share((listener.getsockname()[1], secrets.token_hex(16)))
            links = _accepted(listener, world, key, own)
        if missing := sorted(set(range(1, world)) - {member.rank for member in links}):
            logger.warning("ranks %s did not reach rank 0 at port %d: they are not watched", missing, port)
        return own, links
    port, key = share(None)
    try:
        link = Link(socket.create_connection((address, port), _MEETING))
        link.send(key=key, **asdict(own))
        return own, {_member(link.first()): link}
    except (OSError, LookupError, TypeError, ValueError) as error:
        where = f"{address}:{port}"
        logger.warning("rank %d does not reach rank 0 at %s (%s): it is not watched", rank, where, error)
        return own, {}


def _listener(address: str) -> socket.socket:
    """A listening socket; it is open to this machine alone if rank 0's address is local."""
    if address in ("localhost", "127.0.0.1"):
        return socket.create_server(("127.0.0.1", 0))
    if socket.has_dualstack_ipv6():
        return socket.create_server(("", 0), family=socket.AF_INET6, dualstack_ipv6=True)
    return socket.create_server(("", 0))


def _accepted(listener: socket.socket, world: int, key: str, own: Member) -> dict[Member, Link]:
    """The connections of the processes that arrived in time."""
    links: dict[Member, Link] = {}
    deadline = time.monotonic() + _MEETING
    while len(links) < world - 1 and (left := deadline - time.monotonic()) > 0:
        listener.settimeout(left)
        try:
            link = Link(listener.accept()[0])
        except TimeoutError:
            break
        try:
            greeting = link.first()
            if not hmac.compare_digest(str(greeting["key"]), key):
                raise ValueError("a wrong key")
            member = _member(greeting)
        except (OSError, LookupError, TypeError, ValueError):
            # Not a process of this training.
            link.close()
            continue
        link.send(**asdict(own))
        links[member] = link
    return links


def _member(greeting: Mapping[str, Any]) -> Member:
    return Member(int(greeting["rank"]), str(greeting["host"]), int(greeting["process"]))
