"""Endpoints of films and results, and the connections that need no encryption."""

from __future__ import annotations

import ipaddress
import re
import ssl
from dataclasses import dataclass
from pathlib import Path

from gazelit.errors import InputError
from gazelit.files import is_file

_TITLE = re.compile(r"[!-\[\]-~](?:[ -\[\]-~]{0,14}[!-\[\]-~])?")


@dataclass(frozen=True)
class Peer:
    """A DICOM node.

    Attributes:
        title: Its application entity title.
        host: Name or address.
        port: TCP port.
    """

    title: str
    host: str
    port: int

    @classmethod
    def parse(cls, text: str, option: str) -> Peer:
        """Reads ``TITLE@HOST:PORT``.

        Raises:
            InputError: It is something else.
        """
        title, at, address = text.rpartition("@")
        host, colon, port = address.rpartition(":")
        if not at or not colon or not port.isdecimal() or not 0 < int(port) < 65536 or not host:
            raise InputError(f"{option}: '{text}' is no node; write TITLE@HOST:PORT, such as ORTHANC@127.0.0.1:4242")
        return cls(checked_title(title, option), host.strip("[]"), int(port))


def checked_title(title: str, option: str) -> str:
    """An application entity title (PS3.5 table 6.2-1): 1 to 16 characters of ASCII, no backslash.

    Raises:
        InputError: It is something else.
    """
    if not _TITLE.fullmatch(title):
        raise InputError(f"{option}: '{title}' is no AE title; it has 1 to 16 characters of ASCII without a backslash")
    return title


def is_loopback(host: str) -> bool:
    """Whether an address never leaves this machine; a name other than ``localhost`` may."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


@dataclass(frozen=True)
class Certificates:
    """Files of TLS.

    Attributes:
        certificate: Our certificate, PEM.
        key: Its private key, PEM; the certificate's file unless given.
        authority: Trusted certificates, PEM, for the certificate of the other side.
    """

    certificate: Path | None = None
    key: Path | None = None
    authority: Path | None = None

    def server(self, host: str, option: str) -> ssl.SSLContext | None:
        """The TLS context of a listening side; None on loopback without certificates.

        Raises:
            InputError: It would listen beyond loopback without TLS, or a file cannot be used.
        """
        refusal = f"{option}: {host} is reached from other machines; give --tls_certificate and --tls_key"
        context = self._context(ssl.PROTOCOL_TLS_SERVER, self.certificate, host, refusal)
        if context is not None and self.authority is not None:
            context.verify_mode = ssl.CERT_REQUIRED
        return context

    def client(self, host: str, option: str) -> ssl.SSLContext | None:
        """The TLS context of a calling side; None on loopback without certificates.

        Raises:
            InputError: It would call beyond loopback without TLS, or a file cannot be used.
        """
        refusal = f"{option}: {host} is another machine; give --tls_authority, whose certificate it has"
        return self._context(ssl.PROTOCOL_TLS_CLIENT, self.authority, host, refusal)

    def _context(self, protocol: int, needed: Path | None, host: str, refusal: str) -> ssl.SSLContext | None:
        """The TLS context of either side with all given certificates; only on loopback it needs none."""
        if needed is None:
            if is_loopback(host):
                return None
            raise InputError(refusal)
        context = ssl.SSLContext(protocol)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        unusable = "tls: a certificate or key cannot be used"
        files = [path for path in (self.certificate, self.key, self.authority) if path is not None]
        for path in files:
            # OpenSSL would wait at a pipe, and read a device without end.
            if not is_file(path):
                raise InputError(f"{unusable} ({path}: no such file)")
        try:
            if self.certificate is not None:
                context.load_cert_chain(self.certificate, self.key)
            if self.authority is not None:
                context.load_verify_locations(self.authority)
        except (OSError, ssl.SSLError) as error:
            names = ", ".join(map(str, files))
            raise InputError(f"{unusable} ({names}: {error.strerror or error})") from error
        return context
