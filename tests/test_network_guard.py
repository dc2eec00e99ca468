"""The guard of conftest.py finds attempts to reach another machine; otherwise it would prove nothing."""

import socket
import subprocess
import sys

import pytest

PROGRAM = """
import socket
for attempt in (
    lambda: socket.create_connection(("192.0.2.1", 80), timeout=1),
    lambda: socket.getaddrinfo("example.org", 443),
    lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"x", ("192.0.2.1", 53)),
):
    try:
        attempt()
    except ConnectionRefusedError:
        print("refused")
"""


def test_attempts_of_this_process_and_of_others_fail_and_are_noted(connections):
    with pytest.raises(ConnectionRefusedError, match="beyond this machine"):
        socket.create_connection(("192.0.2.1", 80), timeout=1)
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["refused"] * 3
    noted = connections.read_text().splitlines()
    connections.write_text("")
    assert [line.split()[:2] for line in noted] == [
        ["socket.connect", "192.0.2.1"],
        ["socket.connect", "192.0.2.1"],
        ["socket.getaddrinfo", "example.org"],
        ["socket.sendto", "192.0.2.1"],
    ]


def test_this_machine_may_be_reached(connections):
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        socket.create_connection(server.getsockname()).close()
        socket.getaddrinfo("localhost", 80)
    assert connections.read_text() == ""
