"""Gossip over calls."""

import contextlib
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import Annotated, Final

import msgspec
import trio

from .port import GOSSIP_BYTES_MAX, Code, Gossip, PeerId, Refusal, Unary
from .service import CallService
from .wire import Message

TOPIC_CHARS_MAX: Final = 256
QUEUE_MAX: Final = 256


class Publication(Message, frozen=True):
    topic: Annotated[str, msgspec.Meta(max_length=TOPIC_CHARS_MAX)]
    data: Annotated[bytes, msgspec.Meta(max_length=GOSSIP_BYTES_MAX)]


class Received(Message, frozen=True):
    pass


PUBLISH: Final = Unary("/shoal/gossip/1/publish", Publication, Received, GOSSIP_BYTES_MAX + 1024, 16)


class GossipService:
    def __init__(self, calls: CallService, peers: Callable[[], tuple[PeerId, ...]]) -> None:
        self._calls = calls
        self._peers = peers
        self._topics: dict[str, list[tuple[Callable[[PeerId, bytes], bool], trio.MemorySendChannel[Gossip]]]] = {}
        calls.serve(PUBLISH, self._receive)
        self._nursery: trio.Nursery | None = None

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            task_status.started()
            await trio.sleep_forever()

    async def publish(self, topic: str, data: bytes) -> Refusal | None:
        if len(data) > GOSSIP_BYTES_MAX:
            return Refusal(Code.TOO_LARGE, f"{len(data)} bytes of gossip exceed {GOSSIP_BYTES_MAX}")
        assert self._nursery is not None
        for peer in self._peers():
            self._nursery.start_soon(self._send, peer, Publication(topic, data))
        return None

    async def _send(self, peer: PeerId, publication: Publication) -> None:
        await self._calls.request(peer, PUBLISH, publication, timeout_s=10)

    def _receive(self, peer: PeerId, publication: Publication) -> Received | Refusal:
        for is_valid, channel in self._topics.get(publication.topic, []):
            if is_valid(peer, publication.data):
                with contextlib.suppress(trio.WouldBlock):
                    channel.send_nowait(Gossip(peer, publication.data))
        return Received()

    @asynccontextmanager
    async def subscribe(
        self, topic: str, is_valid: Callable[[PeerId, bytes], bool]
    ) -> AsyncGenerator[trio.MemoryReceiveChannel[Gossip]]:
        send, receive = trio.open_memory_channel[Gossip](QUEUE_MAX)
        entry = (is_valid, send)
        self._topics.setdefault(topic, []).append(entry)
        try:
            yield receive
        finally:
            self._topics[topic].remove(entry)
            send.close()
            receive.close()
