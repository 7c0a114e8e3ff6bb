"""Addresses as text: the multiaddrs of TCP endpoints, what they name, and in which order to try them.

Peers send addresses of themselves and of others. Only what is parsed here is ever dialed: an IP address or a DNS name,
a TCP port, and the id of the peer who must answer there, or of the relay there and of the peer behind it.
"""

import ipaddress
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Final

from .identity import public_key_of
from .port import Address, PeerId
from .wire import ADDRESS_CHARS_MAX, Malformed

_ENDPOINT: Final = re.compile(
    r"/(ip4|ip6|dns|dns4|dns6)/([^/]+)/tcp/([0-9]{1,5})(?:/p2p/([^/]+)/p2p-circuit)?(?:/p2p/([^/]+))?"
)
_NAME: Final = re.compile(r"(?=.{1,253}$)[a-zA-Z0-9_-]{1,63}(\.[a-zA-Z0-9_-]{1,63})*\.?")
_VERSIONS: Final = {"ip4": 4, "ip6": 6}
RANGES_REMEMBERED: Final = 4096
_NARROW_BITS: Final = {4: 24, 6: 48}
_WIDE_BITS: Final = {4: 16, 6: 32}
_PUBLIC, _NAMED, _RELAYED, _PRIVATE, _LOOPBACK = 0, 0, 1, 2, 3  # how far away one may be to reach an address


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One place to dial or to listen on."""

    kind: str  # ip4, ip6, dns, dns4, dns6
    host: str
    port: int
    peer: PeerId | None = None  # who must answer there
    relay: PeerId | None = None  # who is there in truth, and passes on to `peer`

    @property
    def address(self) -> Address:
        through = "" if self.relay is None else f"/p2p/{self.relay}/p2p-circuit"
        suffix = "" if self.peer is None else f"/p2p/{self.peer}"
        return Address(f"/{self.kind}/{self.host}/tcp/{self.port}{through}{suffix}")

    def through(self, peer: PeerId | None) -> "Endpoint":
        """Where `peer` is reached if the peer of this endpoint relays for it."""
        return replace(self, peer=peer, relay=self.peer)

    @property
    def first_hop(self) -> "Endpoint":
        """Whom to connect to first: the relay, if there is one."""
        return self if self.relay is None else replace(self, peer=self.relay, relay=None)

    @property
    def is_lan(self) -> bool:
        """Whether it is an address of a private network, of which there are many."""
        if self.relay is not None or self.kind not in _VERSIONS:
            return False
        ip = ipaddress.ip_address(self.host)
        return ip.is_private and not ip.is_loopback and not ip.is_link_local

    @property
    def is_wildcard(self) -> bool:
        return self.kind in _VERSIONS and ipaddress.ip_address(self.host).is_unspecified


def parse_endpoint(text: str) -> Endpoint | Malformed:
    """What an address names, or why it names nothing that can be dialed."""
    if len(text) > ADDRESS_CHARS_MAX:
        return Malformed(f"an address of {len(text)} characters; {ADDRESS_CHARS_MAX} are allowed")
    match = _ENDPOINT.fullmatch(text)
    if match is None:
        return Malformed(f"expected an address like /ip4/192.0.2.1/tcp/4001/p2p/12D3KooW..., got {text!r}")
    kind, host, port, relay, peer = match[1], match[2], int(match[3]), match[4], match[5]
    if port > 65_535:
        return Malformed(f"port {port} in {text!r}: ports end at 65535")
    for named in (relay, peer):
        if named is not None and public_key_of(named) is None:
            return Malformed(f"{named!r} in {text!r} is not the id of an Ed25519 key")
    if relay is not None and relay == peer:
        return Malformed(f"{text!r} goes to a relay through itself")
    if kind not in _VERSIONS:
        if _NAME.fullmatch(host) is None:
            return Malformed(f"{host!r} in {text!r} is no DNS name")
    elif _ip_version(host) != _VERSIONS[kind]:
        return Malformed(f"{host!r} in {text!r} is no IPv{_VERSIONS[kind]} address")
    return Endpoint(kind, host, port, None if peer is None else PeerId(peer), None if relay is None else PeerId(relay))


def is_relayed(address: str) -> bool:
    """Whether the address leads through a relay."""
    return "/p2p-circuit" in address


def ip_endpoint(host: str, port: int, peer: PeerId | None = None) -> Endpoint:
    """The endpoint of an IP address as the system writes it, without an IPv6 zone. Raises ValueError if it is none."""
    ip = ipaddress.ip_address(host.partition("%")[0])
    return Endpoint(f"ip{ip.version}", str(ip), port, peer)


@dataclass(frozen=True, slots=True)
class Ranges:
    """What an address counts for: ids cost nothing, addresses do, so that no range may be everywhere."""

    narrow: str  # what one customer rents: IPv4 /24, IPv6 /48
    wide: str  # what one provider has: IPv4 /16, IPv6 /32


@lru_cache(maxsize=RANGES_REMEMBERED)
def ranges_of(address: Address | None) -> Ranges | None:
    """The ranges of an address, of the relay's if it is relayed. A DNS name is a range of its own.

    None if none is known, and for private and loopback addresses: there everybody is a neighbour.
    """
    endpoint = None if address is None else parse_endpoint(address)
    if not isinstance(endpoint, Endpoint):
        return None
    if endpoint.kind not in _VERSIONS:
        return Ranges(endpoint.host.lower(), endpoint.host.lower())
    ip = _ip_of(endpoint.host)
    if not ip.is_global:
        return None
    narrow, wide = (
        str(ipaddress.ip_network((ip, bits[ip.version]), strict=False)) for bits in (_NARROW_BITS, _WIDE_BITS)
    )
    return Ranges(narrow, wide)


def expanded(endpoint: Endpoint, interface_ips: Iterable[str]) -> list[Endpoint]:
    """What can be dialed of a listening endpoint: a wildcard stands for all addresses of its kind on this machine."""
    if not endpoint.is_wildcard:
        return [endpoint]
    candidates = [ip_endpoint(ip, endpoint.port, endpoint.peer) for ip in interface_ips]
    return [
        candidate
        for candidate in candidates
        if candidate.kind == endpoint.kind and not ipaddress.ip_address(candidate.host).is_link_local
    ]


def ordered(endpoints: Iterable[Endpoint]) -> list[Endpoint]:
    """Without repetitions: names and public addresses first, of these IPv6's, then relayed and private ones, loopback
    last.

    Whoever takes only the first few of them gets one that works from afar.
    """

    def turn(endpoint: Endpoint) -> tuple[int, bool]:
        rank = _rank(endpoint)
        return rank, not (rank == _PUBLIC and endpoint.kind == "ip6")

    return sorted(dict.fromkeys(endpoints), key=turn)


def dialing_order(addresses: Iterable[Address], families: frozenset[str]) -> list[Address]:
    """As given, but IPv6 first among equals, those through relays later, and last what cannot be reached.

    The first of those through a relay is the second of all: where nobody answers at once, it is what works.

    Equal are addresses that are public, or private, or loopback. IPv6 is first where it leads out of this machine: what
    it reaches, it reaches without a router that translates.

    Args:
        families: which of ip4 and ip6 lead out of this machine. A public address of another one costs a useless dial.
    """
    places = [(address, _place_of(address)) for address in addresses]

    def is_second(each: tuple[Address, _Place]) -> bool:
        return each[1].family != "ip6" or not (each[1].rank == _LOOPBACK or "ip6" in families)

    equals = {
        rank: iter(sorted((each for each in places if each[1].rank == rank), key=is_second))
        for rank in {place.rank for _, place in places}
    }
    turned = [next(equals[place.rank]) for _, place in places]

    def is_out_of_reach(each: tuple[Address, _Place]) -> bool:
        return each[1].is_public and each[1].family not in families

    turned.sort(key=lambda each: (is_out_of_reach(each), is_relayed(each[0])))
    relayed = next((at for at, each in enumerate(turned) if is_relayed(each[0]) and not is_out_of_reach(each)), 0)
    if relayed > 1:
        turned.insert(1, turned.pop(relayed))
    return [address for address, _ in turned]


@dataclass(frozen=True, slots=True)
class _Place:
    """What an address says of where it leads."""

    rank: int
    family: str = ""  # ip4 or ip6; of a name unknown
    is_public: bool = False


@lru_cache(maxsize=RANGES_REMEMBERED)
def _place_of(address: Address) -> _Place:
    endpoint = parse_endpoint(address)
    if not isinstance(endpoint, Endpoint):
        return _Place(_NAMED)
    if endpoint.kind not in _VERSIONS:
        return _Place(_rank(endpoint))
    ip = _ip_of(endpoint.host)
    return _Place(_rank(endpoint), f"ip{ip.version}", ip.is_global)


def _rank(endpoint: Endpoint) -> int:
    if endpoint.relay is not None:
        return _RELAYED
    if endpoint.kind not in _VERSIONS:
        return _NAMED
    ip = ipaddress.ip_address(endpoint.host)
    return _LOOPBACK if ip.is_loopback else _PRIVATE if ip.is_private else _PUBLIC


def _ip_of(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """The address that is meant: an IPv4 address may be written as one of IPv6."""
    ip = ipaddress.ip_address(host)
    return ip.ipv4_mapped or ip if isinstance(ip, ipaddress.IPv6Address) else ip


def _ip_version(host: str) -> int:
    if "%" in host:
        return 0  # a zone names a network card of another machine, and may be any text: some of it can't be resolved
    try:
        return ipaddress.ip_address(host).version
    except ValueError:
        return 0
