"""Films that wait for the model and results that wait for the network, on disk: a killed server loses nothing."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

from gazelit.files import atomic_path, durable

_FILM = ".dcm"


class Spool:
    """A folder of films and results.

    A film is in ``films`` before its sender gets the confirmation, until its results are complete in ``results``.
    Results are there until the receiver has them. Films that could not be read are kept in ``failed``.

    Args:
        folder: Made if missing. It holds patients' films: keep it where only the service reads.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.films, self.results, self.failed = (folder / name for name in ("films", "results", "failed"))
        for path in (self.films, self.results, self.failed):
            path.mkdir(parents=True, exist_ok=True, mode=0o700)
        # Incomplete films or results of a server that was killed.
        for path in (*self.films.glob(".*"), *self.results.glob(".*")):
            shutil.rmtree(path) if path.is_dir() else path.unlink()

    def add_film(self, uid: str, content: bytes) -> str:
        """Stores a film, once even if it is sent twice. Returns its name."""
        name = hashlib.sha256(uid.encode()).hexdigest()[:32]
        with atomic_path(self.films / f"{name}{_FILM}") as temporary:
            temporary.write_bytes(content)
        return name

    def film(self, name: str) -> Path:
        """The file of a film."""
        return self.films / f"{name}{_FILM}"

    def waiting_films(self) -> list[str]:
        """Names of films without results, the oldest first."""
        files = [path for path in self.films.glob(f"*{_FILM}") if not path.name.startswith(".")]
        return [path.stem for path in sorted(files, key=lambda path: (path.stat().st_mtime_ns, path.name))]

    def add_results(self, name: str, objects: dict[str, bytes]) -> None:
        """Stores a film's results, all or none, and removes the film."""
        building = self.results / f".{name}"
        shutil.rmtree(building, ignore_errors=True)
        building.mkdir()
        for kind, content in objects.items():
            (building / f"{kind}{_FILM}").write_bytes(content)
            durable(building / f"{kind}{_FILM}")
        done = self.results / name
        shutil.rmtree(done, ignore_errors=True)
        building.rename(done)
        durable(self.results)
        self.film(name).unlink(missing_ok=True)

    def waiting_results(self) -> list[str]:
        """Names of films whose results are not sent."""
        return sorted(path.name for path in self.results.iterdir() if not path.name.startswith("."))

    def result_files(self, name: str) -> list[Path]:
        """The results of a film."""
        return sorted((self.results / name).glob(f"*{_FILM}"))

    def remove_results(self, name: str) -> None:
        """Removes results that the receiver has."""
        shutil.rmtree(self.results / name)

    def set_aside(self, name: str) -> None:
        """Moves a film that cannot be read to ``failed``."""
        self.film(name).replace(self.failed / f"{name}{_FILM}")
