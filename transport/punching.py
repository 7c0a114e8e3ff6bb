"""What two nodes tell each other before they punch a hole, whether it can work, and whom they dial. Pure functions.

Each side takes a fresh port, learns from others as whom it is seen there (`stun`), and offers that to the other over
the connection through a relay. Then both dial at the same moment, measured by the round trip: each one's first packet
opens its own router for the other's (TCP simultaneous open; libp2p's DCUtR). Against what breaks that:

- A port that routers have seen before may be taken there: it is a fresh one in each attempt.
- A router that shows each peer another port (symmetric) is told by two observers that name different ports. Behind one
  the other side cannot dial, but it can listen at its own port, if its router lets in any port of an address it dialed.
- A router that refuses by a reset what comes too early takes the port for it: both packets must be on the way before
  either arrives, so the moment counts, and an attempt that was refused is given up and made again.
- Two behind the same router are seen as the same address: they try each other's addresses on the LAN as well.
- Where both have a global IPv6 address, there is nothing to translate: it is tried beside IPv4, and comes first.

What a malicious peer may offer: any addresses, its own or not. What it achieves: DIALS_MAX packets of a TCP handshake
to PUNCHED_MAX of them, from the fresh port to none below PORT_MIN; one connection, on which a handshake begins, to
DIALED_MAX others; and by all peers together not more attempts than `Budget` allows to any one range of addresses. Who
knows as whom this node is seen may pass for a neighbour: so of private addresses those of local networks are dialed and
no others, at no port below PORT_MIN, and all of them are one range.
"""

import enum
import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, Final

import msgspec

from .addresses import Endpoint, parse_endpoint, ranges_of
from .port import Address
from .token_bucket import TokenBucket
from .wire import ADDRESS_CHARS_MAX, Message

PUNCHED_MAX: Final = 2  # one of each family
DIALED_MAX: Final = 4
DIALS_MAX: Final = 8  # of one address that refuses, in one attempt
PORT_MIN: Final = 1024  # below it are services of others, and no router maps a client's port there
ATTEMPTS_PER_RANGE: Final = 12  # at once, to any one range, by whatever peers; less: members behind one carrier wait
ATTEMPTS_PER_RANGE_PER_S: Final = 1 / 60
RANGES_MAX: Final = 1024  # whose attempts are remembered

