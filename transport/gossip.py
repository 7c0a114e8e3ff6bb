"""Gossip between neighbours: who must be told of which message, and what of theirs is believed. A machine without I/O.

Whoever publishes hands its message to all neighbours who subscribe to the topic. Whoever gets one offers it, by its
hash, to those neighbours who are not known to have it, and hands it to those who want it. So a message reaches all who
are connected through subscribers, and its bytes travel little more than once to each. Who is offered what it has asked
of somebody else says so, and is offered it again when that one should have delivered. With a message goes whom its
publisher hands it to (`Published.told`): these are offered it only after AGAIN_S, with all else that is due then. Where
everybody is everybody's neighbour, n messages would else cost n^3 offers.

GossipSub of py-libp2p is not used: one message of 50 bytes whose key cannot be parsed raises in a task of its own and
ends the node (measured; so do IHAVE and IWANT with ids that are no JSON), and a peer may start any number of tasks.

A message is its topic and its bytes, and says of itself whose it is and that it is true: who subscribes knows how to
check that (`is_valid`), and there is no signature around it but its own. So what came another way need not come again
(`Mesh.heard`), and nobody gains by publishing again what another published.

What a malicious peer may send: any bytes, any number of them, and all that others ever published. What it cannot: keep
a message from who has an honest neighbour by offering it first (it is asked once for each message) or by naming it as
told (that costs AGAIN_S), have anything delivered twice within the last SEEN_MAX messages, have anything delivered or
forwarded that `is_valid` refuses, have more than MESSAGES_PER_S messages looked at, or make this side remember more
than the bounds below.
"""

import math
from collections import OrderedDict, deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import islice
from typing import Annotated, Final

import msgspec
from blake3 import blake3

from .port import PeerId
from .token_bucket import TokenBucket
from .wire import encode

TOPIC_CHARS_MAX: Final = 256
TOPICS_MAX: Final = 256  # that one neighbour may subscribe to
ID_BYTES: Final = 16
OFFERS_MAX: Final = 64  # ids in one offer
SEEN_MAX: Final = 16_384  # messages remembered as seen; memory: about 0.2 KB each
CACHE_BYTES_MAX: Final = 8 * 1024 * 1024  # of messages that others may still want; smaller: slow neighbours miss some
ENTRY_BYTES: Final = 1024  # what a remembered message costs besides its bytes
WANTED_MAX: Final = 1024  # asked of somebody and not yet here
WANT_S: Final = 2.0  # then it may be asked of somebody else
AGAIN_S: Final = WANT_S + 0.5  # after which it is offered again to who has asked somebody else
AGAIN_EVERY_S: Final = 1.0  # so that many offers go in one call
AGAIN_MAX: Final = 16_384  # sends to be made later, to all neighbours together; memory: 0.1 KB each
TAG_BYTES: Final = 4  # that stand for a peer among those told; two alike cost a message AGAIN_S
TOLD_MAX: Final = 128  # who hands its messages to more names none: 512 bytes would be as much as the message
TRIES_MAX: Final = 8  # sends of one message to one neighbour: so many liars around it are outlasted
MESSAGES_PER_S: Final = 100.0  # taken from one neighbour; CPU: to check a signature costs 0.06 ms
MESSAGES_BURST: Final = 400

MessageId = Annotated[bytes, msgspec.Meta(min_length=ID_BYTES, max_length=ID_BYTES)]
Topic = Annotated[str, msgspec.Meta(min_length=1, max_length=TOPIC_CHARS_MAX)]


class Published(msgspec.Struct, frozen=True, gc=False):
    """One message."""

    topic: str
    data: bytes
    told: bytes = b""  # whom its publisher hands it to, by their tags, as whoever handed it on says


class Arrival(msgspec.Struct, frozen=True, gc=False):
    """A message that came for the first time. It counts once `Mesh.accept` is told that it is valid."""

    id: bytes
    message: Published


class Send(msgspec.Struct, frozen=True, gc=False):
    """Tell `peer` of a message: hand it over, or only offer it."""

    peer: PeerId
    id: bytes
    is_offer: bool
    tries: int = 0  # made before


