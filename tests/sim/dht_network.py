"""A thousand DHT nodes in one process: the cores, a virtual clock, one seed, and peers that die, freeze or lie.

Messages are passed as values (the codec has tests of its own) and take the time of a pair's latency, 1 to 50 ms one
way. A killed peer refuses the connection, a frozen one and one that never existed answer nothing. Liars work together:
whatever they are asked, they name made-up peers that lie closer to the target than anybody real, the closest real ones
at wrong addresses, and each other; they never show a record and take none.
"""

import enum
import heapq
import random
from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Final

from shoal.dht.answering import Answering
from shoal.dht.contacts import Contact
from shoal.dht.held import HeldRecords
from shoal.dht.keys import note_key, position_of, position_of_peer
from shoal.dht.lookup import LookupSettings
from shoal.dht.messages import KadMessage, MessageKind
from shoal.dht.patience import Patience
from shoal.dht.peer_records import seal_addresses
from shoal.dht.providers import Providers
from shoal.dht.records import Record, sign_record
from shoal.dht.routing import Check, Refresh, RoutingTable, TableSettings
from shoal.dht.search import QUORUM, Ask, Goal, Search, announce, is_taken, put
from shoal.transport.identity import Identity, peer_id_of
from shoal.transport.multiaddrs import peer_bytes
from shoal.transport.port import Address, PeerId
from shoal.transport.wire import Malformed

EPOCH_S: Final = 1_800_000_000
ASK_S_MAX: Final = 5.0  # a shell gives up a question after that
MADE_UP: Final = 30_000  # ids the liars have tried, to be close to anything
NAMED_BY_LIARS: Final = 20
TRIES: Final = 500  # ids somebody makes to have one close to a key


class Fate(enum.Enum):
    SOUND = enum.auto()
    KILLED = enum.auto()
    FROZEN = enum.auto()
    LIAR = enum.auto()


@dataclass
class Node:
    identity: Identity
    contact: Contact
    table: RoutingTable
    held: HeldRecords
    providers: Providers
    answering: Answering
    sender_record: bytes
    patience: Patience = field(default_factory=Patience)
    fate: Fate = Fate.SOUND
    asked_count: int = 0

    @property
    def address(self) -> Address:
        return self.contact.addresses[0]


