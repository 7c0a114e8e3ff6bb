"""Who is let in, and that nobody comes in by what was not given to it."""

from dataclasses import replace
from typing import Any

import pytest
from blake3 import blake3
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from shoal.training.admission import (
    WORD_ROUNDS_MAX,
    Admission,
    Shown,
    Ticket,
    admits,
    join_change,
    join_statement,
    make_ticket,
    obstacle,
    ticket_statement,
    token_statement,
)
from shoal.training.agreed import Position, leave_statement, unproved
from shoal.training.members import PROOF_BYTES_MAX, Electorate, Expel, Join, Leave, Remove, electorate_of
from shoal.training.spec import AdmissionRule, Quorum, Spec, spec_from, swarm_id
from shoal.training.votes import Step, cast, shortened
from shoal.transport.identity import Identity
from shoal.transport.port import PeerId
from shoal.transport.wire import Malformed, decode, encode

CREATOR, ANN, BEN, NEW, OTHER = [Identity.from_seed(bytes([number]) * 32) for number in range(1, 6)]
SEED = b"t" * 32


def make(admission: AdmissionRule = AdmissionRule.INVITE, **values: Any) -> Spec:
    spec = spec_from({"admission": admission.value, **values}, CREATOR.peer_id, bytes(16))
    assert isinstance(spec, Spec), spec
    return spec


BY_INVITE, ANYBODY = make(), make(AdmissionRule.OPEN)
BY_LIST = make(AdmissionRule.LIST, allowed=[NEW.peer_id, ANN.peer_id])
SWARM = swarm_id(BY_INVITE)
TICKET = make_ticket(ANN, SWARM, SEED)
HERE = Position(10, b"r" * 32, electorate_of(Quorum.MAJORITY, {key.peer_id: 1 for key in (CREATOR, ANN, BEN)}))


def asked(spec: Spec = BY_INVITE, key: Identity = NEW, ticket: Ticket | None = TICKET, round: int = 10) -> Join:
    change = join_change(spec, swarm_id(spec), key, ticket, round)
    assert isinstance(change, Join), change
    return change


def opened(change: Join) -> Admission:
    admission = decode(change.admission, Admission, PROOF_BYTES_MAX)
    assert isinstance(admission, Admission)
    return admission


def shown_by(change: Join) -> Shown:
    shown = opened(change).shown
    assert shown is not None
    return shown


def votes(admission: bytes, spec: Spec = BY_INVITE, member: PeerId = NEW.peer_id, at: Position = HERE) -> int | None:
    return admits(spec, swarm_id(spec), at, member, admission)


def with_shown(**changes: Any) -> bytes:
    change = asked()
    return encode(structs.replace(opened(change), shown=structs.replace(shown_by(change), **changes)))


def after(*changes: Leave | Remove | Expel) -> Position:
    electorate = HERE.electorate.after(11, changes)
    assert isinstance(electorate, Electorate), electorate
    return replace(HERE, electorate=electorate)


@pytest.mark.parametrize(
    ("spec", "ticket", "due"), [(BY_INVITE, TICKET, 1), (BY_LIST, None, 1), (ANYBODY, None, 0), (ANYBODY, TICKET, 0)]
)
def test_who_asks_as_the_spec_says_is_let_in_with_the_votes_it_says(
    spec: Spec, ticket: Ticket | None, due: int
) -> None:
    change = asked(spec, ticket=ticket)
    swarm = swarm_id(spec)
    assert change.votes == due
    assert (
        unproved((change,), swarm, HERE.electorate, lambda member, shown: admits(spec, swarm, HERE, member, shown))
        is None
    )
    assert not isinstance(HERE.electorate.after(11, (change,)), Malformed)


def test_one_ticket_serves_many() -> None:
    for number in range(10, 20):
        key = Identity.from_seed(bytes([number]) * 32)
        assert votes(asked(key=key).admission, member=key.peer_id) == 1


