"""What members sign cannot be forged, moved elsewhere or be out of bounds; any other bytes are a refusal."""

from collections.abc import Callable
from typing import Any

import msgpack  # type: ignore[import-untyped]
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal.training.records import (
    INLINE_BYTES_MAX,
    PRESENCE_BYTES_MAX,
    AskContributions,
    Calls,
    Contribution,
    Have,
    Head,
    Hello,
    Presence,
    Record,
    Standing,
    Taken,
    TellHead,
    open_contribution,
    open_proposal,
    record_hash,
    seal_contribution,
    seal_proposal,
    turn_seed,
)
from shoal.transport.blobs import BlobRef
from shoal.transport.envelope import seal_stored
from shoal.transport.identity import Identity
from shoal.transport.wire import Malformed, Message, decode, encode

SWARM = bytes(range(32))
ANN, BEN = sorted((Identity.from_seed(bytes([n]) * 32) for n in (1, 2)), key=lambda identity: identity.peer_id)
CONTRIBUTION = Contribution(bytes(32), b"\x01" * 32, 7, b"payload")
RECORD = Record(SWARM, 1, bytes(32), (Taken(ANN.peer_id, bytes(32)), Taken(BEN.peer_id, b"\x01" * 32)))

OPENERS: list[Callable[[bytes, bytes], object]] = [open_contribution, open_proposal]


def test_what_was_sealed_opens_to_itself() -> None:
    offered = seal_contribution(ANN, SWARM, 3, CONTRIBUTION)
    proposed = seal_proposal(ANN, SWARM, RECORD)
    assert open_contribution(offered.envelope, SWARM) == offered
    assert open_proposal(proposed.envelope, SWARM) == proposed


def test_nothing_opens_in_another_swarm_nor_as_another_kind() -> None:
    sealed = [
        seal_contribution(ANN, SWARM, 1, CONTRIBUTION).envelope,
        seal_proposal(ANN, SWARM, RECORD).envelope,
    ]
    for kind, envelope in enumerate(sealed):
        for opener, open_ in enumerate(OPENERS):
            assert isinstance(open_(envelope, SWARM), Malformed) == (kind != opener)
            assert isinstance(open_(envelope, bytes(32)), Malformed)


def test_a_changed_byte_anywhere_is_a_refusal() -> None:
    envelope = seal_contribution(ANN, SWARM, 1, CONTRIBUTION).envelope
    for place in range(len(envelope)):
        changed = bytearray(envelope)
        changed[place] ^= 1
        assert isinstance(open_contribution(bytes(changed), SWARM), Malformed)


def test_two_proposers_of_the_same_set_name_the_same_record() -> None:
    assert seal_proposal(ANN, SWARM, RECORD).hash == seal_proposal(BEN, SWARM, RECORD).hash == record_hash(RECORD)


def test_the_record_hash_covers_everything_in_it() -> None:
    variants = [
        RECORD,
        Record(bytes(32), 1, bytes(32), RECORD.taken),
        Record(SWARM, 2, bytes(32), RECORD.taken),
        Record(SWARM, 1, b"", RECORD.taken),
        Record(SWARM, 1, bytes(32), RECORD.taken[:1]),
    ]
    assert len({record_hash(record) for record in variants}) == len(variants)


@pytest.mark.parametrize(
    "taken", [RECORD.taken[::-1], RECORD.taken[:1] * 2], ids=["unsorted members", "a member twice"]
)
def test_a_record_that_contradicts_itself_is_refused(taken: tuple[Taken, ...]) -> None:
    assert isinstance(open_proposal(seal_proposal(ANN, SWARM, Record(SWARM, 1, b"", taken)).envelope, SWARM), Malformed)


def test_a_proposal_whose_envelope_names_another_round_than_its_record_is_refused() -> None:
    envelope = seal_stored(ANN, "shoal/proposal/1", SWARM, 2, 0, encode(RECORD))
    assert isinstance(open_proposal(envelope, SWARM), Malformed)


@pytest.mark.parametrize(
    "contribution",
    [
        Contribution(bytes(31), b"", 1, b""),
        Contribution(bytes(32), bytes(33), 1, b""),
        Contribution(bytes(32), b"", 0, b""),
        Contribution(bytes(32), b"", 2**24 + 1, b""),
        Contribution(bytes(32), b"", 1, bytes(INLINE_BYTES_MAX + 1)),
        Contribution(bytes(32), b"", 1, BlobRef(bytes(32), -1)),
    ],
)
def test_a_contribution_out_of_bounds_is_refused_though_signed(contribution: Contribution) -> None:
    assert isinstance(open_contribution(seal_contribution(ANN, SWARM, 1, contribution).envelope, SWARM), Malformed)


