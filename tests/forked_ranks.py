"""Trainings of several processes, forked from a process that has imported everything.

``python -m tests.forked_ranks FOLDER`` prints a line of JSON for each training: how long after the fault the last of
the other processes ended, and how each process ended. All trainings run at once. Their output is in
``FOLDER/TRAINING/log.txt``.
"""

import json
import os
import signal
import socket
import sys
import time
import traceback
from datetime import timedelta
from pathlib import Path

import lightning as L
from lightning.pytorch.demos.boring_classes import BoringModel
from lightning.pytorch.strategies import DDPStrategy

from gazelit.cli.main import _log_to_stderr
from gazelit.stages.checkpointing import EarlyEnd
from gazelit.stages.ranks import RankWatch
from tests.rank_faults import RankFault

#: Limits in seconds: without a sign of life, and of waiting for a slow process.
LIMIT, TIMEOUT = 6, 20
#: Fault, number of processes, and rank of the process with the fault.
TRAININGS = (
    ("killed", 4, 2), ("killed", 4, 0), ("killed", 2, 1), ("frozen", 4, 3), ("frozen", 4, 0), ("slow", 4, 1),
    ("failed", 4, 1), ("terminated", 4, 2), ("all terminated", 4, 0), ("all frozen", 4, 0),
)  # fmt: skip


def train(folder: Path, fault: str, world: int, rank: int, own: int, port: int) -> None:
    """One process of a training, in a fork; never returns."""
    code = 1
    try:
        os.chdir(folder)
        log = os.open("log.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        for stream in (1, 2):
            os.dup2(log, stream)
        os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), NODE_RANK="0", LOCAL_RANK=str(own))
        _log_to_stderr()
        trainer = L.Trainer(
            accelerator="cpu", devices=world, max_epochs=1 if fault == "all frozen" else 100, logger=False,
            strategy=DDPStrategy(timeout=timedelta(seconds=TIMEOUT)), enable_checkpointing=False,
            enable_progress_bar=False, enable_model_summary=False,
            callbacks=[EarlyEnd(), RankWatch(LIMIT), RankFault(rank, fault, 3)],
        )  # fmt: skip
        trainer.fit(BoringModel())
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


class Training:
    """A training whose processes this process has forked; arguments as in ``TRAININGS``."""

    def __init__(self, out: Path, fault: str, world: int, rank: int) -> None:
        self.about = {"fault": fault, "world": world, "rank": rank}
        self.folder = out / f"{fault} {world} {rank}"
        self.folder.mkdir()
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.codes: list[int | None] = [None] * world
        self.seconds = 0.0
        self.processes = []
        for own in range(world):
            process = os.fork()
            if not process:
                train(self.folder, fault, world, rank, own, port)
            self.processes.append(process)

    def is_over(self) -> bool:
        """Whether all processes but a frozen one have ended; if all are frozen, lets them go on."""
        for number, process in enumerate(self.processes):
            if self.codes[number] is None and (found := os.waitpid(process, os.WNOHANG))[0]:
                self.codes[number] = os.waitstatus_to_exitcode(found[1])
                self.seconds = time.monotonic() - times(self.folder, "fault")[0]
        stopped = times(self.folder, "stopped*")
        if len(stopped) == len(self.processes) and time.monotonic() > max(stopped) + LIMIT + 3:
            for code, process in zip(self.codes, self.processes, strict=True):
                if code is None:
                    os.kill(process, signal.SIGCONT)
        return self.codes.count(None) == (self.about["fault"] == "frozen")

    def end(self) -> None:
        """Ends the processes that are left."""
        for code, process in zip(self.codes, self.processes, strict=True):
            if code is None:
                os.kill(process, signal.SIGKILL)


def times(folder: Path, pattern: str) -> list[float]:
    """The times that the processes noted."""
    return [float(path.read_text() or "inf") for path in folder.glob(f"{pattern}.txt")]


def main() -> None:
    """Runs all trainings."""
    trainings = [Training(Path(sys.argv[1]), *about) for about in TRAININGS]
    deadline = time.monotonic() + 200
    while trainings and time.monotonic() < deadline:
        time.sleep(0.02)
        for training in [each for each in trainings if each.is_over()]:
            row = {**training.about, "seconds": training.seconds, "codes": training.codes}
            sys.stdout.write(json.dumps(row) + "\n")
            training.end()
            trainings.remove(training)
    for training in trainings:
        training.end()


if __name__ == "__main__":
    main()
