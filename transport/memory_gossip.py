"""Gossip on a simulated network: each node passes on what it subscribes to, once, to all its neighbours."""

from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

import trio

from .port import Gossip, PeerId

SEEN_MAX: Final = 4096  # messages a node remembers, to deliver and forward each once
QUEUE_MAX: Final = 256  # per subscription; more are dropped and counted


@dataclass(frozen=True, slots=True)
class GossipMessage:
    """On its way. Topic, source and number name it."""

    topic: str
    source: PeerId
    number: int  # of the source, ascending
    data: bytes


@dataclass(slots=True, eq=False)
class _Subscription:
    is_valid: Callable[[PeerId, bytes], bool]
    channel: trio.MemorySendChannel[Gossip]


class GossipNode:
    """One node's part. `forward` sends a message to all neighbours but one."""

    def __init__(self, peer_id: PeerId, forward: Callable[[GossipMessage, PeerId], None]) -> None:
        self._peer_id, self._forward = peer_id, forward
        self._subscriptions: dict[str, list[_Subscription]] = {}
        self._seen: dict[tuple[PeerId, int], None] = {}
        self._number = 0
        self.dropped_count = 0  # because a subscriber was slow

    def publish(self, topic: str, data: bytes) -> None:
        self._number += 1
        message = GossipMessage(topic, self._peer_id, self._number, data)
        self._note(message)
        self._forward(message, self._peer_id)

    @asynccontextmanager
    async def subscribe(
        self, topic: str, is_valid: Callable[[PeerId, bytes], bool]
    ) -> AsyncGenerator[trio.MemoryReceiveChannel[Gossip], None]:
        send, receive = trio.open_memory_channel[Gossip](QUEUE_MAX)
        subscription = _Subscription(is_valid, send)
        self._subscriptions.setdefault(topic, []).append(subscription)
        try:
            with send, receive:
                yield receive
        finally:
            self._subscriptions[topic].remove(subscription)
            if not self._subscriptions[topic]:
                del self._subscriptions[topic]

    def hear(self, message: GossipMessage, neighbour: PeerId) -> bool:
        """A neighbour passed this on. Returns whether it was news."""
        subscriptions = self._subscriptions.get(message.topic)
        if not subscriptions or (message.source, message.number) in self._seen:
            return False
        self._note(message)
        valid = [each for each in subscriptions if each.is_valid(message.source, message.data)]
        for subscription in valid:
            try:
                subscription.channel.send_nowait(Gossip(message.source, message.data))
            except trio.WouldBlock:
                self.dropped_count += 1
        if len(valid) == len(subscriptions):
            self._forward(message, neighbour)
        return True

    def _note(self, message: GossipMessage) -> None:
        self._seen[message.source, message.number] = None
        if len(self._seen) > SEEN_MAX:
            del self._seen[next(iter(self._seen))]
