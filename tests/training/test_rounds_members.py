"""The round core where the members change: who comes, who leaves, who is removed, who is silent and who is back."""

from shoal.training.agreed import AgreedRecord, leave_statement, remove_statement
from shoal.training.asking_in import JOIN_AGAIN_ROUNDS
from shoal.training.effects import ApplyRecord, Effect, SpreadWords, Train
from shoal.training.events import MembersChanged, Problem, Waiting
from shoal.training.members import Change, Expel, Join, Leave, Remove, Resume, Suspend
from shoal.training.situation import SILENT_SPANS
from shoal.training.votes import VALUE_BYTES_MAX, Proposal, Signed, Step, Vote, value_of
from shoal.transport.identity import Identity
from shoal.transport.wire import decode
from tests.training.round_member import (
    ALONE,
    ANN,
    BEN,
    CAT,
    DAN,
    DIGEST,
    EVE,
    SWARM,
    Member,
    at_work,
    contribution,
    done,
    ended,
    events,
    head_after,
    make_spec,
    of_kind,
    prevoted,
    proposal,
    record_of,
    said,
    votes,
)

A, B, C = (contribution(who) for who in (ANN, BEN, CAT))
SILENT_S = SILENT_SPANS * 2.0


def asked(effects: list[Effect]) -> list[Change]:
    return [change for effect in of_kind(effects, SpreadWords) for change in effect.changes]


def leaving(who: Identity) -> Leave:
    return Leave(who.peer_id, who.sign(leave_statement(SWARM, who.peer_id, 0)))


def removing(who: Identity, *signers: Identity) -> Remove:
    statement = remove_statement(SWARM, who.peer_id, 0)
    return Remove(who.peer_id, tuple(Signed(each.peer_id, each.sign(statement)) for each in signers))


def proposed_by(effects: list[Effect]) -> AgreedRecord:
    """What is proposed."""
    (made,) = said(effects, Proposal)
    record = decode(made.value, AgreedRecord, VALUE_BYTES_MAX)
    assert isinstance(record, AgreedRecord), record
    return record


def close(member: Member, now: float, record: AgreedRecord) -> list[Effect]:
    """The others have agreed on it, and it is applied."""
    effects = member.hear(now, ended(record))
    (apply,) = of_kind(effects, ApplyRecord)
    return [*effects, *member.rounds.applied(now, apply.closed, DIGEST)]


# Coming.


def test_a_newcomer_asks_to_be_let_in_once() -> None:
    dan = Member(DAN).meet(ANN, BEN, CAT)
    (join,) = asked(dan.rounds.look(0.0))
    assert isinstance(join, Join)
    assert join.member == DAN.peer_id
    assert asked(dan.rounds.look(1.0)) == []
    assert asked(Member(ANN).meet(BEN).rounds.look(0.0)) == []  # she is in


def test_who_would_ask_in_vain_says_why_instead() -> None:
    dan = Member(DAN, make_spec(allowed=[ANN.peer_id]))
    (problem,) = [event for event in events(dan.rounds.look(0.0)) if isinstance(event, Problem)]
    assert "NOT on its list" in problem.message


def test_a_newcomer_that_nobody_has_let_in_asks_anew_when_its_word_grows_old() -> None:
    dan = Member(DAN).meet(ANN, BEN, CAT)
    (first,) = asked(dan.rounds.look(0.0))
    later = list[Change]()
    for round in range(JOIN_AGAIN_ROUNDS):
        assert later == []
        later += asked(close(dan, float(round), record_of(after=dan.rounds.position)))
    (second,) = later
    assert second != first


def test_a_newcomer_is_let_in_with_its_first_contribution() -> None:
    ann = Member(ANN, origin=ALONE).meet(DAN)
    dan = Member(DAN, origin=ALONE).meet(ANN)
    (join,) = asked(dan.rounds.look(0.0))
    ann.rounds.look(0.0)
    ann.rounds.heard_words(0.1, (join,))
    theirs = contribution(DAN)
    done(ann.rounds.contributed(0.2, contribution(ANN)))
    effects = ann.hold(0.3, theirs)
    record = proposed_by(effects)
    assert record.changes == (join,)
    assert {share.member for share in record.taken} == {ANN.peer_id, DAN.peer_id}
    assert MembersChanged(1, (f"{DAN.peer_id} joins with 1 vote",), 2) in events(effects)
    assert ann.rounds.electorate.votes(DAN.peer_id) == 1