def test_what_one_newcomer_shows_lets_nobody_else_in() -> None:
    change = asked()
    assert votes(change.admission, member=OTHER.peer_id) is None
    word = OTHER.sign(join_statement(SWARM, OTHER.peer_id, 10))
    assert votes(encode(Admission(10, word, shown_by(change))), member=OTHER.peer_id) is None


def test_who_has_a_ticket_cannot_bring_in_another_against_its_will() -> None:
    token = Identity.from_seed(SEED)
    shown = structs.replace(shown_by(asked()), by_token=token.sign(token_statement(SWARM, OTHER.peer_id)))
    word = NEW.sign(join_statement(SWARM, OTHER.peer_id, 10))
    assert votes(encode(Admission(10, word, shown)), member=OTHER.peer_id) is None
    for spec in (BY_LIST, ANYBODY):
        word = ANN.sign(join_statement(swarm_id(spec), NEW.peer_id, 10))
        assert votes(encode(Admission(10, word, None)), spec) is None


def test_a_ticket_that_its_inviter_did_not_sign_is_refused() -> None:
    token = shown_by(asked()).token
    for signature in (OTHER.sign(ticket_statement(SWARM, token)), ANN.sign(ticket_statement(SWARM, bytes(32)))):
        assert votes(with_shown(signature=signature)) is None
    assert votes(with_shown(inviter=BEN.public_key)) is None
    assert votes(with_shown(token=NEW.public_key, by_token=NEW.sign(token_statement(SWARM, NEW.peer_id)))) is None


def test_a_strangers_ticket_is_worth_nothing() -> None:
    assert votes(asked(ticket=make_ticket(OTHER, SWARM, SEED)).admission) is None
    assert votes(asked(ticket=make_ticket(NEW, SWARM, SEED)).admission) is None


def test_another_swarms_ticket_and_word_are_worth_nothing_here() -> None:
    other = make(name="other")
    change = asked(other, ticket=make_ticket(ANN, swarm_id(other), SEED))
    assert votes(change.admission, other) == 1
    assert votes(change.admission) is None
    word = encode(Admission(10, opened(change).word, shown_by(asked())))
    assert votes(word) is None


def leave(key: Identity) -> Leave:
    return Leave(key.peer_id, key.sign(leave_statement(SWARM, key.peer_id, 0)))


def test_the_ticket_of_who_left_is_worth_nothing_any_more() -> None:
    admission = asked().admission
    assert votes(admission, at=after(leave(BEN))) == 1
    assert votes(admission, at=after(leave(ANN))) is None


def test_the_creators_invites_hold_after_the_creator_has_left_but_not_after_it_was_removed() -> None:
    admission = asked(ticket=make_ticket(CREATOR, SWARM, SEED)).admission
    assert votes(admission) == 1
    assert votes(admission, at=after(leave(CREATOR))) == 1
    assert votes(admission, at=after(Remove(CREATOR.peer_id, ()))) is None


def test_who_was_removed_or_proved_to_lie_does_not_come_back_by_any_rule() -> None:
    twice = [shortened(cast(ANN, SWARM, 3, 0, Step.PREVOTE, choice)) for choice in (b"", bytes(32))]
    for gone in (Remove(ANN.peer_id, ()), Expel(ANN.peer_id, *twice)):
        for spec in (BY_INVITE, BY_LIST, ANYBODY):
            ticket = make_ticket(BEN, swarm_id(spec), SEED)
            admission = asked(spec, ANN, ticket).admission
            assert votes(admission, spec, ANN.peer_id, at=after(leave(ANN))) is not None
            assert votes(admission, spec, ANN.peer_id, at=after(gone)) is None


def test_the_creator_comes_back_without_a_ticket_by_any_rule() -> None:
    for spec, due in ((BY_INVITE, 1), (BY_LIST, 1), (ANYBODY, 0)):
        change = asked(spec, CREATOR, ticket=None)
        assert votes(change.admission, spec, CREATOR.peer_id, at=after(leave(CREATOR))) == change.votes == due


