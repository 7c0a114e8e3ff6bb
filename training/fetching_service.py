"""Fetches what a member alone may have named and hold, each blob as fast as those before have shown to be possible. A
shell; how fast stands in `checkpoints`.
"""

from collections.abc import Callable, Iterable

from shoal.transport.blobs import BlobRef
from shoal.transport.port import Code, PeerId, Refusal

from .checkpoints import pace
from .ports import Blobs

FETCH_S = 3_600.0  # for one, however steadily it comes


class PacedFetches:
    """Of one kind of blobs: states, or snapshots of the store."""

    def __init__(self, blobs: Blobs) -> None:
        self._blobs = blobs
        self._slow_count = 0

    async def fetch(
        self, ref: BlobRef, holders: Callable[[], Iterable[PeerId]], *, pin: str, like: BlobRef | None = None
    ) -> Refusal | None:
        """As `Blobs.fetch`."""
        refusal = await self._blobs.fetch(
            ref, holders, pin=pin, timeout_s=FETCH_S, like=like, bytes_per_s_min=pace(self._slow_count)
        )
        if refusal is None:
            self._slow_count = 0
        elif refusal.code is Code.DEADLINE_EXCEEDED:
            self._slow_count += 1
        return refusal
