"""Checks whether the files of a run are as they were written."""

from __future__ import annotations

from pathlib import Path

from gazelit.checkpoints.verify import verify_checkpoint
from gazelit.configs import CONFIG_FILE, read_yaml
from gazelit.errors import InputError
from gazelit.files import changed_files, read_checksums, read_json
from gazelit.runs.steps import DONE_FILE

#: File beside a report with the SHA-256 of its files.
REPORT_SUMS = "report.sha256"
EPOCHS_FILE = "epochs.csv"


def verify_run(folder: Path) -> tuple[list[str], str]:
    """Compares all files of a run folder with their digests, and reads those that have none.

    Args:
        folder: Folder of ``gazelit run`` or ``gazelit fit``.

    Returns:
        The files that differ, a line each, and a description of what was compared.
    """
    found: list[str] = []
    counted = unknown = 0
    steps = sorted(folder.rglob(DONE_FILE))
    for marker in steps:
        faults, record = _read(marker)
        found += faults
        files = record.get("files")
        if isinstance(files, dict):
            counted += len(files)
            found += changed_files(marker.parent, files)
        else:
            unknown += not faults
    damaged = {line.partition(": ")[0] for line in found}
    checkpoints = [path for path in sorted(folder.rglob("*.ckpt")) if str(path) not in damaged]
    for path in checkpoints:
        found += verify_checkpoint(path)[0]
    if (folder / REPORT_SUMS).is_file():
        try:
            sums = read_checksums(folder / REPORT_SUMS)
            counted += len(sums)
            found += changed_files(folder, sums)
        except InputError as error:
            found.append(str(error))
    for path in sorted((*folder.rglob("*.json"), *folder.rglob(CONFIG_FILE), *folder.rglob(EPOCHS_FILE))):
        if str(path) not in damaged and path not in steps:
            found += _read(path)[0]
    text = f"{counted} files as they were written, {len(checkpoints)} checkpoints read"
    if unknown:
        text += f"; {unknown} of {len(steps)} steps were made before digests were recorded"
    elif not steps:
        text += "; a training by hand records digests of its checkpoints alone"
    return found, text


def _read(path: Path) -> tuple[list[str], dict[str, object]]:
    """The reason why a JSON, YAML or CSV file cannot be read, and the content of a JSON object."""
    try:
        if path.suffix == ".csv":
            return ([f"{path}: is cut, or no table"] if _is_cut(path) else []), {}
        content = read_json(path) if path.suffix == ".json" else read_yaml(path)
    except InputError as error:
        return [str(error)], {}
    return [], content if isinstance(content, dict) else {}


def _is_cut(path: Path) -> bool:
    try:
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    except ValueError:
        return True
    return not lines or not lines[-1].endswith("\n") or len({line.count(",") for line in lines}) > 1
