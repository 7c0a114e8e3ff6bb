"""How a node that nobody can dial finds relays, and one that can be dialed and relays is found.

What to do is decided in `relay_choice`; this gathers who might relay, carries out what it says, and announces this node
in the DHT if it is of use to others.

What a malicious peer may say there: that it relays. What it achieves: to be dialed and asked for a reservation.
"""

import math
import random
from collections.abc import Callable
from typing import Final

import trio

from shoal.dht.contacts import Contact
from shoal.dht.keys import RELAY_KEYS, own_relay_key
from shoal.dht.service import DhtService
from shoal.training.keeping import Keeping
from shoal.transport.addresses import Endpoint, parse_endpoint, ranges_of
from shoal.transport.host import Host
from shoal.transport.port import Address, PeerId, Verdict
from shoal.transport.relay_choice import WANTED, Candidate, Change, Kind, RelayChoice, State, Use

from .fellows import Fellows
from .logs import Log

OWNER: Final = "relays"  # of the connections that are kept for it
LOOK_S: Final = 1.0
SEARCH_S_MIN: Final = 15.0  # between two searches in the DHT while relays are wanted; doubled each time
SEARCH_S_MAX: Final = 600.0
FOUND_ENOUGH: Final = 16  # of a search
FOUND_MAX: Final = 64  # remembered

log = Log("relays")


def is_private(host: Host) -> bool | None:
    """Whether nobody can dial a node; None where that is not known yet."""
    match host.reach().verdict:
        case Verdict.PRIVATE:
            return True
        case Verdict.PUBLIC | Verdict.MAPPED:
            return False
        case Verdict.UNKNOWN:
            return True if has_no_public_address(host.addresses()) else None


def has_no_public_address(addresses: tuple[Address, ...]) -> bool:
    """What can be said without asking anybody: private, if on some network but not the internet's."""
    endpoints = [endpoint for each in addresses if isinstance(endpoint := parse_endpoint(each), Endpoint)]
    own = [endpoint for endpoint in endpoints if endpoint.relay is None]
    is_on_network = any(not endpoint.host.startswith("127.") and endpoint.host != "::1" for endpoint in own)
    return is_on_network and all(ranges_of(endpoint.address) is None for endpoint in own)


class RelaySeeker:
    """Args:
    is_private: whether nobody can dial this node; None: not known yet, and nothing is changed.
    """

    def __init__(
        self, host: Host, dht: DhtService, keeping: Keeping, fellows: Fellows, is_private: Callable[[], bool | None]
    ) -> None:
        self._host, self._dht, self._keeping, self._fellows = host, dht, keeping, fellows
        self._is_private = is_private
        self._choice = RelayChoice(random.getrandbits(64))
        self._found: dict[PeerId, Contact] = {}
        self._search_at, self._search_pause_s = -math.inf, SEARCH_S_MIN
        self._shard = random.randrange(len(RELAY_KEYS))
        self._announced: tuple[Address, ...] = ()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Seek and be found, until cancelled."""
        relaying = self._host.relaying
        async with trio.open_nursery() as nursery:
            task_status.started()
            while True:
                changed, is_private = relaying.changed, self._is_private()
                if is_private is not None:
                    self._look(is_private)
                    self._announce(nursery, is_public=not is_private)
                    if is_private:
                        self._search(nursery)
                with trio.move_on_after(LOOK_S):
                    await changed.wait()

    def _look(self, is_private: bool) -> None:
        now, relaying = trio.current_time(), self._host.relaying
        given = relaying.states(is_given=True)
        changes: list[Change] = []
        for peer, state in relaying.states(is_given=False).items():
            changes += self._choice.told(peer, state, now)
        changes += self._choice.look(now, is_private, given, self._candidates() if is_private else ())
        for change in changes:
            if isinstance(change, Use):
                endpoint = change.candidate.endpoint
                log.info("asking a relay", relay=endpoint.address, kind=change.candidate.kind.name, why=change.reason)
                self._keeping.keep(OWNER, change.candidate.peer, (endpoint.address,))
            else:
                log.info("leaving a relay", relay=change.peer, why=change.reason)
                self._keeping.release(OWNER, change.peer)
        if changes:
            relaying.use([each.endpoint for each in self._choice.used])

    def _candidates(self) -> list[Candidate]:
        """Who might relay: those who can be dialed on the internet, each in the best of its kinds."""
        found: dict[PeerId, Candidate] = {}
        fellows = self._fellows.all()
        dialed = {each.peer: each for each in self._host.connections() if each.is_outbound and not each.is_relayed}
        offers = [(Contact(peer, (each.address,)), Kind.MEMBER) for peer, each in dialed.items() if peer in fellows]
        offers += [(contact, Kind.FOUND) for contact in self._found.values()]
        offers += [(contact, Kind.KNOWN) for contact in self._dht.contacts()]
        for contact, kind in offers:
            endpoint = _public_endpoint(contact)
            if endpoint is not None and contact.peer not in found and contact.peer != self._host.peer_id:
                rtt_s = dialed[contact.peer].rtt_s if contact.peer in dialed else None
                found[contact.peer] = Candidate(contact.peer, endpoint, kind, rtt_s)
        return list(found.values())

    def _announce(self, nursery: trio.Nursery, *, is_public: bool) -> None:
        """Say in the DHT that this node relays, while it does."""
        key, addresses = own_relay_key(self._host.peer_id), self._host.addresses()
        is_relay = is_public and self._host.relaying.is_relay and any(ranges_of(each) is not None for each in addresses)
        wanted = addresses if is_relay and self._dht.contacts() else ()
        if wanted and wanted != self._announced:
            nursery.start_soon(self._dht.provide, key)
        elif self._announced and not wanted:
            self._dht.withdraw(key)
        self._announced = wanted

    def _search(self, nursery: trio.Nursery) -> None:
        """In the DHT, ever more rarely, while what is held could be better."""
        given = self._host.relaying.states(is_given=True)
        held = [each for each in self._choice.used if each.kind <= Kind.FOUND]
        is_content = len(held) + sum(state is State.HELD for state in given.values()) >= WANTED
        now = trio.current_time()
        if is_content or now < self._search_at or not self._dht.contacts():
            return
        self._search_at = now + self._search_pause_s
        self._search_pause_s = min(SEARCH_S_MAX, 2 * self._search_pause_s)
        self._shard = (self._shard + 1) % len(RELAY_KEYS)
        nursery.start_soon(self._ask_for_relays, RELAY_KEYS[self._shard])

    async def _ask_for_relays(self, key: bytes) -> None:
        for contact in await self._dht.providers(key, FOUND_ENOUGH):
            self._found[contact.peer] = contact
        while len(self._found) > FOUND_MAX:
            del self._found[next(iter(self._found))]


def _public_endpoint(contact: Contact) -> Endpoint | None:
    """Where a peer can be dialed from anywhere."""
    for address in contact.addresses:
        endpoint = parse_endpoint(address)
        is_direct = isinstance(endpoint, Endpoint) and endpoint.relay is None and endpoint.peer == contact.peer
        if is_direct and isinstance(endpoint, Endpoint) and ranges_of(address) is not None:
            return endpoint
    return None
