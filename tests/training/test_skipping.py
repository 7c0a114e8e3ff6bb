"""Where the log stands is proved by its changes alone, and by nothing less."""

import random
from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import structs

from shoal.training.agreed import AgreedRecord, Position, record_value, vouch_statement
from shoal.training.members import Electorate, Suspend, Vouch, electorate_of
from shoal.training.records import MEMBERS_MAX
from shoal.training.skipping import (
    FOUNDING_VOTES,
    PROOF_BYTES_MAX,
    Anchor,
    Leap,
    Proof,
    anchored,
    beginning,
    certified,
    leapt,
    prove,
    verify_proof,
)
from shoal.training.spec import AdmissionRule, Quorum, Spec
from shoal.training.votes import Decided, Signed
from shoal.transport.identity import verify
from shoal.transport.port import PeerId
from shoal.transport.wire import Malformed, decode, encode

from .agreed_log import ANN, BEN, CLEO, DAN, ORIGIN, SWARM, Written, joins, leaves, record_at, signed, written


class Counting:
    """Counts the signatures that are checked."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self, peer: PeerId, message: bytes, signature: bytes) -> bool:
        self.count += 1
        return verify(peer, message, signature)


@pytest.fixture(scope="module")
def log() -> Written:
    """Ben and Cleo join, Dan joins in round 6, Ben leaves in round 9; 12 rounds."""
    log = written(5)
    log.write(*joins(DAN))
    log.write()
    log.write()
    log.write(*leaves(log.position, BEN))
    for _ in range(3):
        log.write()
    return log


def proof(log: Written, since: int = 0) -> Proof:
    return prove(log.anchor(since), log.leaps(since))


def proved(log: Written, proof: Proof, since: int = 0) -> Position | Malformed:
    return verify_proof(SWARM, ORIGIN, log.at(since).record, proof)


@pytest.mark.parametrize("since", range(13))
def test_from_whichever_record_is_trusted_the_newest_is_proved(log: Written, since: int) -> None:
    assert proved(log, proof(log, since), since) == log.position


def test_a_proof_survives_the_wire(log: Written) -> None:
    assert decode(encode(proof(log, 4)), Proof, PROOF_BYTES_MAX) == proof(log, 4)


def test_a_thousand_rounds_with_three_changes_take_four_certificates_to_verify() -> None:
    changes = {1: joins(BEN), 2: joins(CLEO), 600: joins(DAN)}
    log = written(1000, changes)
    count, all = Counting(), Counting()
    assert verify_proof(SWARM, ORIGIN, SWARM, proof(log), count) == log.position
    assert count.count == 1 + 2 + 3 + 4
    position = ORIGIN
    for keep in log.keeps:
        found = certified(SWARM, position, keep.decided, all)
        assert not isinstance(found, Malformed)
        record, position = found
        assert record == keep.record
    assert position == log.position
    assert all.count == 1 + 2 + 3 * 598 + 4 * 400


def test_the_beginning_is_the_creator_alone() -> None:
    spec = Spec(creator=ANN.peer_id, nonce=bytes(16), quorum=Quorum.TWO_THIRDS)
    position = beginning(SWARM, spec)
    assert (position.round, position.record) == (0, SWARM)
    assert position.electorate == electorate_of(Quorum.TWO_THIRDS, {ANN.peer_id: 1})


def test_where_newcomers_have_no_votes_the_creator_has_enough_to_share_out() -> None:
    spec = Spec(creator=ANN.peer_id, nonce=bytes(16), admission=AdmissionRule.OPEN)
    (seat,) = beginning(SWARM, spec).electorate.seats
    assert seat.votes == FOUNDING_VOTES > MEMBERS_MAX


def test_what_does_not_fit_is_asked_for_from_the_last_leap(log: Written) -> None:
    position, proofs = ORIGIN, 0
    while position.round < log.position.round:
        since = position.round
        # Who asks from where its own log ends needs no anchor.
        part = prove(Anchor(), iter(log.leaps(since)), bytes_max=2500)
        assert len(encode(part)) <= 2500
        found = verify_proof(SWARM, position, position.record, part)
        assert isinstance(found, Position)
        position, proofs = found, proofs + 1
    assert proofs > 1
    assert position == log.position


def test_a_proof_reads_no_further_than_it_has_room(log: Written) -> None:
    leaps = iter(log.leaps(0))
    part = prove(Anchor(), leaps, bytes_max=1500)
    assert len(list(leaps)) == len(log.leaps(0)) - len(part.leaps) - 1


def with_leaps(log: Written, *rounds: int, since: int = 0) -> Proof:
    """A proof that shows just these."""
    leaps = [log.leap(round, last) for last, round in zip((since, *rounds), rounds, strict=False)]
    return Proof(log.anchor(since), tuple(leaps))


def test_leaving_a_change_out_is_noticed(log: Written) -> None:
    assert proved(log, with_leaps(log, 1, 2, 6, 9, 12)) == log.position
    for rounds in ((2, 6, 9, 12), (1, 6, 9, 12), (1, 2, 9, 12), (1, 2, 6, 12), (12,)):
        assert isinstance(proved(log, with_leaps(log, *rounds)), Malformed), rounds


def test_leaps_go_forward_only(log: Written) -> None:
    for rounds in ((1, 2, 2), (1, 2, 6, 5), (1, 2, 6, 9, 12, 11), (1, 2, 6, 9, 12, 12)):
        assert isinstance(proved(log, with_leaps(log, *rounds)), Malformed), rounds


def test_a_trusted_record_is_the_one_that_was_named_with_its_own_members(log: Written) -> None:
    sound = proof(log, 7)
    anchor = sound.anchor
    assert anchored(ORIGIN, log.at(7).record, anchor) == log.at(7)
    more = structs.replace(anchor.seats[0], votes=9)
    for wrong in (
        Anchor(),
        log.anchor(8),
        structs.replace(anchor, record=log.decided(6).value),
        structs.replace(anchor, seats=anchor.seats[:-1]),
        structs.replace(anchor, seats=(more, *anchor.seats[1:])),
        structs.replace(anchor, barred=(DAN.peer_id,)),
    ):
        assert isinstance(proved(log, structs.replace(sound, anchor=wrong), 7), Malformed)
    two_thirds = replace(ORIGIN, electorate=electorate_of(Quorum.TWO_THIRDS, {ANN.peer_id: 1}))
    assert isinstance(verify_proof(SWARM, two_thirds, log.at(7).record, sound), Malformed)


def test_a_proof_of_another_swarm_is_refused(log: Written) -> None:
    other = bytes(32)
    assert isinstance(verify_proof(other, replace(ORIGIN, record=other), other, proof(log)), Malformed)
    assert isinstance(verify_proof(other, ORIGIN, log.at(4).record, proof(log, 4)), Malformed)


Spoil = Callable[[Written, Decided], Decided]


def below_quorum(log: Written, decided: Decided) -> Decided:
    return structs.replace(decided, precommits=decided.precommits[:1])


def one_twice(log: Written, decided: Decided) -> Decided:
    return structs.replace(decided, precommits=(*decided.precommits, decided.precommits[0]))


def a_stranger(log: Written, decided: Decided) -> Decided:
    """Who left signs on."""
    signature = decided.precommits[0].signature
    return structs.replace(decided, precommits=(*decided.precommits, Signed(BEN.peer_id, signature)))


def forged(log: Written, decided: Decided) -> Decided:
    """One signature is another's."""
    first, *rest = decided.precommits
    return structs.replace(decided, precommits=(Signed(first.member, rest[0].signature), *rest))