def test_the_largest_of_each_kind_fits_its_bound() -> None:
    head = Head(2**31, bytes(32), bytes(32))
    members = sorted(Identity.from_seed(n.to_bytes(32, "big")).peer_id for n in range(1024))
    record = Record(SWARM, 2**31, bytes(32), tuple(Taken(member, bytes(32)) for member in members))
    presence = Presence(2**63 - 1, Standing.STORAGE, ("/" + "x" * 255,) * 16)
    proposed = seal_proposal(ANN, SWARM, record)
    offered = seal_contribution(ANN, SWARM, 2**31, Contribution(bytes(32), bytes(32), 2**24, bytes(INLINE_BYTES_MAX)))
    assert open_proposal(proposed.envelope, SWARM) == proposed
    assert open_contribution(offered.envelope, SWARM) == offered
    calls = Calls(SWARM)
    assert len(encode(presence)) <= PRESENCE_BYTES_MAX
    hello = Hello(1, presence, head)
    assert len(encode(hello)) <= calls.hello.request_bytes_max
    assert len(encode(Have(head, (bytes(32),) * 1024, True))) <= calls.have.request_bytes_max
    assert len(encode(AskContributions((bytes(32),) * 32))) <= calls.contributions.request_bytes_max
    assert len(encode(TellHead(head, proposed.envelope, BlobRef(bytes(32), 2**36)))) <= calls.head.reply_bytes_max


def test_method_names_stay_short_and_differ_between_swarms() -> None:
    names = {*Calls(SWARM).names(), *Calls(bytes(32)).names()}
    assert len(names) == 16
    assert all(len(name) < 64 for name in names)


def test_a_turns_seed_depends_on_swarm_round_and_member() -> None:
    seeds = {turn_seed(SWARM, 1, "a"), turn_seed(SWARM, 2, "a"), turn_seed(SWARM, 1, "b"), turn_seed(bytes(32), 1, "a")}
    assert len(seeds) == 4
    assert all(0 <= seed < 2**64 for seed in seeds)
    assert turn_seed(SWARM, 1, "a") == turn_seed(SWARM, 1, "a")


def test_the_bytes_are_those_of_the_protocol_document() -> None:
    key, swarm = Identity.from_seed(bytes(range(32))), bytes(32)
    contribution = Contribution(bytes(32), b"\x11" * 32, 640, b"\x01\x02")
    text = "94 c420" + "00" * 32 + "c420" + "11" * 32 + "cd0280 c402 0102"
    assert encode(contribution) == bytes.fromhex(text)
    offered = seal_contribution(key, swarm, 7, contribution)
    assert len(offered.envelope) == 201
    assert offered.hash.hex() == "bfad6f4103106445f844f31e1905bf728d268cc579b33628c93865fcbbdce958"
    record = Record(b"\x22" * 32, 7, b"\x11" * 32, (Taken(key.peer_id, offered.hash),))
    assert record_hash(record).hex() == "e8d20a98757e4f2808f6e4f39631bd516b23570da4760cd73734d67e68706b2c"
    assert turn_seed(swarm, 7, key.peer_id) == 8125138343645169227


def test_an_independent_implementation_of_messagepack_reads_and_writes_the_same_bytes() -> None:
    head = Head(6, b"\x22" * 32, b"")
    for message, plain in [
        (CONTRIBUTION, [bytes(32), b"\x01" * 32, 7, b"payload"]),
        (RECORD, [SWARM, 1, bytes(32), [[row.member, row.contribution] for row in RECORD.taken]]),
        (Presence(9, Standing.TRAINER, ("/ip4/192.0.2.1/tcp/4001",)), [9, 1, ["/ip4/192.0.2.1/tcp/4001"]]),
        (Have(head, (bytes(32),), True), [[6, b"\x22" * 32, b""], [bytes(32)], True]),
        (TellHead(head, b"", BlobRef(bytes(32), 9)), [[6, b"\x22" * 32, b""], b"", [bytes(32), 9]]),
    ]:
        independent: Any = msgpack
        assert independent.unpackb(encode(message)) == plain
        assert independent.packb(plain) == encode(message)


@given(st.binary(max_size=400), st.sampled_from(OPENERS))
def test_any_bytes_are_a_refusal(data: bytes, open_: Callable[[bytes, bytes], object]) -> None:
    assert isinstance(open_(data, SWARM), Malformed)


DOMAINS = ("shoal/contribution/1", "shoal/proposal/1")


@given(st.sampled_from(list(zip(DOMAINS, (open_contribution, open_proposal), strict=True))), st.data())
def test_any_signed_body_gives_a_value_or_a_refusal(
    kind: tuple[str, Callable[[bytes, bytes], object]], data: st.DataObject
) -> None:
    scalar = st.one_of(st.none(), st.booleans(), st.integers(-1, 2**40), st.binary(max_size=40), st.text(max_size=5))
    body = data.draw(st.one_of(st.binary(max_size=200), st.lists(scalar | st.lists(scalar, max_size=3)).map(encode)))
    opened = kind[1](seal_stored(ANN, kind[0], SWARM, 1, 1, body), SWARM)
    assert opened is not None  # a value or Malformed, never an exception


MESSAGES: list[type[Message]] = [Hello, Have, TellHead, AskContributions, Presence, Contribution, Record, Head]


@given(st.sampled_from(MESSAGES), st.binary(max_size=300))
def test_any_bytes_decode_to_the_message_or_to_a_refusal(type_: type[Message], data: bytes) -> None:
    assert isinstance(decode(data, type_, 200), type_ | Malformed)