def test_a_word_is_good_for_some_rounds_so_that_who_left_is_not_brought_back_by_it() -> None:
    admission = asked(round=10).admission
    for round, due in ((9, None), (10, 1), (10 + WORD_ROUNDS_MAX, 1), (11 + WORD_ROUNDS_MAX, None)):
        assert votes(admission, at=replace(HERE, round=round)) == due
    assert votes(encode(structs.replace(opened(asked(round=10)), round=40)), at=replace(HERE, round=40)) is None


def test_what_fits_one_rule_does_not_fit_another() -> None:
    """By the same swarm id, so that nothing but the rule differs."""
    with_ticket, without = asked().admission, encode(structs.replace(opened(asked()), shown=None))
    for rule in (AdmissionRule.LIST, AdmissionRule.OPEN):
        spec = structs.replace(BY_INVITE, admission=rule, allowed=(NEW.peer_id,) if rule is AdmissionRule.LIST else ())
        assert admits(spec, SWARM, HERE, NEW.peer_id, with_ticket) is None
        assert admits(spec, SWARM, HERE, NEW.peer_id, without) is not None
    assert votes(without) is None


def test_who_is_not_on_the_list_is_not_let_in() -> None:
    spec, swarm = BY_LIST, swarm_id(BY_LIST)
    assert "NOT on its list" in str(join_change(spec, swarm, OTHER, None, 10))
    word = OTHER.sign(join_statement(swarm, OTHER.peer_id, 10))
    assert votes(encode(Admission(10, word, None)), spec, OTHER.peer_id) is None


def test_who_would_not_be_let_in_is_told_why() -> None:
    def told(spec: Spec, ticket: Ticket | None, key: Identity = NEW) -> str | None:
        return obstacle(spec, swarm_id(spec), key.peer_id, ticket)

    assert told(BY_INVITE, TICKET) is None
    assert told(BY_LIST, None) is None
    assert told(ANYBODY, None) is None
    assert all(told(spec, None, CREATOR) is None for spec in (BY_INVITE, BY_LIST, ANYBODY))
    assert "carries no ticket" in str(told(BY_INVITE, None))
    assert "another swarm" in str(told(make(name="other"), TICKET))
    assert "another swarm" in str(told(BY_INVITE, structs.replace(TICKET, seed=bytes(32))))
    assert OTHER.peer_id in str(told(BY_LIST, TICKET, OTHER))


@given(st.data())
def test_no_changed_bit_is_let_in(data: st.DataObject) -> None:
    for spec, ticket in ((BY_INVITE, TICKET), (BY_LIST, None), (ANYBODY, None)):
        admission = bytearray(asked(spec, ticket=ticket).admission)
        place = data.draw(st.integers(0, 8 * len(admission) - 1))
        admission[place // 8] ^= 1 << place % 8
        assert votes(bytes(admission), spec) is None


@given(st.binary(max_size=PROOF_BYTES_MAX + 1))
def test_any_bytes_are_refused_and_nothing_else(junk: bytes) -> None:
    assert votes(junk) is None
    assert votes(asked().admission + junk[:1]) == (None if junk else 1)


def test_what_is_not_written_in_its_shortest_form_is_refused() -> None:
    admission = asked().admission
    assert admission[:2] == b"\x93\x0a"
    assert votes(b"\x93\xcc\x0a" + admission[2:]) is None


def test_an_admission_fits_into_a_record_s_change() -> None:
    assert len(asked(round=2**31).admission) <= 300 <= PROOF_BYTES_MAX


def test_the_bytes_are_those_of_the_protocol_document() -> None:
    swarm = bytes(32)
    ticket = make_ticket(Identity.from_seed(bytes(range(32))), swarm, b"\x02" * 32)
    invited, alone = (join_change(spec, swarm, NEW, ticket, 7) for spec in (BY_INVITE, ANYBODY))
    assert isinstance(invited, Join)
    assert isinstance(alone, Join)
    assert (len(invited.admission), len(alone.admission)) == (269, 69)
    assert blake3(invited.admission).hexdigest() == "b8b3606284744f843eccfe435f71a9efda9c9d0d6824e3518bef3d8fc8589141"
