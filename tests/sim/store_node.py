"""One member of a simulated store: the cores that a real node has, between them and the network what its shells do."""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Final

from shoal.crdt.dots import Writer
from shoal.crdt.operation import Operation, Stretch, Verify
from shoal.crdt.replica import Admission, Replica
from shoal.crdt.rules import Rules
from shoal.transport import identity
from shoal.transport.gossip import OFFERS_MAX, Answer, Mesh, Published, Send
from shoal.transport.gossip_service import (
    CALL_S,
    OFFER,
    OUTBOX_MAX,
    PUSH,
    PUSHES_MAX,
    SUBSCRIBE,
    Handover,
    Ids,
    Topics,
    Wants,
)
from shoal.transport.identity import Identity
from shoal.transport.port import PeerId
from shoal.transport.wire import Malformed, decode, encode

from .store_exchanges import StoreExchanges
from .store_network import StoreNetwork

TOPIC: Final = "store"
FLUSH_S: Final = 0.05  # what came in so long before a kill is not on disk
DONE: Final = encode(())


def shared() -> Verify:
    """Checks each signature once for all replicas."""
    results: dict[tuple[bytes, bytes, bytes], bool] = {}

    def verify(public_key: bytes, message: bytes, signature: bytes) -> bool:
        key = public_key, message, signature
        result = results.get(key)
        if result is None:
            result = results[key] = identity.verify_by_key(*key)
        return result

    return verify


class KnownRecords:
    """Records that have come. All members are those of all records."""

    def __init__(self, members: frozenset[Writer]) -> None:
        self.members = members
        self.hashes: set[bytes] = set()

    def is_member(self, record: bytes, writer: Writer) -> bool | None:
        return writer in self.members if record in self.hashes else None


@dataclass(slots=True)
class Machine:
    """What outlives a node's process."""

    identity: Identity
    records: KnownRecords
    batches: dict[Writer, list[bytes]] = field(default_factory=dict[Writer, list[bytes]])

    @property
    def writer(self) -> Writer:
        return Writer(self.identity.public_key)


@dataclass(frozen=True, slots=True)
class Setting:
    """What all nodes of a run have in common."""

    network: StoreNetwork
    swarm: bytes
    rules: Rules
    verify: Verify


@dataclass(eq=False, slots=True)
class _Outbox:
    """As `gossip_service` has it: one call with offers at a time, and so many pushes beside it."""

    sends: deque[Send] = field(default_factory=deque[Send])
    is_busy: bool = False
    pushes: deque[Published] = field(default_factory=deque[Published])  # that wait for a place
    pushes_count: int = 0  # under way


