"""The environment of commands that tests start in other folders."""

import os
from pathlib import Path


def importing_tests() -> dict[str, str]:
    """This process's environment, with the folder of ``tests`` for a configuration that names a class of the tests."""
    root = Path(__file__).parents[1]
    path = os.pathsep.join(filter(None, [str(root), os.environ.get("PYTHONPATH")]))
    return {**os.environ, "PYTHONPATH": path}
