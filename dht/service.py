"""A node of the DHT at work: asks, answers, publishes and keeps its table, as the cores say.

A node that others can reach is a server: it says where it listens, and holds what lies near it. One that they cannot
reach is a client: it asks, publishes and answers whoever is connected, and in nobody's table takes the place of a node
that could be dialed. Who can be reached often learns so only after the start: `serve`.
"""

import math
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Final

import trio

from shoal.transport.envelope import Signer
from shoal.transport.multiaddrs import peer_bytes
from shoal.transport.port import (
    Address,
    Code,
    Connection,
    PeerDisconnected,
    PeerId,
    Refusal,
    Transport,
)

from .answering import Answering
from .asking_service import ASK_S_MAX, Asking
from .contacts import Contact
from .hearsay import own_addresses, worth_dialing
from .held import HeldRecords
from .keys import RecordKey, position_of, position_of_peer
from .lookup import LookupSettings
from .messages import PROTOCOL, KadMessage, MessageKind
from .patience import Patience
from .peer_records import seal_addresses
from .providers import Providers
from .records import Record, sign_record
from .renewal import Own, OwnProvision, OwnRecord, Renewal, key_of
from .routing import Check, Refresh, RoutingTable, TableSettings
from .saved_service import survive
from .search import QUORUM, Ask, Goal, Search, announce, is_taken, put
from .serving_service import Serving

TELL_S_MAX: Final = 1.0  # that a publication waits for slow holders; they may still take it after that
ADDRESSES_S: Final = 5.0  # between two looks at this node's own addresses: 0.1 ms, of which every message has need
KEEP_S_MIN: Final = 0.1  # between two looks at what there is to do: each goes through the whole table


@dataclass(frozen=True, slots=True)
class DhtSettings:
    lookups: LookupSettings = field(default_factory=LookupSettings)
    table: TableSettings = field(default_factory=TableSettings)
    quorum: int = QUORUM
    is_server: bool = True  # from the start on
    saved_at: Path | None = None  # where the table survives a restart


@dataclass(slots=True, eq=False)
class _Publication:
    """Somebody waits for it."""

    own: Own
    done: trio.Event = field(default_factory=trio.Event)
    reached_count: int = 0


