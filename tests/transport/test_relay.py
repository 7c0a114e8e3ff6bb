"""What a relay grants, and its messages, bit for bit as libp2p's own module reads and writes them."""

from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from libp2p.relay.circuit_v2.pb import circuit_pb2

from shoal.transport.addresses import ranges_of
from shoal.transport.identity import Identity
from shoal.transport.port import Address, PeerId
from shoal.transport.relay import DAY_S, PUNCHING, PUNCHING_FROM_MAX, Circuit, Relay, RelayLimits
from shoal.transport.relay_messages import (
    HOP,
    MESSAGE_BYTES_MAX,
    STOP,
    Answer,
    Connect,
    Grammar,
    Limit,
    RelayMessage,
    Reserve,
    Status,
    decode_length,
    decode_relay,
    encode_relay,
)
from shoal.transport.relay_service import RENEW_S_MAX, RENEW_S_MIN, renew_after_s
from shoal.transport.wire import Malformed

PB: Any = circuit_pb2
PEERS = [Identity.from_seed(bytes([index]) * 32).peer_id for index in range(1, 30)]
A, B, C = PEERS[:3]

limits = st.none() | st.builds(Limit, st.integers(0, 2**32 - 1), st.integers(0, 2**64 - 1))
connects = st.builds(Connect, st.sampled_from(PEERS), limits)
hop_messages = (
    st.just(Reserve())
    | connects
    | st.builds(Answer, st.sampled_from(Status), st.none() | st.integers(0, 2**64 - 1), limits)
)
stop_messages = connects | st.builds(Answer, st.sampled_from(Status), st.none(), limits)


def body_of(encoded: bytes) -> bytes:
    length = decode_length(encoded[:2])
    assert isinstance(length, int)
    body = encoded[1 if length < 128 else 2 :]
    assert len(body) == length
    return body


@given(hop_messages)
def test_hop_messages_come_back_and_libp2p_writes_the_same_bytes(message: RelayMessage) -> None:
    same_bytes(HOP, PB.HopMessage, message)


@given(stop_messages)
def test_stop_messages_come_back_and_libp2p_writes_the_same_bytes(message: RelayMessage) -> None:
    same_bytes(STOP, PB.StopMessage, message)


def same_bytes(grammar: Grammar, theirs: Any, message: RelayMessage) -> None:
    body = body_of(encode_relay(grammar, message))
    assert decode_relay(grammar, body) == message
    parsed = theirs()
    parsed.ParseFromString(body)
    assert parsed.SerializeToString() == body
    if isinstance(message, Answer):
        assert (parsed.type, parsed.status) == (theirs.STATUS, message.status)
    elif isinstance(message, Connect):
        assert parsed.type == theirs.CONNECT


@given(st.binary(max_size=200))
def test_any_bytes_are_a_message_or_malformed(data: bytes) -> None:
    for grammar in (HOP, STOP):
        assert isinstance(decode_relay(grammar, data), Reserve | Connect | Answer | Malformed)
    assert isinstance(decode_length(data), int | Malformed | None)


def test_a_length_is_bounded() -> None:
    assert decode_length(b"\x80") is None
    assert decode_length(b"\x80\x20") == MESSAGE_BYTES_MAX
    assert isinstance(decode_length(b"\x81\x20"), Malformed)
    assert isinstance(decode_length(b"\x80\x80\x01"), Malformed)
    assert isinstance(decode_relay(HOP, bytes(MESSAGE_BYTES_MAX + 1)), Malformed)


def granted(answer: Circuit | Status) -> Circuit:
    assert isinstance(answer, Circuit)
    return answer


def reserved(relay: Relay, peer: PeerId, now: float = 0.0, address: str | None = None) -> bool:
    status, _ = relay.reserve(peer, now, None if address is None else ranges_of(Address(f"/ip4/{address}/tcp/1")))
    assert status in (Status.OK, Status.RESERVATION_REFUSED)
    return status is Status.OK


def members_relay(members: Iterable[PeerId] = (), **limits: Any) -> Relay:
    """One that serves members: all of these are in one swarm."""
    swarm = frozenset({b"swarm"})
    known = frozenset(members)
    bounds = RelayLimits(serves_strangers=False, **limits)
    return Relay(bounds, lambda peer: swarm if peer in known else frozenset())


def test_a_circuit_needs_a_reservation_of_its_target_and_ends_with_it() -> None:
    relay = Relay(RelayLimits(reservation_s=10))
    assert relay.connect(A, B, 0) is Status.NO_RESERVATION
    assert reserved(relay, B, 0)
    assert relay.connect(B, B, 1) is Status.PERMISSION_DENIED
    granted(relay.connect(A, B, 9.9))
    assert relay.connect(A, B, 10) is Status.NO_RESERVATION
    relay.reserve(B, 10)
    granted(relay.connect(A, B, 19.9))
    relay.disconnected(B)
    assert relay.connect(A, B, 19.9) is Status.NO_RESERVATION


