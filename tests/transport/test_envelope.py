"""Envelopes hold for one signer and one place, and direct ones once."""

import os
from typing import Final

import msgpack  # type: ignore[import-untyped]
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shoal.transport.envelope import (
    ENVELOPE_OVERHEAD_BYTES,
    WINDOW_SEQUENCES,
    DirectEnvelope,
    ReplayWindow,
    StoredEnvelope,
    open_direct,
    open_stored,
    seal_direct,
    seal_stored,
)
from shoal.transport.identity import Identity
from shoal.transport.port import PeerId
from shoal.transport.wire import Malformed

ALICE: Final = Identity.from_seed(b"a" * 32)
BOB: Final = Identity.from_seed(b"b" * 32)
SWARM: Final = b"s" * 32
SESSION: Final = b"x" * 16
COUNT: Final = 100_000 if os.environ.get("SHOAL_SOAK") else 300

numbers = st.integers(0, 2**63 - 1)
domains = st.text(max_size=20)


@given(domains, numbers, numbers, st.binary(max_size=300))
def test_a_stored_envelope_opens_to_what_was_sealed(domain: str, round: int, sequence: int, body: bytes) -> None:
    data = seal_stored(ALICE, domain, SWARM, round, sequence, body)
    assert len(data) <= len(body) + ENVELOPE_OVERHEAD_BYTES
    assert open_stored(data, domain, SWARM, len(data)) == StoredEnvelope(ALICE.peer_id, round, sequence, body)


@given(domains, domains, st.binary(min_size=32, max_size=32))
def test_a_stored_envelope_is_bound_to_domain_and_swarm(domain: str, other: str, swarm: bytes) -> None:
    data = seal_stored(ALICE, domain, SWARM, 1, 1, b"body")
    assert isinstance(open_stored(data, other, SWARM, 1000), Malformed) == (other != domain)
    assert isinstance(open_stored(data, domain, swarm, 1000), Malformed) == (swarm != SWARM)


@settings(max_examples=COUNT)
@given(st.data())
def test_no_change_of_a_single_byte_survives(data: st.DataObject) -> None:
    stored = seal_stored(ALICE, "test", SWARM, 7, 9, b"body")
    direct = seal_direct(ALICE, "test", BOB.peer_id, SESSION, 9, b"body")
    change = data.draw(st.integers(1, 255))
    for sealed in (stored, direct):
        changed = bytearray(sealed)
        changed[data.draw(st.integers(0, len(sealed) - 1))] ^= change
        for piece in (bytes(changed), sealed + bytes([change]), sealed[: data.draw(st.integers(0, len(sealed) - 1))]):
            assert isinstance(open_stored(piece, "test", SWARM, 1000), Malformed)
            assert isinstance(open_direct(piece, "test", BOB.peer_id, SESSION, ReplayWindow(), 1000), Malformed)


@settings(max_examples=COUNT)
@given(st.binary(max_size=200))
def test_any_bytes_are_refused(data: bytes) -> None:
    assert isinstance(open_stored(data, "test", SWARM, 150), Malformed)
    assert isinstance(open_direct(data, "test", BOB.peer_id, SESSION, ReplayWindow(), 150), Malformed)


def unpacked(data: bytes) -> list[object]:
    return list(msgpack.unpackb(data))  # pyright: ignore


def packed(*values: object) -> bytes:
    return b"".join(bytes(msgpack.packb(value)) for value in values)  # pyright: ignore


def test_a_stored_envelope_has_one_form() -> None:
    signer, round, sequence, _, signature = unpacked(seal_stored(ALICE, "test", SWARM, 7, 9, b"body"))
    longer = b"\x95" + packed(signer, round, sequence) + b"\xc5\x00\x04body" + packed(signature)  # length in two bytes
    assert open_stored(longer, "test", SWARM, 1000) == Malformed("an envelope that is not written in its shortest form")


def test_an_envelope_too_long_is_refused_unread() -> None:
    data = seal_stored(ALICE, "test", SWARM, 1, 1, bytes(1000))
    refusal = open_stored(data, "test", SWARM, 1000)
    assert isinstance(refusal, Malformed)
    assert "exceeds its limit of 1000" in refusal.reason


