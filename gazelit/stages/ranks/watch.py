"""Finds and names a process of a training that is gone, frozen or late, by connections between the processes.

Rank 0 keeps a connection to every other rank. In each process a thread of its own serves it, so that it works while the
main thread waits in a collective. If a process ends, its connection closes; rank 0 notices at once and informs the
others. A process that is frozen, or whose machine or network is gone, sends no more beats. Beats carry the progress of
a process, so that a late one is found.

torch has nothing that does this. A monitored barrier (only gloo has one) would have to be in every step, and names a
rank only after its own limit. NCCL's watchdog aborts the process that waits, and names a collective. The timers of
torch elastic end workers of their own machine. A ``TCPStore`` does not report which process is gone, and ends with rank
0.
"""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict, dataclass, field
from multiprocessing.connection import wait
from socket import socket
from typing import Any, cast

from gazelit.stages.ranks.link import Link, Member

logger = logging.getLogger("gazelit")

#: Exit code if another rank was lost: ``EX_TEMPFAIL`` of sysexits.h, a failure after which a new try may succeed.
LOST = 75
#: Greatest time between two signs of life (s).
_BEAT = 5.0
#: Seconds within which several processes meet the same error, and the cause of a failed exchange becomes known.
_TOGETHER = 2.0
#: Seconds that a process may take to end after an error of its own; the others end then, rank 0 last.
_ENDING = 30.0
#: Seconds that the processes wait for each other when another one ends them.
_GOODBYE = 2.0
#: Seconds after which the thread looks for news from the main thread, at the latest.
_PAUSE = 1.0
#: Greatest number of ranks that a line names.
_NAMED = 3


@dataclass(frozen=True)
class Loss:
    """Why a training of several processes cannot go on.

    Attributes:
        rank: Of the process that is at fault.
        cause: What is known about it, a clause that begins with the rank.
        code: Exit code of the others.
        host: Its machine, if the process still exists but does not answer; otherwise empty.
        process: Its id there.
    """

    rank: int
    cause: str
    code: int = LOST
    host: str = ""
    process: int = 0


@dataclass
class Standing:
    """The progress of a rank, by its last message.

    Attributes:
        member: The process.
        at: Numbers of steps, phases of a step and parts of a phase that it has begun; compared between ranks.
        doing: The same in words.
        heard: Time of its last message, in seconds of this process's clock.
        moved: When ``at`` last changed.
        is_leaving: Whether it has announced its end; then neither silence nor a closed connection is a fault.
    """

    member: Member
    at: tuple[int, ...] = (0, 0, 0)
    doing: str = "before its first step"
    heard: float = field(default_factory=time.monotonic)
    moved: float = field(default_factory=time.monotonic)
    is_leaving: bool = False

    def __str__(self) -> str:
        return str(self.member)

    def take(self, at: tuple[int, ...], doing: str) -> None:
        """Notes a sign of life."""
        self.heard = time.monotonic()
        if at != self.at:
            self.moved = self.heard
        self.at, self.doing = at, doing