def test_more_newcomers_than_there_is_room_for_do_not_hold_up_the_others() -> None:
    ben = at_work(BEN, members_max=4)
    joins = [asked(Member(who, make_spec(members_max=4)).rounds.look(0.0))[0] for who in (DAN, EVE)]
    ben.rounds.heard_words(0.1, joins)
    done(ben.rounds.contributed(0.2, B))
    ben.hold(0.3, A)
    effects = ben.hold(0.3, C)
    record = proposed_by(effects)
    assert len(record.changes) == 1
    ann = at_work(ANN, members_max=4)
    for offered in (A, B, C):
        ann.rounds.pool.hold(offered)
    assert prevoted(ann.hear(1.0, proposal(BEN, record))) == prevoted(effects)


def test_who_is_not_let_in_is_not_waited_for_and_its_work_is_not_taken() -> None:
    ben = at_work(BEN).meet(DAN, EVE)
    done(ben.rounds.contributed(0.2, B))
    assert "no member" in str(ben.rounds.heard(0.3, contribution(DAN)))
    ben.hold(0.3, A)
    assert {share.member for share in proposed_by(ben.hold(0.3, C)).taken} == {each.peer_id for each in (ANN, BEN, CAT)}


# Leaving.


def test_who_leaves_is_let_go_at_once_by_a_record_that_takes_nothing() -> None:
    ben = at_work(BEN)
    effects = ben.rounds.heard_words(1.0, (leaving(CAT),))
    record = proposed_by(effects)
    assert (record.taken, record.changes) == ((), (leaving(CAT),))
    ben.hear(1.1, *votes(record, Step.PREVOTE, ANN))
    effects = ben.hear(1.2, *votes(record, Step.PRECOMMIT, ANN))
    assert [event for event in events(effects) if isinstance(event, MembersChanged)] == [
        MembersChanged(1, (f"{CAT.peer_id} leaves",), 2)
    ]


def test_who_leaves_tells_everybody_and_does_not_ask_to_come_back() -> None:
    cat = at_work(CAT)
    effects = cat.rounds.resign(1.0, leaving(CAT))
    assert asked(effects) == [leaving(CAT)]
    effects = close(cat, 2.0, record_of(changes=(leaving(CAT),)))
    assert CAT.peer_id not in cat.rounds.electorate.by_member
    assert asked(effects) == []
    assert of_kind(effects, Train) == []


def test_what_who_leaves_has_contributed_before_is_not_taken_after() -> None:
    ann = at_work(ANN)
    ann.hold(0.5, C)
    ann.hold(0.5, B)
    close(ann, 1.0, record_of(changes=(leaving(CAT),)))
    assert ann.rounds.electorate.proposer(2, 0) == ANN.peer_id
    taken = proposed_by(done(ann.rounds.contributed(1.5, A))).taken
    assert {share.member for share in taken} == {ANN.peer_id, BEN.peer_id}


# Being removed.


def test_a_member_is_removed_when_a_quorum_has_said_so() -> None:
    ben = at_work(BEN)
    done(ben.rounds.contributed(0.2, B))
    assert asked(ben.rounds.wants(0.5, removing(CAT, BEN))) == [removing(CAT, BEN)]
    ben.rounds.heard_words(0.6, (removing(CAT, ANN),))
    ben.hold(1.0, A)
    record = proposed_by(ben.hold(1.0, C))
    assert record.changes == (removing(CAT, *sorted((ANN, BEN), key=lambda each: each.peer_id)),)


def test_who_was_removed_is_told_and_asks_no_more() -> None:
    cat = at_work(CAT)
    effects = close(cat, 1.0, record_of(changes=(removing(CAT, ANN, BEN),)))
    assert Waiting("the members have removed this node from the swarm") in events(effects)
    assert asked(effects) == []
    assert of_kind(cat.rounds.look(100.0), Train) == []


# Lying.


