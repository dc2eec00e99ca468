"""Connections between the processes of a training, by which one that is gone, frozen or behind is found and named.

Rank 0 keeps a connection to every other rank, from a thread of its own in each process, so that a main thread that
waits in a collective does not matter. A process that ends closes its connection, which rank 0 learns at once and passes
on; one that is frozen, or whose machine or network is gone, sends no beats any more; one that is behind says so in
them.

What torch has does not do that. A barrier with a monitor (gloo alone) would have to stand in every step, and names a
rank when its own limit is over; NCCL's watchdog aborts the process that waits, and names a collective; the timers of
torch elastic end workers of their own machine; a ``TCPStore`` does not tell who is gone, and goes with rank 0.
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

#: Exit code where another rank was lost: ``EX_TEMPFAIL`` of sysexits.h, a failure after which trying again may help.
LOST = 75
#: Seconds between two signs of life at most.
_BEAT = 5.0
#: Seconds in which several processes have the same error, and in which what made an exchange fail becomes known.
_TOGETHER = 2.0
#: Seconds that a process whose own error ends it may take before the others end, rank 0 last.
_ENDING = 30.0
#: Seconds that all processes wait for each other when they end because of another one.
_GOODBYE = 2.0
#: Seconds after which the thread looks at what the main thread told it, at the latest.
_PAUSE = 1.0
#: Ranks that a line names at most.
_NAMED = 3


@dataclass(frozen=True)
class Loss:
    """Why a training of several processes cannot go on.

    Attributes:
        rank: Of the process that is at fault.
        cause: What is known of it, a clause that begins with the rank.
        code: Exit code of the others.
        host: The machine where it exists still but does not answer; empty if it does.
        process: Its id there.
    """

    rank: int
    cause: str
    code: int = LOST
    host: str = ""
    process: int = 0


@dataclass
class Standing:
    """How far a rank is, by what it told last.

    Attributes:
        member: The process.
        at: Steps, phases of a step and parts of a phase that it began; compared between ranks.
        doing: The same in words.
        heard: When it was last heard of, in seconds of this process's clock.
        moved: When ``at`` last changed.
        is_leaving: Whether it said that it ends, so that its silence and its end are none.
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
    """Tells the other processes how far this one is, and ends it where one of them is lost.

    Args:
        own: This process.
        links: Its connections: those of rank 0 to all others, or the one to rank 0.
        limit_s: Seconds without a sign of life after which a rank is lost. After half of them a line names it, or the
            rank that the others have been waiting for so long.
        end: Ends the process; gets the loss and what is to be done before: it tells the other ranks, and waits for
            those that can say so themselves.
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

    # What the main thread says.

    def mark(self, doing: str, level: int) -> None:
        """Notes that a step (level 0), a phase of it (1) or a part of a phase (2) begins; steps are all ranks' own."""
        at = self._position[0]
        self._position = ((*at[:level], at[level] + 1, *[0] * (len(at) - level - 1)), doing)

    def leave(self) -> None:
        """Says that this process has done what the processes do together."""
        self._is_leaving = True
        self._tell(leaving=True)

    def fail(self, cause: str, code: int) -> None:
        """Says that an error of its own ends this process, and lets rank 0 end first.

        What has started the processes may kill rank 0 as soon as another one has failed, before it has said why.

        Args:
            cause: The error in a line.
            code: Exit code of this process.
        """
        self._is_leaving = True
        self._tell(failed=cause, code=code)
        if self._rank:
            self._rank_0_ended.wait(_TOGETHER + _GOODBYE)

    def fail_exchange(self, cause: str) -> None:
        """Waits for the end that another rank, which made an exchange fail, brings; returns where there is none."""
        if self._rank:
            self._tell(exchange=cause)
        else:
            self._suspect(_TOGETHER, self._of_exchange(self._own, cause))
        time.sleep(_PAUSE + 2 * _TOGETHER + _GOODBYE)

    def _tell(self, **message: Any) -> None:
        for link in list(self._links.values()):
            link.send(**message)

    # What the thread does.

    def run(self) -> None:
        """Sends and looks for signs of life until the process ends."""
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
                # This process was stopped, or all were: what the others did meanwhile was not seen.
                for standing in self._peers.values():
                    standing.heard = standing.moved = now
            due = now + self._every
            self._send_beat()
            self._look(now)

    def _ready(self, ranks: Collection[int], seconds: float) -> list[int]:
        """Those of some ranks from which something has come."""
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
                # Rank 0 is seen to end; to another rank it is rank 0 that gives the time.
                self._suspect(_TOGETHER if rank else _ENDING, Loss(rank, cause, message["code"]))
            elif "exchange" in message:
                self._suspect(_TOGETHER, self._of_exchange(standing, message["exchange"]))

    def _suspect(self, seconds: float, loss: Loss) -> None:
        """Ends the training in some seconds, unless something else is known to be the cause until then."""
        if self._pending is None:
            self._pending = (time.monotonic() + seconds, loss)

    def _of_exchange(self, standing: Standing, cause: str) -> Loss:
        """Of a failed exchange the rank that the others were waiting for, if there is one, is the cause."""
        now = time.monotonic()
        behind = [each for each in self._behind() if each is not standing and now - each.moved > 2 * self._every]
        if not behind:
            return Loss(standing.member.rank, f"{standing} could not exchange anything any more: {cause}")
        return Loss(
            behind[0].member.rank, f"the others no longer wait for {self._named(behind, now)}; it ended with: {cause}"
        )

    def _behind(self) -> list[Standing]:
        """The ranks that are behind others."""
        standings = [self._own, *self._peers.values()]
        least = min(each.at for each in standings)
        return [each for each in standings if each.at == least] if any(each.at > least for each in standings) else []

    def _look(self, now: float) -> None:
        """Finds who is silent; as rank 0 also names who is for half of the limit, and whom all wait for so long."""
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
        """Ends this process and, as rank 0, all others; one that ends by itself is left alone."""
        self._pending = None
        if not self._is_leaving:
            self._end(loss, lambda: self._say_goodbye(loss))

    def _say_goodbye(self, loss: Loss) -> None:
        """Passes a loss on, and waits: rank 0 until all know it, the others until rank 0 has ended."""
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
    """Where a thread is, in code that is not Python's own."""
    frame = sys._current_frames().get(thread)
    while frame is not None:
        module = str(frame.f_globals.get("__name__", ""))
        if module.partition(".")[0] not in sys.stdlib_module_names:
            return f"{module}.{frame.f_code.co_name}"
        frame = frame.f_back
    return "no code of its own"