class Network:
    """All nodes, and the events to come in their order."""

    def __init__(self, seed: int, lookups: LookupSettings, table: TableSettings) -> None:
        self._chance = random.Random(seed)
        self._lookups, self._table = lookups, table
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._event_count = 0
        self.now = 0.0
        self.nodes: dict[PeerId, Node] = {}
        self._made_up: list[tuple[int, Contact]] = []
        self._asked: dict[PeerId, Node] = {}

    # Building.

    def add(self, address_host: str | None = None, near: int | None = None) -> Node:
        """A node that knows nobody, at an address of its own range and where chance puts it, unless told."""
        tries = [Identity.from_seed(self._chance.randbytes(32)) for _ in range(1 if near is None else TRIES)]
        identity = min(tries, key=lambda each: position_of_peer(each.peer_id) ^ (near or 0))
        peer = identity.peer_id
        host = address_host or self._public_host()
        contact = Contact(peer, (Address(f"/ip4/{host}/tcp/4001/p2p/{peer}"),))
        table = RoutingTable(peer, self._table, self._chance.getrandbits(32))
        held = HeldRecords(position_of_peer(peer), self._chance.getrandbits(32))
        providers = Providers(self._chance.getrandbits(32))
        answering = Answering(peer, table, held, providers)
        record = seal_addresses(identity, contact.addresses, 1)
        node = Node(identity, contact, table, held, providers, answering, record)
        self.nodes[peer] = node
        return node

    def join(self, node: Node, through: Node) -> None:
        """As a shell does: look up oneself, then the buckets that the table wants refreshed."""
        self._ask(node, Ask(through.contact, KadMessage(MessageKind.PING, sender_record=node.sender_record)))
        self.run()
        self.search(node, Goal(MessageKind.FIND_NODE, peer_bytes(node.identity.peer_id)))
        node.table.looked_up(position_of_peer(node.identity.peer_id), self.now)
        self.keep_fresh([node])
        self.keep_fresh(self._take_asked())

    def grow(
        self,
        count: int,
        fate: Fate = Fate.SOUND,
        host: Callable[[int], str] | None = None,
        near: int | None = None,
    ) -> list[Node]:
        """Nodes that join one after another, each through any that is there."""
        added: list[Node] = []
        for number in range(count):
            known = self.sound()
            node = self.add(None if host is None else host(number), near)
            if known:
                self.join(node, self._chance.choice(known))
                node.fate = fate
            added.append(node)
        self.keep_fresh(self.sound())
        return added

    def keep_fresh(self, nodes: list[Node]) -> None:
        """Carry out what the tables of these nodes want."""
        for node in nodes:
            for effect in node.table.due(self.now):
                match effect:
                    case Check(contact):
                        message = KadMessage(MessageKind.PING, sender_record=node.sender_record)
                        self._ask(node, Ask(contact, message))
                    case Refresh(key):
                        self.search(node, Goal(MessageKind.FIND_NODE, key))
            self.run()

    def _take_asked(self) -> list[Node]:
        """Who was asked something since the last time, and may want to check who asked."""
        asked, self._asked = self._asked, {}
        return list(asked.values())

    def strike(self, share: float, fate: Fate, spared: tuple[Node, ...] = ()) -> None:
        """Something happens to a share of the nodes, drawn at random."""
        victims = [node for node in self.sound() if node not in spared]
        for node in self._chance.sample(victims, int(share * len(victims))):
            node.fate = fate

    def sound(self) -> list[Node]:
        return [node for node in self.nodes.values() if node.fate is Fate.SOUND]

    def any_sound(self) -> Node:
        return self._chance.choice(self.sound())

    # What a shell does.

    def search(self, node: Node, goal: Goal) -> tuple[Search, float]:
        """Search until it is over. Returns the search and how long it took."""
        start = node.table.closest(position_of(goal.key), self._lookups.wanted)
        search = Search(goal, node.identity.peer_id, start, self._lookups, node.patience, node.sender_record)
        began_at = self.now

        def act(asks: list[Ask]) -> None:
            for ask in asks:
                self._ask(node, ask, on_answer(ask), on_failure(ask))

        def on_answer(ask: Ask) -> Callable[[KadMessage], None]:
            return lambda message: act(search.answered(ask.contact.peer, message, self.now, self.now + EPOCH_S))

        def on_failure(ask: Ask) -> Callable[[], None]:
            return lambda: act(search.failed(ask.contact.peer, self.now))

        act(search.begin(self.now))
        while not search.is_over:
            at = search.deadline
            if self._events and self._events[0][0] <= at:
                self._step()
            else:
                self.now = max(self.now, at)
                act(search.woken(self.now))
        for peer in search.silent:
            node.table.failed(peer, self.now)
        if goal.kind is MessageKind.FIND_NODE:
            node.table.looked_up(position_of(goal.key), self.now)
        return search, self.now - began_at

    def store(self, node: Node, name: str, body: bytes = b"value") -> Record:
        """Put a note of this node to the closest peers."""
        key = note_key(name, node.identity.peer_id)
        assert not isinstance(key, Malformed)
        record = sign_record(node.identity, key, 1, int(self.now) + EPOCH_S, body)
        search, _ = self.search(node, Goal(MessageKind.FIND_NODE, key.data))
        self._send(node, put(search.closest, record, node.sender_record))
        return record

    def provide(self, node: Node, key: bytes) -> int:
        """Announce a node at the closest peers of a key. Returns how many took it."""
        search, _ = self.search(node, Goal(MessageKind.GET_PROVIDERS, key))
        return self._send(node, announce(search.closest, key, node.contact, node.sender_record))

    def get(self, node: Node, key: bytes, quorum: int = QUORUM) -> tuple[Search, float]:
        return self.search(node, Goal(MessageKind.GET_VALUE, key, quorum))

    def run(self) -> None:
        """Until nothing is under way."""
        while self._events:
            self._step()

    def republish(self) -> None:
        """Every sound node passes on what it holds and is due."""
        for node in self.sound():
            for record in node.held.due(self.now, self.now + EPOCH_S):
                search, _ = self.search(node, Goal(MessageKind.FIND_NODE, record.key))
                self._send(node, put(search.closest, record, node.sender_record))

    def holders(self, key: bytes) -> list[Node]:
        return [node for node in self.nodes.values() if node.held.get(key, self.now, self.now + EPOCH_S)]

    def closest_sound(self, position: int, count: int) -> list[PeerId]:
        """Who in truth lies closest."""
        return heapq.nsmallest(
            count,
            (node.identity.peer_id for node in self.nodes.values() if node.fate is Fate.SOUND),
            key=lambda peer: position_of_peer(peer) ^ position,
        )

    # The wire.

    def _send(self, node: Node, asks: list[Ask]) -> int:
        taken: list[PeerId] = []

        def on_answer(ask: Ask) -> Callable[[KadMessage], None]:
            return lambda message: taken.append(ask.contact.peer) if is_taken(ask, message) else None

        for ask in asks:
            self._ask(node, ask, on_answer(ask))
        self.run()
        return len(taken)

    def _ask(
        self,
        asker: Node,
        ask: Ask,
        on_answer: Callable[[KadMessage], object] = lambda _: None,
        on_failure: Callable[[], object] = lambda: None,
    ) -> None:
        asker.asked_count += 1
        peer = ask.contact.peer
        asked = self.nodes.get(peer)
        if asked is not None and asked.address not in asker.table.known(ask.contact).addresses:
            asked = None  # nobody answers at a wrong address

        def fail() -> None:
            asker.table.failed(peer, self.now)
            on_failure()

        def arrive() -> None:
            answer = self._answer(asked, asker, ask.message) if asked is not None else None
            if answer is None:
                self._after(ASK_S_MAX - latency_s, fail)
            elif isinstance(answer, Malformed):
                self._after(latency_s, fail)
            else:
                self._after(latency_s, lambda: receive(answer))

        def receive(answer: KadMessage) -> None:
            assert asked is not None
            asker.table.answered(asker.table.known(ask.contact), asked.address, self.now)
            on_answer(answer)

        latency_s = 0.001 + 0.049 * random.Random(f"{min(peer, asker.identity.peer_id)}{peer}").random()
        self._after(latency_s, arrive)

    def _answer(self, asked: Node, asker: Node, message: KadMessage) -> KadMessage | Malformed | None:
        match asked.fate:
            case Fate.FROZEN:
                return None
            case Fate.KILLED:
                return Malformed("connection refused")
            case Fate.LIAR:
                return self._lie(asked, message)
            case Fate.SOUND:
                self._asked[asked.identity.peer_id] = asked
                return asked.answering.answer(
                    asker.identity.peer_id, asker.address, message, self.now, self.now + EPOCH_S
                )

    def _lie(self, liar: Node, message: KadMessage) -> KadMessage:
        """Claims to have stored what it did not; names made-up peers around the target, and other liars."""
        if message.kind in (MessageKind.PUT_VALUE, MessageKind.ADD_PROVIDER, MessageKind.PING):
            return replace(message, providers=(), sender_record=b"")
        if not self._made_up:
            peers = [peer_id_of(self._chance.randbytes(32)) for _ in range(MADE_UP)]
            addresses = [Address(f"/ip4/{self._public_host()}/tcp/4001/p2p/{peer}") for peer in peers]
            contacts = [Contact(peer, (address,)) for peer, address in zip(peers, addresses, strict=True)]
            self._made_up = sorted(((position_of_peer(each.peer), each) for each in contacts), key=lambda pair: pair[0])
        position = position_of(message.key)
        at = bisect_left(self._made_up, position, key=lambda pair: pair[0])
        around = [contact for _, contact in self._made_up[max(0, at - NAMED_BY_LIARS) : at + NAMED_BY_LIARS]]
        others = [node.contact for node in self.nodes.values() if node is not liar]
        misplaced = [
            each if self.nodes[each.peer].fate is Fate.LIAR else self._misplaced(each)
            for each in heapq.nsmallest(
                NAMED_BY_LIARS // 2, others, key=lambda each: position_of_peer(each.peer) ^ position
            )
        ]
        made_up = heapq.nsmallest(NAMED_BY_LIARS // 2, around, key=lambda each: position_of_peer(each.peer) ^ position)
        return KadMessage(message.kind, message.key, closer=(*made_up, *misplaced))

    def _misplaced(self, contact: Contact) -> Contact:
        return Contact(contact.peer, (Address(f"/ip4/{self._public_host()}/tcp/4001/p2p/{contact.peer}"),))

    def _public_host(self) -> str:
        numbers = [
            self._chance.choice((20, 34, 52, 78, 93, 130, 188)),
            *(self._chance.randrange(256) for _ in range(3)),
        ]
        return ".".join(map(str, numbers))

    def _after(self, seconds: float, action: Callable[[], None]) -> None:
        self._event_count += 1
        heapq.heappush(self._events, (self.now + seconds, self._event_count, action))

    def _step(self) -> None:
        at, _, action = heapq.heappop(self._events)
        self.now = max(self.now, at)
        action()
