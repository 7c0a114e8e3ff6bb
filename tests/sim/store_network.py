"""A network of machines on a heap of events: no tasks, no real time, everything from one seed.

Calls and connections are as the transport has them, and harsher: a lost request or answer is lost, not late, and its
caller learns it when its patience ends. A connection across a partition breaks after a while, if the partition lasts;
who wanted it dials again every now and then. Bytes are those of the messages; frames and encryption are not counted.
"""

import random
import struct
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from heapq import heapify, heappop, heappush
from typing import Any, Final, Protocol

from blake3 import blake3

from shoal.transport.port import PeerId

NOTICE_S: Final = (1.0, 6.0)  # after which a connection breaks whose other end is not heard of
DIAL_S: Final = (0.5, 3.0)  # between attempts to connect
JITTER: Final = 0.1  # of a path's latency
SLICES_PER_S: Final = 64  # all in one heap: to compare events took a twentieth of all time
UNHASHED_MAX: Final = 1024  # parts of messages, hashed at once: much cheaper than message by message

_STAMP: Final = struct.Struct("<dI")  # when, and how many bytes

Event = tuple[float, int, Callable[..., None], tuple[Any, ...]]
Pair = tuple[PeerId, PeerId]  # sorted
Then = Callable[[bytes | None], None]  # what comes of a call: the answer, or nothing


class Endpoint(Protocol):
    """A node, from its start to its end."""

    @property
    def peer_id(self) -> PeerId: ...

    def connected(self, peer: PeerId) -> None: ...

    def disconnected(self, peer: PeerId) -> None: ...

    def answer(self, peer: PeerId, method: str, data: bytes) -> bytes | None:
        """What a call gets; None: no answer ever."""
        ...


@dataclass(frozen=True, slots=True)
class Weather:
    """Of all paths."""

    latency_s: tuple[float, float] = (0.02, 0.2)  # each path's own, evenly spread
    loss: float = 0.05  # of requests and of answers


@dataclass(slots=True)
class Traffic:
    """What one node has sent."""

    messages: Counter[str] = field(default_factory=Counter[str])  # requests and answers by method
    bytes: Counter[str] = field(default_factory=Counter[str])


@dataclass(slots=True)
class _Path:
    """In one direction."""

    latency_s: float
    arrived_at: float = 0.0  # what was sent last: what is sent later arrives later


