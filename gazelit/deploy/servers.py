"""The servers from which a run fetches films and to which it sends results."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gazelit.errors import InputError

logger = logging.getLogger("gazelit")


@dataclass(frozen=True)
class Servers:
    """The source of a study's films and the target of its results.

    Attributes:
        source: Client of the server that has the films; None for files.
        study: StudyInstanceUID.
        target: Client of the server that gets the results; None for files.
    """

    source: Any = None
    study: str = ""
    target: Any = None

    @classmethod
    def of(cls, source: str | None, study: str | None, target: str | None) -> Servers:
        """Makes clients; nothing is sent yet.

        Args:
            source: Root of DICOMweb services, or None.
            study: StudyInstanceUID, or None.
            target: Root of DICOMweb services, or None.

        Raises:
            InputError: An address cannot be used, the study is missing, or the extra ``dicom`` is.
        """
        if (source is None) != (study is None):
            raise InputError("--from and --study go together: the server, and the study's UID")
        if source is None and target is None:
            return cls()
        try:
            from gazelit.deploy.dicom.web import connect
        except ModuleNotFoundError as error:
            raise InputError(f"--from and --to need {error.name}: pip install 'gazelit[dicom]'") from error
        return cls(
            None if source is None else connect(source, "--from"),
            study or "",
            None if target is None else connect(target, "--to"),
        )

    @contextmanager
    def films(self, files: Sequence[str]) -> Iterator[Sequence[str]]:
        """The given files, or those of the study, in a folder that is removed at the end of the block."""
        if self.source is None:
            yield files
            return
        from gazelit.deploy.dicom.web import fetch_study

        with tempfile.TemporaryDirectory(prefix="gazelit-study-") as folder:
            fetched = fetch_study(self.source, self.study, Path(folder))
            logger.info("%d films of the study", len(fetched))
            yield fetched

    def deliver(self, files: Sequence[Path]) -> None:
        """Sends results, if there is a server for them."""
        if self.target is None:
            return
        from gazelit.deploy.dicom.web import store

        logger.info("%d results sent", store(self.target, files))
