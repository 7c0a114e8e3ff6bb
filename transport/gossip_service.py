"""Carries gossip between neighbours by calls: one task per neighbour, so that a slow one delays nobody else."""

import logging
import math
from collections import deque
from collections.abc import Callable, Generator
from contextlib import AbstractAsyncContextManager, contextmanager
from dataclasses import dataclass, field
from typing import Annotated, Final

import msgspec
import trio

from .gossip import (
    ID_BYTES,
    OFFERS_MAX,
    TAG_BYTES,
    TOLD_MAX,
    TOPIC_CHARS_MAX,
    TOPICS_MAX,
    Answer,
    Mesh,
    MessageId,
    Published,
    Send,
    Topic,
)
from .port import GOSSIP_BYTES_MAX, Code, Hear, PeerConnected, PeerEvent, PeerId, Refusal, Unary
from .service import CallService
from .wire import Message

OUTBOX_MAX: Final = 1024  # sends that wait for a slow neighbour; more are dropped and counted
PUSHES_MAX: Final = 64  # to one neighbour under way at once; memory: 64 KiB each. One that is lost delays no others
CALL_S: Final = 10.0
RETRY_S: Final = 5.0  # a peer that speaks no gossip is asked so rarely, and each time more so:
RETRY_S_MAX: Final = 600.0  # what asks it more often makes a connection look used that is not

log = logging.getLogger(__name__)


class Topics(Message, frozen=True):
    topics: Annotated[list[Topic], msgspec.Meta(max_length=TOPICS_MAX)]


class Ids(Message, frozen=True):
    ids: Annotated[list[MessageId], msgspec.Meta(max_length=OFFERS_MAX)]


class Wants(Message, frozen=True):
    wanted: Annotated[list[MessageId], msgspec.Meta(max_length=OFFERS_MAX)]
    waiting: Annotated[list[MessageId], msgspec.Meta(max_length=OFFERS_MAX)]


class Handover(Message, frozen=True):
    topic: Topic
    data: Annotated[bytes, msgspec.Meta(max_length=GOSSIP_BYTES_MAX)]
    told: Annotated[bytes, msgspec.Meta(max_length=TAG_BYTES * TOLD_MAX)] = b""


class Nothing(Message, frozen=True):
    pass


_TOPICS_BYTES_MAX: Final = TOPICS_MAX * (4 * TOPIC_CHARS_MAX + 5) + 8
_IDS_BYTES_MAX: Final = OFFERS_MAX * (ID_BYTES + 2) + 8
SUBSCRIBE: Final = Unary("/shoal/gossip/1/subscribe", Topics, Nothing, _TOPICS_BYTES_MAX, 8)
OFFER: Final = Unary("/shoal/gossip/1/offer", Ids, Wants, _IDS_BYTES_MAX, 2 * _IDS_BYTES_MAX)
PUSH: Final = Unary(
    "/shoal/gossip/1/push", Handover, Nothing, GOSSIP_BYTES_MAX + 4 * TOPIC_CHARS_MAX + TAG_BYTES * TOLD_MAX + 24, 8
)


@dataclass(eq=False, slots=True)
class _Outbox:
    """What one neighbour is still to be told."""

    scope: trio.CancelScope = field(default_factory=trio.CancelScope)
    wake: trio.Event = field(default_factory=trio.Event)
    sends: deque[Send] = field(default_factory=deque[Send])
    told_version: int = 0  # of the own subscriptions; 0: nothing yet
    tell_at: float = -math.inf
    retry_s: float = RETRY_S  # until then, if it fails
    places: trio.Semaphore = field(default_factory=lambda: trio.Semaphore(PUSHES_MAX))