class Answer(msgspec.Struct, frozen=True, gc=False):
    """What a neighbour makes of an offer. What is in neither it has."""

    wanted: list[bytes]
    waiting: list[bytes]  # asked of somebody else, who has not delivered yet


class _Wanted(msgspec.Struct, frozen=True, gc=False):
    since: float
    asked: frozenset[PeerId]  # once each: who offers and does not deliver could be asked for ever


@dataclass(slots=True)
class _Neighbour:
    topics: frozenset[str] = frozenset()
    allowance: TokenBucket = field(default_factory=lambda: TokenBucket(MESSAGES_PER_S, MESSAGES_BURST))  # of pushes


class _Cached(msgspec.Struct, gc=False):
    message: Published
    holders: set[PeerId] = msgspec.field(default_factory=set[PeerId])  # who is known to have it


def tag_of(peer: PeerId) -> bytes:
    """What stands for a peer among those who were told of a message."""
    return blake3(peer.encode()).digest(TAG_BYTES)


def message_id(topic: str, data: bytes) -> bytes:
    """What a message is called."""
    return blake3(encode(topic) + data).digest(ID_BYTES)


class Mesh:
    """What a node knows of its neighbours and of recent messages."""

    def __init__(self) -> None:
        self.topics: set[str] = set()  # that this node subscribes to; its owner's to change
        self._neighbours: dict[PeerId, _Neighbour] = {}
        self._seen: OrderedDict[bytes, None] = OrderedDict()
        self._cache: OrderedDict[bytes, _Cached] = OrderedDict()
        self._cache_bytes = 0
        self._wanted: OrderedDict[bytes, _Wanted] = OrderedDict()
        self._again: deque[tuple[float, Send]] = deque()  # in order

    def connected(self, peer: PeerId) -> None:
        """`peer` subscribes to nothing yet."""
        self._neighbours.setdefault(peer, _Neighbour())

    def disconnected(self, peer: PeerId) -> None:
        self._neighbours.pop(peer, None)

    def subscribed(self, peer: PeerId, topics: Iterable[str]) -> list[Send]:
        """All that `peer` subscribes to from now on. It is offered the newest messages of what is new among that."""
        neighbour = self._neighbours.get(peer)
        if neighbour is None:
            return []
        fresh = frozenset(topics) - neighbour.topics
        neighbour.topics = frozenset(topics)
        newest = reversed(self._cache.items())
        missed = (id for id, each in newest if each.message.topic in fresh and peer not in each.holders)
        return [Send(peer, id, is_offer=True) for id in reversed([*islice(missed, OFFERS_MAX)])]

    def publish(self, topic: str, data: bytes) -> list[Send]:
        """This node's own message, handed to all neighbours who subscribe and are not known to have it."""
        id = message_id(topic, data)
        self._remember(id)
        peers = self._subscribers(topic)
        told = b"".join(map(tag_of, peers)) if len(peers) <= TOLD_MAX else b""
        cached = self._keep(id, Published(topic, data, told))
        return [Send(peer, id, is_offer=False) for peer in peers if peer not in cached.holders]

    def heard(self, topic: str, data: bytes) -> None:
        """This message has come another way: nobody need hand it over."""
        id = message_id(topic, data)
        self._wanted.pop(id, None)
        self._remember(id)

    def offered(self, peer: PeerId, ids: Iterable[bytes], now: float) -> Answer:
        """Which of `ids`, that `peer` has, this node wants of it."""
        answer = Answer([], [])
        if peer not in self._neighbours:
            return answer
        for id in ids:
            cached = self._cache.get(id)
            if cached is not None:
                cached.holders.add(peer)
            elif id not in self._seen:
                (answer.wanted if self._asks(peer, id, now) else answer.waiting).append(id)
        while len(self._wanted) > WANTED_MAX:
            self._wanted.popitem(last=False)
        return answer

    def answered(self, offers: Iterable[Send], answer: Answer, now: float) -> list[Send]:
        """What a neighbour made of these offers to it. Returns those of what it wants."""
        wanted, waiting = set(answer.wanted), set(answer.waiting)
        for send in offers:
            if send.id in waiting:
                self._try_again(send, now)
            elif send.id not in wanted and (cached := self._cache.get(send.id)) is not None:
                cached.holders.add(send.peer)
        return [send for send in offers if send.id in wanted]

    def undelivered(self, send: Send, now: float) -> None:
        """It could not be handed over. Not to be offered again: the neighbour asks nobody twice."""
        self._try_again(Send(send.peer, send.id, is_offer=False, tries=send.tries), now)

    @property
    def deadline(self) -> float:
        """When `due` has something."""
        return self._again[0][0] if self._again else math.inf

    def due(self, now: float) -> list[Send]:
        """What to try again now."""
        sends: list[Send] = []
        while self._again and self._again[0][0] <= now:
            sends.append(self._again.popleft()[1])
        return [send for send in sends if not self.is_needless(send)]

    def cached(self, id: bytes) -> Published | None:
        """The message to hand over, while it is remembered."""
        cached = self._cache.get(id)
        return None if cached is None else cached.message

    def receive(self, peer: PeerId, message: Published, now: float) -> Arrival | None:
        """A message that `peer` handed over; None if it came before or is of no interest."""
        neighbour = self._neighbours.get(peer)
        if neighbour is None or not neighbour.allowance.take(now):
            return None
        id = message_id(message.topic, message.data)
        self._wanted.pop(id, None)
        if id in self._seen:
            if id in self._cache:
                self._cache[id].holders.add(peer)
            return None
        if message.topic not in self.topics:
            return None
        self._remember(id)
        return Arrival(id, message)

    def accept(self, peer: PeerId, arrival: Arrival, now: float) -> list[Send]:
        """The message, which `peer` handed over, is valid: offer it to those who may not have it."""
        message = arrival.message
        cached = self._keep(arrival.id, message)
        cached.holders.add(peer)
        starts = range(0, len(message.told), TAG_BYTES)
        told = {message.told[start : start + TAG_BYTES] for start in starts}
        sends: list[Send] = []
        for each in self._subscribers(message.topic):
            send = Send(each, arrival.id, is_offer=True)
            if tag_of(each) in told:
                self._later(send, now)
            elif each not in cached.holders:
                sends.append(send)
        return sends

    def _subscribers(self, topic: str) -> list[PeerId]:
        return sorted(peer for peer, neighbour in self._neighbours.items() if topic in neighbour.topics)

    def _keep(self, id: bytes, message: Published) -> _Cached:
        cached = self._cache.get(id)
        if cached is None:
            cached = self._cache[id] = _Cached(message)
            self._cache_bytes += len(message.data) + ENTRY_BYTES
            while self._cache_bytes > CACHE_BYTES_MAX:
                self._cache_bytes -= len(self._cache.popitem(last=False)[1].message.data) + ENTRY_BYTES
        return cached

    def is_needless(self, send: Send) -> bool:
        """Whether the neighbour has shown in the meantime that it has the message."""
        cached = self._cache.get(send.id)
        return cached is None or send.peer in cached.holders

    def _try_again(self, send: Send, now: float) -> None:
        if send.tries + 1 < TRIES_MAX:
            self._later(Send(send.peer, send.id, send.is_offer, send.tries + 1), now)

    def _later(self, send: Send, now: float) -> None:
        if len(self._again) < AGAIN_MAX:
            at = math.ceil((now + AGAIN_S) / AGAIN_EVERY_S) * AGAIN_EVERY_S
            self._again.append((at, send))

    def _asks(self, peer: PeerId, id: bytes, now: float) -> bool:
        """Whether to ask `peer` for a message that is not here."""
        wanted = self._wanted.get(id)
        if wanted is not None and (peer in wanted.asked or now - wanted.since < WANT_S):
            return False
        self._wanted[id] = _Wanted(now, frozenset((peer,)) if wanted is None else wanted.asked | {peer})
        self._wanted.move_to_end(id)
        return True

    def _remember(self, id: bytes) -> None:
        self._seen[id] = None
        if len(self._seen) > SEEN_MAX:
            self._seen.popitem(last=False)