class StoreNetwork:
    """See the module's text."""

    def __init__(self, seed: int, weather: Weather) -> None:
        self.now = 0.0
        self.weather = weather
        self.draw = random.Random(seed)
        self.traffic: dict[PeerId, Traffic] = {}
        self._transcript = blake3()
        self._unhashed: list[bytes] = []  # what comes next in it
        self._slice = 0  # of time: what comes in it is in the queue, what comes later is not sorted yet
        self._queue: list[Event] = []
        self._later: dict[int, list[Event]] = {}
        self._number = 0
        self._nodes: dict[PeerId, Endpoint] = {}  # that run
        self._sides: Mapping[PeerId, int] = {}  # of a partition
        self._wanted: dict[PeerId, list[PeerId]] = {}
        self._standing: dict[Pair, tuple[Endpoint, Endpoint]] = {}
        self._paths: dict[tuple[PeerId, PeerId], _Path] = {}  # of sender and receiver

    # Time.

    def at(self, time: float, action: Callable[..., None], *arguments: Any) -> None:
        self._number += 1
        event = time, self._number, action, arguments
        number = int(time * SLICES_PER_S)
        if number <= self._slice:
            heappush(self._queue, event)
        else:
            self._later.setdefault(number, []).append(event)

    def after(self, spans_s: tuple[float, float], action: Callable[..., None], *arguments: Any) -> None:
        self.at(self.now + self.draw.uniform(*spans_s), action, *arguments)

    def run_until(self, time: float) -> None:
        last = int(time * SLICES_PER_S)
        while True:
            queue = self._queue
            while queue and queue[0][0] <= time:
                self.now, _, action, arguments = heappop(queue)
                action(*arguments)
            if self._slice >= last:
                break
            self._slice += 1
            self._queue = self._later.pop(self._slice, [])
            heapify(self._queue)
        self.now = time

    def transcript(self) -> str:
        """A hash of all that was ever delivered, and when."""
        self._hash()
        return self._transcript.hexdigest()

    # Nodes and connections.

    def peers(self) -> list[PeerId]:
        """All that are to be connected with somebody, sorted."""
        return sorted(self._wanted)

    def want(self, a: PeerId, b: PeerId) -> None:
        """From now on these two keep a connection, whenever both run."""
        self._wanted.setdefault(a, []).append(b)
        self._wanted.setdefault(b, []).append(a)
        pair = _pair(a, b)
        latency_s = self.draw.uniform(*self.weather.latency_s)
        self._paths[a, b], self._paths[b, a] = _Path(latency_s), _Path(latency_s)
        if a in self._nodes and b in self._nodes:
            self._dial(pair)

    def start(self, node: Endpoint) -> None:
        self._nodes[node.peer_id] = node
        self.traffic.setdefault(node.peer_id, Traffic())
        for peer in self._wanted.get(node.peer_id, ()):
            self.after(DIAL_S, self._dial, _pair(node.peer_id, peer))

    def stop(self, peer: PeerId) -> None:
        """As by kill -9: the others notice late."""
        del self._nodes[peer]
        for other in self._wanted[peer]:
            self.after(NOTICE_S, self._notice, _pair(peer, other))

    def part(self, sides: Mapping[PeerId, int]) -> None:
        """Nodes of different sides do not hear each other; all of one side: healed."""
        self._sides = sides
        for pair in list(self._standing):
            if not self._is_open(pair):
                self.after(NOTICE_S, self._notice, pair)

    def is_running(self, node: Endpoint) -> bool:
        return self._nodes.get(node.peer_id) is node

    def node(self, peer: PeerId) -> Endpoint | None:
        return self._nodes.get(peer)

    # Calls.

    def call(
        self, caller: Endpoint, peer: PeerId, method: str, data: bytes, then: Then, patience_s: float = 10.0
    ) -> None:
        """`then` is called once, if the caller runs on."""
        ends_at = self.now + patience_s
        arrives_at = self._send(caller.peer_id, peer, method, data)
        if arrives_at is None:
            self.at(ends_at, self._end, caller, then, None)
        else:
            self.at(arrives_at, self._arrive, caller, peer, method, data, then, ends_at)

    def _arrive(self, caller: Endpoint, peer: PeerId, method: str, data: bytes, then: Then, ends_at: float) -> None:
        callee = self._nodes.get(peer)
        reply = None
        if callee is not None and self._is_open(_pair(caller.peer_id, peer)):
            self._record(caller.peer_id, peer, data)
            reply = callee.answer(caller.peer_id, method, data)
        arrives_at = None if reply is None else self._send(peer, caller.peer_id, method, reply)
        if arrives_at is None or arrives_at > ends_at:
            self.at(ends_at, self._end, caller, then, None)
        else:
            self.at(arrives_at, self._end, caller, then, reply)

    def _end(self, caller: Endpoint, then: Then, reply: bytes | None) -> None:
        if self.is_running(caller):
            if reply is not None:
                self._record(caller.peer_id, caller.peer_id, reply)
            then(reply)

    def _send(self, sender: PeerId, receiver: PeerId, method: str, data: bytes) -> float | None:
        """When it arrives; None: never."""
        traffic = self.traffic[sender]
        traffic.messages[method] += 1
        traffic.bytes[method] += len(data)
        if self.draw.random() < self.weather.loss or not self._is_open(_pair(sender, receiver)):
            return None
        path = self._paths[sender, receiver]
        delay_s = path.latency_s * (1 + JITTER * self.draw.random())
        path.arrived_at = max(path.arrived_at, self.now + delay_s)
        return path.arrived_at

    def _record(self, one: PeerId, other: PeerId, data: bytes) -> None:
        self._unhashed += (_STAMP.pack(self.now, len(data)), one.encode(), other.encode(), data)
        if len(self._unhashed) > UNHASHED_MAX:
            self._hash()

    def _hash(self) -> None:
        self._transcript.update(b"".join(self._unhashed))
        self._unhashed.clear()

    # Connections.

    def _is_open(self, pair: Pair) -> bool:
        """Whether what is sent now arrives."""
        ends = self._standing.get(pair)
        if ends is None or (self._sides and self._sides.get(pair[0], 0) != self._sides.get(pair[1], 0)):
            return False
        return self._nodes.get(pair[0]) is ends[0] and self._nodes.get(pair[1]) is ends[1]

    def _dial(self, pair: Pair) -> None:
        one, other = self._nodes.get(pair[0]), self._nodes.get(pair[1])
        if one is None or other is None or self._is_open(pair):
            return  # who starts, dials
        if self._sides.get(pair[0], 0) != self._sides.get(pair[1], 0):
            self.after(DIAL_S, self._dial, pair)
            return
        self._break(pair)
        self._standing[pair] = one, other
        one.connected(pair[1])
        other.connected(pair[0])

    def _notice(self, pair: Pair) -> None:
        if pair in self._standing and not self._is_open(pair):
            self._break(pair)
            self.after(DIAL_S, self._dial, pair)

    def _break(self, pair: Pair) -> None:
        for node, peer in zip(self._standing.pop(pair, ()), reversed(pair), strict=False):
            if self.is_running(node):
                node.disconnected(peer)


def _pair(a: PeerId, b: PeerId) -> Pair:
    return (a, b) if a < b else (b, a)
