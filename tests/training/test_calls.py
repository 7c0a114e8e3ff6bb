"""What members say fits the bounds of its call, and any other bytes are a refusal."""

from typing import Any

import msgpack  # type: ignore[import-untyped]
from hypothesis import given
from hypothesis import strategies as st

from shoal.training.agreed import Position, Share, next_record, record_value
from shoal.training.calls import (
    ASK_MAX,
    BALLOTS_MAX,
    CHANGES_TOLD_BYTES_MAX,
    HELD_MAX,
    LOG_TOLD_MAX,
    PLATFORM_CHARS_MAX,
    PROTOCOL_VERSION,
    ROUNDS_TOLD_MAX,
    TOLD_BYTES_MAX,
    Ack,
    AskContributions,
    AskHistory,
    AskLog,
    Ballots,
    Calls,
    Have,
    Hello,
    TellContributions,
    TellHead,
    TellHistory,
    TellLog,
    Words,
    topic,
)
from shoal.training.history import MADE_BYTES_MAX, Made, Part
from shoal.training.members import CHANGES_TOLD_MAX, PROOF_BYTES_MAX, Join, Vouch, electorate_of
from shoal.training.method import WEIGHT_MAX
from shoal.training.records import CONTRIBUTION_BYTES_MAX, MEMBERS_MAX, Head, Presence, Standing
from shoal.training.spec import Quorum
from shoal.training.votes import VALUE_BYTES_MAX, Decided, Proposal, Signed, Step, Vote
from shoal.transport.blobs import BlobRef
from shoal.transport.identity import Identity
from shoal.transport.port import PeerId
from shoal.transport.wire import Malformed, Message, decode, encode

SWARM = bytes(range(32))
ANN = Identity.from_seed(bytes([1]) * 32)
CALLS = Calls(SWARM)
HEAD = Head(2**31, bytes(32), bytes(32))
CROWD = [PeerId(f"m{number}".ljust(52, "-")) for number in range(MEMBERS_MAX)]
SIGNED = tuple(Signed(member, bytes(64)) for member in CROWD)


def test_the_largest_of_each_call_fits_its_bound() -> None:
    presence = Presence(2**63 - 1, Standing.STORAGE, ("/" + "x" * 255,) * 16)
    vote = Vote(ANN.peer_id, 2**31, 2**31, Step.PRECOMMIT, bytes(32), bytes(64))
    hello = Hello(PROTOCOL_VERSION, presence, HEAD, "x" * PLATFORM_CHARS_MAX, (vote,) * BALLOTS_MAX)
    assert len(encode(hello)) <= CALLS.hello.request_bytes_max
    assert len(encode(hello)) <= CALLS.hello.reply_bytes_max
    assert len(encode(Ack(HEAD))) <= CALLS.have.reply_bytes_max
    assert len(encode(Have(HEAD, (bytes(32),) * HELD_MAX, True, 2**63 - 1))) <= CALLS.have.request_bytes_max
    assert len(encode(AskContributions((bytes(32),) * ASK_MAX))) <= CALLS.contributions.request_bytes_max
    told = TellContributions((bytes(CONTRIBUTION_BYTES_MAX),) * ASK_MAX)
    assert len(encode(told)) <= CALLS.contributions.reply_bytes_max
    assert len(encode(TellHead(HEAD, BlobRef(bytes(32), 2**36)))) <= CALLS.head.reply_bytes_max
    assert len(encode(AskLog(2**31))) <= CALLS.log.request_bytes_max
    assert len(encode(AskHistory(2**31, 2**31))) <= CALLS.history.request_bytes_max


