"""One end of a byte stream through a simulated network."""

from collections import deque
from collections.abc import Callable
from typing import Final

import trio

from .port import StreamBroken

WINDOW_BYTES: Final = 256 * 1024  # written and not read by the other side: yamux's first window


class MemoryStream:
    """`port.ByteStream`. What is written within one instant travels as one.

    Args:
        key: orders the streams of two nodes: who opened it, and which of its streams it is.
        protocol: what is spoken on it; None: calls.
        announce: called when there is something to `collect`.
    """

    def __init__(self, key: tuple[str, int], protocol: str | None, announce: Callable[["MemoryStream"], None]) -> None:
        self.key = key
        self.protocol = protocol
        self.other: MemoryStream  # set by whoever makes the pair
        self.is_accepted = False  # somebody serves this end
        self._announce = announce
        self._outgoing: list[bytes] = []
        self._is_ending = False  # with what is outgoing
        self._arrived: deque[bytes] = deque()
        self._unread_bytes = 0  # written here and not read there
        self._is_ended = False
        self._broken: str | None = None
        self._arrival = trio.Event()
        self._room = trio.Event()

    @property
    def is_closed(self) -> bool:
        return self._broken is not None

    async def send_all(self, data: bytes) -> None:
        """Waits until the other side has read all but WINDOW_BYTES. Raises StreamBroken."""
        await trio.lowlevel.checkpoint_if_cancelled()
        self._check()
        self._unread_bytes += len(data)
        self._write(data)
        while self._unread_bytes > WINDOW_BYTES:
            self._room = trio.Event()
            await self._room.wait()
            self._check()

    async def receive_some(self, bytes_max: int = WINDOW_BYTES) -> bytes:
        """What is here; waits for at least a byte; none: the end. Raises StreamBroken."""
        await trio.lowlevel.checkpoint()
        while not self._arrived:
            if self._is_ended:
                return b""
            self._check()
            self._arrival = trio.Event()
            await self._arrival.wait()
        data = self._arrived[0] if len(self._arrived) == 1 else b"".join(self._arrived)
        self._arrived.clear()
        if len(data) > bytes_max:
            self._arrived.append(data[bytes_max:])
            data = data[:bytes_max]
        self.other._read(len(data))
        return data

    async def aclose(self) -> None:
        """End both directions."""
        if self._broken is None:
            self.break_off("closed")
            self._is_ending = True
            self._write(b"")
        await trio.lowlevel.checkpoint()

    def collect(self) -> tuple[bytes, bool]:
        """What was written since it was last collected, and whether it is the last."""
        data = b"".join(self._outgoing)
        self._outgoing.clear()
        return data, self._is_ending

    def arrive(self, data: bytes, is_last: bool) -> None:
        """Bytes from the other end."""
        if data and self._broken is None:
            self._arrived.append(data)
        if is_last:
            self._is_ended = True
            self._broken = self._broken or "the other side closed it"
            self._room.set()
        self._arrival.set()

    def break_off(self, reason: str) -> None:
        """The connection is gone, and what has not been read with it."""
        self._broken = self._broken or reason
        self._arrived.clear()
        self._arrival.set()
        self._room.set()

    def _write(self, data: bytes) -> None:
        if not self._outgoing:
            self._announce(self)
        self._outgoing.append(data)

    def _read(self, size: int) -> None:
        self._unread_bytes -= size
        self._room.set()

    def _check(self) -> None:
        if self._broken is not None:
            raise StreamBroken(self._broken)
