"""Multiaddrs as text."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal.transport.addresses import (
    Endpoint,
    Ranges,
    dialing_order,
    expanded,
    ip_endpoint,
    is_relayed,
    ordered,
    parse_endpoint,
    ranges_of,
)
from shoal.transport.identity import Identity
from shoal.transport.port import Address
from shoal.transport.wire import Malformed

PEER = Identity.from_seed(bytes(32)).peer_id
RELAY = Identity.from_seed(bytes(31) + b"r").peer_id


@given(st.ip_addresses(), st.integers(0, 65_535), st.booleans())
def test_what_is_written_is_read_again(ip: object, port: int, has_peer: bool) -> None:
    endpoint = ip_endpoint(str(ip), port, PEER if has_peer else None)
    assert parse_endpoint(endpoint.address) == endpoint


@given(st.text(max_size=300))
def test_any_text_is_an_endpoint_or_a_reason(text: str) -> None:
    assert isinstance(parse_endpoint(text), Endpoint | Malformed)


@given(st.lists(st.sampled_from(["ip4", "dns", "127.0.0.1", "::1", "tcp", "udp", "4001", "p2p", PEER, ""]), max_size=8))
def test_any_parts_are_an_endpoint_or_a_reason(parts: list[str]) -> None:
    endpoint = parse_endpoint("/" + "/".join(parts))
    assert isinstance(endpoint, Malformed) or endpoint.address == "/" + "/".join(parts)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("127.0.0.1:4001", "expected an address like"),
        ("/ip4/127.0.0.1/udp/4001/quic-v1", "expected an address like"),
        ("/ip4/127.0.0.1/tcp/65536", "ports end"),
        ("/ip4/::1/tcp/1", "no IPv4 address"),
        ("/ip6/127.0.0.1/tcp/1", "no IPv6 address"),
        ("/ip4/1.2.3/tcp/1", "no IPv4 address"),
        ("/ip6/fe80::1%eth0/tcp/1", "no IPv6 address"),
        ("/ip6/fe80::1%\u00e9/tcp/1", "no IPv6 address"),  # dialing it raises idna.IDNAError, which is no OSError
        ("/dns/bad name/tcp/1", "no DNS name"),
        ("/ip4/127.0.0.1/tcp/1/p2p/QmYyQSo1c1Ym7orWxLYvCrM2EmxFTANf8wXmmE7DWjhx5N", "not the id of an Ed25519 key"),
        ("/dns/" + "a" * 300 + "/tcp/1", "characters"),
    ],
)
def test_bad_addresses_are_refused_with_a_reason(text: str, reason: str) -> None:
    endpoint = parse_endpoint(text)
    assert isinstance(endpoint, Malformed)
    assert reason in endpoint.reason


def test_a_wildcard_stands_for_the_machines_addresses_of_its_kind() -> None:
    ips = ["192.0.2.7", "fe80::1%eth0", "2001:db8::1", "169.254.0.1", "127.0.0.1"]
    assert [e.host for e in expanded(ip_endpoint("0.0.0.0", 5), ips)] == ["192.0.2.7", "127.0.0.1"]
    assert [e.host for e in expanded(ip_endpoint("::", 5), ips)] == ["2001:db8::1"]
    assert [e.host for e in expanded(ip_endpoint("10.0.0.1", 5), ips)] == ["10.0.0.1"]


def test_public_comes_first_and_loopback_last() -> None:
    hosts = ["127.0.0.1", "::1", "192.168.1.2", "8.8.8.8", "10.0.0.1", "8.8.8.8"]
    assert [e.host for e in ordered(ip_endpoint(host, 1) for host in hosts)] == [
        "8.8.8.8", "192.168.1.2", "10.0.0.1", "127.0.0.1", "::1",
    ]  # fmt: skip
    assert ordered([ip_endpoint("10.0.0.1", 1), Endpoint("dns", "example.org", 1)])[0].kind == "dns"


def test_of_public_addresses_those_of_ipv6_come_first() -> None:
    hosts = ["10.0.0.1", "fd00::1", "8.8.8.8", "2a00::2", "2a00::1"]
    assert [e.host for e in ordered(ip_endpoint(host, 1) for host in hosts)] == [
        "2a00::2", "2a00::1", "8.8.8.8", "10.0.0.1", "fd00::1",
    ]  # fmt: skip


BOTH, IP4, IP6, NONE = (frozenset(kinds) for kinds in (("ip4", "ip6"), ("ip4",), ("ip6",), ()))


def dialed(families: frozenset[str], *hosts: str) -> list[str]:
    """The hosts in the order in which they are dialed; those behind "via " through a relay."""
    given: dict[Address, str] = {}
    for host in hosts:
        direct = ip_endpoint(host.removeprefix("via "), 1, PEER if "via" not in host else RELAY)
        given[(direct.through(PEER) if "via" in host else direct).address] = host
    return [given[address] for address in dialing_order(given, families)]


@pytest.mark.parametrize(
    ("families", "hosts", "order"),
    [
        (BOTH, ("8.8.8.8", "2a00::1", "2a00::2"), ["2a00::1", "2a00::2", "8.8.8.8"]),
        (BOTH, ("10.0.0.1", "fd00::1", "127.0.0.1", "::1"), ["fd00::1", "10.0.0.1", "::1", "127.0.0.1"]),
        (BOTH, ("192.168.1.2", "8.8.8.8", "2a00::1"), ["192.168.1.2", "2a00::1", "8.8.8.8"]),  # who keeps it knows why
        (BOTH, ("via 8.8.4.4", "8.8.8.8", "via 2a00::9"), ["8.8.8.8", "via 2a00::9", "via 8.8.4.4"]),
        (
            BOTH,
            ("via 8.8.4.4", "via 8.8.4.5", "8.8.8.8", "10.0.0.1"),
            ["8.8.8.8", "via 8.8.4.4", "10.0.0.1", "via 8.8.4.5"],
        ),
        (IP4, ("2a00::1", "via 8.8.4.4", "8.8.8.8"), ["8.8.8.8", "via 8.8.4.4", "2a00::1"]),
        (IP4, ("fd00::1", "10.0.0.1", "127.0.0.1", "::1"), ["fd00::1", "10.0.0.1", "::1", "127.0.0.1"]),
        (IP4, ("via 2a00::9", "2a00::1", "10.0.0.1"), ["10.0.0.1", "2a00::1", "via 2a00::9"]),
        (IP6, ("8.8.8.8", "::ffff:8.8.4.4", "2a00::1"), ["2a00::1", "8.8.8.8", "::ffff:8.8.4.4"]),
        (NONE, ("8.8.8.8", "10.0.0.1"), ["10.0.0.1", "8.8.8.8"]),
    ],
)
def test_ipv6_is_dialed_first_among_equals_and_last_what_this_machine_cannot_reach(
    families: frozenset[str], hosts: tuple[str, ...], order: list[str]
) -> None:
    assert dialed(families, *hosts) == order


@given(
    st.lists(st.one_of(st.ip_addresses().map(lambda ip: ip_endpoint(str(ip), 1, PEER).address), st.text(max_size=9))),
    st.sampled_from([BOTH, IP4, IP6, NONE]),
)
def test_no_address_is_lost_and_an_order_once_found_stands(texts: list[str], families: frozenset[str]) -> None:
    order = dialing_order(map(Address, texts), families)
    assert sorted(order) == sorted(texts)
    assert dialing_order(order, families) == order


def test_an_address_through_a_relay_names_both_and_its_first_hop() -> None:
    text = f"/ip4/192.0.2.1/tcp/4001/p2p/{RELAY}/p2p-circuit/p2p/{PEER}"
    endpoint = parse_endpoint(text)
    assert isinstance(endpoint, Endpoint)
    assert (endpoint.address, endpoint.peer, endpoint.relay) == (text, PEER, RELAY)
    assert endpoint.first_hop.address == f"/ip4/192.0.2.1/tcp/4001/p2p/{RELAY}"
    assert endpoint.first_hop.through(PEER) == endpoint
    assert is_relayed(endpoint.address)
    assert not is_relayed(endpoint.first_hop.address)


@pytest.mark.parametrize("rest", ["/p2p-circuit", f"/p2p-circuit/p2p/{'x' * 52}", f"/p2p/{'x' * 52}/p2p-circuit"])
def test_a_relay_without_an_id_is_malformed(rest: str) -> None:
    assert isinstance(parse_endpoint(f"/ip4/192.0.2.1/tcp/4001{rest}"), Malformed)


def test_nobody_is_reached_through_itself() -> None:
    text = f"/ip4/192.0.2.1/tcp/4001/p2p/{PEER}/p2p-circuit/p2p/{PEER}"
    assert isinstance(parse_endpoint(text), Malformed)


def test_relayed_addresses_come_before_private_ones_and_after_public_ones() -> None:
    relayed = ip_endpoint("192.168.0.1", 1, RELAY).through(PEER)
    others = [ip_endpoint(ip, 1, PEER) for ip in ("8.8.8.8", "192.168.0.2", "127.0.0.1")]
    assert ordered([*reversed(others), relayed]) == [others[0], relayed, *others[1:]]


@pytest.mark.parametrize(
    ("place", "expected"),
    [
        ("/ip4/8.8.4.4/tcp/1", Ranges("8.8.4.0/24", "8.8.0.0/16")),
        ("/ip4/8.8.4.9/tcp/2", Ranges("8.8.4.0/24", "8.8.0.0/16")),
        ("/ip6/2a00:1450:4001:81b::200e/tcp/1", Ranges("2a00:1450:4001::/48", "2a00:1450::/32")),
        ("/ip6/::ffff:8.8.4.4/tcp/1", Ranges("8.8.4.0/24", "8.8.0.0/16")),
        ("/dns/Example.ORG/tcp/1", Ranges("example.org", "example.org")),
        (f"/ip4/8.8.4.4/tcp/1/p2p/{RELAY}/p2p-circuit", Ranges("8.8.4.0/24", "8.8.0.0/16")),
        ("/ip4/192.168.1.1/tcp/1", None),
        ("/ip4/127.0.0.1/tcp/1", None),
        ("/ip6/fe80::1/tcp/1", None),
        ("/unix/x", None),
    ],
)
def test_an_address_counts_for_its_ranges_and_at_home_for_none(place: str, expected: Ranges | None) -> None:
    assert ranges_of(Address(f"{place}/p2p/{PEER}")) == expected
    assert ranges_of(None) is None