_LAN: Final = "the local network"
_LOCAL: Final = [ipaddress.ip_network(each) for each in ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7")]
_Text = Annotated[str, msgspec.Meta(max_length=ADDRESS_CHARS_MAX)]


class Mapping(enum.IntEnum):
    """How a router translates a port. The numbers are on the wire. (RFC 4787, section 4.1.)"""

    UNKNOWN = 0
    NONE = 1  # no router translates
    INDEPENDENT = 2  # alike for all peers
    DEPENDENT = 3  # another port for each peer: symmetric


WORDS: Final = {
    Mapping.UNKNOWN: "unknown",
    Mapping.NONE: "no NAT",
    Mapping.INDEPENDENT: "NAT, the same port for all peers",
    Mapping.DEPENDENT: "symmetric NAT, another port for each peer",
}


class Offer(Message, frozen=True):
    """Where a side is at this moment."""

    mapping: Annotated[int, msgspec.Meta(ge=0, le=3)]
    punched: Annotated[tuple[_Text, ...], msgspec.Meta(max_length=PUNCHED_MAX)]  # as seen at its fresh ports
    listening: Annotated[tuple[_Text, ...], msgspec.Meta(max_length=DIALED_MAX)]  # who dials them is answered


@dataclass(frozen=True, slots=True)
class Plan:
    """Whom to dial: from the fresh port, and from any."""

    punched: tuple[Endpoint, ...]
    dialed: tuple[Endpoint, ...]


def mapping_of(local_port: int, local_ips: Iterable[str], seen: list[Endpoint]) -> Mapping:
    """How a router translates a port, as several observers see it."""
    if not seen:
        return Mapping.UNKNOWN
    if len({(each.host, each.port) for each in seen}) > 1:
        return Mapping.DEPENDENT
    if seen[0].host in set(local_ips) and seen[0].port == local_port:
        return Mapping.NONE
    # One observer alone cannot tell; but a router that keeps ports hardly ever does so by chance.
    return Mapping.INDEPENDENT if len(seen) > 1 or seen[0].port == local_port else Mapping.UNKNOWN


def plan(own: Offer, theirs: Offer) -> Plan | str:
    """Whom to dial, or why no attempt can succeed."""
    own_ips = {each.host for each in _endpoints(own.punched)}
    theirs_punched = _endpoints(theirs.punched)
    are_neighbours = any(each.host in own_ips for each in theirs_punched)
    dialed = tuple(
        each
        for each in _endpoints(theirs.listening)
        if _is_global(each) or (are_neighbours and _is_local(each) and each.port >= PORT_MIN)
    )
    punched = tuple(each for each in theirs_punched if _is_global(each) and each.port >= PORT_MIN)
    has_ip6 = any(each.kind == "ip6" for each in punched) and any(":" in ip for ip in own_ips)
    if own.mapping == theirs.mapping == Mapping.DEPENDENT and not (dialed or has_ip6):
        return "both sides are behind symmetric NAT: each router shows the other a port that nobody can know before"
    if not punched and not dialed:
        return "the other side knows no address of its own: nobody tells it as whom it is seen"
    return Plan(tuple(sorted(punched, key=_is_ip4)), tuple(sorted(dialed, key=_is_ip4)))


def explanation(own: Offer, theirs: Offer, refused_count: int) -> str:
    """Why an attempt that could have succeeded did not, as far as it can be known."""
    sides = {"this side": own.mapping, "the other side": theirs.mapping}
    symmetric = [side for side, mapping in sides.items() if mapping == Mapping.DEPENDENT]
    if symmetric:
        return f"{symmetric[0]} is behind symmetric NAT, and the other one's router lets in only the port it dialed"
    if refused_count:
        return "a router refused what came before it was opened"
    return "neither side's packets came through the other one's router or firewall"


class Budget:
    """How often strangers' addresses may be dialed because somebody says that they are its own."""

    def __init__(self) -> None:
        self._buckets: dict[str, TokenBucket] = {}

    def allows(self, plan: Plan, now: float) -> bool:
        """Whether to make an attempt; it is then counted for each range that it dials."""
        ranges = sorted(_ranges(plan))
        if len(self._buckets) + len(ranges) > RANGES_MAX:
            self._forget_full_ones(now)
        if len(self._buckets) + len(ranges) > RANGES_MAX:
            return False  # whoever makes us forget would get all attempts again
        for each in ranges:
            self._buckets.setdefault(each, TokenBucket(ATTEMPTS_PER_RANGE_PER_S, ATTEMPTS_PER_RANGE))
        if not all(self._buckets[each].has_one(now) for each in ranges):
            return False
        return all(self._buckets[each].take(now) for each in ranges)

    def proved(self, plan: Plan, where: Endpoint) -> None:
        """The peer was there: that range does not count. The others do, or a peer with one of its own had them all."""
        range = _range(where)
        if range in _ranges(plan) and range in self._buckets:
            self._buckets[range].give_back()

    def _forget_full_ones(self, now: float) -> None:
        self._buckets = {each: bucket for each, bucket in self._buckets.items() if not bucket.is_full(now)}


def _ranges(plan: Plan) -> set[str]:
    return {_range(each) for each in (*plan.punched, *plan.dialed)}


def _range(endpoint: Endpoint) -> str:
    found = ranges_of(endpoint.address)
    return _LAN if found is None else found.narrow


def _endpoints(texts: Iterable[str]) -> list[Endpoint]:
    """Those that are an IP address with a port and nothing else, each once."""
    parsed = (parse_endpoint(text) for text in dict.fromkeys(texts))
    return [
        each
        for each in parsed
        if isinstance(each, Endpoint) and each.kind in ("ip4", "ip6") and each.relay is None and each.port
    ]


def _is_global(endpoint: Endpoint) -> bool:
    return ranges_of(Address(endpoint.address)) is not None


def _is_local(endpoint: Endpoint) -> bool:
    """Not what Python calls private: with that go this very machine, as 0.0.0.0, and what is written as IPv6."""
    ip = ipaddress.ip_address(endpoint.host)
    return any(ip in network for network in _LOCAL if network.version == ip.version)


def _is_ip4(endpoint: Endpoint) -> bool:
    return endpoint.kind == "ip4"
