"""The round core of a member that is behind, stands elsewhere, starts again, or is one of too few."""

from shoal.training.effects import ApplyRecord, AskLog, CheckPayload, Collect, Effect, FetchPayload, Resync, Train
from shoal.training.events import Problem, Waiting
from shoal.training.records import Head, Standing
from shoal.training.rounds import Phase
from shoal.training.skipping import Anchor, Proof
from shoal.training.votes import Proposal, Step, Vote, value_of
from shoal.training.voting_effects import Save
from tests.training.round_member import (
    ALONE,
    ANN,
    BEN,
    CAT,
    START,
    SWARM,
    Member,
    Others,
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

A, B, C = (contribution(who) for who in (ANN, BEN, CAT))


def apply_all(ann: Member, now: float, effects: list[Effect], others: Others) -> list[Effect]:
    """Collect, check and apply, as often as it wants to."""
    while any(isinstance(effect, Collect | ApplyRecord) for effect in effects):
        more: list[Effect] = []
        for collect in of_kind(effects, Collect):
            found = [offered for offered in others.offers if offered.hash in collect.missing]
            more += ann.rounds.collected(now, collect.record, collect.missing, found)
            for offered in found:
                more += ann.rounds.checked(now, offered, None)
        for apply in of_kind(effects, ApplyRecord):
            more += ann.rounds.applied(now, apply.closed, bytes([apply.closed.record.round]) * 32)
        effects = more
    return effects


# Catching up.


def test_who_is_behind_asks_for_the_log_then_for_what_it_took_and_applies_it_in_order() -> None:
    others = Others(3)
    ann = Member(ANN).meet(BEN, CAT, head=others.newest)
    assert of_kind(ann.rounds.look(0.0), AskLog) == [AskLog(1, tuple(sorted((BEN.peer_id, CAT.peer_id))))]
    effects = ann.told(0.1, BEN.peer_id, others.log)
    effects = apply_all(ann, 0.2, effects, others)
    assert ann.rounds.head == others.newest
    assert [turn.round for turn in of_kind(effects, Train)] == [4]


def test_what_is_not_certified_is_no_part_of_the_log_and_who_told_it_is_doubted() -> None:
    others = Others(2)
    ann = Member(ANN).meet(BEN, head=others.newest)
    ann.rounds.look(0.0)
    forged = [ended(record_of(contribution(BEN)), BEN), *others.log[1:]]  # one vote of three
    ann.told(0.1, BEN.peer_id, forged)
    assert ann.rounds.ledger.newest == 0
    assert ann.roster.heads(0.1) == {}


def test_of_the_log_counts_what_follows_and_the_rest_is_asked_for_again() -> None:
    others = Others(3)
    ann = Member(ANN).meet(BEN, CAT, head=others.newest)
    ann.rounds.look(0.0)
    effects = ann.told(0.1, BEN.peer_id, others.log[:1])
    assert of_kind(effects, AskLog) == [AskLog(2, tuple(sorted((BEN.peer_id, CAT.peer_id))))]


def test_a_ballot_of_a_later_round_shows_that_there_is_more_of_the_log() -> None:
    others = Others(1)
    ann = Member(ANN).meet(BEN, CAT)
    ann.rounds.look(0.0)
    later = record_of(after=others.position, state=others.newest.digest)
    assert of_kind(ann.hear(1.0, *votes(later, Step.PREVOTE, BEN)), AskLog) == [AskLog(1, (BEN.peer_id,))]


def test_who_is_far_behind_goes_over_to_the_newest_state_by_its_checkpoint() -> None:
    others = Others(9)
    ann = Member(ANN).meet(BEN, CAT, head=others.newest)
    ann.rounds.look(0.0)
    (resync,) = of_kind(ann.told(0.1, BEN.peer_id, others.log), Resync)
    assert resync == Resync(others.newest, tuple(sorted((BEN.peer_id, CAT.peer_id))))
    assert ann.rounds.is_better(resync.head)
    effects = ann.rounds.adopted(1.0, resync.head)
    assert of_kind(effects, Train) == [
        Train(10, others.newest, tuple(sorted((ANN.peer_id, BEN.peer_id))), 21.0, has_contributed=False)
    ]
    assert not ann.rounds.is_better(resync.head)


def test_who_comes_late_has_no_use_for_what_was_taken_before_only_for_what_may_be_taken_yet() -> None:
    others, on_the_way = Others(9), Others(6)
    ann = Member(ANN).meet(BEN, CAT, head=others.newest)
    ann.rounds.look(0.0)
    ann.rounds.leapt(0.1, on_the_way.position, Proof(Anchor(), ()), (BEN.peer_id,))
    (resync,) = of_kind(ann.told(0.2, BEN.peer_id, others.log[6:]), Resync)
    for taken in others.offers:
        assert isinstance(ann.rounds.heard(0.3, taken), str)
    fresh = contribution(BEN, 10, others.newest)
    assert of_kind(done(ann.rounds.heard(0.3, fresh)), CheckPayload) == [CheckPayload(fresh)]
    assert ann.rounds.adopted(1.0, resync.head)
    assert ann.rounds.pool.get(fresh.hash) == fresh


def test_who_comes_late_gets_what_was_taken_after_the_checkpoint_that_the_others_have_yet() -> None:
    others, on_the_way = Others(9), Others(6)
    ann = Member(ANN).meet(BEN, CAT, head=others.heads[8])
    ann.rounds.look(0.0)
    ann.rounds.leapt(0.1, on_the_way.position, Proof(Anchor(), ()), (BEN.peer_id,))
    (resync,) = of_kind(ann.told(0.2, BEN.peer_id, others.log[6:]), Resync)
    assert resync.head == others.heads[8]
    assert isinstance(ann.rounds.heard(0.3, others.offers[7]), str)
    assert of_kind(done(ann.rounds.heard(0.3, others.offers[8])), CheckPayload) == [CheckPayload(others.offers[8])]
    ann.rounds.checked(0.4, others.offers[8], None)
    (apply,) = of_kind(ann.rounds.adopted(1.0, resync.head), ApplyRecord)
    assert apply.offers == (others.offers[8],)


def test_who_came_too_late_to_know_what_late_work_weighs_goes_by_checkpoint() -> None:
    others = Others(6)
    late = contribution(CAT, 6, others.heads[5])
    record = record_of(late, after=others.position, state=others.newest.digest)
    ann = Member(ANN, origin=others.position, head=others.newest).meet(BEN, CAT, head=head_after(record))
    ann.rounds.pool.hold(late)
    effects = ann.hear(1.0, ended(record, BEN, CAT))
    assert of_kind(effects, ApplyRecord) == []
    assert [each.head for each in of_kind(effects, Resync)] == [head_after(record)]


def test_what_no_one_has_any_more_sends_a_member_by_checkpoint() -> None:
    others = Others(1)
    ann = Member(ANN).meet(BEN, CAT, head=others.newest)
    ann.rounds.look(0.0)
    (collect,) = of_kind(ann.told(0.1, BEN.peer_id, others.log), Collect)
    effects = ann.rounds.collected(0.2, collect.record, collect.missing, ())
    assert [each.head for each in of_kind(effects, Resync)] == [others.newest]


def test_a_payload_gone_from_the_disk_sends_a_member_by_checkpoint() -> None:
    others = Others(1)
    ann = Member(ANN).meet(BEN, CAT, head=others.newest)
    ann.rounds.look(0.0)
    ann.told(0.1, BEN.peer_id, others.log)
    ann.rounds.pool.hold(others.offers[0])
    (apply,) = of_kind(ann.rounds.look(0.2), ApplyRecord)
    effects = ann.rounds.unapplied(0.3, apply.offers)
    assert [each.head for each in of_kind(effects, Resync)] == [others.newest]


def test_a_head_that_led_nowhere_is_let_be_for_a_while() -> None:
    others = Others(9)
    ann = Member(ANN).meet(BEN, head=others.newest)
    ann.rounds.look(0.0)
    ann.told(0.1, BEN.peer_id, others.log)
    assert of_kind(ann.rounds.resync_failed(1.0, (BEN.peer_id,)), Resync) == []
    assert of_kind(ann.rounds.look(5.9), Resync) == []
    assert len(of_kind(ann.rounds.look(6.0), Resync)) == 1


# Another state.


def test_who_computed_another_state_than_a_quorum_goes_over_to_theirs() -> None:
    others = Others(2)
    ann = Member(ANN, head=Head(1, others.heads[1].record, b"\xee" * 32), log=others.log[:1])
    ann.meet(BEN, CAT, head=others.heads[1])
    ann.rounds.look(0.0)
    effects = ann.hear(1.0, others.log[1])
    assert any(isinstance(event, Problem) and "differs" in event.message for event in events(effects))
    assert [each.head for each in of_kind(effects, Resync)] == [others.heads[1]]


def test_who_computed_another_state_votes_for_nothing_until_a_quorum_votes_for_the_others() -> None:
    others = Others(1)
    ann = Member(ANN, head=Head(1, others.newest.record, b"\xee" * 32), log=others.log)
    ann.meet(BEN, CAT, head=others.newest)
    ann.rounds.look(0.0)
    theirs = contribution(CAT, 2, others.newest)
    record = record_of(theirs, after=others.position, state=others.newest.digest)
    assert prevoted(ann.hear(1.0, proposal(CAT, record))) == [b""]
    effects = ann.hear(1.1, *votes(record, Step.PREVOTE, BEN, CAT))
    assert [each.head for each in of_kind(effects, Resync)] == [others.newest]
    (collect,) = of_kind(ann.rounds.adopted(1.2, others.newest), Collect)
    ann.rounds.collected(1.3, collect.record, collect.missing, (theirs,))
    steps = [(vote.step, bool(vote.choice)) for vote in said(ann.rounds.checked(1.4, theirs, None), Vote)]
    assert steps == [(Step.PRECOMMIT, True)]


def test_contributions_from_another_state_than_ones_own_are_not_held() -> None:
    ann = Member(ANN).meet(BEN)
    ann.rounds.look(0.0)
    elsewhere = contribution(BEN, base=Head(0, SWARM, b"\x09" * 32))
    assert "another state" in str(ann.rounds.heard(1.0, elsewhere))


def test_a_swarm_with_a_fixed_start_takes_that_state_and_no_other() -> None:
    right = Head(0, SWARM, b"\x07" * 32)
    ann = Member(ANN, start_digest=right.digest)
    assert of_kind(ann.rounds.look(0.0), Train) == []
    ann.meet(BEN, head=Head(0, SWARM, b"\x01" * 32))
    assert of_kind(ann.rounds.look(1.0), Resync) == []
    ann.meet(CAT, head=right)
    assert of_kind(ann.rounds.look(2.0), Resync) == [Resync(right, (CAT.peer_id,))]
    assert len(of_kind(ann.rounds.adopted(3.0, right), Train)) == 1


def test_who_has_yet_to_get_the_fixed_start_votes_when_it_has_it() -> None:
    right = Head(0, SWARM, b"\x07" * 32)
    cat = Member(CAT, start_digest=right.digest).meet(ANN, BEN, head=right)
    cat.rounds.look(0.0)
    started = contribution(BEN, base=right)
    record = record_of(started, state=right.digest)
    cat.hold(0.5, started)
    assert prevoted(cat.hear(1.0, proposal(BEN, record))) == []
    assert prevoted(cat.rounds.adopted(1.5, right)) == [value_of(ended(record).value).hash]


def test_a_storage_member_goes_by_checkpoint_and_holds_without_checking() -> None:
    others = Others(1)
    keeper = Member(ANN, standing=Standing.STORAGE).meet(BEN, CAT)
    assert of_kind(keeper.rounds.look(0.0), Train) == []
    assert done(keeper.rounds.heard(0.1, contribution(CAT, payload=blob(CAT)))) != []
    effects = keeper.rounds.fetched(0.2, contribution(CAT, payload=blob(CAT)))
    assert effects == []  # another object than the one it asked for
    keeper.meet(BEN, CAT, head=others.newest)
    keeper.rounds.look(1.0)
    effects = keeper.told(1.1, BEN.peer_id, others.log)
    assert [each.head for each in of_kind(effects, Resync)] == [others.newest]


# Starting again.


def test_after_a_restart_ones_own_contribution_counts_and_no_other_is_made() -> None:
    ann = Member(ANN).meet(BEN)
    done(ann.rounds.contributed(0.0, A))
    effects = ann.rounds.look(0.0)
    assert ann.rounds.phase is Phase.OPEN
    assert of_kind(effects, Train) == []
    assert ann.rounds.held() == (A.hash,)


def test_after_a_restart_no_second_contribution_is_made_in_the_place_of_one_whose_payload_is_lost() -> None:
    own = contribution(ANN, payload=blob(ANN))
    ann = Member(ANN).meet(BEN)
    assert of_kind(done(ann.rounds.contributed(0.0, own, is_here=False)), FetchPayload) == [FetchPayload(own)]
    assert of_kind(ann.rounds.look(0.0), Train) == []
    assert ann.rounds.is_idle
    ann.rounds.fetched(1.0, own)
    ann.rounds.checked(1.0, own, None)
    assert ann.rounds.held() == (own.hash,)


def test_after_a_restart_between_a_record_and_its_state_ones_own_contribution_is_applied() -> None:
    own = contribution(ANN)
    record = record_of(own, after=ALONE)
    ann = Member(ANN, origin=ALONE, log=[ended(record, ANN)])
    (apply,) = of_kind(done(ann.rounds.contributed(0.0, own)), ApplyRecord)
    assert apply.offers == (own,)


def test_after_a_restart_what_was_voted_for_is_not_voted_against() -> None:
    ann = Member(ANN).meet(BEN, CAT)
    ann.rounds.look(0.0)
    done(ann.rounds.contributed(0.0, A))
    ann.hold(0.0, B)
    record = record_of(A, B)
    effects = ann.hear(1.0, proposal(BEN, record))
    journal = of_kind(effects, Save)[-1].journal
    again = Member(ANN, journal=journal).meet(BEN, CAT)
    repeated = again.rounds.look(2.0)
    assert prevoted(repeated) == prevoted(effects) != []
    assert said(again.hear(2.1, proposal(BEN, record_of(A))), Vote) == []


def test_until_the_others_have_said_what_they_remember_nothing_is_said() -> None:
    ann = Member(ANN).meet(CAT)
    ann.rounds.hear_out(0.0, [BEN.peer_id])
    ann.hold(0.0, C)
    assert ann.hear(0.5, proposal(BEN, record_of(C))) == []
    ann.meet(BEN)
    effects = ann.rounds.heard_own_votes(votes(record_of(A), Step.PREVOTE, ANN))
    (problem,) = events(effects)
    assert isinstance(problem, Problem)
    assert "does not remember it" in problem.message
    ann.rounds.look(0.6)
    ann.hold(1.0, B)
    assert said(ann.hear(1.0, proposal(BEN, record_of(B))), Vote) == []


def test_who_abstains_votes_again_in_the_next_round() -> None:
    ann = Member(ANN).meet(BEN, CAT)
    ann.rounds.look(0.0)
    ann.rounds.heard_own_votes(votes(record_of(A), Step.PREVOTE, ANN))
    ann.hold(1.0, B)
    (apply,) = of_kind(ann.hear(1.0, ended(record_of(B), BEN, CAT)), ApplyRecord)
    ann.rounds.applied(1.1, apply.closed, b"\x01" * 32)
    fresh = contribution(CAT, 2, ann.rounds.head)
    ann.hold(1.2, fresh)
    record = record_of(fresh, after=ann.rounds.position, state=b"\x01" * 32)
    assert len(prevoted(ann.hear(1.3, proposal(CAT, record)))) == 1


def test_forged_memories_of_ones_votes_change_nothing() -> None:
    ann = Member(ANN).meet(BEN, CAT)
    ann.rounds.look(0.0)
    (theirs,) = votes(record_of(A), Step.PREVOTE, BEN)
    forged = Vote(ANN.peer_id, theirs.round, theirs.attempt, theirs.step, theirs.choice, theirs.signature)
    assert ann.rounds.heard_own_votes([forged, theirs]) == []
    ann.hold(1.0, B)
    assert len(prevoted(ann.hear(1.0, proposal(BEN, record_of(B))))) == 1


# Too few.


def test_below_quorum_it_is_said_and_training_goes_on_from_the_same_state() -> None:
    ann = Member(ANN, make_spec(stale_rounds_max=2))
    effects = ann.rounds.look(0.0)
    assert [turn.round for turn in of_kind(effects, Train)] == [1]
    assert events(effects)[-1] == Waiting(
        "round 1 is paused: 1 of 3 votes are connected, too few to agree; this member trains on"
    )
    (turn,) = of_kind(done(ann.rounds.contributed(5.0, A)), Train)
    assert turn == Train(2, START, (ANN.peer_id,), 25.0, has_contributed=False)
    (turn,) = of_kind(done(ann.rounds.contributed(6.0, contribution(ANN, 2))), Train)
    assert turn.round == 3
    assert of_kind(done(ann.rounds.contributed(7.0, contribution(ANN, 3))), Train) == []  # no record could take it
    assert len(list(ann.rounds.pool.of(ANN.peer_id))) == 3


def test_below_quorum_nothing_is_added_after_a_restart_which_lost_where_the_last_contribution_ended() -> None:
    ann = Member(ANN, make_spec(stale_rounds_max=2))
    found_again = done(ann.rounds.contributed(0.0, A))
    assert any("is paused: 1 of 3 votes" in str(event) for event in events(found_again))
    assert of_kind([*found_again, *ann.rounds.look(100.0)], Train) == []
    assert ann.rounds.phase is Phase.OPEN


def test_what_was_made_while_agreement_paused_is_proposed_as_a_whole_when_it_goes_on() -> None:
    ben, walk = Member(BEN).meet(ANN), [contribution(ANN, round) for round in (1, 2, 3)]
    ben.meet(CAT, standing=Standing.PAUSED).rounds.look(0.0)
    for offered in walk:
        ben.hold(9.0, offered)
    (proposed,) = said(done(ben.rounds.contributed(9.0, B)), Proposal)
    assert proposed.value == ended(record_of(*walk, B)).value


def test_with_a_quorum_nobody_makes_more_than_one_contribution() -> None:
    ann = Member(ANN).meet(BEN)
    assert len(of_kind(ann.rounds.look(0.0), Train)) == 1
    assert of_kind(done(ann.rounds.contributed(5.0, A)), Train) == []
    assert of_kind(ann.rounds.look(100.0), Train) == []


def test_a_paused_member_follows_and_does_its_part_again_after_resuming() -> None:
    ann = Member(ANN, origin=ALONE)
    (turn,) = of_kind(ann.rounds.look(0.0), Train)
    ann.rounds.stand(1.0, Standing.PAUSED)
    assert ann.rounds.is_over(turn)
    assert not ann.rounds.is_in_time(turn)
    ann.rounds.gave_up(1.5)
    assert len(of_kind(ann.rounds.stand(2.0, Standing.TRAINER), Train)) == 1
    assert not ann.rounds.is_over(turn)


def test_two_certified_records_for_one_round_are_the_end() -> None:
    ann = Member(ANN).meet(BEN, CAT)
    ann.rounds.look(0.0)
    ann.hold(0.5, B)
    ann.hear(1.0, ended(record_of(B), BEN, CAT))
    (problem,) = [event for event in events(ann.hear(2.0, ended(record_of(C), BEN, CAT))) if isinstance(event, Problem)]
    assert f"{', '.join(sorted((BEN.peer_id, CAT.peer_id)))}: this node stops here" in problem.message
    assert said(ann.hear(3.0, proposal(CAT, record_of(after=ann.rounds.position))), Vote) == []
