"""Gossip on a simulated network: each node passes on what it subscribes to, once, to all its neighbours."""

from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from .gossip import message_id
from .port import Hear, PeerId

SEEN_MAX: Final = 4096  # messages a node remembers, to hear and forward each once


@dataclass(frozen=True, slots=True)
class GossipMessage:
    """On its way."""

    topic: str
    data: bytes
    id: bytes


class GossipNode:
    """One node's part. `forward` sends a message to all neighbours but one, if one is named."""

    def __init__(self, forward: Callable[[GossipMessage, PeerId | None], None]) -> None:
        self._forward = forward
        self._subscriptions: dict[str, Hear] = {}
        self._seen: dict[bytes, None] = {}

    def publish(self, topic: str, data: bytes) -> None:
        message = GossipMessage(topic, data, message_id(topic, data))
        self._note(message.id)
        self._forward(message, None)

    def heard(self, topic: str, data: bytes) -> None:
        self._note(message_id(topic, data))

    @contextmanager
    def subscribe(self, topic: str, hear: Hear) -> Generator[None]:
        if topic in self._subscriptions:
            raise ValueError(f"topic {topic!r} is subscribed to already")
        self._subscriptions[topic] = hear
        try:
            yield
        finally:
            del self._subscriptions[topic]

    def hear(self, message: GossipMessage, neighbour: PeerId) -> bool:
        """A neighbour passed this on. Returns whether it was news."""
        hear = self._subscriptions.get(message.topic)
        if hear is None or message.id in self._seen:
            return False
        self._note(message.id)
        if hear(neighbour, message.data):
            self._forward(message, neighbour)
        return True

    def _note(self, id: bytes) -> None:
        self._seen[id] = None
        if len(self._seen) > SEEN_MAX:
            del self._seen[next(iter(self._seen))]
