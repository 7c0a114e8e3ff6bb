"""Members that fetch one another's payloads, on a virtual clock: lines shared fairly, the real plan in each.

No service, no threads: what is asked of a member it sends in order, one queue for each who asks, as over a bulk
connection; an uplink is shared alike among those it sends to, a downlink among those it receives from.
"""

import heapq
import itertools
import math
import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

from blake3 import blake3

from shoal.transport.blob_holder import Lines
from shoal.transport.blob_plan import Ask, Drop, FetchPlan, Take
from shoal.transport.blobs import BlobRef, Manifest, bitmap_from_mask, chunk_count, make_manifest, parse_manifest
from shoal.transport.port import PeerId
from shoal.transport.upload_slots import Ticket, UploadSlots

OFFER_S = 0.5  # how often the service asks who may hold a blob
MEASURE_S = 1.0
MBIT = 1e6 / 8  # bytes/s


@dataclass
class Flow:
    """What one member sends to another, in order."""

    source: "Member"
    sink: "Member"
    queue: deque[tuple[int, int, int]] = field(
        default_factory=deque[tuple[int, int, int]]
    )  # payload, chunk, which of the sink's streams
    ticket: Ticket | None = None  # for the first
    left: float = 0.0  # bytes of the first, once its turn has come
    rate: float = 0.0
    at: float = 0.0  # when `left` was right
    version: int = 0

    @property
    def is_sending(self) -> bool:
        return self.ticket is not None and self.ticket.began_at is not None


@dataclass
class Fetch:
    """One member's fetch of one payload."""

    member: "Member"
    payload: int
    plan: FetchPlan
    have: int = 0
    began_at: float = 0.0
    done_at: float | None = None
    wake_at: float = math.inf
    streams: dict[PeerId, int] = field(default_factory=dict[PeerId, int])  # which of its streams with a member is open


@dataclass
class Member:
    """A member, its lines in bytes/s, and what it does wrong."""

    name: PeerId
    up: float
    down: float
    joins_at: float = 0.0
    leaves_at: float = math.inf
    lies: bool = False  # sends wrong bytes
    stalls: bool = False  # says it has everything and sends nothing
    is_idle: bool = False  # fetches nothing
    boasts: bool = False  # says it fetches and is the fastest, and does not
    fetches: dict[int, Fetch] = field(default_factory=dict[int, Fetch])
    outflows: dict[PeerId, Flow] = field(default_factory=dict[PeerId, Flow])
    inflows: dict[PeerId, Flow] = field(default_factory=dict[PeerId, Flow])
    sent_bytes: float = 0.0
    lines: Lines = field(default_factory=Lines)
    slots: UploadSlots = field(default_factory=UploadSlots)


