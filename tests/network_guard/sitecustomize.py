"""Fails every connection beyond this machine and notes it; Python runs this file at the start of every test's process.

It is in a folder of its own, which ``tests/conftest.py`` puts on ``PYTHONPATH``.
"""

import ipaddress
import os
import socket
import sys

#: File in which attempts are noted, a line each.
LOG = "GAZELIT_TEST_CONNECTIONS"
_NAMES = {"", "localhost", "localhost.localdomain", "ip6-localhost", socket.gethostname()}


def is_local(host: object, by_name: bool = False) -> bool:
    """Whether a host is this machine or, for a look-up by name, an address, for which no server is asked."""
    if host is None:
        return True
    name = host.decode() if isinstance(host, bytes) else str(host)
    if name in _NAMES:
        return True
    try:
        address = ipaddress.ip_address(name.partition("%")[0])
    except ValueError:
        return False
    return by_name or address.is_loopback or address.is_unspecified


def _watch(event: str, arguments: tuple[object, ...]) -> None:
    by_name = event in ("socket.getaddrinfo", "socket.gethostbyname")
    if event in ("socket.connect", "socket.sendto", "socket.sendmsg"):
        address = arguments[1]
        # The address of a Unix socket is a path.
        host = address[0] if isinstance(address, tuple) else None
    elif by_name:
        host = arguments[0]
    else:
        return
    if not is_local(host, by_name):
        with open(os.environ[LOG], "a") as file:
            file.write(f"{event} {host} by {' '.join(sys.argv)[:200]}\n")
        raise ConnectionRefusedError(f"{event} {host}: tests reach nothing beyond this machine")


if LOG in os.environ:
    sys.addaudithook(_watch)
