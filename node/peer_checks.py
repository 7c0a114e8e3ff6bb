"""Looks at the way to peers that a person names: each address known of them, the connection, its round trip and rate.

An invite and the DHT may name anybody's machines: they are dialed once each, a few at a time, as joining would.
"""

from collections.abc import AsyncGenerator, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

import trio

from shoal.transport.addresses import is_relayed, parse_endpoint, ranges_of
from shoal.transport.identity import public_key_of
from shoal.transport.port import Address, Connection, PeerId, Refusal, Undialed, Why
from shoal.transport.wire import Malformed

from .complaint import Complaint, Exit
from .diagnosis import Cause, Check, Finding, State
from .invite import PREFIX, is_loopback, parse_invite
from .members import among, named
from .node import Node
from .path_service import bytes_for, measure

PEERS_MAX: Final = 4  # of an invite
ADDRESSES_MAX: Final = 8  # of a peer
PROBE_S: Final = 4.0  # SYNs go out after 0, 1 and 3 s
SEARCH_S: Final = 10.0
SETTLE_S: Final = 6.0  # for a hole to be punched beside a relayed connection, or not
LOOK_S: Final = 0.1
CAUSES: Final = {
    Why.MALFORMED: Cause.NO_ROUTE,
    Why.NO_NAME: Cause.NO_NAMES,
    Why.NO_ROUTE: Cause.NO_ROUTE,
    Why.REFUSED: Cause.REFUSED,
    Why.TIMED_OUT: Cause.SILENT,
    Why.MUTE: Cause.MUTE,
    Why.UNPROVEN: Cause.OTHER_PEER,
    Why.RELAY: Cause.BEHIND_RELAY,
    Why.NO_SEAT: Cause.UNREACHED,
}

Step = Finding | str


@dataclass(frozen=True, slots=True)
class Target:
    """Whom a person asks about.

    Attributes:
        given: each peer, with the addresses that the person named.
    """

    given: Mapping[PeerId, tuple[Address, ...]] = field(default_factory=dict[PeerId, tuple[Address, ...]])


def target_of(text: str, node: Node) -> Target:
    """Who is meant by an invite, an address, or a peer's id or how that begins or ends. Raises Complaint."""
    text = text.strip()
    if text.lower().startswith(PREFIX):
        return Target(dict(parse_invite(text).addresses()[:PEERS_MAX]))
    if text.startswith("/"):
        endpoint = parse_endpoint(text)
        if isinstance(endpoint, Malformed) or endpoint.peer is None:
            raise Complaint(f"expected an address like /ip4/192.0.2.1/tcp/4001/p2p/12D3KooW..., got {text}", Exit.USAGE)
        return Target({endpoint.peer: (Address(text),)})
    if public_key_of(text) is not None:
        return Target({PeerId(text): ()})
    fitting = among(text, dict.fromkeys(_known_peers(node)))
    if len(fitting) == 1:
        return Target({fitting[0]: ()})
    if fitting:
        raise Complaint(f"'{text}' fits several peers, say more of the id: {named(fitting)}", Exit.USAGE)
    raise Complaint(
        f"this node knows no peer whose id begins or ends with '{text}': give the whole id, an address or an invite",
        Exit.USAGE,
    )


def _known_peers(node: Node) -> Iterable[PeerId]:
    yield from (each.peer for each in node.transport.connections())
    yield from (each.peer for each in node.transport.missing())
    for joined in node.swarms.all():
        yield from (PeerId(peer) for peer in joined.membership.known)
    yield from (each.peer for each in node.dht.contacts())


async def examine_peers(node: Node, target: Target) -> AsyncGenerator[Step, None]:
    """The way to each peer; of an invite's, to the first to whom there is one."""
    for peer, given in target.given.items():
        if peer == node.identity.peer_id:
            yield Finding(Check.CONNECTION, State.SKIPPED, "that is this node", subject=peer)
            continue
        reached = False
        async for step in _examine(node, peer, given):
            reached = reached or (isinstance(step, Finding) and step.check is Check.ROUND_TRIP)
            yield step
        if reached:
            return


async def _examine(node: Node, peer: PeerId, given: tuple[Address, ...]) -> AsyncGenerator[Step, None]:
    addresses = known_addresses(node, peer, given)
    if not addresses:
        yield "searching the DHT"
        with trio.move_on_after(SEARCH_S):
            addresses = _few(peer, (await node.dht.find(peer)).addresses)
    connection = _connection(node, peer)
    if not addresses and connection is None:
        yield Finding(Check.ADDRESS, State.FAILURE, "neither this node nor the DHT knows one", Cause.UNKNOWN_PEER, peer)
        return
    yield f"dialing {len(addresses)} addresses of {peer}"
    answers = await _probe_all(node, addresses)
    for address in addresses:
        yield address_finding(address, answers[address], addresses)
    if connection is None:
        for address in sorted((each for each in addresses if answers[each] is None), key=is_relayed):
            if not isinstance(await node.transport.connect(address, timeout_s=PROBE_S), Refusal):
                break
    yield "looking at the connection"
    connection = await _settled(node, peer)
    for finding in connection_findings(peer, connection):
        yield finding
    if connection is not None:
        yield "measuring the path"
        for finding in await _path(node, connection):
            yield finding