class DhtService:
    """Obtained from `open_dht`."""

    def __init__(self, transport: Transport, signer: Signer, settings: DhtSettings, seed: int) -> None:
        self._transport, self._signer, self._settings = transport, signer, settings
        self._self_id = transport.peer_id
        self._table = RoutingTable(self._self_id, settings.table, seed)
        self._held = HeldRecords(position_of_peer(self._self_id), seed)
        self._announced = Providers(seed)
        self._is_server = settings.is_server
        self._answering = Answering(self._self_id, self._table, self._held, self._announced)
        self._serving = Serving(self._answering, self._met_at, self._sender_record, self._kick)
        self._renewal, self._patience = Renewal(seed), Patience()
        self._asking = Asking(transport, self._met_at)
        self._met: dict[PeerId, Connection] = {}
        self._awaited: dict[bytes, _Publication] = {}
        self._sequence = 0
        self._wake = trio.Event()
        self._look_at = -math.inf
        self._sealed: tuple[tuple[Address, ...], bytes] = ((), b"")
        self._nursery: trio.Nursery | None = None

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Until cancelled."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            self._transport.serve_protocol(PROTOCOL, self._serving.serve)
            nursery.start_soon(self._follow)
            nursery.start_soon(self._keep)
            if self._settings.saved_at is not None:
                await nursery.start(survive, self._settings.saved_at, self._table, self._meet)
            task_status.started()

    # What others use.

    async def join(self, addresses: Iterable[Address]) -> bool:
        """Enter through any of these nodes. Whether one answered."""
        given: dict[PeerId, tuple[Address, ...]] = {}
        for address in addresses:
            peer = PeerId(address.rpartition("/p2p/")[2])
            given[peer] = (*given.get(peer, ()), address)
        return await self._meet([Contact(*each) for each in given.items()], is_given=True)

    def serve(self, *, is_reached: bool) -> None:
        """Whether others turned out to reach this node: then it says where it listens and holds records, else not."""
        if is_reached == self._is_server:
            return
        self._is_server, self._look_at, self._sealed = is_reached, -math.inf, ((), b"")
        if is_reached:
            self._spawn(self._look_oneself_up)

    async def get(self, key: RecordKey) -> Record | None:
        """The newest record under a key that enough holders, or all there are, show."""
        now, unix_s = trio.current_time(), time.time()
        goal = Goal(MessageKind.GET_VALUE, key.data, self._settings.quorum)
        search = await self._search(goal)
        if search.record is None and search.silent:  # who kept silent stood in the way of others; now it is known
            search = await self._search(goal)
        self._start(search.corrections())
        found = [record for record in (search.record, self._held.get(key.data, now, unix_s)) if record is not None]
        return max(found, key=lambda record: record.rank, default=None)

    async def put(self, key: RecordKey, body: bytes) -> int:
        """Keep `body` under one of this node's keys from now on. How many peers hold it."""
        return await self._publish(OwnRecord(key, body))

    async def provide(self, key: bytes) -> int:
        """Say from now on that this node provides there. How many peers know."""
        return await self._publish(OwnProvision(key))

    def withdraw(self, key: bytes) -> None:
        """Renew no longer what stands under a key of a record or of providers. Who waits for it waits no more."""
        self._renewal.withdraw(key)
        self._published(key, 0)

    async def providers(self, key: bytes, enough: int = 0) -> tuple[Contact, ...]:
        """Who says of itself that it provides there, with its addresses. 0: all that can be found."""
        search = await self._search(Goal(MessageKind.GET_PROVIDERS, key, enough))
        own = self._announced.get(key, trio.current_time())
        return tuple({contact.peer: contact for contact in (*own, *search.providers)}.values())

    async def find(self, peer: PeerId) -> Contact:
        """Where others say that a peer is."""
        search = await self._search(Goal(MessageKind.FIND_NODE, peer_bytes(peer)))
        return search.asked(peer) or Contact(peer)

    async def reach(self, contact: Contact) -> bool:
        """Whether a peer that others named is connected now; dials it, bounded as all that they name is."""
        with trio.move_on_after(ASK_S_MAX):
            return await self._asking.reach(contact) is None
        return False

    def contacts(self) -> tuple[Contact, ...]:
        """Whom the table holds, closest first."""
        return self._table.contacts()

    # Asking.

    async def _meet(self, contacts: Sequence[Contact], *, is_given: bool = False) -> bool:
        """Ask these for their attention, then look oneself up, which makes one known to one's neighbours."""
        asks = [Ask(contact, self._question(MessageKind.PING)) for contact in contacts]
        if await self._tell(asks, is_given=is_given):
            await self._look_oneself_up()
            return True
        return False

    async def _look_oneself_up(self) -> None:
        await self._search(Goal(MessageKind.FIND_NODE, peer_bytes(self._self_id)))
        self._kick()

    async def _search(self, goal: Goal) -> Search:
        """Carry out a search to its end."""
        position, settings = position_of(goal.key), self._settings
        start = self._table.closest(position, settings.table.bucket_size)
        search = Search(goal, self._self_id, start, settings.lookups, self._patience, self._sender_record())
        changed = trio.Event()

        def begin(asks: Iterable[Ask]) -> None:
            for each in asks:
                self._spawn(partial(pursue, each))

        async def pursue(ask: Ask) -> None:
            nonlocal changed
            answer = await self._ask(ask)
            now = trio.current_time()
            if isinstance(answer, Refusal):
                begin(search.failed(ask.contact.peer, now))
            else:
                begin(search.answered(ask.contact.peer, answer, now, time.time()))
            changed.set()

        begin(search.begin(trio.current_time()))
        while not search.is_over:
            changed = trio.Event()
            with trio.move_on_at(search.deadline) as scope:
                await changed.wait()
            if scope.cancelled_caught:
                begin(search.woken(trio.current_time()))
        for peer in search.silent:
            self._table.failed(peer, trio.current_time())
        self._table.looked_up(position, trio.current_time())
        return search

    async def _ask(self, ask: Ask, *, is_given: bool = False) -> KadMessage | Refusal:
        """Ask one peer, and let the table know how it went."""
        contact = ask.contact if is_given else self._table.known(ask.contact)
        answer = await self._asking.ask(contact, ask.message, is_given=is_given)
        now, peer = trio.current_time(), contact.peer
        if isinstance(answer, Refusal):
            if answer.code is not Code.BUSY:  # else it is this node that has no room for a connection
                self._table.failed(peer, now)
            return answer
        met_at = self._met_at(peer)
        addresses = own_addresses(answer.sender_record, peer, met_at) or self._dialed_at(peer)
        self._table.answered(Contact(peer, addresses), met_at, now)
        return worth_dialing(answer, met_at)

    async def _tell(self, asks: list[Ask], *, is_given: bool = False) -> int:
        """How many take what they are told. The slow ones, after the first, get TELL_S_MAX and are told besides."""
        taken, left = 0, len(asks)
        progress = trio.Event()

        async def tell(ask: Ask) -> None:
            nonlocal taken, left
            answer = await self._ask(ask, is_given=is_given)
            taken += not isinstance(answer, Refusal) and is_taken(ask, answer)
            left -= 1
            progress.set()

        for ask in asks:
            self._spawn(partial(tell, ask))
        until = math.inf
        while left and trio.current_time() < until:
            progress = trio.Event()
            with trio.move_on_at(until):
                await progress.wait()
            if taken:
                until = min(until, trio.current_time() + TELL_S_MAX)
        return taken

    def _start(self, asks: Iterable[Ask]) -> None:
        for ask in asks:
            self._spawn(partial(self._ask, ask))

    # Publishing.

    async def _publish(self, own: Own) -> int:
        key = key_of(own)
        self.withdraw(key)  # so that it is due now, though it may be the same as before
        waiting = _Publication(own)
        if not self._renewal.publish(own, trio.current_time()):
            return 0
        self._awaited[key] = waiting
        self._renew_due()
        await waiting.done.wait()
        return waiting.reached_count

    def _published(self, key: bytes, reached: int) -> None:
        waiting = self._awaited.pop(key, None)
        if waiting is not None:
            waiting.reached_count = reached
            waiting.done.set()

    def _renew_due(self) -> None:
        for own in self._renewal.due(trio.current_time()):
            self._spawn(partial(self._renew, own))

    async def _renew(self, own: Own) -> None:
        reached = 0
        search = await self._search(_surroundings(own))
        if not self._renewal.wants(own):  # it would be numbered later than what has replaced it
            self._renew_due()
            return
        if isinstance(own, OwnRecord):
            self._sequence = max(self._sequence + 1, time.time_ns() // 1_000_000)
            record = sign_record(self._signer, own.key, self._sequence, int(time.time()), own.body)
            reached = await self._put(record, search.closest)
        else:
            provider = Contact(self._self_id, self._transport.addresses())
            reached = await self._tell(announce(search.closest, own.key, provider, self._sender_record()))
            if self._table.is_near(position_of(own.key)):
                self._announced.add(own.key, provider, None, trio.current_time())
        self._renewal.published(own, trio.current_time(), reached)
        waiting = self._awaited.get(key_of(own))
        if waiting is not None and waiting.own is own:
            self._published(key_of(own), reached)
        self._renew_due()

    async def _republish(self, record: Record) -> None:
        """One of others."""
        search = await self._search(Goal(MessageKind.GET_VALUE, record.key))
        await self._put(record, search.closest)

    async def _put(self, record: Record, closest: tuple[Contact, ...]) -> int:
        is_near = self._table.is_near(position_of(record.key))
        if is_near:  # also a client its own: somebody may ask it directly
            self._held.put(record, None, is_near, trio.current_time(), time.time())
        return await self._tell(put(closest, record, self._sender_record()))

    # Keeping.

    async def _keep(self) -> None:
        while True:
            self._wake = trio.Event()
            now = trio.current_time()
            for effect in self._table.due(now):
                match effect:
                    case Check(contact):
                        self._start([Ask(contact, self._question(MessageKind.PING))])
                    case Refresh(key):
                        self._spawn(partial(self._search, Goal(MessageKind.FIND_NODE, key)))
            self._renew_due()
            if self._held.deadline <= now:
                for record in self._held.due(now, time.time()):
                    self._spawn(partial(self._republish, record))
            if self._announced.deadline <= now:
                self._announced.expire(now)
            owners = (self._table, self._renewal, self._held, self._announced)
            with trio.move_on_at(min(owner.deadline for owner in owners)):
                await self._wake.wait()
            await trio.sleep(KEEP_S_MIN)

    async def _follow(self) -> None:
        while True:  # the channel ends for who is too far behind
            async with self._transport.events() as events:
                async for event in events:
                    if isinstance(event, PeerDisconnected):
                        self._met.pop(event.peer, None)
                        self._asking.gone(event.peer)
                        self._answering.gone(event.peer)

    def _met_at(self, peer: PeerId) -> Address | None:
        """The address of the connection with a peer, if there is one."""
        if peer not in self._met:
            self._met = {each.peer: each for each in self._transport.connections()}
        connection = self._met.get(peer)
        return None if connection is None else connection.address

    def _dialed_at(self, peer: PeerId) -> tuple[Address, ...]:
        """Where this node has reached a peer itself. The address of who dialed us is none at which it listens."""
        connection = self._met.get(peer)
        return (connection.address,) if connection is not None and connection.is_outbound else ()

    def _question(self, kind: MessageKind) -> KadMessage:
        return KadMessage(kind, sender_record=self._sender_record())

    def _sender_record(self) -> bytes:
        """Where this node listens; nothing if nobody should ask it. Signed anew when its addresses have changed."""
        now = trio.current_time()
        if self._is_server and now >= self._look_at:
            self._look_at = now + ADDRESSES_S
            addresses = self._transport.addresses()
            if addresses != self._sealed[0]:
                self._sealed = (addresses, seal_addresses(self._signer, addresses, time.time_ns()))
        return self._sealed[1]

    def _kick(self) -> None:
        self._wake.set()

    def _spawn(self, task: Callable[[], Awaitable[object]]) -> None:
        assert self._nursery is not None

        async def run() -> None:
            await task()

        self._nursery.start_soon(run)


def _surroundings(own: Own) -> Goal:
    """Finds who lies closest to it. A record by GET_VALUE: py-libp2p takes no key of over 50 bytes in FIND_NODE."""
    return Goal(MessageKind.GET_VALUE if isinstance(own, OwnRecord) else MessageKind.FIND_NODE, key_of(own))


@asynccontextmanager
async def open_dht(
    transport: Transport, signer: Signer, settings: DhtSettings | None = None, *, seed: int = 0
) -> AsyncGenerator[DhtService]:
    """The DHT on a running node, for as long as the context lasts.

    Args:
        signer: the node's identity.
        seed: of moments and orders that should differ from node to node.
    """
    service = DhtService(transport, signer, settings or DhtSettings(), seed)
    async with trio.open_nursery() as nursery:
        await nursery.start(service.run)
        yield service
        nursery.cancel_scope.cancel()