def test_who_votes_for_two_things_is_proved_to_and_voted_out() -> None:
    ben = at_work(BEN)
    ben.hear(1.0, *votes(record_of(A), Step.PREVOTE, CAT))
    effects = ben.hear(1.1, *votes(record_of(B), Step.PREVOTE, CAT))
    (expel,) = asked(effects)
    assert isinstance(expel, Expel)
    assert expel.member == CAT.peer_id
    done(ben.rounds.contributed(2.0, B))
    ben.hold(2.0, A)
    record = proposed_by(ben.hold(2.0, C))
    assert record.changes == (expel,)
    ann = at_work(ANN)
    for offered in (A, B, C):
        ann.rounds.pool.hold(offered)
    assert prevoted(ann.hear(2.1, proposal(BEN, record_of(A, B, changes=(expel,))))) != [b""]


# Being silent.


def test_who_is_not_heard_for_a_while_is_suspended_and_not_before() -> None:
    ben = at_work(BEN)
    done(ben.rounds.contributed(0.2, B))
    ben.roster.lose(CAT.peer_id, 1.0)
    assert proposed_by(ben.hold(1.0 + SILENT_S - 0.1, A)).changes == ()
    ben = at_work(BEN)
    done(ben.rounds.contributed(0.2, B))
    ben.roster.lose(CAT.peer_id, 1.0)
    assert proposed_by(ben.hold(1.0 + SILENT_S, A)).changes == (Suspend(CAT.peer_id),)


def test_who_took_part_and_is_not_met_yet_is_waited_for_until_it_counts_as_silent() -> None:
    first = record_of(A, B, C)
    stands = head_after(first)
    for now, is_awaited in ((SILENT_S - 0.1, True), (SILENT_S, False)):
        cat = Member(CAT, head=stands, log=[ended(first)]).meet(BEN, head=stands)
        cat.rounds.look(0.0)
        assert cat.rounds.electorate.proposer(2, 0) == CAT.peer_id
        cat.hold(now, contribution(BEN, 2, stands))
        effects = done(cat.rounds.contributed(now, contribution(CAT, 2, stands)))
        assert (said(effects, Proposal) == []) is is_awaited


def test_who_hears_a_member_votes_against_suspending_it_until_a_quorum_has_voted_for_it() -> None:
    ann = at_work(ANN)
    ann.hold(1.0, B)
    record = record_of(B, changes=(Suspend(CAT.peer_id),))
    assert prevoted(ann.hear(1.0, proposal(BEN, record))) == [b""]
    effects = ann.hear(1.1, *votes(record, Step.PREVOTE, BEN, CAT))
    assert [(vote.step, vote.choice) for vote in said(effects, Vote)] == [
        (Step.PRECOMMIT, value_of(ended(record).value).hash)
    ]
    assert len(of_kind(ann.hear(1.2, *votes(record, Step.PRECOMMIT, BEN, CAT)), ApplyRecord)) == 1


def test_who_is_suspended_is_not_waited_for_and_is_resumed_when_it_is_heard_again() -> None:
    for is_heard, changes in ((True, (Resume(CAT.peer_id),)), (False, ())):
        ann = at_work(ANN)
        close(ann, 1.0, record_of(changes=(Suspend(CAT.peer_id),)))
        assert ann.rounds.electorate.proposer(2, 0) == ANN.peer_id  # and Cat has no turn
        if not is_heard:
            ann.roster.lose(CAT.peer_id, 1.0)
        ann.rounds.look(1.0 + SILENT_S)
        done(ann.rounds.contributed(1.0 + SILENT_S, A))
        assert proposed_by(ann.hold(1.0 + SILENT_S, B)).changes == changes


def test_before_anything_was_taken_a_record_of_changes_alone_makes_nobody_less_awaited() -> None:
    ann = at_work(ANN)
    close(ann, 1.0, record_of(changes=(leaving(CAT),)))
    assert ann.rounds.electorate.proposer(2, 0) == ANN.peer_id
    assert said(done(ann.rounds.contributed(2.0, A)), Proposal) == []  # Ben is at work on his
    assert {share.member for share in proposed_by(ann.hold(2.5, B)).taken} == {ANN.peer_id, BEN.peer_id}


def test_who_is_suspended_still_counts_for_the_quorum() -> None:
    ann = at_work(ANN)
    close(ann, 1.0, record_of(changes=(Suspend(CAT.peer_id),)))
    for peer in (BEN.peer_id, CAT.peer_id):
        ann.roster.lose(peer, 2.0)
    assert any("is paused: 1 of 3 votes" in str(event) for event in events(ann.rounds.look(2.0)))