class Swarm:
    """Everybody fetches the payload of each who has one.

    Args:
        payloads: of which members, by their numbers; None: of all.
        way_s: from one member to another, half a round trip.
    """

    def __init__(
        self,
        members: list[Member],
        payload_bytes: int,
        seed: int,
        *,
        payloads: list[int] | None = None,
        way_s: float = 0.03,
        only_origin: bool = False,
    ) -> None:
        self.members = members
        self.by_name = {member.name: member for member in members}
        self.random = random.Random(seed)
        self.now = 0.0
        self.way_s = way_s
        self.only_origin = only_origin
        self.count = chunk_count(payload_bytes)
        self.blobs: dict[int, tuple[BlobRef, bytes, Manifest]] = {}
        self.events: list[tuple[float, int, Callable[[], None]]] = []
        self.numbers = itertools.count()
        self.sent: dict[tuple[PeerId, int, int], int] = {}  # times a member sent a chunk
        for number in range(len(members)) if payloads is None else payloads:
            hashes = b"".join(blake3(b"%d %d %d" % (seed, number, i)).digest() for i in range(self.count))
            ref, data = make_manifest(payload_bytes, hashes)
            manifest = parse_manifest(data, ref.digest)
            assert isinstance(manifest, Manifest)
            self.blobs[number] = (ref, data, manifest)
        self.expected = 0  # fetches that are to begin
        self.awaited = 0  # that are to end
        for place, member in enumerate(members):
            for payload in self.blobs:
                if payload != place and not (member.is_idle or member.stalls or member.boasts):
                    self.expected += 1
                    self.at(member.joins_at + self.random.uniform(0, 0.2), partial(self.begin, member, payload))

        for member in members:
            self.at(MEASURE_S, partial(self.measure, member, 0.0))

    def measure(self, member: Member, before: float) -> None:
        """As the service does: what left it in a moment, at its best."""
        sent = member.sent_bytes + sum(f.rate * (self.now - f.at) for f in member.outflows.values() if f.is_sending)
        for flow in member.outflows.values():
            if flow.is_sending:
                sent += self.blobs[flow.queue[0][0]][2].chunk_bytes(flow.queue[0][1]) - flow.left
        member.lines.own_rate = max(member.lines.own_rate, int((sent - before) / MEASURE_S))
        for flow in member.outflows.values():
            self.settle(flow)
        self.admit(member)
        self.tell_alive(member)
        self.later(MEASURE_S, lambda: self.measure(member, sent))

    def tell_alive(self, member: Member) -> None:
        """As the service does where a chunk is on its way for long, or waits for its turn."""
        for flow in member.outflows.values():
            if flow.queue and not self.is_gone(member):
                fetch = flow.sink.fetches[flow.queue[0][0]]
                if fetch.streams[member.name] == flow.queue[0][2]:
                    fetch.plan.heard(member.name, self.now)

    def at(self, time: float, event: Callable[[], None]) -> None:
        heapq.heappush(self.events, (time, next(self.numbers), event))

    def later(self, delay: float, event: Callable[[], None]) -> None:
        self.at(self.now + delay, event)

    def run(self, until: float = 1_000.0) -> float:
        """When the last who stays had everything; infinity if that did not come about."""
        while self.expected or self.awaited:
            time, _, event = heapq.heappop(self.events)
            if time > until:
                return math.inf
            self.now = time
            event()
        return max(fetch.done_at or 0.0 for fetch in self.fetches)

    @property
    def fetches(self) -> list[Fetch]:
        return [fetch for member in self.members for fetch in member.fetches.values()]

    # One fetch, as the service drives it

    def begin(self, member: Member, payload: int) -> None:
        self.expected -= 1
        self.awaited += member.leaves_at == math.inf
        ref = self.blobs[payload][0]
        plan = FetchPlan(ref, member.name, member.lines)
        fetch = member.fetches[payload] = Fetch(member, payload, plan, began_at=self.now)
        self.offer(fetch)

    def offer(self, fetch: Fetch) -> None:
        if fetch.done_at is None and not self.is_gone(fetch.member):
            origin = self.members[fetch.payload]
            others = [each for each in self.members if each not in (fetch.member, origin) and each.joins_at <= self.now]
            offered = [origin] if self.only_origin else [origin, *others]
            fetch.plan.offer(each.name for each in offered if not self.is_gone(each))
            self.drive(fetch)
            self.later(OFFER_S, lambda: self.offer(fetch))

    def is_gone(self, member: Member) -> bool:
        return self.now >= member.leaves_at

    def drive(self, fetch: Fetch) -> None:
        plan = fetch.plan
        if fetch.done_at is not None or self.is_gone(fetch.member):
            return
        if plan.manifest is not None and not plan.is_begun:
            plan.begin(0)
        if plan.is_complete:
            fetch.done_at = self.now
            self.awaited -= fetch.member.leaves_at == math.inf
            plan.close()
            return
        assert not plan.is_hopeless(self.now), plan.explain()
        for effect in plan.step(self.now):
            self.carry_out(fetch, effect)
        wake_at = plan.wake_at(self.now)
        assert wake_at > self.now
        if wake_at != fetch.wake_at:
            fetch.wake_at = wake_at
            self.at(wake_at, lambda: self.drive(fetch) if fetch.wake_at == wake_at else None)

    def carry_out(self, fetch: Fetch, effect: Ask | Take | Drop) -> None:
        peer = self.by_name[effect.peer]
        stream = fetch.streams.setdefault(effect.peer, 0)
        match effect:
            case Ask():
                self.later(self.way_s, lambda: self.answer(fetch, peer, effect.wants_manifest))
            case Take(_, first, count):
                self.later(self.way_s, lambda: self.enqueue(fetch, peer, range(first, first + count), stream))
            case Drop():
                fetch.streams[effect.peer] += 1
                self.later(self.way_s, lambda: self.forget(fetch, peer, stream))

    # What a member holds and sends

    def answer(self, fetch: Fetch, peer: Member, wants_manifest: bool) -> None:
        """The peer's answer, and its way back."""
        place, own = self.members.index(peer), peer.fetches.get(fetch.payload)
        _, data, manifest = self.blobs[fetch.payload]
        if peer.boasts:
            empty = bitmap_from_mask(0, manifest.chunk_count)
            self.later(self.way_s, lambda: self.boast(fetch, peer, data if wants_manifest else b"", empty))
            return
        is_full = place == fetch.payload or peer.stalls or (own is not None and own.done_at is not None)
        have = None if is_full or own is None else bitmap_from_mask(own.have, manifest.chunk_count)

        rate = peer.lines.own_rate

        def back() -> None:
            if self.is_gone(peer):
                fetch.plan.failed(peer.name, "UNREACHABLE", self.now)
            elif is_full or (own is not None and own.plan.is_begun):
                fetch.plan.replied(peer.name, data if wants_manifest else b"", have, rate, self.now)
            else:
                fetch.plan.lacks(peer.name, "NOT_FOUND", self.now)
            self.drive(fetch)

        self.later(self.way_s, back)

    def boast(self, fetch: Fetch, peer: Member, manifest_data: bytes, empty: bytes) -> None:
        fetch.plan.replied(peer.name, manifest_data, empty, 2**64 - 1, self.now)
        self.drive(fetch)

    def enqueue(self, fetch: Fetch, peer: Member, chunks: range, stream: int) -> None:
        if self.is_gone(peer):
            self.later(self.way_s, lambda: self.broken(fetch, peer, stream))
            return
        if peer.stalls:
            return
        sink = fetch.member
        flow = peer.outflows.get(sink.name)
        if flow is None:
            flow = peer.outflows[sink.name] = sink.inflows[peer.name] = Flow(peer, sink)
        is_idle = not flow.queue
        flow.queue.extend((fetch.payload, chunk, stream) for chunk in chunks)
        if is_idle:
            self.start_next(flow)

    def forget(self, fetch: Fetch, peer: Member, stream: int) -> None:
        """What was not begun is not sent."""
        flow = peer.outflows.get(fetch.member.name)
        if flow is not None and flow.queue:
            begun = [flow.queue.popleft()] if flow.is_sending else []
            flow.queue = deque(
                [*begun, *(each for each in flow.queue if (each[0], each[2]) != (fetch.payload, stream))]
            )
            if not flow.queue:
                self.let_go(flow, is_whole=False)

    def start_next(self, flow: Flow) -> None:
        if flow.queue:
            flow.ticket = flow.source.slots.ask("", flow.sink.name, flow.queue[0][:2], self.now)
        self.admit(flow.source)
        self.share(flow.source, flow.sink)

    def admit(self, source: Member) -> None:
        """Let those send whose turn has come."""
        for flow in list(source.outflows.values()):
            if flow.ticket is None or flow.is_sending or not source.slots.begin(flow.ticket, self.now):
                continue
            payload, chunk, _ = flow.queue[0]
            flow.left, flow.at = self.blobs[payload][2].chunk_bytes(chunk), self.now
            key = (flow.source.name, payload, chunk)
            self.sent[key] = self.sent.get(key, 0) + 1
            self.share(flow.source, flow.sink)

    def share(self, source: Member, sink: Member) -> None:
        """New rates for all that the two lines carry."""
        touched = {id(flow): flow for flow in (*source.outflows.values(), *sink.inflows.values()) if flow.is_sending}
        for flow in touched.values():
            self.settle(flow)
        active_out = {id(flow): sum(f.is_sending for f in flow.source.outflows.values()) for flow in touched.values()}
        for flow in touched.values():
            active_in = sum(other.is_sending for other in flow.sink.inflows.values())
            flow.rate = min(flow.source.up / active_out[id(flow)], flow.sink.down / active_in)
            flow.version += 1
            version = flow.version
            self.later(max(flow.left, 0.0) / flow.rate, partial(self.sent_one, flow, version))

    def settle(self, flow: Flow) -> None:
        """Count what has left since it was last counted."""
        if flow.is_sending:
            sent = flow.rate * (self.now - flow.at)
            flow.source.slots.sent(int(sent))
            flow.left -= sent
            flow.at = self.now

    def sent_one(self, flow: Flow, version: int) -> None:
        if flow.version != version or not flow.is_sending:
            return
        if self.is_gone(flow.source) or self.is_gone(flow.sink):
            lost = {(payload, stream) for payload, _, stream in flow.queue}
            flow.queue.clear()
            self.let_go(flow, is_whole=False)
            self.share(flow.source, flow.sink)
            for payload, stream in sorted(lost):
                self.broken(flow.sink.fetches[payload], flow.source, stream)
            return
        payload, chunk, stream = flow.queue.popleft()
        flow.source.sent_bytes += self.blobs[payload][2].chunk_bytes(chunk)
        flow.rate = 0.0
        self.let_go(flow, is_whole=True)
        self.start_next(flow)
        fetch = flow.sink.fetches[payload]
        self.later(self.way_s, lambda: self.arrive(fetch, flow.source, chunk, stream))

    def let_go(self, flow: Flow, *, is_whole: bool) -> None:
        if flow.ticket is not None:
            flow.source.slots.leave(flow.ticket, self.now, is_whole=is_whole)
            flow.ticket = None

    def broken(self, fetch: Fetch, peer: Member, stream: int) -> None:
        if fetch.streams[peer.name] == stream and fetch.done_at is None:
            fetch.streams[peer.name] += 1
            fetch.plan.failed(peer.name, "UNREACHABLE", self.now)
            self.drive(fetch)

    def arrive(self, fetch: Fetch, peer: Member, chunk: int, stream: int) -> None:
        if fetch.streams[peer.name] != stream or fetch.done_at is not None:
            return
        if fetch.plan.arrived(peer.name, chunk, self.now):
            fetch.plan.stored(peer.name, chunk, not peer.lies, self.now)
            fetch.have |= 0 if peer.lies else 1 << chunk
        self.drive(fetch)


def floor_s(members: list[Member], payload_bytes: int) -> float:
    """What swarming cannot beat where all fetch everybody's: each sends its own once, all lines together the rest."""
    ups = [member.up for member in members]
    total = len(members) * (len(members) - 1) * payload_bytes
    return max(total / sum(ups), *(payload_bytes / up for up in ups))


def direct_s(members: list[Member], payload_bytes: int) -> float:
    """Where each sends its own to everybody."""
    return max((len(members) - 1) * payload_bytes / member.up for member in members)