def test_a_full_relay_refuses_until_a_reservation_expires_and_still_renews() -> None:
    relay = Relay(RelayLimits(reservations_max=2, reservation_s=10))
    assert [reserved(relay, peer, now) for peer, now in ((A, 0), (B, 5), (C, 6))] == [True, True, False]
    assert reserved(relay, B, 7)
    assert reserved(relay, C, 10)
    assert relay.connect(C, A, 10) is Status.NO_RESERVATION


@pytest.mark.parametrize("side", ["source", "target"])
def test_no_peer_has_more_than_its_share_of_circuits(side: str) -> None:
    relay = Relay(RelayLimits(circuits_per_peer_max=2))
    for peer in PEERS:
        relay.reserve(peer, 0)
    pairs = [(A, peer) if side == "source" else (peer, A) for peer in PEERS[1:4]]
    first = granted(relay.connect(*pairs[0], 0))
    granted(relay.connect(*pairs[1], 0))
    assert relay.connect(*pairs[2], 0) is Status.RESOURCE_LIMIT_EXCEEDED
    granted(relay.connect(B, C, 0))
    relay.closed(first)
    granted(relay.connect(*pairs[2], 0))


def test_circuits_are_limited_in_all() -> None:
    relay = Relay(RelayLimits(circuits_max=3))
    for peer in PEERS:
        relay.reserve(peer, 0)
    circuits = [granted(relay.connect(PEERS[n], PEERS[n + 1], 0)) for n in range(3)]
    assert relay.connect(PEERS[5], PEERS[6], 0) is Status.RESOURCE_LIMIT_EXCEEDED
    for circuit in circuits:
        relay.closed(circuit)
    assert relay.circuit_count == 0


def test_a_reservation_is_renewed_halfway_whatever_the_relays_clock_says() -> None:
    assert renew_after_s(1000, 0.0) == 500
    assert renew_after_s(None, 0.0) == renew_after_s(2**64 - 1, 0.0) == RENEW_S_MAX
    assert renew_after_s(0, 1e9) == RENEW_S_MIN


def test_members_of_one_swarm_get_full_circuits_and_all_others_get_enough_to_punch() -> None:
    relay = members_relay([A, B])
    full = relay.limits.of_circuit
    assert [relay.reserve(peer, 0) for peer in (A, B, C)] == [
        (Status.OK, full),
        (Status.OK, full),
        (Status.OK, PUNCHING),
    ]
    for source, target, limit in ((A, B, full), (A, C, PUNCHING), (C, A, PUNCHING), (PEERS[4], C, PUNCHING)):
        circuit = granted(relay.connect(source, target, 0))
        assert (circuit.limit, circuit.is_full) == (limit, limit is full)
        assert circuit.swarm == (b"swarm" if limit is full else None)


def test_members_of_two_swarms_that_share_none_are_strangers_to_one_another() -> None:
    swarms = {A: frozenset({b"1"}), B: frozenset({b"2"}), C: frozenset({b"1", b"2"})}
    relay = Relay(RelayLimits(serves_strangers=False), swarms.__getitem__)
    for peer in (A, B, C):
        assert relay.reserve(peer, 0) == (Status.OK, relay.limits.of_circuit)
    assert granted(relay.connect(A, B, 0)).limit == PUNCHING
    assert granted(relay.connect(A, C, 0)).swarm == b"1"
    assert granted(relay.connect(B, C, 0)).swarm == b"2"


def test_who_serves_everybody_gives_strangers_full_circuits_that_no_swarm_pays_for() -> None:
    relay = Relay(RelayLimits())
    assert reserved(relay, B)
    circuit = granted(relay.connect(A, B, 0))
    assert (circuit.is_full, circuit.swarm) == (True, None)


def test_strangers_cannot_take_the_seats_of_members() -> None:
    members, strangers = PEERS[:10], PEERS[10:]
    relay = members_relay(members, reservations_max=12)
    assert [reserved(relay, peer) for peer in strangers[:4]] == [True, True, True, False]
    assert [reserved(relay, peer) for peer in members] == [True] * 9 + [False]
    assert reserved(relay, strangers[0], 1.0)
    assert reserved(relay, members[0], 1.0)


def test_who_becomes_a_member_leaves_a_strangers_seat_to_others() -> None:
    members: set[PeerId] = set()
    relay = Relay(
        RelayLimits(serves_strangers=False, reservations_max=4),
        lambda peer: frozenset({b"swarm"} if peer in members else ()),
    )
    assert reserved(relay, A)
    assert not reserved(relay, B)
    members.add(A)
    assert reserved(relay, B)
    assert not reserved(relay, C)


def test_no_range_of_addresses_has_more_than_its_part_of_the_strangers_seats() -> None:
    relay = Relay(RelayLimits(reservations_max=16))
    near = [reserved(relay, peer, 0, "5.6.7.8") for peer in PEERS[:3]]
    assert near == [True, True, False]
    assert [reserved(relay, peer, 0, "5.6.9.8") for peer in PEERS[3:6]] == [True, True, False]
    assert not reserved(relay, PEERS[6], 0, "5.6.10.8")
    assert reserved(relay, PEERS[6], 0, "5.7.10.8")
    assert reserved(relay, PEERS[0], 1, "5.6.7.8")
    assert all(reserved(relay, peer, 0, "192.168.1.2") for peer in PEERS[10:20])