class StoreNode:
    """An honest node, from its start to its end."""

    def __init__(self, setting: Setting, machine: Machine) -> None:
        self.setting = setting
        self.network = setting.network
        self.machine = machine
        self.peer_id = machine.identity.peer_id
        self.replica = Replica(setting.swarm, setting.rules, machine.records, setting.verify)
        self.mesh = Mesh()
        self.mesh.topics.add(TOPIC)
        self.refused: list[str] = []  # what was wrong with what came
        self.dropped_count = 0
        self._unsaved: list[tuple[Writer, bytes | None]] = []  # a batch; None: all that is held of the writer
        self._outboxes: dict[PeerId, _Outbox] = {}
        self._wakes_at = float("inf")
        for batches in machine.batches.values():
            for data in batches:
                self.replica.admit(data, is_trusted=True)
        self._exchanges = StoreExchanges(
            self.replica, machine.writer, self.network, self, self.take, partial(self.mesh.heard, TOPIC)
        )

    # What a user does.

    def write(self, operations: Sequence[Operation]) -> Stretch:
        """On disk before anybody hears of it."""
        stretch = self.replica.write(self.machine.identity, operations)
        assert isinstance(stretch, Stretch), stretch
        self._exchanges.update([stretch.writer])
        self.machine.batches.setdefault(stretch.writer, []).append(stretch.data)
        self._queue(self.mesh.publish(TOPIC, stretch.data))
        return stretch

    def learn(self, record: bytes) -> None:
        self.machine.records.hashes.add(record)
        admission = self.replica.records_came()
        self._exchanges.update(stretch.writer for stretch in admission.kept)
        self._keep(admission)

    # What the network does.

    def connected(self, peer: PeerId) -> None:
        self.mesh.connected(peer)
        outbox = self._outboxes[peer] = _Outbox(is_busy=True)
        self._subscribe(peer, outbox)
        self._exchanges.connected(peer)

    def disconnected(self, peer: PeerId) -> None:
        self.mesh.disconnected(peer)
        self._exchanges.disconnected(peer)
        del self._outboxes[peer]

    def answer(self, peer: PeerId, method: str, data: bytes) -> bytes | None:
        if method == PUSH.name:
            return self._on_push(peer, data)
        if method == OFFER.name:
            return self._on_offer(peer, data)
        if method == SUBSCRIBE.name:
            return self._on_subscribe(peer, data)
        return self._exchanges.answer(peer, method, data)

    def _on_push(self, peer: PeerId, data: bytes) -> bytes:
        request = decode(data, Handover, PUSH.request_bytes_max)
        if isinstance(request, Malformed):
            return self._refuse(request)
        arrival = self.mesh.receive(peer, Published(request.topic, request.data, request.told), self.network.now)
        if arrival is not None:
            admission = self.take(request.data)
            if admission.missing is not None:
                self._exchanges.missing(peer)
            if admission.is_news:
                self._queue(self.mesh.accept(peer, arrival, self.network.now))
        return DONE

    def _on_offer(self, peer: PeerId, data: bytes) -> bytes:
        request = decode(data, Ids, OFFER.request_bytes_max)
        if isinstance(request, Malformed):
            return self._refuse(request)
        answer = self.mesh.offered(peer, request.ids, self.network.now)
        return encode(Wants(answer.wanted, answer.waiting))

    def _on_subscribe(self, peer: PeerId, data: bytes) -> bytes:
        request = decode(data, Topics, SUBSCRIBE.request_bytes_max)
        if isinstance(request, Malformed):
            return self._refuse(request)
        self._queue(self.mesh.subscribed(peer, request.topics))
        return DONE

    def _refuse(self, reason: Malformed) -> bytes:
        self.refused.append(reason.reason)
        return DONE

    # Batches.

    def take(self, data: bytes) -> Admission:
        """A batch has come."""
        admission = self._exchanges.cores.take(data)
        if admission.refusal is not None:
            self.refused.append(admission.refusal.reason)
        self._keep(admission)
        return admission

    def _keep(self, admission: Admission) -> None:
        if admission.kept:
            if not self._unsaved:
                self.network.at(self.network.now + FLUSH_S, self._flush)
            forked = admission.forked
            self._unsaved += [(each.writer, each.data) for each in admission.kept if each.writer not in forked]
            self._unsaved += [(writer, None) for writer in forked]

    def _flush(self) -> None:
        if not self.network.is_running(self):
            return
        batches = self.machine.batches
        for writer, data in self._unsaved:
            if data is None:
                batches[writer] = self.replica.batches(writer)
            else:
                batches.setdefault(writer, []).append(data)
        self._unsaved.clear()

    # Gossip, as `gossip_service` carries it.

    def _queue(self, sends: Sequence[Send]) -> None:
        woken: dict[PeerId, _Outbox] = {}
        for send in sends:
            outbox = self._outboxes.get(send.peer)
            if outbox is None or len(outbox.sends) >= OUTBOX_MAX:
                self.dropped_count += 1
            else:
                outbox.sends.append(send)
                if not outbox.is_busy:
                    woken[send.peer] = outbox
        for peer, outbox in woken.items():
            self._deliver(peer, outbox)

    def _subscribe(self, peer: PeerId, outbox: _Outbox) -> None:
        def then(reply: bytes | None) -> None:
            if self._outboxes.get(peer) is outbox:
                if reply is None:
                    self._subscribe(peer, outbox)
                else:
                    self._deliver(peer, outbox)

        self.network.call(self, peer, SUBSCRIBE.name, encode(Topics([TOPIC])), then, CALL_S)

    def _deliver(self, peer: PeerId, outbox: _Outbox) -> None:
        batch = [outbox.sends.popleft() for _ in range(min(OFFERS_MAX, len(outbox.sends)))]
        batch = [send for send in batch if not self.mesh.is_needless(send)]
        outbox.is_busy = bool(batch)
        wanted = [send for send in batch if not send.is_offer]
        offers = [send for send in batch if send.is_offer]
        if not offers:
            self._push(peer, outbox, wanted)
            return
        ids = [send.id for send in offers]

        def then(reply: bytes | None) -> None:
            wants = Malformed("no answer") if reply is None else decode(reply, Wants, OFFER.reply_bytes_max)
            answer = Answer([], ids) if isinstance(wants, Malformed) else Answer(wants.wanted, wants.waiting)
            wanted.extend(self.mesh.answered(offers, answer, self.network.now))
            self._wake_for_mesh()
            if self._outboxes.get(peer) is outbox:
                self._push(peer, outbox, wanted)

        self.network.call(self, peer, OFFER.name, encode(Ids(ids)), then, CALL_S)

    def _push(self, peer: PeerId, outbox: _Outbox, sends: Sequence[Send]) -> None:
        outbox.pushes.extend(each for each in (self.mesh.cached(send.id) for send in sends) if each is not None)
        self._go_on(peer, outbox)

    def _go_on(self, peer: PeerId, outbox: _Outbox) -> None:
        def then(_: bytes | None) -> None:
            outbox.pushes_count -= 1
            if outbox.pushes and self._outboxes.get(peer) is outbox:
                self._go_on(peer, outbox)

        while outbox.pushes and outbox.pushes_count < PUSHES_MAX:
            outbox.pushes_count += 1
            message = outbox.pushes.popleft()
            self.network.call(
                self, peer, PUSH.name, encode(Handover(message.topic, message.data, message.told)), then, CALL_S
            )
        if outbox.pushes:
            return
        outbox.is_busy = bool(outbox.sends)
        if outbox.sends:
            self._deliver(peer, outbox)

    def _wake_for_mesh(self) -> None:
        if self.mesh.deadline < self._wakes_at:
            self._wakes_at = self.mesh.deadline
            self.network.at(self._wakes_at, self._offer_again)

    def _offer_again(self) -> None:
        if self.network.is_running(self):
            self._wakes_at = float("inf")
            self._queue(self.mesh.due(self.network.now))
            self._wake_for_mesh()
