"""Films that wait for the model and results that wait for the network, on disk: a killed server loses nothing."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

from gazelit.files import atomic_path, durable

_FILM = ".dcm"


class Spool:
    """A folder of films and results.

    A film is in ``films`` from the moment its sender is told that it is stored, until its results are whole in
    ``results``; those are there until the receiver has them. What could not be read is kept in ``failed``.

    Args:
        folder: Made if missing. It holds patients' films: keep it where only the service reads.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.films, self.results, self.failed = (folder / name for name in ("films", "results", "failed"))
        for path in (self.films, self.results, self.failed):
            path.mkdir(parents=True, exist_ok=True, mode=0o700)
        # Half of a film or of a result, from a server that was killed.
        for path in (*self.films.glob(".*"), *self.results.glob(".*")):
            shutil.rmtree(path) if path.is_dir() else path.unlink()

    def add_film(self, uid: str, content: bytes) -> str:
        """Keeps a film; the same one twice is kept once. Returns its name."""
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
        """Keeps a film's results, all or none, and lets the film go."""
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
        """Lets results go that the receiver has."""
        shutil.rmtree(self.results / name)

    def set_aside(self, name: str) -> None:
        """Keeps a film that cannot be read apart from those that wait."""
        self.film(name).replace(self.failed / f"{name}{_FILM}")