def test_strangers_circuits_take_no_place_of_members() -> None:
    relay = members_relay(PEERS[:4], circuits_max=4, circuits_per_peer_max=4)
    for peer in PEERS:
        relay.reserve(peer, 0)
    punching = granted(relay.connect(PEERS[5], A, 0))
    assert relay.connect(PEERS[6], PEERS[7], 0) is Status.RESOURCE_LIMIT_EXCEEDED
    for source, target in ((A, B), (B, A), (A, C), (C, A)):
        granted(relay.connect(source, target, 0))
    assert relay.connect(B, C, 0) is Status.RESOURCE_LIMIT_EXCEEDED
    relay.closed(punching)
    granted(relay.connect(PEERS[6], PEERS[7], 0))


def test_punching_circuits_are_limited_per_source_and_range() -> None:
    relay = members_relay(circuits_max=128)
    for peer in PEERS[:10]:
        relay.reserve(peer, 0)
    for target in PEERS[1 : 1 + PUNCHING_FROM_MAX]:
        granted(relay.connect(A, target, 0))
    assert relay.connect(A, PEERS[9], 0) is Status.RESOURCE_LIMIT_EXCEEDED
    ranges = ranges_of(Address("/ip4/5.6.7.8/tcp/1"))
    answers = [relay.connect(source, PEERS[9], 0, ranges) for source in PEERS[10:15]]
    assert [isinstance(answer, Circuit) for answer in answers] == [True] * 4 + [False]
    granted(relay.connect(PEERS[16], PEERS[9], 0, ranges_of(Address("/ip4/5.6.8.8/tcp/1"))))


def test_a_circuit_ends_with_its_bytes() -> None:
    relay = Relay(RelayLimits(circuit_bytes_max=100))
    relay.reserve(B, 0)
    circuit = granted(relay.connect(A, B, 0))
    assert [relay.spend(circuit, 60, 0), relay.spend(circuit, 60, 0), relay.spend(circuit, 40, 0)] == [
        True,
        False,
        True,
    ]


def test_a_day_has_so_many_bytes_and_then_another_day_begins() -> None:
    relay = Relay(RelayLimits(day_bytes_max=100))
    relay.reserve(B, 50)
    one, two = granted(relay.connect(A, B, 50)), granted(relay.connect(C, B, 50))
    assert relay.spend(one, 60, 50)
    assert relay.spend(two, 40, 50)
    assert not relay.spend(one, 1, 49 + DAY_S)
    assert relay.connect(PEERS[4], B, 51) is Status.RESOURCE_LIMIT_EXCEEDED
    assert not reserved(relay, C, 51)
    assert reserved(relay, B, 50 + DAY_S)
    assert relay.spend(one, 1, 50 + DAY_S)


def test_who_cannot_be_dialed_relays_for_nobody() -> None:
    relay = members_relay([A, B])
    assert reserved(relay, B)
    relay.is_public = False
    assert relay.reserve(A, 0)[0] is Status.PERMISSION_DENIED
    assert relay.connect(A, B, 0) is Status.PERMISSION_DENIED


@given(st.data())
def test_whatever_is_asked_the_bounds_hold_and_the_books_are_empty_at_the_end(data: st.DataObject) -> None:
    members = PEERS[:4]
    relay = members_relay(members, reservations_max=8, circuits_max=4, circuits_per_peer_max=2, reservation_s=5)
    addresses = ["5.6.7.8", "5.6.8.8", "5.9.8.8", "10.0.0.1"]
    circuits: list[Circuit] = []
    now = 0.0
    for _ in range(data.draw(st.integers(1, 40))):
        now += data.draw(st.sampled_from((0.0, 1.0)))
        one, other = data.draw(st.sampled_from(PEERS[:12])), data.draw(st.sampled_from(PEERS[:12]))
        ranges = ranges_of(Address(f"/ip4/{data.draw(st.sampled_from(addresses))}/tcp/1"))
        match data.draw(st.integers(0, 3)):
            case 0:
                was_free = relay.reservation_count < 6  # eight less the strangers' two
                status, _ = relay.reserve(one, now, ranges)
                assert status is Status.OK or one not in members or not was_free
            case 1:
                answer = relay.connect(one, other, now, ranges)
                if isinstance(answer, Circuit):
                    assert answer.is_full == (one in members and other in members)
                    circuits.append(answer)
            case 2:
                relay.disconnected(one)
            case _:
                if circuits:
                    relay.closed(circuits.pop(data.draw(st.integers(0, len(circuits) - 1))))
        full = [circuit for circuit in circuits if circuit.is_full]
        assert len(full) <= 4
        assert len(circuits) - len(full) <= 1
        assert all(sum(peer == each.source for each in full) <= 2 for peer in PEERS)
        assert relay.reservation_count <= 8
        assert relay.circuit_count == len(circuits)
    for circuit in circuits:
        relay.closed(circuit)
    for peer in PEERS:
        relay.disconnected(peer)
    assert relay.circuit_count == relay.reservation_count == 0
    assert not any(relay.is_busy(peer, now) for peer in PEERS)
