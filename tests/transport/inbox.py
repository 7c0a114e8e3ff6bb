"""Hears gossip, for tests."""

import trio

from shoal.transport.port import PeerId


class Inbox:
    """What a subscriber hears. What starts with "bad" it finds invalid."""

    def __init__(self) -> None:
        self._send, self._receive = trio.open_memory_channel[tuple[PeerId, bytes]](1000)

    def hear(self, peer: PeerId, data: bytes) -> bool:
        if data.startswith(b"bad"):
            return False
        self._send.send_nowait((peer, data))
        return True

    async def next(self) -> tuple[PeerId, bytes]:
        return await self._receive.receive()

    def count(self) -> int:
        return self._receive.statistics().current_buffer_used