def test_nobody_signs_for_another() -> None:
    signer, *rest = unpacked(seal_stored(ALICE, "test", SWARM, 1, 1, b"body"))
    assert signer == ALICE.peer_id
    forged = packed([BOB.peer_id, *rest])
    assert open_stored(forged, "test", SWARM, 1000) == Malformed(f"not signed by {BOB.peer_id} for test of this swarm")


@pytest.mark.parametrize("length", [0, 31, 33])
def test_a_swarm_or_session_of_another_length_is_not_sealed(length: int) -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        seal_stored(ALICE, "test", bytes(length), 1, 1, b"")
    with pytest.raises(ValueError, match="16 bytes"):
        seal_direct(ALICE, "test", BOB.peer_id, bytes(length), 1, b"")


@given(domains, numbers, st.binary(max_size=300))
def test_a_direct_envelope_opens_once(domain: str, sequence: int, body: bytes) -> None:
    data = seal_direct(ALICE, domain, BOB.peer_id, SESSION, sequence, body)
    assert len(data) <= len(body) + ENVELOPE_OVERHEAD_BYTES
    window = ReplayWindow()
    opened = open_direct(data, domain, BOB.peer_id, SESSION, window, len(data))
    assert opened == DirectEnvelope(ALICE.peer_id, sequence, body)
    assert isinstance(open_direct(data, domain, BOB.peer_id, SESSION, window, len(data)), Malformed)


def test_a_direct_envelope_is_bound_to_recipient_session_and_domain() -> None:
    data = seal_direct(ALICE, "test", BOB.peer_id, SESSION, 1, b"body")
    for domain, recipient, session in (
        ("tests", BOB.peer_id, SESSION),
        ("test", ALICE.peer_id, SESSION),
        ("test", BOB.peer_id, b"y" * 16),  # the recipient has restarted
    ):
        assert isinstance(open_direct(data, domain, recipient, session, ReplayWindow(), 1000), Malformed)


def test_a_forgery_does_not_use_up_a_sequence() -> None:
    window = ReplayWindow()
    forged = seal_direct(ALICE, "test", BOB.peer_id, b"y" * 16, 1, b"body")
    assert isinstance(open_direct(forged, "test", BOB.peer_id, SESSION, window, 1000), Malformed)
    data = seal_direct(ALICE, "test", BOB.peer_id, SESSION, 1, b"body")
    assert isinstance(open_direct(data, "test", BOB.peer_id, SESSION, window, 1000), DirectEnvelope)


near = st.integers(0, 3 * WINDOW_SEQUENCES)


@settings(max_examples=COUNT)
@given(st.lists(st.one_of(near, numbers), max_size=60))
def test_the_window_equals_its_dumb_twin(sequences: list[int]) -> None:
    window = ReplayWindow()
    seen: set[int] = set()
    for sequence in sequences:
        expected = sequence not in seen and sequence > max(seen, default=sequence) - WINDOW_SEQUENCES
        accepted = window.refusal(ALICE.peer_id, "test", sequence) is None
        assert accepted == expected
        if accepted:
            window.mark(ALICE.peer_id, "test", sequence)
            seen.add(sequence)


def test_senders_and_domains_do_not_disturb_one_another() -> None:
    window = ReplayWindow()
    window.mark(ALICE.peer_id, "test", 2**62)
    assert window.refusal(BOB.peer_id, "test", 1) is None
    assert window.refusal(ALICE.peer_id, "other", 1) is None
    assert window.refusal(ALICE.peer_id, "test", 1) is not None


def test_a_full_window_refuses_new_senders_and_goes_on_with_the_old() -> None:
    window = ReplayWindow(senders_max=2)
    for name in ("one", "two"):
        window.mark(PeerId(name), "test", 1)
    assert window.refusal(PeerId("three"), "test", 1) == Malformed("more than 2 senders in this session")
    assert window.refusal(PeerId("one"), "test", 2) is None