def another_attempt(log: Written, decided: Decided) -> Decided:
    return structs.replace(decided, attempt=1)


def another_round(log: Written, decided: Decided) -> Decided:
    return structs.replace(decided, round=13)


def another_value(log: Written, decided: Decided) -> Decided:
    return structs.replace(decided, value=record_value(record_at(log.at(11), state=b"x" * 32)).data)


def junk(log: Written, decided: Decided) -> Decided:
    return structs.replace(decided, value=b"junk")


@pytest.mark.parametrize(
    "spoil", [below_quorum, one_twice, a_stranger, forged, another_attempt, another_round, another_value, junk]
)
def test_a_spoiled_certificate_proves_nothing(log: Written, spoil: Spoil) -> None:
    for leap, position in ((Leap(log.decided(11).value, log.decided(12)), log.at(9)), (log.leap(12, 11), log.at(11))):
        assert isinstance(leapt(SWARM, position, leap), tuple)
        spoiled = structs.replace(leap, decided=spoil(log, leap.decided))
        assert isinstance(leapt(SWARM, position, spoiled), Malformed)


def test_the_record_before_is_the_one_that_is_named(log: Written) -> None:
    for before in (b"junk", log.decided(10).value, log.decided(12).value):
        assert isinstance(leapt(SWARM, log.at(9), Leap(before, log.decided(12))), Malformed)


