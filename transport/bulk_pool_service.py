"""What one peer is to send over bulk connections, and which of these takes what. Used by the event loop and by each
connection's thread.
"""

import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Final, Protocol

import trio

from .bulk_link_service import Link
from .port import Refusal
from .wire import Malformed

IDLE_S: Final = 60.0  # without a job a connection is ended

Land = Callable[[bytes, int, list[memoryview]], bool | Refusal]  # digest, index, bytes: whether they are right


class Taker(Protocol):
    """Who waits for jobs. Called in the event loop."""

    def landed(self, job: "Job", verdict: bool | Refusal) -> None:
        """It is here: verified and stored, or wrong (False), or it could not be stored."""
        ...

    def heard(self, job: "Job") -> None:
        """It has not landed, but is on its way, or waits for its turn."""
        ...

    def refused(self, job: "Job", refusal: Refusal) -> None:
        """The other side does not send it."""
        ...

    def lied(self, why: Malformed) -> None:
        """The other side sent what no honest peer sends."""
        ...

    def fall_back(self, job: "Job") -> None:
        """No bulk connection brings it."""
        ...


@dataclass(eq=False, slots=True)
class Job:
    """A chunk to be fetched."""

    source: Taker
    digest: bytes
    index: int
    length: int  # bytes
    filled: int = 0  # of them that are here
    buffer: memoryview | None = None  # with those, where a connection broke
    is_forgotten: bool = False  # nobody wants it any more


class Pool:
    """What one peer is to send, and the connections that bring it. May be used from any thread.

    Args:
        call_soon: has the event loop call a function.
    """

    def __init__(self, land: Land, call_soon: Callable[..., None]) -> None:
        self.land = land
        self._call_soon = call_soon
        self._lock = threading.Lock()
        self._jobs: deque[Job] = deque()
        self._links: list[Link] = []
        self._retired = 0  # bytes received by connections that are gone
        self.is_closed = False
        self.wanted = 1  # connections
        self._is_dry = False  # there was nothing to ask for at some moment
        self._waiting: dict[Link, threading.Condition] = {}  # for jobs
        self.bytes_streamed = 0  # by libp2p, since they were last looked at

    @property
    def count(self) -> int:
        """Connections that stand."""
        return len(self._links)

    @property
    def is_busy(self) -> bool:
        return bool(self._jobs) or any(link.is_carrying for link in self._links)

    @property
    def bytes_received(self) -> int:
        with self._lock:
            return self._retired + sum(link.bytes_received for link in self._links)

    def was_dry(self) -> bool:
        """Whether a connection had less to do than it could have done, since this was last asked."""
        with self._lock:
            was_dry, self._is_dry = self._is_dry or bool(self._waiting), False
            return was_dry

    def put(self, job: Job) -> bool:
        """Have it fetched. False: there is no connection."""
        with self._lock:
            if not self._links:
                return False
            self._jobs.append(job)
            waiting = [link for link in self._links if link in self._waiting]
            if len(self._jobs) <= len(waiting):
                self._waiting[waiting[len(self._jobs) - 1]].notify()
            return True

    def forget(self, jobs: list[Job]) -> None:
        """Nobody wants these any more."""
        with self._lock:
            for job in jobs:
                job.is_forgotten = True
            self._jobs = deque(job for job in self._jobs if not job.is_forgotten)
            self._wake_all()

    def join(self, link: Link) -> bool:
        """One more connection. False: it comes too late."""
        with self._lock:
            if not self.is_closed:
                self._links.append(link)
            return not self.is_closed

    def leave(self, link: Link, undone: list[Job]) -> None:
        """A connection is over; it leaves these jobs."""
        with self._lock:
            if link in self._links:
                self._links.remove(link)
                self._retired += link.bytes_received
            self._jobs.extendleft(job for job in reversed(undone) if not job.is_forgotten)
            left = [] if self._links else list(self._jobs)
            if left:
                self._jobs.clear()
            self._wake_all()
        for job in left:
            self.tell(job.source.fall_back, job)

    def close(self) -> None:
        """End all connections."""
        with self._lock:
            self.is_closed = True
            links = list(self._links)
            self._wake_all()
        for link in links:
            link.abort()

    def next(self, link: Link, room: int, *, may_wait: bool) -> list[Job] | None:
        """Up to `room` jobs; None: the connection is to end. Who waits first goes first: TCP is slow after pauses."""
        with self._lock:
            while True:
                place = self._links.index(link) if link in self._links else self.wanted
                if self.is_closed or place >= self.wanted:
                    return None
                before = sum(other in self._waiting for other in self._links[:place])
                if len(self._jobs) > before or not may_wait:
                    share = -(-len(self._jobs) // max(1, len(self._waiting)))
                    return [self._jobs.popleft() for _ in range(min(room, share))]
                self._is_dry = True
                link.is_carrying = False
                self._waiting[link] = threading.Condition(self._lock)
                is_told = self._waiting[link].wait(IDLE_S)
                del self._waiting[link]
                if not is_told:
                    return None

    def _wake_all(self) -> None:
        for each in self._waiting.values():
            each.notify()

    def tell(self, function: Callable[..., None], *arguments: object) -> None:
        with suppress(trio.RunFinishedError):
            self._call_soon(function, *arguments)
