"""Studies from a DICOMweb server, and results to one (PS3.18)."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import requests
from dicomweb_client import DICOMwebClient
from pydicom import dcmread
from requests.adapters import HTTPAdapter

from gazelit.deploy.dicom.endpoint import is_loopback
from gazelit.deploy.dicom.origin import is_own_result
from gazelit.errors import InputError

logger = logging.getLogger("gazelit")

#: Modalities of series that are fetched; digitised films are among the others' (OT) or say what they were.
MODALITIES = ("CR", "DX", "DR", "RG", "OT")
#: Longest waits for a connection, and for an answer to go on, s.
_CONNECT, _READ = 10.0, 120.0
#: As stored: otherwise the server would decode or recompress the pixels.
_AS_STORED = (("application/dicom", "*"),)


class _Patience(HTTPAdapter):
    """Limits the wait for a server's answer; requests by itself waits forever."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self._seconds = seconds

    def send(self, request: requests.PreparedRequest, **options: Any) -> requests.Response:  # type: ignore[override]
        options["timeout"] = (min(_CONNECT, self._seconds), self._seconds)
        return super().send(request, **options)


def connect(url: str, option: str, seconds: float = _READ) -> DICOMwebClient:
    """A client of a server.

    Args:
        url: The root of its DICOMweb services, such as ``http://127.0.0.1:8042/dicom-web``.
        option: The option that names it, for messages.
        seconds: Longest wait for an answer.

    Raises:
        InputError: It is no URL, or would send films over a network unencrypted.
    """
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise InputError(f"{option}: '{url}' is no http or https address")
    if parts.scheme == "http" and not is_loopback(parts.hostname):
        raise InputError(
            f"{option}: {parts.hostname} is another machine, and films are not sent unencrypted; use https"
        )
    session = requests.Session()
    # No proxy or password file from the environment, no redirection: a film goes only to the named server.
    session.trust_env = False
    session.max_redirects = 0
    if parts.username is not None:
        session.auth = (parts.username, parts.password or "")
    for scheme in ("http://", "https://"):
        session.mount(scheme, _Patience(seconds))
    port = "" if parts.port is None else f":{parts.port}"
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    client = DICOMwebClient(f"{parts.scheme}://{host}{port}{parts.path.rstrip('/')}", session=session)
    client.set_http_retry_params(retry=False)
    return client


def fetch_study(client: DICOMwebClient, study: str, folder: Path) -> list[str]:
    """Fetches a study's films as they are stored.

    Args:
        client: Of the server.
        study: StudyInstanceUID.
        folder: Where to write them.

    Returns:
        Their files.

    Raises:
        InputError: The server cannot be reached or refuses, or the study holds no film.
    """
    files: list[str] = []
    with _answers(client):
        found = client.search_for_series(study, fields=["Modality"])
        for series in found:
            if _value(series, "00080060") not in MODALITIES:
                continue
            uid = _value(series, "0020000E")
            for instance in client.retrieve_series(study, uid, media_types=_AS_STORED):
                if "Rows" not in instance or is_own_result(instance):
                    continue
                path = folder / f"{len(files)}.dcm"
                instance.save_as(path, enforce_file_format=True)
                files.append(str(path))
    if not files:
        raise InputError(f"--study: the server has no film of study {study}")
    return files


def store(client: DICOMwebClient, files: Sequence[Path]) -> int:
    """Stores results; the server keeps one copy of an object that is sent twice.

    Args:
        client: Of the server.
        files: DICOM files.

    Returns:
        How many it has now.

    Raises:
        InputError: The server cannot be reached, refuses, or does not store one.
    """
    for path in files:
        with _answers(client):
            answer = client.store_instances([dcmread(path)])
        failed = answer.get("FailedSOPSequence") or []
        if failed:
            reason = int(failed[0].get("FailureReason", 0))
            raise InputError(f"{client.base_url}: does not store {path.name} (failure reason 0x{reason:04X})")
    return len(files)


def _value(series: dict[str, Any], tag: str) -> str:
    values = series.get(tag, {}).get("Value") or [""]
    return str(values[0])


@contextmanager
def _answers(client: DICOMwebClient) -> Iterator[None]:
    """Turns any error of the connection or the server into one line."""
    url = client.base_url
    try:
        yield
    except requests.HTTPError as error:
        status = "an error" if error.response is None else error.response.status_code
        raise InputError(f"{url}: answers {status}; is it the root of the server's DICOMweb services?") from error
    except requests.Timeout as error:
        raise InputError(f"{url}: does not answer") from error
    except requests.RequestException as error:
        raise InputError(f"{url}: cannot be reached ({type(error).__name__})") from error
    except InputError:
        raise
    except (ValueError, KeyError, AttributeError, TypeError, EOFError) as error:
        raise InputError(f"{url}: its answer is no DICOMweb ({type(error).__name__})") from error