def test_those_who_were_a_quorum_once_cannot_go_on_alone(log: Written) -> None:
    """Ann and Ben were a quorum of three, until Dan came and Ben left."""
    alone = signed(log.at(11), record_at(log.at(11)), signers=[ANN, BEN])
    assert alone.value == log.decided(12).value
    for since in (5, 9):
        assert isinstance(leapt(SWARM, log.at(since), Leap(log.decided(11).value, alone)), Malformed)


def test_electorates_that_become_equal_again_do_not_hide_a_change() -> None:
    """Ann gives her votes to Ben, who leaves: before and after she has them all. Between she could decide nothing."""
    start = Position(4, bytes(32), electorate_of(Quorum.TWO_THIRDS, {ANN.peer_id: 9, BEN.peer_id: 0, CLEO.peer_id: 3}))
    word = ANN.sign(vouch_statement(SWARM, ANN.peer_id, BEN.peer_id, 8, 0))
    given = record_at(start, Vouch(BEN.peer_id, ANN.peer_id, 8, word))
    between = Position(5, record_value(given).hash, after(start.electorate, given))
    left = record_at(between, *leaves(between, BEN))
    assert after(between.electorate, left) == after(start.electorate, left)
    lost = signed(between, left, signers=[ANN])  # her precommit of an attempt that led nowhere
    assert isinstance(leapt(SWARM, start, Leap(record_value(given).data, lost)), Malformed)
    assert isinstance(leapt(SWARM, between, Leap(b"", lost)), Malformed)
    assert isinstance(leapt(SWARM, between, Leap(b"", signed(between, left, signers=[ANN, BEN]))), tuple)


def after(electorate: Electorate, record: AgreedRecord) -> Electorate:
    changed = electorate.after(record.round, record.changes)
    assert isinstance(changed, Electorate), changed
    return changed


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_any_choice_of_leaps_proves_the_truth_or_nothing(data: st.DataObject) -> None:
    log = LONG
    rounds = data.draw(st.lists(st.integers(1, len(log.keeps)), max_size=8, unique=True).map(sorted))
    since = data.draw(st.integers(0, len(log.keeps)))
    found = proved(log, with_leaps(log, *(round for round in rounds if round > since), since=since), since)
    assert isinstance(found, Malformed) or found == log.at(found.round)


@settings(max_examples=300, deadline=None)
@given(since=st.integers(0, 20), seed=st.integers(0, 2**32))
def test_a_proof_with_other_bytes_proves_the_truth_or_nothing(since: int, seed: int) -> None:
    chance = random.Random(seed)
    data = bytearray(encode(proof(LONG, since)))
    for _ in range(chance.randint(1, 3)):
        data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
    spoiled = decode(bytes(data), Proof, PROOF_BYTES_MAX)
    found = spoiled if isinstance(spoiled, Malformed) else proved(LONG, spoiled, since)
    assert isinstance(found, Malformed) or found == LONG.at(found.round)


LONG = written(20, {1: joins(BEN), 2: joins(CLEO), 7: joins(DAN), 11: (Suspend(BEN.peer_id),)})
