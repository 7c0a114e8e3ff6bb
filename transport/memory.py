"""A simulated network: hundreds of nodes in one process, on trio's virtual clock, from one seed.

Simulated time goes in steps of `step_s`. At each step, when all tasks have come to rest, what they wrote is put on its
way, sorted by sender, receiver and stream; then each node gets what has arrived for it, one thing at a time, in the
order of arrival; and so on until nothing is left to do at that step. Every path draws its delays from a sequence of its
own. So what arrives when does not depend on how trio shuffles tasks. What stays shuffled: the turns of several tasks of
*one* node that one arrival, or one moment, woke. If the bytes it sends depend on them, runs of one seed may differ.

Streams are reliable and ordered, as over TCP: loss delays them, a partition holds them back, and one that lasts
`break_after_s` breaks the connection, as a host's own probes do. Gossip floods the connections that stand; a lost hop
is lost. Not simulated: NAT, the rate limit of gossip.
"""

import math
from collections import deque
from collections.abc import Iterable
from functools import partial
from heapq import heappop, heappush

import trio
import trio.testing

from .conditions import Conditions, Draws, Gate
from .limits import Limits
from .memory_gossip import GossipMessage
from .memory_node import CONNECTIONS_MAX, GOSSIP_HEAD_BYTES, Action, Direction, MemoryTransport, SimulatedLink
from .memory_stream import MemoryStream
from .port import PeerId

__all__ = ["Conditions", "MemoryTransport", "Network"]

Key = tuple[PeerId, PeerId]
SentKey = tuple[str, str, str, int | bytes]  # from whom to whom, and which stream or message: in this order