def known_addresses(node: Node, peer: PeerId, given: tuple[Address, ...]) -> list[Address]:
    """All that this node has heard of, the given first."""
    found: list[str] = list(given)
    found += [each.address for each in node.transport.connections() if each.peer == peer and each.is_outbound]
    found += [address for each in node.transport.missing() if each.peer == peer for address in each.addresses]
    for joined in node.swarms.all():
        found += reversed(joined.membership.known.get(peer, ()))
    found += [address for each in node.dht.contacts() if each.peer == peer for address in each.addresses]
    return _few(peer, found)


def _few(peer: PeerId, addresses: Iterable[str]) -> list[Address]:
    """Each once; another machine's loopback is this one's, and tells nothing where there are others."""
    whole = [each if each.endswith(f"/p2p/{peer}") else f"{each}/p2p/{peer}" for each in addresses]
    unique = sorted(dict.fromkeys(whole), key=is_loopback)
    return [Address(each) for each in unique if not is_loopback(each) or is_loopback(unique[0])][:ADDRESSES_MAX]


async def _probe_all(node: Node, addresses: list[Address]) -> dict[Address, Undialed | None]:
    answers: dict[Address, Undialed | None] = {}

    async def probe(address: Address) -> None:
        answers[address] = await node.transport.probe(address, timeout_s=PROBE_S)

    async with trio.open_nursery() as nursery:
        for address in addresses:
            nursery.start_soon(probe, address)
    return answers


def address_finding(address: Address, answer: Undialed | None, all: Iterable[Address]) -> Finding:
    """What came of dialing one. A private address may be another machine's here: beside others it proves nothing."""
    if answer is None:
        return Finding(Check.ADDRESS, State.OK, "the peer answers there", subject=address)
    is_far = any(_leads_far(each) for each in all)
    state = State.FAILURE if _leads_far(address) or not is_far else State.SKIPPED
    return Finding(Check.ADDRESS, state, answer.reason, CAUSES[answer.why], address)


def _leads_far(address: Address) -> bool:
    return is_relayed(address) or ranges_of(address) is not None


async def _settled(node: Node, peer: PeerId) -> Connection | None:
    """The connection with a peer, after a moment for one through a relay to become direct, or not."""
    connection = _connection(node, peer)
    with trio.move_on_after(SETTLE_S):
        while connection is not None and connection.is_relayed and not _has_tried(connection):
            await trio.sleep(LOOK_S)
            connection = _connection(node, peer)
    return connection


def _has_tried(connection: Connection) -> bool:
    return connection.note.startswith("no direct connection")


def connection_findings(peer: PeerId, connection: Connection | None) -> list[Finding]:
    """How a peer is connected, and whether and why not directly."""
    if connection is None:
        words = "no hole can be punched without a connection through a relay to begin with"
        return [
            Finding(Check.CONNECTION, State.FAILURE, "there is none", Cause.UNREACHED, peer),
            Finding(Check.PUNCHING, State.SKIPPED, words, subject=peer),
        ]
    endpoint = parse_endpoint(connection.address)
    relay = None if isinstance(endpoint, Malformed) else endpoint.relay
    if relay is None:
        how = connection.note or "connected directly"
        words = f"direct, {connection.address.partition('/p2p/')[0]}"
        return [
            Finding(Check.CONNECTION, State.OK, words, subject=peer),
            Finding(Check.PUNCHING, State.SKIPPED, f"not needed: {how}", subject=peer),
        ]
    note = connection.note or "no attempt has been made"
    return [
        Finding(Check.CONNECTION, State.WARNING, f"through the relay {relay}", Cause.RELAYED, peer),
        Finding(Check.PUNCHING, State.WARNING, note, Cause.RELAYED, peer),
    ]


async def _path(node: Node, connection: Connection) -> list[Finding]:
    peer = connection.peer
    figures = await measure(node.transport, connection)
    if isinstance(figures, Refusal):
        return [Finding(Check.ROUND_TRIP, State.FAILURE, figures.message, Cause.BROKEN_PATH, peer)]
    round_trip = Finding(Check.ROUND_TRIP, State.OK, f"{figures.round_trip_s * 1000:.1f} ms", subject=peer)
    if not bytes_for(connection):
        words = "its relay lets strangers only meet, and is asked for nothing large"
        return [round_trip, Finding(Check.RATE, State.SKIPPED, words, subject=peer)]
    if figures.bytes_per_s is None:
        return [round_trip, Finding(Check.RATE, State.SKIPPED, "too little came back to tell", subject=peer)]
    mbit = figures.bytes_per_s * 8 / 1e6
    words = f"{mbit:.1f} Mbit/s there and back at once, by {figures.echoed_bytes / 1000:.0f} kB"
    return [round_trip, Finding(Check.RATE, State.OK, words, subject=peer)]


def _connection(node: Node, peer: PeerId) -> Connection | None:
    return next((each for each in node.transport.connections() if each.peer == peer), None)