def test_what_a_thousand_members_contributed_to_a_round_fits_a_message() -> None:
    made = Made(2**31, (Part(WEIGHT_MAX, bytes(MADE_BYTES_MAX // MEMBERS_MAX - 16)),) * MEMBERS_MAX)
    assert MADE_BYTES_MAX - 16 * MEMBERS_MAX < len(encode(made)) <= MADE_BYTES_MAX
    assert len(encode(TellHistory((made,)))) <= CALLS.history.reply_bytes_max
    empty = (Made(2**31, ()),) * (ROUNDS_TOLD_MAX + 1)
    assert isinstance(decode(encode(TellHistory(empty)), TellHistory, TOLD_BYTES_MAX), Malformed)


def test_changes_with_the_longest_proofs_of_one_peer_fit_one_message() -> None:
    join, vouch = Join(ANN.peer_id, 2**40, bytes(PROOF_BYTES_MAX)), Vouch(ANN.peer_id, ANN.peer_id, 2**40, bytes(64))
    words = Words((join, vouch) * (CHANGES_TOLD_MAX // 2))
    assert len(encode(words)) <= CHANGES_TOLD_BYTES_MAX <= CALLS.words.request_bytes_max


def test_what_a_thousand_members_agree_on_fits_a_message_with_its_certificate() -> None:
    position = Position(2**31 - 1, SWARM, electorate_of(Quorum.TWO_THIRDS, dict.fromkeys(CROWD, 2**40)))
    shares = [Share(member, 2**31, 2**31 - 1, bytes(32), 2**24) for member in CROWD]
    record = next_record(position, bytes(32), shares)
    assert not isinstance(record, Malformed)
    data = record_value(record).data
    assert len(data) <= VALUE_BYTES_MAX
    assert len(encode(TellLog((Decided(2**31, 2**31, data, SIGNED),)))) <= TOLD_BYTES_MAX
    proposal = Proposal(ANN.peer_id, 2**31, 2**31, bytes(VALUE_BYTES_MAX), 2**31 - 1, SIGNED, bytes(64))
    assert len(encode(Ballots((proposal,)))) <= CALLS.ballots.request_bytes_max


def test_no_more_is_read_than_the_bounds_say() -> None:
    decided = Decided(1, 0, b"value", ())
    assert isinstance(decode(encode(Ballots(())), Ballots, TOLD_BYTES_MAX), Malformed)
    assert isinstance(decode(encode(Ballots((decided,) * (BALLOTS_MAX + 1))), Ballots, TOLD_BYTES_MAX), Malformed)
    assert isinstance(decode(encode(TellLog((decided,) * (LOG_TOLD_MAX + 1))), TellLog, TOLD_BYTES_MAX), Malformed)
    assert isinstance(decode(encode(AskContributions(())), AskContributions, 2000), Malformed)
    wanted = AskContributions((bytes(32),) * (ASK_MAX + 1))
    assert isinstance(decode(encode(wanted), AskContributions, 2000), Malformed)
    join = Join(ANN.peer_id, 1, b"")
    assert isinstance(decode(encode(Words((join,) * (CHANGES_TOLD_MAX + 1))), Words, CHANGES_TOLD_BYTES_MAX), Malformed)


def test_method_names_stay_short_and_differ_between_swarms() -> None:
    names = {*Calls(SWARM).names(), *Calls(bytes(32)).names()}
    assert len(names) == 24
    assert all(len(name) < 64 for name in names)
    assert topic(SWARM) != topic(bytes(32))


def test_an_independent_implementation_of_messagepack_reads_and_writes_the_same_bytes() -> None:
    messages: list[tuple[Message, list[object]]] = [
        (Have(HEAD, (bytes(32),), True, 7), [[2**31, bytes(32), bytes(32)], [bytes(32)], True, 7]),
        (TellHead(HEAD, BlobRef(bytes(32), 9)), [[2**31, bytes(32), bytes(32)], [bytes(32), 9]]),
        (TellHead(HEAD, None), [[2**31, bytes(32), bytes(32)], None]),
        (TellLog((Decided(1, 0, b"value", SIGNED[:1]),)), [[[3, 1, 0, b"value", [[CROWD[0], bytes(64)]]]]]),
        (Words((Join(CROWD[0], 1, b"why"),)), [[[1, CROWD[0], 1, b"why"]]]),
    ]
    for message, plain in messages:
        independent: Any = msgpack
        assert independent.unpackb(encode(message)) == plain
        assert independent.packb(plain) == encode(message)


MESSAGES: list[type[Message]] = [
    Hello,
    Have,
    Ballots,
    Words,
    TellHead,
    TellLog,
    AskLog,
    AskContributions,
    AskHistory,
    TellHistory,
]


@given(st.sampled_from(MESSAGES), st.binary(max_size=300))
def test_any_bytes_decode_to_the_message_or_to_a_refusal(type_: type[Message], data: bytes) -> None:
    assert isinstance(decode(data, type_, 200), type_ | Malformed)
