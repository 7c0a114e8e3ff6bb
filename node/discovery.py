"""How a node finds others and is found: it enters the DHT through whomever it dials, says there in which swarms it is
and which states it holds, and looks there for members of a swarm when it is connected to none.

What a malicious peer may say there: that it is in any swarm. What it achieves: to be dialed in a search, and asked to
prove that it knows the swarm (`proving`).
"""

import math
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path
from typing import Final

import trio

from shoal.dht.contacts import ranges_of
from shoal.dht.keys import blob_providers_key, listing_key, own_directory_key, swarm_providers_key
from shoal.dht.listing import INVITE_CHARS_MAX, LISTED_MAX, NAME_CHARS_MAX, ListedSwarm, listing_body
from shoal.dht.lookup import LookupSettings
from shoal.dht.mdns_service import find_neighbours
from shoal.dht.routing import TableSettings
from shoal.dht.service import DhtService, DhtSettings
from shoal.training.pins import states_in
from shoal.transport.blob_store import BlobStore
from shoal.transport.port import Address, Connection, PeerConnected, PeerId, Refusal, Transport, Verdict

from .announcing import Announcing, Seeking
from .config import Config
from .invite import format_invite, make_invite
from .logs import Log
from .proving import PROVE, Proof, Prove, members_of, prove
from .swarms import Joined, Swarms

PEERS_NAME: Final = "peers"  # in the data directory: whom to come back to
LOOK_S: Final = 2.0  # between two looks at what there is to announce, and for whom to search
ALONE_S: Final = 0.5  # the same while nobody is known: who comes first shall be told at once
DIALED_MAX: Final = 64  # that wait to be entered through
TELL_AGAIN_S: Final = 20.0  # where this node is reached; sooner: a relay that comes and goes costs searches
GREET_PAUSE_S: Final = 10.0  # between two peers to enter through, once enough are known

log = Log("discovery")


def dht_settings(config: Config, data_dir: Path, transport: Transport) -> DhtSettings:
    """What a node of this configuration does in the DHT."""
    table, lookups = TableSettings(), LookupSettings()
    share = config.dht_per_range / table.narrow_per_bucket
    table = TableSettings(
        narrow_per_bucket=config.dht_per_range,
        wide_per_bucket=math.ceil(table.wide_per_bucket * share),
        narrow_in_total=math.ceil(table.narrow_in_total * share),
        wide_in_total=math.ceil(table.wide_in_total * share),
    )
    lookups = LookupSettings(narrow_per_path=math.ceil(lookups.narrow_per_path * share))
    is_public = is_open_to_all(config.announce, transport.addresses())
    return DhtSettings(lookups, table, is_server=is_public, saved_at=data_dir / PEERS_NAME)


def is_open_to_all(announced: Collection[str], addresses: Collection[Address]) -> bool:
    """Whether a node is believed to be reached by everybody before anybody has dialed it.

    A public address of IPv6 proves nothing: computers behind home routers have one, and the routers let nobody in.
    """
    of_ip4 = (address for address in addresses if not address.startswith("/ip6/"))
    return bool(announced) or any(ranges_of(address) is not None for address in of_ip4)


