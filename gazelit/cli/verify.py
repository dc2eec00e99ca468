"""``gazelit verify``: checks whether a store, features, a run, a checkpoint or a package is as it was written."""

from __future__ import annotations

import logging
from pathlib import Path

from gazelit.configs import CONFIG_FILE
from gazelit.data.store.features import ABOUT_FILE as FEATURES_FILE
from gazelit.data.store.features import verify_features
from gazelit.data.store.store import STORE_FILE
from gazelit.errors import InputError

logger = logging.getLogger("gazelit")

_REMEDY = {
    "store": "prepare the store anew",
    "features": "remove the folder and write it anew with `gazelit embed`",
    "run": "remove the steps that hold these files and give the same `gazelit run` command again",
    "checkpoint": "copy it anew, or use another",
    "package": "get the package anew",
}


def verify(path: str) -> None:
    """Reads a whole store, features, run, checkpoint or package and compares it with its recorded digests.

    Args:
        path: The folder of a store, of features, of a run or a training, or of a package; or a checkpoint's file.

    Raises:
        InputError: Something differs; each file is named in a line of its own before. Or it is none of these, or from
            before digests were recorded.
    """
    subject = Path(path)
    kind, (faults, compared) = _compare(subject)
    for fault in faults:
        logger.error("%s", fault)
    if faults:
        count = "1 file differs" if len(faults) == 1 else f"{len(faults)} files differ"
        raise InputError(f"{subject}: {count} from what was written, listed above; {_REMEDY[kind]}")
    logger.info("%s: %s", subject, compared)


def _compare(subject: Path) -> tuple[str, tuple[list[str], str]]:
    """The kind, and what was found; each kind makes its own imports, such as torch for checkpoints."""
    if (subject / STORE_FILE).is_file():
        from gazelit.data.store.verify import verify_store

        return "store", verify_store(subject)
    if (subject / FEATURES_FILE).is_file():
        return "features", verify_features(subject)
    if subject.is_file():
        from gazelit.checkpoints.verify import verify_checkpoint

        return "checkpoint", verify_checkpoint(subject)
    from gazelit.deploy.packages import is_package, verify_package
    from gazelit.runs.steps import PLAN_FILE, STARTED_FILE
    from gazelit.runs.verify import verify_run

    if is_package(subject):
        return "package", verify_package(subject)
    marks = (PLAN_FILE, CONFIG_FILE, STARTED_FILE)
    if any((subject / mark).is_file() for mark in marks) or next(subject.rglob(STARTED_FILE), None):
        return "run", verify_run(subject)
    reason = "holds no store, features, run or package" if subject.is_dir() else "there is no such file or folder"
    raise InputError(f"{subject}: {reason}; give what `gazelit prepare`, `embed`, `run`, `fit` or `package` made")
