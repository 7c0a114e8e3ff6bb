"""What training asks of the world below it: a transport, content-addressed blobs and a signer."""

from collections.abc import Callable, Iterable
from typing import Protocol

from shoal.transport.blobs import BlobRef
from shoal.transport.port import PeerId, Refusal, Transport

__all__ = ["BlobReader", "Blobs", "BytesReader", "Payload", "Signer", "Transport"]

Payload = bytes | bytearray | memoryview


class BlobReader(Protocol):
    """A stored blob, read in pieces; closing it is its owner's business."""

    @property
    def size(self) -> int:
        """Bytes."""
        ...

    def read(self, offset: int, length: int) -> bytes:
        """Exactly `length` bytes from `offset`. Raises ValueError outside of the blob."""
        ...

    def read_into(self, offset: int, room: memoryview) -> None:
        """As many bytes from `offset` as `room` has, which is contiguous, of format B. Raises as `read` does."""
        ...


class BytesReader:
    """A BlobReader over bytes in memory: payloads that travel inside of messages, and tests."""

    def __init__(self, data: Payload) -> None:
        self._data = memoryview(data).cast("B")

    @property
    def size(self) -> int:
        return self._data.nbytes

    def read(self, offset: int, length: int) -> bytes:
        return bytes(self._part(offset, length))

    def read_into(self, offset: int, room: memoryview) -> None:
        room[:] = self._part(offset, len(room))

    def _part(self, offset: int, length: int) -> memoryview:
        if offset < 0 or length < 0 or offset + length > self.size:
            raise ValueError(f"no {length} bytes at {offset} of {self.size}")
        return self._data[offset : offset + length]


class Blobs(Protocol):
    """Content-addressed bytes: the node's own store, and fetching from whoever holds them.

    The calls that touch the disk run in worker threads; `open` is cheap and may be used from any thread.
    """

    async def put(self, pieces: Iterable[Payload], *, pin: str) -> BlobRef | Refusal:
        """Store the concatenation of `pieces`, pinned under the label `pin`. Refused when disk or budget are full."""
        ...

    async def fetch(
        self,
        ref: BlobRef,
        holders: Callable[[], Iterable[PeerId]],
        *,
        pin: str,
        timeout_s: float,
        like: BlobRef | None = None,
        bytes_per_s_min: float = 0.0,
    ) -> Refusal | None:
        """Have `ref` here, verified and pinned, fetching what is missing from several of `holders()` at once.

        `holders` is asked again while the fetch goes on, so newly announced holders are used. Of what is complete here
        as `like`, only the chunks that differ are fetched. Pin it, or the room that `ref` needs may be its own.
        Once it comes at less than `bytes_per_s_min` for some seconds it is refused with DEADLINE_EXCEEDED; what came is
        kept for the next call.
        """
        ...

    def open(self, ref: BlobRef) -> BlobReader | None:
        """A reader, or None if the blob is not complete here."""
        ...

    def unpin(self, pin: str) -> None:
        """Let go of all blobs pinned under this label; the budget may now evict those nobody else pins."""
        ...


class Signer(Protocol):
    """The node's key."""

    @property
    def peer_id(self) -> PeerId: ...

    @property
    def public_key(self) -> bytes:
        """32 bytes of Ed25519."""
        ...

    def sign(self, message: bytes) -> bytes:
        """64 bytes of Ed25519."""
        ...
