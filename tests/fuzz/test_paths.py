"""A command whose path is replaced by something else ends with one line; ``tests.fuzz.paths`` tries all paths."""

import os
import signal
from pathlib import Path
from typing import get_args, get_type_hints

import pytest

from gazelit.cli.main import COMMANDS, main
from tests.fuzz.paths import lines


def _is_path(hint):
    return hint is Path or any(map(_is_path, get_args(hint)))


def test_every_path_that_a_command_takes_is_tried():
    taken = {
        (name, "argument" if option == command.positional else option)
        for name, command in COMMANDS.items()
        for option, hint in get_type_hints(command.function()).items()
        if option != "return" and (_is_path(hint) or (option == command.positional and not command.about))
    }
    # The pipeline's stages are the configuration, which is its argument.
    assert taken <= {(line.command, line.option.replace("-", "_")) for line in lines()}


@pytest.fixture
def alarm():
    """Ends a test that waits for a pipe."""

    def end(number, frame):
        raise TimeoutError("waits for a pipe")

    earlier = signal.signal(signal.SIGALRM, end)
    signal.alarm(20)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, earlier)


@pytest.mark.parametrize(
    "command", ["inspect", "verify", "split --out=new", "status", "validate-manifest --images", "doctor --store"]
)
@pytest.mark.parametrize("what", ["pipe", "zeros"])
def test_a_command_does_not_wait_for_a_pipe_or_read_a_device(command, what, tmp_path, capsys, alarm, monkeypatch):
    monkeypatch.chdir(tmp_path)
    os.mkfifo("odd") if what == "pipe" else os.symlink("/dev/zero", "odd")
    assert main([*command.split(), "odd"]) == 2
    assert "odd" in "".join(capsys.readouterr())