class GossipService:
    """One node's gossip.

    Args:
        watch: who is connected, as `Transport.events`.
    """

    def __init__(
        self,
        calls: CallService,
        watch: Callable[[], AbstractAsyncContextManager[trio.MemoryReceiveChannel[PeerEvent]]],
    ) -> None:
        self._calls = calls
        self._watch = watch
        self._mesh = Mesh()
        self._version = 1
        self._repeat = trio.Event()  # there are sends to repeat sooner than at
        self._repeats_at = math.inf
        self._subscriptions: dict[str, Hear] = {}
        self._outboxes: dict[PeerId, _Outbox] = {}
        self.dropped_count = 0  # because a neighbour was slow
        calls.serve(SUBSCRIBE, self._on_subscribe)
        calls.serve(OFFER, self._on_offer)
        calls.serve(PUSH, self._on_push)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Talk to neighbours until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._offer_again)
            while True:
                async with self._watch() as events:
                    task_status.started()
                    task_status = trio.TASK_STATUS_IGNORED
                    async for event in events:
                        if isinstance(event, PeerConnected):
                            if event.peer not in self._outboxes:
                                self._mesh.connected(event.peer)
                                self._outboxes[event.peer] = _Outbox()
                                nursery.start_soon(self._talk, event.peer, self._outboxes[event.peer])
                        else:
                            self._leave(event.peer)
                for peer in list(self._outboxes):  # too far behind with the events: they begin anew
                    self._leave(peer)

    def publish(self, topic: str, data: bytes) -> Refusal | None:
        """As `Transport.publish`."""
        if len(data) > GOSSIP_BYTES_MAX:
            return Refusal(Code.TOO_LARGE, f"{len(data)} bytes of gossip; {GOSSIP_BYTES_MAX} are allowed")
        if not 0 < len(topic) <= TOPIC_CHARS_MAX:
            return Refusal(Code.REFUSED, f"a topic of {len(topic)} characters; 1 to {TOPIC_CHARS_MAX} are allowed")
        self._send(self._mesh.publish(topic, data))
        return None

    def heard(self, topic: str, data: bytes) -> None:
        """As `Transport.heard`."""
        self._mesh.heard(topic, data)

    @contextmanager
    def subscribe(self, topic: str, hear: Hear) -> Generator[None]:
        """As `Transport.subscribe`."""
        if not 0 < len(topic) <= TOPIC_CHARS_MAX or len(self._subscriptions) >= TOPICS_MAX:
            raise ValueError(f"topic {topic[:80]!r}: at most {TOPICS_MAX} of 1 to {TOPIC_CHARS_MAX} characters")
        if topic in self._subscriptions:
            raise ValueError(f"topic {topic!r} is subscribed to already")
        self._subscriptions[topic] = hear
        self._subscriptions_changed()
        try:
            yield
        finally:
            del self._subscriptions[topic]
            self._subscriptions_changed()

    # What neighbours say.

    def _on_subscribe(self, peer: PeerId, request: Topics) -> Nothing | Refusal:
        if peer not in self._outboxes:  # its connection is not announced yet: it says so again in a moment
            return Refusal(Code.BUSY, "not a neighbour yet")
        self._send(self._mesh.subscribed(peer, request.topics))
        return Nothing()

    def _on_offer(self, peer: PeerId, request: Ids) -> Wants:
        answer = self._mesh.offered(peer, request.ids, trio.current_time())
        return Wants(answer.wanted, answer.waiting)

    def _on_push(self, peer: PeerId, request: Handover) -> Nothing:
        now, message = trio.current_time(), Published(request.topic, request.data, request.told)
        arrival = self._mesh.receive(peer, message, now)
        if arrival is not None and self._subscriptions[request.topic](peer, request.data):
            self._send(self._mesh.accept(peer, arrival, now))
            self._look_again()
        return Nothing()

    # What neighbours are told.

    def _send(self, sends: list[Send]) -> None:
        for send in sends:
            outbox = self._outboxes.get(send.peer)
            if outbox is None or len(outbox.sends) >= OUTBOX_MAX:
                self.dropped_count += 1
            else:
                outbox.sends.append(send)
                outbox.wake.set()

    def _subscriptions_changed(self) -> None:
        self._mesh.topics = set(self._subscriptions)
        self._version += 1
        for outbox in self._outboxes.values():
            outbox.wake.set()

    def _leave(self, peer: PeerId) -> None:
        self._mesh.disconnected(peer)
        outbox = self._outboxes.pop(peer, None)
        if outbox is not None:
            outbox.scope.cancel()

    async def _talk(self, peer: PeerId, outbox: _Outbox) -> None:
        with outbox.scope:
            async with trio.open_nursery() as pushes:
                while True:
                    outbox.wake = trio.Event()
                    tell_at = math.inf if outbox.told_version == self._version else outbox.tell_at
                    if tell_at <= trio.current_time():
                        await self._tell_topics(peer, outbox)
                    elif outbox.sends:
                        for send in await self._offer(peer, outbox):
                            await outbox.places.acquire()
                            pushes.start_soon(self._push, send, outbox)
                    else:
                        with trio.move_on_at(tell_at):
                            await outbox.wake.wait()

    async def _offer_again(self) -> None:
        while True:
            self._repeat, self._repeats_at = trio.Event(), self._mesh.deadline
            with trio.move_on_at(self._repeats_at):
                await self._repeat.wait()
            self._send(self._mesh.due(trio.current_time()))

    def _look_again(self) -> None:
        if self._mesh.deadline < self._repeats_at:
            self._repeat.set()

    async def _tell_topics(self, peer: PeerId, outbox: _Outbox) -> None:
        version = self._version
        answer = await self._calls.request(peer, SUBSCRIBE, Topics(sorted(self._mesh.topics)), timeout_s=CALL_S)
        if isinstance(answer, Refusal):
            log.debug("%s was not told of subscriptions: %s", peer, answer.message)
            outbox.tell_at = trio.current_time() + outbox.retry_s
            outbox.retry_s = min(RETRY_S_MAX, 2 * outbox.retry_s)
        else:
            outbox.told_version, outbox.retry_s = version, RETRY_S

    async def _offer(self, peer: PeerId, outbox: _Outbox) -> list[Send]:
        """Up to OFFERS_MAX of what waits: offers in one call. Gives what to hand over: what is wanted, and the rest."""
        batch = [outbox.sends.popleft() for _ in range(min(OFFERS_MAX, len(outbox.sends)))]
        batch = [send for send in batch if not self._mesh.is_needless(send)]
        pushes = [send for send in batch if not send.is_offer]
        offers = [send for send in batch if send.is_offer]
        if offers:
            ids = [send.id for send in offers]
            reply = await self._calls.request(peer, OFFER, Ids(ids), timeout_s=CALL_S)
            answer = Answer([], ids) if isinstance(reply, Refusal) else Answer(reply.wanted, reply.waiting)
            pushes += self._mesh.answered(offers, answer, trio.current_time())
            self._look_again()
        return pushes

    async def _push(self, send: Send, outbox: _Outbox) -> None:
        message = self._mesh.cached(send.id)
        try:
            if message is not None:
                handover = Handover(message.topic, message.data, message.told)
                answer = await self._calls.request(send.peer, PUSH, handover, timeout_s=CALL_S)
                # Not after a deadline: who is slow or frozen would get its bytes over and over.
                if isinstance(answer, Refusal) and answer.code in (Code.UNREACHABLE, Code.BUSY):
                    self._mesh.undelivered(send, trio.current_time())
                    self._look_again()
        finally:
            outbox.places.release()
