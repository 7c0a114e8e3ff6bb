"""What members sign cannot be forged, moved elsewhere or be out of bounds; any other bytes are a refusal."""

from typing import Any

import msgpack  # type: ignore[import-untyped]
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from shoal.training.records import (
    INLINE_BYTES_MAX,
    PRESENCE_BYTES_MAX,
    Contribution,
    Head,
    Presence,
    Standing,
    open_contribution,
    seal_contribution,
    turn_seed,
)
from shoal.transport.blobs import BlobRef
from shoal.transport.envelope import seal_stored
from shoal.transport.identity import Identity
from shoal.transport.wire import Malformed, Message, decode, encode

SWARM = bytes(range(32))
DOMAIN = "shoal/contribution/2"
ANN = Identity.from_seed(bytes([1]) * 32)
CONTRIBUTION = Contribution(0, bytes(32), b"\x01" * 32, 7, b"payload")


def test_what_was_sealed_opens_to_itself() -> None:
    offered = seal_contribution(ANN, SWARM, 3, CONTRIBUTION)
    assert open_contribution(offered.envelope, SWARM) == offered
    assert offered.member == ANN.peer_id
    assert offered.round == 3


def test_nothing_opens_in_another_swarm_nor_as_another_kind() -> None:
    offered = seal_contribution(ANN, SWARM, 1, CONTRIBUTION)
    assert isinstance(open_contribution(offered.envelope, bytes(32)), Malformed)
    older = seal_stored(ANN, "shoal/contribution/1", SWARM, 1, 0, encode(CONTRIBUTION))
    assert isinstance(open_contribution(older, SWARM), Malformed)


def test_a_changed_byte_anywhere_is_a_refusal() -> None:
    envelope = seal_contribution(ANN, SWARM, 1, CONTRIBUTION).envelope
    for place in range(len(envelope)):
        changed = bytearray(envelope)
        changed[place] ^= 1
        assert isinstance(open_contribution(bytes(changed), SWARM), Malformed)


@pytest.mark.parametrize("base_round", [3, 4])
def test_a_contribution_to_a_round_starts_before_it(base_round: int) -> None:
    assert isinstance(open_contribution(sealed(structs.replace(CONTRIBUTION, base_round=base_round)), SWARM), Malformed)
    assert not isinstance(open_contribution(sealed(structs.replace(CONTRIBUTION, base_round=2)), SWARM), Malformed)


def sealed(contribution: Contribution) -> bytes:
    return seal_contribution(ANN, SWARM, 3, contribution).envelope


@pytest.mark.parametrize(
    "contribution",
    [
        Contribution(-1, bytes(32), b"", 1, b""),
        Contribution(0, bytes(31), b"", 1, b""),
        Contribution(0, bytes(32), bytes(33), 1, b""),
        Contribution(0, bytes(32), b"", 0, b""),
        Contribution(0, bytes(32), b"", 2**24 + 1, b""),
        Contribution(0, bytes(32), b"", 1, bytes(INLINE_BYTES_MAX + 1)),
        Contribution(0, bytes(32), b"", 1, BlobRef(bytes(32), -1)),
    ],
)
def test_a_contribution_out_of_bounds_is_refused_though_signed(contribution: Contribution) -> None:
    assert isinstance(open_contribution(sealed(contribution), SWARM), Malformed)


def test_the_largest_of_each_kind_fits_its_bound() -> None:
    largest = Contribution(2**31 - 1, bytes(32), bytes(32), 2**24, bytes(INLINE_BYTES_MAX))
    offered = seal_contribution(ANN, SWARM, 2**31, largest)
    assert open_contribution(offered.envelope, SWARM) == offered
    presence = Presence(2**63 - 1, Standing.STORAGE, ("/" + "x" * 255,) * 16)
    assert len(encode(presence)) <= PRESENCE_BYTES_MAX


def test_a_turns_seed_depends_on_swarm_round_base_and_member() -> None:
    turns = [(SWARM, 2, 1, "a"), (SWARM, 3, 1, "a"), (SWARM, 2, 0, "a"), (SWARM, 2, 1, "b"), (bytes(32), 2, 1, "a")]
    seeds = {turn_seed(*turn) for turn in turns}
    assert len(seeds) == len(turns)
    assert all(0 <= seed < 2**64 for seed in seeds)
    assert turn_seed(*turns[0]) == turn_seed(*turns[0])


def test_a_contributions_bytes_are_always_the_same() -> None:
    key, swarm = Identity.from_seed(bytes(range(32))), bytes(32)
    contribution = Contribution(6, bytes(32), b"\x11" * 32, 640, b"\x01\x02")
    text = "96 06 c420" + "00" * 32 + "c420" + "11" * 32 + "cd0280 c402 0102 c0"
    assert encode(contribution) == bytes.fromhex(text)
    offered = seal_contribution(key, swarm, 7, contribution)
    assert len(offered.envelope) == 203
    assert offered.hash.hex() == "481d5009204ebb96a5ad531dad21dbfa5e38db9543ddad875823ba4e10033091"
    assert turn_seed(swarm, 7, 6, key.peer_id) == 8125138343645169227


def test_an_independent_implementation_of_messagepack_reads_and_writes_the_same_bytes() -> None:
    messages: list[tuple[Message, list[object]]] = [
        (CONTRIBUTION, [0, bytes(32), b"\x01" * 32, 7, b"payload", None]),
        (structs.replace(CONTRIBUTION, payload=BlobRef(b"\x02" * 32, 9)), [0, *REST, [b"\x02" * 32, 9], None]),
        (Presence(9, Standing.TRAINER, ("/ip4/192.0.2.1/tcp/4001",)), [9, 1, ["/ip4/192.0.2.1/tcp/4001"]]),
        (Head(6, b"\x22" * 32, b""), [6, b"\x22" * 32, b""]),
    ]
    for message, plain in messages:
        independent: Any = msgpack
        assert independent.unpackb(encode(message)) == plain
        assert independent.packb(plain) == encode(message)


REST = (bytes(32), b"\x01" * 32, 7)


@given(st.binary(max_size=400))
def test_any_bytes_are_a_refusal(data: bytes) -> None:
    assert isinstance(open_contribution(data, SWARM), Malformed)


@given(st.data())
def test_any_signed_body_gives_a_value_or_a_refusal(data: st.DataObject) -> None:
    scalar = st.one_of(st.none(), st.booleans(), st.integers(-1, 2**40), st.binary(max_size=40), st.text(max_size=5))
    body = data.draw(st.one_of(st.binary(max_size=200), st.lists(scalar | st.lists(scalar, max_size=3)).map(encode)))
    opened = open_contribution(seal_stored(ANN, DOMAIN, SWARM, 1, 1, body), SWARM)
    assert opened is not None  # a value or Malformed, never an exception


MESSAGES: list[type[Message]] = [Presence, Contribution, Head]


@given(st.sampled_from(MESSAGES), st.binary(max_size=300))
def test_any_bytes_decode_to_the_message_or_to_a_refusal(type_: type[Message], data: bytes) -> None:
    assert isinstance(decode(data, type_, 200), type_ | Malformed)
