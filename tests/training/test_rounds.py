"""The round core alone, when all goes well and when messages are of no use: scenarios that read as transcripts."""

from msgspec import structs

from shoal.training.admission import join_change
from shoal.training.agreeing import Keep
from shoal.training.effects import AnnounceHeld, ApplyRecord, CheckPayload, Collect, FetchPayload, Train
from shoal.training.events import Finished, Problem, RoundStarted, Waiting
from shoal.training.members import Join
from shoal.training.records import Head
from shoal.training.rounds import Phase
from shoal.training.votes import Proposal, Step, Vote, value_of
from shoal.training.voting_effects import Save, Send
from shoal.transport.blobs import BlobRef
from shoal.transport.identity import Identity
from tests.training.round_member import (
    ALONE,
    ANN,
    BEN,
    CAT,
    DAN,
    DIGEST,
    START,
    SWARM,
    Member,
    at_work,
    blob,
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

NAMES = tuple(sorted(each.peer_id for each in (ANN, BEN, CAT)))
A, B, C = (contribution(who) for who in (ANN, BEN, CAT))


# Starting.


def test_round_1_waits_for_members_start_and_then_asks_for_ones_own_part() -> None:
    ann = Member(ANN, make_spec(members_start=2))
    assert events(ann.rounds.look(0.0)) == [Waiting("1 of 2 members are connected")]
    assert ann.rounds.look(1.0) == []  # said once
    ann.meet(BEN)
    effects = ann.rounds.look(2.0)
    assert of_kind(effects, Train) == [
        Train(1, START, tuple(sorted((ANN.peer_id, BEN.peer_id))), 22.0, has_contributed=False)
    ]
    assert events(effects) == [RoundStarted(1)]
    assert of_kind(ann.rounds.look(3.0), Train) == []


def test_work_begins_when_the_others_have_said_where_they_stand_or_after_a_moment() -> None:
    ann = Member(ANN)
    ann.rounds.hear_out(0.0, [BEN.peer_id])
    assert events(ann.rounds.look(0.0)) == [Waiting("hearing where the other members stand")]
    assert ann.rounds.deadline(0.0) == 2.0
    assert len(of_kind(ann.meet(BEN).rounds.look(0.1), Train)) == 1
    alone = Member(ANN)
    alone.rounds.hear_out(0.0, [BEN.peer_id])
    alone.rounds.look(0.0)
    assert len(of_kind(alone.rounds.look(2.0), Train)) == 1


def test_nobody_starts_short_before_others_have_and_then_only_after_a_while() -> None:
    ann = Member(ANN, make_spec(members_start=3)).meet(BEN)
    ann.rounds.look(0.0)
    done(ann.rounds.heard(5.0, B))  # Ben sees more members than she does
    assert ann.rounds.phase is Phase.WAITING
    assert ann.rounds.deadline(5.0) == 7.0
    assert len(of_kind(ann.rounds.look(7.0), Train)) == 1


# A round, from its start to the next.


def test_a_round_alone() -> None:
    ann = Member(ANN, origin=ALONE)
    ann.rounds.look(0.0)
    effects = done(ann.rounds.contributed(1.0, contribution(ANN)))
    kinds = [type(effect) for effect in effects]
    assert kinds.index(Save) < kinds.index(Send)  # what is said is on disk before
    assert kinds.index(Keep) < kinds.index(ApplyRecord)
    (apply,) = of_kind(effects, ApplyRecord)
    assert apply.offers == (contribution(ANN),)
    assert ann.rounds.phase is Phase.APPLYING
    effects = ann.rounds.applied(2.0, apply.closed, b"\x01" * 32)
    assert ann.rounds.head == Head(1, apply.closed.hash, b"\x01" * 32)
    assert of_kind(effects, Train) == [Train(2, ann.rounds.head, (ANN.peer_id,), 22.0, has_contributed=True)]


def test_whose_turn_it_is_proposes_once_everybody_is_in_and_others_vote() -> None:
    ben = at_work(BEN)
    done(ben.rounds.contributed(1.0, B))
    assert said(ben.hold(1.5, A), Proposal) == []
    effects = ben.hold(2.0, C)
    (proposed,) = said(effects, Proposal)
    assert value_of(proposed.value) == value_of(ended(record_of(A, B, C)).value)
    assert prevoted(effects) == [value_of(proposed.value).hash]
    assert ben.hear(2.1, *votes(record_of(A, B, C), Step.PREVOTE, ANN)) != []
    effects = ben.hear(2.2, *votes(record_of(A, B, C), Step.PRECOMMIT, ANN))
    (apply,) = of_kind(effects, ApplyRecord)
    assert apply.offers == (A, B, C)
    assert apply.closed.proposer == BEN.peer_id


def test_who_has_no_turn_votes_for_what_it_holds() -> None:
    ann = at_work(ANN)
    done(ann.rounds.contributed(1.0, A))
    for offered in (B, C):
        assert said(ann.hold(1.5, offered), Proposal) == []
    record = record_of(A, B, C)
    assert prevoted(ann.hear(2.0, proposal(BEN, record))) == [value_of(ended(record).value).hash]
    effects = ann.hear(2.1, *votes(record, Step.PREVOTE, CAT))
    assert [vote.step for vote in said(effects, Vote)] == [Step.PRECOMMIT]
    assert len(of_kind(ann.hear(2.2, *votes(record, Step.PRECOMMIT, CAT)), ApplyRecord)) == 1


def test_a_proposer_that_says_nothing_is_passed_over() -> None:
    cat = at_work(CAT)
    done(cat.rounds.contributed(1.0, C))
    cat.hold(1.0, A)
    cat.hold(1.0, B)
    assert cat.rounds.deadline(1.0) <= 3.0
    assert prevoted(cat.rounds.look(3.0)) == [b""]  # Ben's turn, and nothing of his has come
    cat.hear(3.1, *votes(None, Step.PREVOTE, ANN))
    effects = cat.hear(3.2, *votes(None, Step.PRECOMMIT, ANN))
    (proposed,) = said(effects, Proposal)
    assert (proposed.proposer, proposed.attempt) == (CAT.peer_id, 1)


def test_a_proposal_of_what_was_never_heard_is_collected_fetched_checked_and_voted_for() -> None:
    cat, outside = at_work(CAT), contribution(BEN, payload=blob(BEN))
    record = record_of(A, outside)
    (collect,) = of_kind(cat.hear(1.0, proposal(BEN, record)), Collect)
    assert set(collect.missing) == {A.hash, outside.hash}
    assert collect.proposer == BEN.peer_id
    effects = cat.rounds.collected(1.5, collect.record, collect.missing, (A, outside))
    assert {FetchPayload(outside), CheckPayload(A)} <= set(effects)
    cat.rounds.checked(1.5, A, None)
    assert cat.rounds.fetched(1.7, outside) == [CheckPayload(outside)]
    effects = cat.rounds.checked(1.8, outside, None)
    assert AnnounceHeld() in effects
    assert prevoted(effects) == [value_of(ended(record).value).hash]


def test_what_a_proposal_takes_is_asked_for_again_every_second_while_it_is_missing() -> None:
    cat = at_work(CAT)
    (collect,) = of_kind(cat.hear(1.0, proposal(BEN, record_of(A, B))), Collect)
    assert of_kind(cat.rounds.collected(1.5, collect.record, collect.missing, ()), Collect) == []
    assert cat.rounds.deadline(1.5) == 2.0
    assert len(of_kind(cat.rounds.look(2.0), Collect)) == 1


def test_records_are_applied_in_order_each_after_the_one_before() -> None:
    ann = at_work(ANN)
    done(ann.rounds.contributed(1.0, A))
    first = record_of(A)
    (apply,) = of_kind(ann.hear(1.0, ended(first)), ApplyRecord)
    second = record_of(after=ann.rounds.position, state=b"\x01" * 32)
    assert of_kind(ann.hear(1.1, ended(second)), ApplyRecord) == []  # one at a time
    assert ann.rounds.phase is Phase.APPLYING
    (then,) = of_kind(ann.rounds.applied(2.0, apply.closed, b"\x01" * 32), ApplyRecord)
    assert then.closed.record == second
    assert len(of_kind(ann.rounds.applied(2.1, then.closed, b"\x01" * 32), Train)) == 1


def test_a_record_that_takes_nothing_leaves_the_work_of_its_round_alone() -> None:
    ann = at_work(ANN)
    (apply,) = of_kind(ann.hear(1.0, ended(record_of())), ApplyRecord)
    assert apply.offers == ()
    effects = ann.rounds.applied(1.1, apply.closed, DIGEST)
    assert of_kind(effects, Train) == []  # it goes on
    turn = Train(1, START, NAMES, 20.0, has_contributed=False)
    assert not ann.rounds.is_over(turn)
    assert ann.rounds.is_in_time(turn)
    done(ann.rounds.contributed(2.0, A))
    assert ann.rounds.held() == (A.hash,)
    assert ann.rounds.round == 2


def test_a_turn_is_over_when_a_record_was_made_without_it_and_in_time_while_one_may_take_it_still() -> None:
    ann = at_work(ANN, stale_rounds_max=1)
    turn = Train(1, START, NAMES, 20.0, has_contributed=False)
    assert not ann.rounds.is_over(turn)
    ann.hold(1.0, B)
    (apply,) = of_kind(ann.hear(1.0, ended(record_of(B))), ApplyRecord)
    assert ann.rounds.is_over(turn)
    assert ann.rounds.is_in_time(turn)
    ann.rounds.applied(1.1, apply.closed, b"\x01" * 32)
    later = contribution(BEN, 2, ann.rounds.head)
    ann.hold(1.2, later)
    ann.hear(1.2, ended(record_of(later, after=ann.rounds.position, state=b"\x01" * 32)))
    assert not ann.rounds.is_in_time(turn)


def test_late_work_is_taken_by_a_later_record_with_half_its_weight() -> None:
    ann = at_work(ANN)
    ann.hold(1.0, B)
    (apply,) = of_kind(ann.hear(1.0, ended(record_of(B))), ApplyRecord)
    ann.rounds.applied(1.1, apply.closed, b"\x01" * 32)
    fresh = contribution(BEN, 2, ann.rounds.head)
    done(ann.rounds.contributed(1.2, A))
    ann.hold(1.2, fresh)
    second = record_of(A, fresh, after=ann.rounds.position, state=b"\x01" * 32)
    (apply,) = of_kind(ann.hear(1.3, ended(second)), ApplyRecord)
    stale_weight, fresh_weight = ann.rounds.weights(apply.closed)
    assert fresh_weight == 2 * stale_weight > 0


# When a round may close.


def test_who_is_at_work_is_waited_for_until_the_time_is_up() -> None:
    ben = at_work(BEN)
    done(ben.rounds.contributed(1.0, B))
    ben.hold(1.0, A)
    assert ben.rounds.deadline(1.0) == 25.0
    assert said(ben.rounds.look(24.9), Proposal) == []
    assert len(said(ben.rounds.look(25.0), Proposal)) == 1


def test_who_sits_out_is_not_waited_for() -> None:
    ben = at_work(BEN)
    done(ben.rounds.contributed(1.0, B))
    ben.hold(1.0, A)
    effects = ben.rounds.heard_have(1.5, CAT.peer_id, START, (), 0, is_idle=True)
    assert len(said(effects, Proposal)) == 1


def test_who_has_nothing_to_contribute_says_so_and_votes() -> None:
    ann = at_work(ANN)
    assert AnnounceHeld() in ann.rounds.sits_out(1.0)
    assert ann.rounds.is_idle
    assert ann.rounds.owes_have(BEN.peer_id)
    ann.hold(2.0, B)
    assert prevoted(ann.hear(2.0, proposal(BEN, record_of(B)))) == [value_of(ended(record_of(B)).value).hash]


def test_a_payload_that_travels_outside_has_to_reach_a_quorum_first() -> None:
    ben, outside = at_work(BEN), contribution(BEN, payload=blob(BEN))
    done(ben.rounds.contributed(1.0, outside))
    ben.hold(1.0, A)
    assert said(ben.hold(1.0, C), Proposal) == []
    assert said(ben.rounds.heard_have(1.5, CAT.peer_id, START, (A.hash,), 0, is_idle=False), Proposal) == []
    effects = ben.rounds.heard_have(1.6, CAT.peer_id, START, (outside.hash,), 0, is_idle=False)
    assert len(said(effects, Proposal)) == 1


def test_a_payload_that_has_reached_nobody_in_time_is_left_for_the_next_round() -> None:
    ben, outside = at_work(BEN), contribution(BEN, payload=blob(BEN))
    done(ben.rounds.contributed(1.0, outside))
    ben.hold(1.0, A)
    ben.hold(1.0, C)
    (proposed,) = said(ben.rounds.look(25.0), Proposal)
    assert value_of(proposed.value) == value_of(ended(record_of(A, C)).value)


def test_with_fewer_than_a_round_takes_nothing_is_proposed_and_it_is_said_once_it_is_overdue() -> None:
    ben = at_work(BEN, members_start=2, members_min=2)
    done(ben.rounds.contributed(1.0, B))
    effects = ben.rounds.look(25.0)
    assert said(effects, Proposal) == []
    assert events(effects) == [Waiting("round 1: 1 of at least 2 contributions are in")]


def test_the_last_round_is_the_end() -> None:
    ann = Member(ANN, make_spec(rounds_max=1), origin=ALONE).meet(BEN)
    ann.rounds.look(0.0)
    ann.roster.tell_work(BEN.peer_id, (), 0, is_idle=True)
    (apply,) = of_kind(done(ann.rounds.contributed(1.0, contribution(ANN))), ApplyRecord)
    assert events(ann.rounds.applied(2.0, apply.closed, DIGEST)) == [Finished(1)]
    assert ann.rounds.phase is Phase.FINISHED
    assert ann.rounds.look(3.0) == []
    assert ann.rounds.deadline(3.0) == float("inf")


# Contributions of no use.


def test_what_is_out_of_place_is_of_no_use_and_says_why() -> None:
    ann = at_work(ANN)
    elsewhere = structs.replace(START, record=b"\x09" * 32)
    for offered, reason in (
        (contribution(DAN), "not another member"),
        (contribution(ANN), "not another member"),
        (contribution(BEN, samples=101), "samples"),
        (contribution(BEN, payload=BlobRef(DIGEST, 2**40)), "payload"),
        (contribution(BEN, base=elsewhere), "not in the log"),
        (contribution(BEN, round=6), "round 6"),
    ):
        assert reason in str(ann.rounds.heard(1.0, offered))
    assert ann.rounds.held() == ()


def test_a_refused_contribution_is_said_and_no_record_of_it_is_voted_for() -> None:
    ann = at_work(ANN)
    done(ann.rounds.heard(1.0, B))
    (problem,) = events(ann.rounds.checked(1.0, B, "no good"))
    assert isinstance(problem, Problem)
    assert "is refused: no good" in problem.message
    assert prevoted(ann.hear(1.0, proposal(BEN, record_of(B)))) == [b""]


def test_nobody_waits_for_who_has_sent_what_is_refused() -> None:
    ben = at_work(BEN, members_start=3)
    done(ben.rounds.contributed(1.0, B))
    assert said(ben.hold(1.2, A), Proposal) == []
    done(ben.rounds.heard(1.3, C))
    (proposed,) = said(ben.rounds.checked(1.4, C, "no good"), Proposal)
    assert value_of(proposed.value) == value_of(ended(record_of(A, B)).value)


def test_a_payload_that_the_disk_has_lost_is_fetched_again_and_voted_for_when_it_is_back() -> None:
    ann, outside = at_work(ANN), contribution(BEN, payload=blob(BEN))
    done(ann.rounds.heard(1.0, outside))
    assert ann.rounds.fetched(1.1, outside) == [CheckPayload(outside)]
    assert ann.rounds.lost(outside) == [FetchPayload(outside)]
    assert prevoted(ann.hear(1.2, proposal(BEN, record_of(outside)))) == []
    ann.rounds.fetched(1.3, outside)
    assert prevoted(ann.rounds.checked(1.4, outside, None)) == [value_of(ended(record_of(outside)).value).hash]


def test_of_two_contributions_to_one_round_the_first_counts_and_the_other_serves_if_a_record_takes_it() -> None:
    ann, other = at_work(ANN), contribution(BEN, samples=2)
    ann.hold(1.0, B)
    (problem,) = events(done(ann.rounds.heard(1.0, other)))
    assert "two contributions to round 1" in str(problem)
    assert "heard first" in str(ann.rounds.heard(1.0, other))
    (collect,) = of_kind(ann.hear(2.0, proposal(BEN, record_of(other))), Collect)
    ann.rounds.collected(2.1, collect.record, collect.missing, (other,))
    assert prevoted(ann.rounds.checked(2.2, other, None)) == [value_of(ended(record_of(other)).value).hash]


def test_a_contribution_to_the_next_round_waits_until_the_member_is_there() -> None:
    ann = at_work(ANN)
    ann.hold(1.0, B)
    early = contribution(BEN, 2, head_after(record_of(B)))
    assert CheckPayload(early) in done(ann.rounds.heard(1.0, early))
    ann.rounds.checked(1.1, early, None)
    (apply,) = of_kind(ann.hear(1.2, ended(record_of(B))), ApplyRecord)
    ann.rounds.applied(1.3, apply.closed, b"\x01" * 32)
    assert ann.rounds.held() == (early.hash,)


def test_what_comes_from_far_ahead_is_worth_following_and_not_keeping() -> None:
    ann, far = at_work(ANN), contribution(BEN, 8, Head(7, bytes(32), DIGEST))
    assert done(ann.rounds.heard(1.0, far)) != []
    assert ann.rounds.pool.get(far.hash) is None
    assert ann.roster.head(BEN.peer_id) == Head(7, bytes(32), DIGEST)


def test_what_no_record_may_take_any_more_is_let_go_of() -> None:
    ann = at_work(ANN, stale_rounds_max=0)
    ann.hold(1.0, B)
    ann.hold(1.0, C)
    (apply,) = of_kind(ann.hear(1.2, ended(record_of(B))), ApplyRecord)
    ann.rounds.applied(1.3, apply.closed, b"\x01" * 32)
    assert ann.rounds.held() == ()
    assert ann.rounds.fetched(1.4, C) == []  # too late
    assert ann.rounds.checked(1.4, C, None) == []


def test_memory_stays_bounded_however_many_ask_to_be_let_in_and_contribute() -> None:
    crowd = sorted((Identity.from_seed(n.to_bytes(32, "big")) for n in range(100, 140)), key=lambda key: key.peer_id)
    spec = make_spec(members_max=4, allowed=[each.peer_id for each in (ANN, BEN, CAT, *crowd)])
    ann = Member(ANN, spec).meet(BEN, CAT)
    ann.rounds.look(0.0)
    ann.hold(0.5, C)
    for each in crowd[::-1]:  # there is room for one, and who has the lowest id comes first
        ann.meet(each)
        join = join_change(spec, SWARM, each, None, 0)
        assert isinstance(join, Join)
        ann.rounds.heard_words(1.0, [join])
        for round in range(1, 40):
            ann.rounds.heard(1.0, contribution(each, round))
            ann.rounds.heard(1.0, contribution(each, round + 1, Head(1, SWARM, bytes([round]) * 32)))
        assert ann.rounds.pool.members_count <= 8
        assert len(list(ann.rounds.pool.of(each.peer_id))) == 2 * spec.stale_rounds_max + 3
        ann.roster.lose(each.peer_id, 1.0)  # makes room for the next
    assert C.hash in ann.rounds.held()
    assert CheckPayload(B) in done(ann.rounds.heard(2.0, B))  # who is here is heard all the same
