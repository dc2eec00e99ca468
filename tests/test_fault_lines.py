"""A fault of the machine gives one line that says what to do."""

import errno
import multiprocessing
import os

import pytest
import torch

from gazelit.cli.faults import mistake_behind
from gazelit.data.sampling import check_shared_memory
from gazelit.errors import InputError
from gazelit.runs.steps import checkpoint_digest

#: Messages in the words of torch 2.
KILLED = "DataLoader worker (pid 4711) is killed by signal: Killed. "
BUS = (
    "DataLoader worker (pid 4711) is killed by signal: Bus error. It is possible that dataloader's workers are out of "
    "shared memory. Please try to raise your shared memory limit."
)
ALLOCATE = "RuntimeError: unable to allocate shared memory(shm) for file </torch_9>: No space left on device (28)"
EXITED = "DataLoader worker (pid(s) 12, 13) exited unexpectedly"


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (RuntimeError(KILLED), "a loader's process was killed (Killed), by the kernel where memory is short"),
        (RuntimeError(EXITED), "a loader's process was killed (it exited)"),
        (RuntimeError(BUS), "found no shared memory"),
        (RuntimeError(f"Caught RuntimeError in DataLoader worker process 0.\n{ALLOCATE}"), "found no shared memory"),
        (OSError(errno.ENOSPC, "No space left on device"), "the disk is full"),
        (OSError(errno.ENOSPC, "No space left on device", "run/a.csv"), "run/a.csv: the disk is full"),
        (OSError(errno.EROFS, "Read-only file system", "run/a.csv"), "run/a.csv: Read-only file system"),
        (RuntimeError("something else"), None),
    ],
)
def test_faults_of_the_machine_are_one_line(error, line):
    found = mistake_behind(error)
    if line is None:
        assert found is None
    else:
        assert line in found
        assert "\n" not in found


class Damaged(torch.utils.data.Dataset):
    def __len__(self):
        return 1

    def __getitem__(self, position):
        try:
            raise ValueError("first\nof two")
        except ValueError as error:
            raise InputError("store/images.npy: is missing: prepare it anew") from error


def test_a_link_to_itself_is_one_line_that_names_it(tmp_path, run_gazelit):
    (tmp_path / "loop").symlink_to("loop")
    printed = run_gazelit("report", "loop", code=2)
    assert "loop: is a link to itself" in printed


def test_a_mistake_that_a_loaders_process_finds_is_the_same_line():
    """torch puts the process's traceback into the message."""
    with pytest.raises(InputError, match="Traceback") as raised:
        next(iter(torch.utils.data.DataLoader(Damaged(), num_workers=1)))
    assert mistake_behind(raised.value) == "store/images.npy: is missing: prepare it anew"


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.ENOENT])
def test_a_lock_that_finds_no_shared_memory_is_one_line_and_no_loader_is_begun(number, monkeypatch):
    def no_lock(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("multiprocessing.synchronize._multiprocessing.SemLock", no_lock)
    with pytest.raises(OSError, match=os.strerror(number)) as raised:
        multiprocessing.Lock()
    assert "--shm-size" in mistake_behind(raised.value)
    with pytest.raises(InputError, match=r"--data\.loader\.num_workers=0"):
        check_shared_memory(2)


def test_a_missing_checkpoint_that_a_later_step_needs_is_named(tmp_path):
    with pytest.raises(InputError, match=r"contrastive/checkpoints/best\.ckpt: no such file, although"):
        checkpoint_digest(tmp_path / "contrastive" / "checkpoints" / "best.ckpt")


def test_a_batch_whose_sender_was_killed_is_one_line():
    program = "def _try_get_data():\n    raise FileNotFoundError(2, 'No such file or directory')"
    names: dict = {}
    exec(compile(program, "torch/utils/data/dataloader.py", "exec"), names)
    with pytest.raises(FileNotFoundError) as raised:
        names["_try_get_data"]()
    assert "a loader's process was killed" in mistake_behind(raised.value)
    # Other missing files do not get this line.
    assert mistake_behind(FileNotFoundError(2, "No such file or directory")) is None
