"""Holds uploads back as the owner's limit says, in worker threads and in the event loop. A shell."""

import threading
import time
from collections.abc import Callable

import trio

from .upload_shares import UploadShares


class Uploads:
    """All of a node's.

    Args:
        bytes_per_s: the limit; 0: none.
        owner_of: whose a blob is that is uploaded: those who own some share the rate alike.
    """

    def __init__(self, bytes_per_s: float = 0.0, owner_of: Callable[[bytes], str] = lambda digest: "") -> None:
        self._shares = UploadShares(bytes_per_s)
        self._is_limited = bytes_per_s > 0
        self._owner_of = owner_of
        self._lock = threading.Lock()

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

    def _pause_s(self, digest: bytes, size: int) -> float:
        owner = self._owner_of(digest)
        with self._lock:
            now = time.monotonic()
            return self._shares.due_at(owner, size, now) - now
