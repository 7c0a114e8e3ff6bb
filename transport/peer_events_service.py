"""Tells whoever listens which peers come and go. One that falls behind is told no more, and knows it."""

from collections.abc import AsyncGenerator, Iterable
from contextlib import asynccontextmanager
from typing import Final

import trio

from .port import PeerConnected, PeerEvent, PeerId

EVENTS_MAX: Final = 4096  # not yet looked at by a listener


class PeerEvents:
    """All listeners of a node."""

    def __init__(self) -> None:
        self._listeners: dict[trio.MemorySendChannel[PeerEvent], None] = {}

    @asynccontextmanager
    async def listen(self, connected: Iterable[PeerId]) -> AsyncGenerator[trio.MemoryReceiveChannel[PeerEvent]]:
        """What happens from now on, after one event for each that is connected already.

        The channel ends for who is EVENTS_MAX behind: to go on, listen again.
        """
        send, receive = trio.open_memory_channel[PeerEvent](EVENTS_MAX)
        for peer in sorted(connected):
            send.send_nowait(PeerConnected(peer))
        self._listeners[send] = None
        try:
            with send, receive:
                yield receive
        finally:
            self._listeners.pop(send, None)

    def tell(self, event: PeerEvent) -> None:
        for listener in list(self._listeners):
            try:
                listener.send_nowait(event)
            except (trio.WouldBlock, trio.BrokenResourceError):
                listener.close()  # it has missed one: better that it knows than that it believes to know
                self._listeners.pop(listener, None)