class RankThread(threading.Thread):
    """Sends this process's progress to the others, and ends this process if one of them is lost.

    Args:
        own: This process.
        links: Its connections: those of rank 0 to all others, or the one to rank 0.
        limit_s: Seconds without a sign of life after which a rank is lost. After half of them a line names it, or a
            rank for which the others have been waiting so long.
        end: Ends the process. It is given the loss, and a function to call before: this informs the other ranks, and
            waits until they know.
    """

    def __init__(
        self,
        own: Member,
        links: Mapping[Member, Link],
        limit_s: float,
        end: Callable[[Loss, Callable[[], None]], None],
    ) -> None:
        super().__init__(daemon=True, name="rank-links")
        self._rank, self._own = own.rank, Standing(own)
        self._peers = {member.rank: Standing(member) for member in links}
        self._links = {member.rank: link for member, link in links.items()}
        self._limit, self._end = limit_s, end
        self._every = min(_BEAT, limit_s / 5)
        self._warn_after = limit_s / 2
        self._warned_of: set[int] = set()
        self._position: tuple[tuple[int, ...], str] = (self._own.at, self._own.doing)
        self._main = threading.get_ident()
        self._pending: tuple[float, Loss] | None = None
        self._is_leaving = False
        self._rank_0_ended = threading.Event()

    def __deepcopy__(self, memo: dict[int, Any]) -> RankThread:
        # Averaging callbacks copy the trainer.
        return self

    # Called by the main thread.

    def mark(self, doing: str, level: int) -> None:
        """Records that a step (level 0), a phase of it (1) or a part of a phase (2) begins."""
        at = self._position[0]
        self._position = ((*at[:level], at[level] + 1, *[0] * (len(at) - level - 1)), doing)

    def leave(self) -> None:
        """Announces that this process needs the others no more."""
        self._is_leaving = True
        self._tell(leaving=True)

    def fail(self, cause: str, code: int) -> None:
        """Announces that an error of its own ends this process, and lets rank 0 end first.

        The launcher may kill rank 0 as soon as another process has failed, before rank 0 has logged the reason.

        Args:
            cause: The error in a line.
            code: Exit code of this process.
        """
        self._is_leaving = True
        self._tell(failed=cause, code=code)
        if self._rank:
            self._rank_0_ended.wait(_TOGETHER + _GOODBYE)

    def fail_exchange(self, cause: str) -> None:
        """Announces a failed exchange, and waits until the rank at fault ends this process; returns if none does."""
        if self._rank:
            self._tell(exchange=cause)
        else:
            self._suspect(_TOGETHER, self._of_exchange(self._own, cause))
        time.sleep(_PAUSE + 2 * _TOGETHER + _GOODBYE)

    def _tell(self, **message: Any) -> None:
        for link in list(self._links.values()):
            link.send(**message)

    # Run by the thread.

    def run(self) -> None:
        """Sends signs of life and checks those of others until the process ends."""
        due = time.monotonic()
        while self._links or self._pending:
            until = min(due, self._pending[0]) if self._pending else due
            for rank in self._ready(list(self._links), min(_PAUSE, max(0.0, until - time.monotonic()))):
                self._read(rank)
            now = time.monotonic()
            if self._pending and now >= self._pending[0]:
                self._conclude(self._pending[1])
            if now < due:
                continue
            if now > due + self._every:
                # This process was stopped, or all were. It did not see what the others did in that time.
                for standing in self._peers.values():
                    standing.heard = standing.moved = now
            due = now + self._every
            self._send_beat()
            self._look(now)

    def _ready(self, ranks: Collection[int], seconds: float) -> list[int]:
        """Those of the ranks from which data have arrived."""
        sockets = {self._links[rank].socket: rank for rank in ranks}
        return [sockets[cast(socket, ready)] for ready in wait(sockets, seconds)]

    def _send_beat(self) -> None:
        at, doing = self._position
        self._own.take(at, f"{doing}, in {_line_of(self._main)}")
        self._tell(at=at, doing=self._own.doing)

    def _read(self, rank: int) -> None:
        standing = self._peers[rank]
        messages = self._links[rank].receive()
        if messages is None:
            self._links.pop(rank).close()
            if rank == 0:
                self._rank_0_ended.set()
            if self._pending and self._pending[1].rank == rank:
                self._conclude(self._pending[1])
            if not standing.is_leaving:
                since = time.monotonic() - standing.heard
                cause = f"{standing} is gone (killed, or crashed); {since:.0f} s ago it was {standing.doing}"
                self._conclude(Loss(rank, cause))
            return
        for message in messages:
            standing.heard = time.monotonic()
            if "lost" in message:
                self._conclude(Loss(**message["lost"]))
            elif "at" in message:
                standing.take(tuple(message["at"]), message["doing"])
            elif "leaving" in message:
                standing.is_leaving = True
            elif "failed" in message:
                standing.is_leaving = True
                cause = f"{standing} ended with an error: {message['failed']}"
                # The end of rank 0 is seen directly; for the end of another rank, rank 0 decides how long to wait.
                self._suspect(_TOGETHER if rank else _ENDING, Loss(rank, cause, message["code"]))
            elif "exchange" in message:
                self._suspect(_TOGETHER, self._of_exchange(standing, message["exchange"]))

    def _suspect(self, seconds: float, loss: Loss) -> None:
        """Ends the training after some seconds, unless another cause becomes known before."""
        if self._pending is None:
            self._pending = (time.monotonic() + seconds, loss)

    def _of_exchange(self, standing: Standing, cause: str) -> Loss:
        """The loss that a failed exchange means: of the rank that the others were waiting for, if there is one."""
        now = time.monotonic()
        behind = [each for each in self._behind() if each is not standing and now - each.moved > 2 * self._every]
        if not behind:
            return Loss(standing.member.rank, f"{standing} could not exchange anything any more: {cause}")
        return Loss(
            behind[0].member.rank, f"the others no longer wait for {self._named(behind, now)}; it ended with: {cause}"
        )

    def _behind(self) -> list[Standing]:
        """The ranks with the least progress, if others have more."""
        standings = [self._own, *self._peers.values()]
        least = min(each.at for each in standings)
        return [each for each in standings if each.at == least] if any(each.at > least for each in standings) else []

    def _look(self, now: float) -> None:
        """Ends if a rank is silent for the limit; rank 0 also names ranks silent or waited for during half of it."""
        watched = [each for each in self._peers.values() if not each.is_leaving]
        for standing in watched:
            if (silent := now - standing.heard) > self._limit:
                since = f"{standing} gave no sign of life for {silent:.0f} s"
                cause = f"{since} (frozen, or its machine or network is gone); it was {standing.doing}"
                member = standing.member
                self._conclude(Loss(member.rank, cause, host=member.host, process=member.process))
        if self._rank == 0 and not self._is_leaving:
            self._warn(now, [each for each in watched if now - each.heard > self._limit / 2])

    def _warn(self, now: float, silent: list[Standing]) -> None:
        for standing in silent:
            if standing.member.rank not in self._warned_of:
                since = now - standing.heard
                logger.warning("no sign of life from %s for %.0f s; all end at %g s", standing, since, self._limit)
        self._warned_of = {each.member.rank for each in silent}
        stands = min(now - each.moved for each in [self._own, *self._peers.values()])
        if stands <= self._limit / 2:
            self._warn_after = self._limit / 2
        elif stands > self._warn_after and not silent and (behind := self._behind()):
            logger.warning("waiting for %s", self._named(behind, now))
            self._warn_after = 2 * stands

    def _named(self, standings: list[Standing], now: float) -> str:
        texts = [f"{each}, for {now - each.moved:.0f} s {each.doing}" for each in standings[:_NAMED]]
        more = len(standings) - _NAMED
        return "; ".join(texts) + (f"; and {more} more" if more > 0 else "")

    def _conclude(self, loss: Loss) -> None:
        """Ends this process and, as rank 0, all others, but for those that end by themselves."""
        self._pending = None
        if not self._is_leaving:
            self._end(loss, lambda: self._say_goodbye(loss))

    def _say_goodbye(self, loss: Loss) -> None:
        """Sends a loss to the others, and waits: rank 0 until all know it, the others until rank 0 has ended."""
        self._is_leaving = True
        self._tell(lost=asdict(loss), leaving=True)
        deadline = time.monotonic() + _GOODBYE
        awaited = {rank for rank in self._links if rank != loss.rank and not self._peers[rank].is_leaving}
        while (awaited := awaited & self._links.keys()) and (left := deadline - time.monotonic()) > 0:
            for rank in self._ready(awaited, left):
                messages = self._links[rank].receive()
                if messages is None:
                    self._links.pop(rank).close()
                elif self._rank == 0 and any("leaving" in message for message in messages):
                    awaited.discard(rank)


def _line_of(thread: int) -> str:
    """The function that a thread is in, outside of Python's standard library."""
    frame = sys._current_frames().get(thread)
    while frame is not None:
        module = str(frame.f_globals.get("__name__", ""))
        if module.partition(".")[0] not in sys.stdlib_module_names:
            return f"{module}.{frame.f_code.co_name}"
        frame = frame.f_back
    return "no code of its own"
