"""What a relay grants, and its messages, bit for bit as libp2p's own module reads and writes them."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from libp2p.relay.circuit_v2.pb import circuit_pb2

from shoal.transport.identity import Identity
from shoal.transport.relay import Circuit, Relay, RelayLimits
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


def test_a_circuit_needs_a_reservation_of_its_target_and_ends_with_it() -> None:
    relay = Relay(RelayLimits(reservation_s=10))
    assert relay.connect(A, B, 0) is Status.NO_RESERVATION
    assert relay.reserve(B, 0) is Status.OK
    assert relay.connect(B, B, 1) is Status.PERMISSION_DENIED
    granted(relay.connect(A, B, 9.9))
    assert relay.connect(A, B, 10) is Status.NO_RESERVATION
    relay.reserve(B, 10)
    granted(relay.connect(A, B, 19.9))
    relay.disconnected(B)
    assert relay.connect(A, B, 19.9) is Status.NO_RESERVATION


def test_a_full_relay_refuses_until_a_reservation_expires_and_still_renews() -> None:
    relay = Relay(RelayLimits(reservations_max=2, reservation_s=10))
    assert [relay.reserve(peer, now) for peer, now in ((A, 0), (B, 5), (C, 6))] == [
        Status.OK, Status.OK, Status.RESERVATION_REFUSED,
    ]  # fmt: skip
    assert relay.reserve(B, 7) is Status.OK
    assert relay.reserve(C, 10) is Status.OK
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
