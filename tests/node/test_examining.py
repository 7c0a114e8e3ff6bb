"""What is said of what a node knows of itself and of a peer."""

import pytest

from shoal.node.diagnosis import Cause, Check, Finding, State, diagnose
from shoal.node.examining import reach_findings
from shoal.node.path_service import DIRECT_BYTES, LIMIT_BYTES_MIN, RELAYED_BYTES, bytes_for
from shoal.node.peer_checks import CAUSES, address_finding, connection_findings
from shoal.transport.identity import Identity
from shoal.transport.port import Address, Code, Connection, PeerId, Place, Reach, Undialed, Verdict, Why

PEER = Identity.from_seed(bytes(32)).peer_id
RELAY = Identity.from_seed(bytes([1]) * 32).peer_id
PUBLIC = Address(f"/ip4/5.1.1.1/tcp/4011/p2p/{PEER}")
PRIVATE = Address(f"/ip4/192.168.1.2/tcp/4011/p2p/{PEER}")
CIRCUIT = Address(f"/ip4/5.1.1.2/tcp/4011/p2p/{RELAY}/p2p-circuit/p2p/{PEER}")


def reach(verdict: Verdict, outside: str, *relays: Place) -> Reach:
    return Reach(verdict, "because", "NAT", (outside,), relays=relays)


def found(findings: list[Finding], check: Check) -> Finding:
    return next(each for each in findings if each.check is check)


def connection(address: Address, note: str = "", limit_bytes: int | None = None) -> Connection:
    return Connection(PEER, address, "p2p-circuit" in address, True, 0.1, 0, 0, note, limit_bytes)


@pytest.mark.parametrize(
    ("outside", "cause"), [("5.1.1.9", Cause.FIREWALL), ("5.0.1.2", Cause.ROUTER)], ids=["own", "another"]
)
def test_seen_at_its_own_address_a_private_node_has_a_firewall_and_else_a_router(outside: str, cause: Cause) -> None:
    findings = reach_findings(reach(Verdict.PRIVATE, outside), frozenset({"5.1.1.9"}))
    assert diagnose(findings).cause is cause
    assert not diagnose(findings).is_fine
    helped = reach_findings(reach(Verdict.PRIVATE, outside, Place(RELAY, True, "held")), frozenset({"5.1.1.9"}))
    assert diagnose(helped).cause is cause
    assert diagnose(helped).is_fine


def test_a_relay_that_refuses_is_named_with_its_reason() -> None:
    places = (Place(RELAY, False, "no room"), Place(PeerId("other"), True, "held"))
    findings = reach_findings(reach(Verdict.PUBLIC, "5.1.1.9", *places), frozenset({"5.1.1.9"}))
    lost = found(findings, Check.RELAYS)
    assert (lost.subject, lost.words, lost.state, lost.cause) == (RELAY, "no room", State.WARNING, Cause.RELAYS)


@pytest.mark.parametrize("verdict", [Verdict.PUBLIC, Verdict.MAPPED, Verdict.UNKNOWN])
def test_who_is_not_private_needs_no_relay(verdict: Verdict) -> None:
    assert diagnose(reach_findings(reach(verdict, "5.1.1.9"), frozenset())).cause is Cause.FINE


@pytest.mark.parametrize("why", Why)
def test_each_reason_of_an_address_has_its_cause(why: Why) -> None:
    refused = Undialed(Code.UNREACHABLE, f"no connection to {PUBLIC}: {why.value}", PUBLIC, why)
    finding = address_finding(PUBLIC, refused, [PUBLIC])
    assert (finding.state, finding.cause, finding.words) == (State.FAILURE, CAUSES[why], why.value)
    assert diagnose([finding]).cause is CAUSES[why]


def test_a_private_address_at_which_somebody_else_answers_counts_only_where_there_is_no_other() -> None:
    other = Undialed(Code.UNREACHABLE, "another", PRIVATE, Why.UNPROVEN)
    silent = Undialed(Code.UNREACHABLE, "silent", PUBLIC, Why.TIMED_OUT)
    both = [PUBLIC, PRIVATE]
    findings = [address_finding(PRIVATE, other, both), address_finding(PUBLIC, silent, both)]
    assert diagnose(findings).cause is Cause.SILENT
    assert diagnose([address_finding(PRIVATE, other, [PRIVATE])]).cause is Cause.OTHER_PEER


def test_a_relayed_connection_is_told_with_its_relay_and_why_it_is_not_direct() -> None:
    findings = connection_findings(PEER, connection(CIRCUIT, "no direct connection: symmetric NAT"))
    assert RELAY in found(findings, Check.CONNECTION).words
    assert found(findings, Check.PUNCHING).words == "no direct connection: symmetric NAT"
    assert (diagnose(findings).cause, diagnose(findings).is_fine) == (Cause.RELAYED, True)


def test_a_direct_connection_needs_no_hole_and_none_at_all_can_have_none() -> None:
    assert diagnose(connection_findings(PEER, connection(PUBLIC))).cause is Cause.FINE
    assert diagnose(connection_findings(PEER, None)).cause is Cause.UNREACHED


@pytest.mark.parametrize(
    ("address", "limit_bytes", "size"),
    [
        (PUBLIC, None, DIRECT_BYTES),
        (CIRCUIT, None, RELAYED_BYTES),
        (CIRCUIT, LIMIT_BYTES_MIN, RELAYED_BYTES),
        (CIRCUIT, LIMIT_BYTES_MIN - 1, 0),
    ],
)
def test_less_is_sent_over_a_relay_and_nothing_over_one_that_grants_little(
    address: Address, limit_bytes: int | None, size: int
) -> None:
    assert bytes_for(connection(address, limit_bytes=limit_bytes)) == size
