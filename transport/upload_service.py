"""Holds uploads back, in worker threads and in the event loop: as the owner's limit says, and until there is a slot for
a chunk. A shell.
"""

import math
import threading
import time
from collections.abc import Callable, Hashable
from typing import Final

import trio

from .upload_shares import UploadShares
from .upload_slots import Ticket, UploadSlots

LOOK_S: Final = 0.1  # how often a stream looks whether its turn has come


class Uploads:
    """All of a node's.

    Args:
        bytes_per_s: the limit; 0: none.
        owner_of: whose a blob is that is uploaded: those who own some share the rate alike.
        clock: `trio.current_time` on a virtual clock, where there are no threads.
    """

    def __init__(
        self,
        bytes_per_s: float = 0.0,
        owner_of: Callable[[bytes], str] = lambda digest: "",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._shares = UploadShares(bytes_per_s)
        self._is_limited = bytes_per_s > 0
        self._owner_of = owner_of
        self._clock = clock
        self._slots = UploadSlots()
        self._changed = threading.Condition()

    @property
    def piece_bytes(self) -> int:
        """To be sent at once."""
        return self._shares.piece_bytes

    def wait(self, digest: bytes, size: int) -> None:
        """Until so much more of this blob may be sent. Blocks the thread."""
        if self._is_limited:
            time.sleep(self._pause_s(digest, size))

    async def pause(self, digest: bytes, size: int) -> None:
        """As `wait`, in the event loop."""
        if self._is_limited:
            await trio.sleep(self._pause_s(digest, size))

    def ask(self, who: Hashable, digest: bytes, index: int) -> Ticket:
        """A place in the queue for a chunk that goes to `who`; to be given back with `leave`."""
        owner = self._owner_of(digest)
        with self._changed:
            return self._slots.ask(owner, who, (digest, index), self._clock())

    def begin(self, ticket: Ticket, wait_s: float) -> bool:
        """Whether its turn has come, or comes within `wait_s`. Blocks the thread."""
        with self._changed:
            return self._changed.wait_for(lambda: self._slots.begin(ticket, self._clock()), wait_s)

    async def turn(self, ticket: Ticket, wait_s: float) -> bool:
        """As `begin`, in the event loop."""
        for _ in range(math.ceil(wait_s / LOOK_S)):
            if self.begin(ticket, 0):
                return True
            await trio.sleep(LOOK_S)
        return False

    def sent(self, size: int) -> None:
        """So many bytes of chunks whose turn it is have left."""
        with self._changed:
            self._slots.sent(size)

    def leave(self, ticket: Ticket, *, is_whole: bool) -> None:
        """A chunk has left, or will not."""
        with self._changed:
            self._slots.leave(ticket, self._clock(), is_whole=is_whole)
            self._changed.notify_all()

    def _pause_s(self, digest: bytes, size: int) -> float:
        owner = self._owner_of(digest)
        with self._changed:
            now = self._clock()
            return self._shares.due_at(owner, size, now) - now