class Discovery:
    """See the module's text."""

    def __init__(self, config: Config, transport: Transport, dht: DhtService, swarms: Swarms, blobs: BlobStore) -> None:
        self._config = config
        self._transport = transport
        self._dht = dht
        self._swarms = swarms
        self._blobs = blobs
        self._announcing, self._seeking = Announcing(), Seeking()
        self._listed = b""
        self._told: tuple[Address, ...] = ()  # where this node is reached, as others have been told
        self._told_at = -math.inf
        self._known: dict[bytes, bytes] = {}  # what stands behind provider keys

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Find and be found, until cancelled."""
        self._transport.serve(PROVE, self._prove)
        async with trio.open_nursery() as nursery:
            send, receive = trio.open_memory_channel[Connection](DIALED_MAX)
            nursery.start_soon(self._watch, send)
            nursery.start_soon(self._enter, receive)
            if self._config.mdns:
                await nursery.start(find_neighbours, self._transport, self._dht.join)
            task_status.started()
            is_alone = True
            while True:
                has_moved = self._has_moved()
                if (is_alone and self._dht.contacts()) or has_moved:
                    is_alone = not self._dht.contacts()
                    self._announcing.forget()
                    self._listed = b""
                self._serve_if_reached()
                await self._announce(nursery)
                self._list_swarms(nursery)
                self._seek(nursery)
                await trio.sleep(ALONE_S if is_alone else LOOK_S)

    def _has_moved(self) -> bool:
        """Whether others have to be told anew where this node is reached."""
        now, addresses = trio.current_time(), self._transport.addresses()
        if addresses == self._told or now - self._told_at < TELL_AGAIN_S:
            return False
        is_first, self._told, self._told_at = not self._told, addresses, now
        return not is_first

    async def _prove(self, peer: PeerId, request: Prove) -> Proof | Refusal:
        return prove(self._known, request, peer, self._transport.peer_id)

    async def _watch(self, dialed: trio.MemorySendChannel[Connection]) -> None:
        """Whom this node dialed, it enters the DHT through; who dialed it, does so itself and proves it reachable."""
        while True:  # the channel ends for who is too far behind
            async with self._transport.events() as events:
                async for event in events:
                    connections = self._transport.connections() if isinstance(event, PeerConnected) else ()
                    for connection in connections:
                        if connection.peer != event.peer:
                            continue
                        if connection.is_outbound:
                            with suppress(trio.WouldBlock):  # there are more to enter through
                                dialed.send_nowait(connection)
                        elif not connection.is_relayed and self._transport.reach().verdict is not Verdict.PRIVATE:
                            self._dht.serve(is_reached=True)

    async def _enter(self, dialed: trio.MemoryReceiveChannel[Connection]) -> None:
        async for connection in dialed:
            known = self._dht.contacts()
            if all(contact.peer != connection.peer for contact in known):
                await self._dht.join([connection.address])
                if len(known) >= TableSettings().bucket_size:
                    await trio.sleep(GREET_PAUSE_S)

    def _serve_if_reached(self) -> None:
        """Hold others' records only while they can dial this node."""
        verdict = self._transport.reach().verdict
        if verdict in (Verdict.PUBLIC, Verdict.MAPPED):
            self._dht.serve(is_reached=True)
        elif verdict is Verdict.PRIVATE and not self._config.announce:
            self._dht.serve(is_reached=False)

    async def _announce(self, nursery: trio.Nursery) -> None:
        """Say in which swarms this node is, and which states it holds for good."""
        labels = await trio.to_thread.run_sync(self._blobs.labels)
        swarms = [joined.folder.swarm for joined in self._swarms.all() if joined.service is not None]
        self._known = {swarm_providers_key(swarm): swarm for swarm in swarms}
        self._known |= {blob_providers_key(digest): digest for held in labels.values() for digest in held}
        change = self._announcing.look(swarms, sorted(states_in(labels)), trio.current_time())
        for key in change.ended:
            self._dht.withdraw(key)
        for key in change.begun:
            nursery.start_soon(self._dht.provide, key)

    def _list_swarms(self, nursery: trio.Nursery) -> None:
        """List the public swarms this node is in where anybody finds them."""
        me = self._transport.peer_id
        public = [joined for joined in self._swarms.all() if joined.spec.is_public and joined.service is not None]
        listed = [swarm for swarm in map(self._listing, public) if swarm is not None]
        body = listing_body(tuple(listed[:LISTED_MAX])) if listed else b""
        if body == self._listed:
            return
        self._listed = body
        if body:
            nursery.start_soon(self._dht.put, listing_key(me), body)
            nursery.start_soon(self._dht.provide, own_directory_key(me))
        else:
            self._dht.withdraw(listing_key(me).data)
            self._dht.withdraw(own_directory_key(me))

    def _listing(self, joined: Joined) -> ListedSwarm | None:
        """By this node's own addresses alone: other members list theirs. None without a fitting invite to it.

        It carries no ticket: one that everybody can read would make of `invite` an `open` in which strangers vote.
        """
        swarm, me = joined.folder.swarm, self._transport.peer_id
        invite = make_invite(swarm, me, self._transport.addresses())
        text = format_invite(invite) if invite.members else ""
        return (
            ListedSwarm(swarm, joined.spec.name[:NAME_CHARS_MAX], text) if 0 < len(text) <= INVITE_CHARS_MAX else None
        )

    def _seek(self, nursery: trio.Nursery) -> None:
        """Search for members of the swarms whose members are all out of reach."""
        connected = {each.peer for each in self._transport.connections()}
        lonely = {joined.id: joined for joined in self._swarms.all() if is_lonely(joined, connected)}
        for id in self._seeking.due(lonely, trio.current_time()):
            nursery.start_soon(self._find, lonely[id])

    async def _find(self, joined: Joined) -> None:
        found = await members_of(self._transport, self._dht, joined.folder.swarm)
        log.debug("searched for members", swarm=joined.id[:12], found=len(found))
        for peer in found:
            if joined.service is not None:
                joined.service.greet(peer)


def is_lonely(joined: Joined, connected: Collection[str]) -> bool:
    """Whether none of a swarm's members that this node knows of is connected."""
    if joined.service is None:
        return False
    return not any(member.peer in connected for member in joined.service.status().members)