class Network:
    """All nodes, and what lies between them.

    Args:
        seed: of all delays, losses and backoffs.
        conditions: between any two nodes for which `set_conditions` said nothing else.
        break_after_s: how long a partition lasts before connections across it break.
        step_s: smaller: finer time, and more work when there are many nodes.
        is_full: every node is connected to all others from its start.
    """

    def __init__(
        self,
        seed: int = 0,
        conditions: Conditions | None = None,
        *,
        break_after_s: float = 15.0,
        step_s: float = 0.001,
        is_full: bool = False,
    ) -> None:
        self.seed = seed
        self.delivered_count = 0  # writes and gossip hops
        self._default = conditions or Conditions()
        self._special: dict[Key, Conditions] = {}
        self._step_s = step_s
        self._break_after_s = break_after_s
        self._is_full = is_full
        self._nodes: dict[PeerId, MemoryTransport] = {}
        self._links: dict[Key, SimulatedLink] = {}  # by sorted pair
        self._link_numbers: dict[Key, int] = {}
        self._group: dict[PeerId, int] = {}
        self._sent: list[tuple[SentKey, Direction, MemoryStream | GossipMessage]] = []  # at this step
        self._queue: list[tuple[float, Key, int, Action]] = []
        self._arrived: dict[PeerId, deque[Action]] = {}  # at this step
        self._number = 0
        self._work = trio.Event()
        self._nursery: trio.Nursery | None = None

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Deliver until cancelled; the nodes live no longer."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            task_status.started()
            while True:
                if self._sent or self._arrived or self._next_at() <= trio.current_time():
                    await trio.testing.wait_all_tasks_blocked()
                    self._put_on_its_way()
                    self._deliver()
                else:
                    self._work = trio.Event()
                    with trio.move_on_at(self._next_at()):
                        await self._work.wait()

    async def open(
        self,
        peer_id: PeerId,
        limits: Limits | None = None,
        *,
        upload_bytes_per_s: float = math.inf,
        download_bytes_per_s: float = math.inf,
    ) -> MemoryTransport:
        """A node starts. Any text will do as its peer id. `run` must be running."""
        if self._nursery is None:
            raise RuntimeError("Network.run is not running")
        if peer_id in self._nodes:
            raise ValueError(f"{peer_id} is open already")
        limits = limits or Limits(connections_max=CONNECTIONS_MAX)
        node = MemoryTransport(self, peer_id, limits, Gate(upload_bytes_per_s), Gate(download_bytes_per_s))
        self._nodes[peer_id] = node
        await self._nursery.start(node.run)
        if self._is_full:
            for other in sorted(self._nodes):
                if other != peer_id:
                    self.connect(peer_id, other)
        return node

    def close(self, peer_id: PeerId, *, silently: bool = False) -> None:
        """A node ends, as by kill -9: the others learn so at once or, if `silently` (no power), by their probes."""
        node = self._nodes.pop(peer_id)
        for _, link in sorted(node.links.items()):
            direction = link.from_(peer_id)
            self._forget(link)
            delay_s = self._break_after_s if silently else self.conditions(*direction.key).latency_s
            lose = partial(direction.target.lose, peer_id, link, "the connection was reset")
            self._at(trio.current_time() + delay_s, direction.key, lose)
        node.stop()

    def connect(self, a: PeerId, b: PeerId) -> None:
        """Connect two open nodes at once, as if `a` had dialled."""
        key = _sorted_key(a, b)
        if key in self._links:
            return
        number = self._link_numbers[key] = self._link_numbers.get(key, 0) + 1
        link = SimulatedLink(self._direction(a, b, number), self._direction(b, a, number))
        self._links[key] = link
        self._block(link)
        for peer, other in ((a, b), (b, a)):
            node = self._nodes[peer]
            if other in node.links:  # it has not yet noticed that the other side was gone
                node.lose(other, node.links[other], "the peer has connected again")
            node.gain(other, link)

    def dial(self, a: PeerId, b: PeerId) -> bool:
        """`connect` if both have room for it, for which they may disconnect others."""
        if _sorted_key(a, b) in self._links:
            return True
        here, there = self._nodes[a].room(b, is_outbound=True), self._nodes[b].room(a, is_outbound=False)
        if here is None or there is None:
            return False
        for node, cleared in ((a, here), (b, there)):
            for peer in cleared:
                self.disconnect(node, peer)
        self.connect(a, b)
        return True

    def disconnect(self, a: PeerId, b: PeerId) -> None:
        """Break the connection of two nodes at once."""
        link = self._links.get(_sorted_key(a, b))
        if link is not None:
            self._break(link, "the connection was reset")

    def set_conditions(self, a: PeerId, b: PeerId, conditions: Conditions) -> None:
        """Between these two, for connections made from now on."""
        self._special[a, b] = self._special[b, a] = conditions

    def conditions(self, source: PeerId, target: PeerId) -> Conditions:
        return self._special.get((source, target), self._default)

    def partition(self, *groups: Iterable[PeerId]) -> None:
        """Nodes of different groups can't reach each other. Those in no group are one more group."""
        self._group = {peer: number for number, group in enumerate(groups, 1) for peer in group}
        for _, link in sorted(self._links.items()):
            self._block(link)

    def heal(self) -> None:
        """All can reach all again."""
        self.partition()

    def can_reach(self, a: PeerId, b: PeerId) -> bool:
        return b in self._nodes and self._group.get(a, 0) == self._group.get(b, 0)

    def is_open(self, peer: PeerId) -> bool:
        return peer in self._nodes

    def transmit(self, direction: Direction, stream: MemoryStream) -> None:
        """A stream has something to collect."""
        self._sent.append(((*direction.key, *stream.key), direction, stream))
        self._work.set()

    def gossip(self, direction: Direction, message: GossipMessage) -> None:
        """One hop."""
        self._sent.append(((*direction.key, message.topic, message.id), direction, message))
        self._work.set()

    # Through time.

    def _next_at(self) -> float:
        return self._queue[0][0] if self._queue else math.inf

    def _at(self, at: float, key: Key, action: Action) -> None:
        """Have `action` happen at the second node of `key`, at the next step from `at`."""
        self._number += 1
        heappush(self._queue, (math.ceil(at / self._step_s) * self._step_s, key, self._number, action))
        self._work.set()

    def _put_on_its_way(self) -> None:
        sent, self._sent = self._sent, []
        sent.sort(key=lambda each: each[0])
        now = trio.current_time()
        for _, direction, thing in sent:
            if isinstance(thing, GossipMessage):
                size = GOSSIP_HEAD_BYTES + len(thing.data)
                at = direction.path.datagram(self._depart(direction, size, now))
                arrive = partial(self._arrive_gossip, direction, size, thing)
            else:
                data, is_last = thing.collect()
                size = len(data)
                action = partial(direction.target.receive, direction.key[0], thing.other, data, is_last)
                at = direction.path.send(self._depart(direction, size, now), (size, action))
                arrive = partial(self._arrive, direction)
            if at is not None:
                self._at(at, direction.key, arrive)

    def _depart(self, direction: Direction, size: int, now: float) -> float:
        direction.bytes_sent += size
        direction.source.bytes_sent += size
        return direction.source.upload.passes_at(now, size)

    def _deliver(self) -> None:
        """What is due: to each node one thing that wakes it, then its tasks take their turns."""
        now = trio.current_time()
        while self._next_at() <= now:
            _, key, _, action = heappop(self._queue)
            self._arrived.setdefault(key[1], deque()).append(action)
        for peer in sorted(self._arrived):
            actions = self._arrived[peer]
            while actions and not actions.popleft()():
                pass
            if not actions:
                del self._arrived[peer]

    def _arrive(self, direction: Direction) -> bool:
        is_awake = False
        if self._stands(direction):
            while (arrived := direction.path.take(trio.current_time())) is not None:
                is_awake |= self._receive(direction, *arrived)
        return is_awake

    def _arrive_gossip(self, direction: Direction, size: int, message: GossipMessage) -> bool:
        hear = partial(direction.target.gossip.hear, message, direction.key[0])
        return self._stands(direction) and self._receive(direction, size, hear)

    def _receive(self, direction: Direction, size: int, action: Action) -> bool:
        """It takes its time through the receiver's line."""
        now = trio.current_time()
        self.delivered_count += 1
        direction.bytes_received += size
        direction.target.bytes_received += size
        at = direction.target.download.passes_at(now, size)
        if at <= now:
            return action()
        self._at(at, direction.key, action)
        return False

    # Connections.

    def _block(self, link: SimulatedLink) -> None:
        """The groups have changed."""
        now = trio.current_time()
        key = link.directions[0].key
        is_blocked = not self.can_reach(*key)
        if is_blocked and link.blocked_at is None:
            link.blocked_at = now
            self._at(now + self._break_after_s, key, partial(self._give_up, link, now))
        elif not is_blocked and link.blocked_at is not None:
            link.blocked_at = None
            for direction in link.directions:
                self._at(direction.path.resume(now), direction.key, partial(self._arrive, direction))

    def _give_up(self, link: SimulatedLink, blocked_at: float) -> bool:
        return link.blocked_at == blocked_at and self._break(link, "the peer does not answer")

    def _break(self, link: SimulatedLink, reason: str) -> bool:
        if not self._forget(link):
            return False
        for direction in link.directions:
            direction.source.lose(direction.target.peer_id, link, reason)
        return True

    def _forget(self, link: SimulatedLink) -> bool:
        key = _sorted_key(*link.directions[0].key)
        if self._links.get(key) is not link:
            return False
        del self._links[key]
        return True

    def _stands(self, direction: Direction) -> bool:
        link = self._links.get(_sorted_key(*direction.key))
        return link is not None and direction in link.directions and self.can_reach(*direction.key)

    def _direction(self, source: PeerId, target: PeerId, number: int) -> Direction:
        draws = Draws(self.seed, f"{source}>{target}#{number}")
        return Direction(self._nodes[source], self._nodes[target], self.conditions(source, target), draws)


def _sorted_key(a: PeerId, b: PeerId) -> Key:
    return (a, b) if a < b else (b, a)
