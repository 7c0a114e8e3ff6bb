"""What people are shown of a swarm's members follows from the log and from who is connected."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal.training.agreed import AgreedRecord, Share, next_record, record_value
from shoal.training.agreeing import Split
from shoal.training.ledger import Ledger, closed_by
from shoal.training.members import Electorate, Resume, Seat, Suspend, electorate_of
from shoal.training.membership_view import (
    Known,
    MemberView,
    Removal,
    Suspension,
    cannot_remove,
    membership_view,
    notice,
    quorum_words,
    removal_of,
    weighed,
)
from shoal.training.records import Head, Presence, Present, Standing
from shoal.training.roster import Roster
from shoal.training.spec import Quorum
from shoal.transport.identity import Identity
from shoal.transport.port import PeerId
from tests.training.agreed_log import ANN, BEN, CLEO, DAN, ORIGIN, SWARM, Written, joins, leaves, signed, written

NOW = 100.0


def known(log: Written, *here: Identity, me: Identity = ANN) -> Known:
    """As `me` sees this log, with these connected."""
    roster = Roster(me.peer_id, 64)
    for who in here:
        presence = Presence(1, Standing.TRAINER, ())
        assert roster.greet(Present(who.peer_id, presence), Head(log.position.round, log.position.record, b""))
    ledger = Ledger(ORIGIN)
    position = ORIGIN
    for keep in log.keeps:
        closed, position = closed_by(position, keep.decided)
        ledger.add(closed)
    return Known(
        me=me.peer_id,
        standing=Standing.TRAINER,
        round=log.position.round,
        position=log.position,
        ledger=ledger,
        roster=roster,
        removers={},
        split=None,
        is_abstaining=False,
        is_finished=False,
        heard_at=NOW - 7,
    )


def shown(known: Known, who: Identity) -> MemberView:
    return next(member for member in membership_view(NOW, known).members if member.peer == who.peer_id)


def test_members_are_shown_with_votes_weight_and_where_they_stand() -> None:
    view = membership_view(NOW, known(written(4), BEN))
    assert [member.peer for member in view.members] == sorted(key.peer_id for key in (ANN, BEN, CLEO))
    assert [member.votes for member in view.members] == [1, 1, 1]
    assert (view.votes, view.votes_needed, view.votes_here, view.senior) == (3, 2, 2, None)
    assert (view.newest.round, view.newest.attempt, view.newest.age_s) == (4, 0, 7.0)
    ann, ben, cleo = (shown(known(written(4), BEN), who) for who in (ANN, BEN, CLEO))
    assert [member.weight for member in (ann, ben, cleo)] == [pytest.approx(1 / 3)] * 3
    assert (ann.since, ben.since, cleo.since) == (0, 1, 2)
    assert (ann.is_here, ann.standing, ann.round) == (True, Standing.TRAINER, 4)
    assert (ben.is_here, ben.standing, ben.round) == (True, Standing.TRAINER, 4)
    assert (cleo.is_here, cleo.standing, cleo.round) == (False, None, None)


def test_who_is_suspended_is_shown_with_the_record_that_says_so_and_its_last_part() -> None:
    log = written(5, {1: joins(BEN), 2: joins(CLEO), 4: (Suspend(CLEO.peer_id),)})
    seen = known(log, BEN)
    seen.roster.gone(NOW - 30, [CLEO.peer_id], 5.0)
    cleo = shown(seen, CLEO)
    assert cleo.suspension == Suspension(4, log.at(4).record)
    assert cleo.silent_s == 30.0
    assert cleo.taken_round == 5
    assert shown(known(written(5, {1: joins(BEN), 2: (Suspend(BEN.peer_id),), 3: (Resume(BEN.peer_id),)})), BEN) == (
        replace(shown(known(written(5, {1: joins(BEN)})), BEN), suspension=None)
    )


def test_an_old_suspension_is_shown_without_its_record() -> None:
    log = written(3, {1: joins(BEN), 2: (Suspend(BEN.peer_id),)})
    seen = replace(known(log), ledger=Ledger(log.position))
    assert shown(seen, BEN).suspension == Suspension(None, None)
    assert shown(seen, BEN).weight is None
    assert membership_view(NOW, seen).newest.attempt is None


def test_who_vouched_for_whom_is_shown_and_who_is_barred() -> None:
    electorate = Electorate(
        Quorum.TWO_THIRDS, (Seat(ANN.peer_id, 6, 0), Seat(BEN.peer_id, 4, 3, ANN.peer_id)), (CLEO.peer_id,)
    )
    seen = known(written(0))
    seen = replace(seen, position=replace(seen.position, electorate=electorate))
    view = membership_view(NOW, seen)
    assert shown(seen, BEN).voucher == ANN.peer_id
    assert view.barred == (CLEO.peer_id,)
    assert (view.votes_needed, view.votes_here) == (7, 6)


def test_what_one_member_contributes_in_several_turns_from_one_state_counts_once() -> None:
    log = written(1)
    position = log.position
    shares = [
        Share(ANN.peer_id, 2, 1, bytes(32), 30),
        Share(ANN.peer_id, 3, 1, b"\x01" * 32, 20),
        Share(BEN.peer_id, 2, 1, b"\x02" * 32, 10),
    ]
    record = next_record(position, bytes(32), shares)
    assert isinstance(record, AgreedRecord)
    seen = known(log)
    closed, _ = closed_by(position, signed(position, record, SWARM))
    seen.ledger.add(closed)
    assert weighed(seen.ledger) == (2, {ANN.peer_id: 0.75, BEN.peer_id: 0.25})


def test_nothing_is_noticed_where_all_goes_well_and_a_quorum_is_there() -> None:
    assert notice(known(written(3), BEN)) is None
    assert notice(known(written(0))) is None


def test_a_pause_says_how_many_votes_are_there_and_how_many_are_needed() -> None:
    said = notice(known(written(3)))
    assert said is not None
    assert said.startswith("paused: 1 of 3 votes are connected, 2 are needed; training goes on")
    pair = written(3, {1: joins(BEN)})
    assert notice(known(pair)) is None  # half of all votes, with the senior's
    said = notice(known(pair, me=BEN))
    assert said is not None
    assert f"2 are needed (or 1 with those of {ANN.peer_id})" in said
    assert quorum_words(electorate_of(Quorum.MAJORITY, {ANN.peer_id: 1})) == "1 is needed"


def test_a_newcomer_a_removed_a_stopped_and_an_abstaining_node_are_told_so() -> None:
    log = written(3, {1: joins(BEN), 2: joins(CLEO)})
    assert str(notice(known(log, BEN, me=DAN))).startswith("not a member yet")
    assert notice(replace(known(log, ANN, BEN, me=DAN), standing=Standing.STORAGE)) is None
    assert notice(replace(known(log, me=BEN), is_finished=True)) is None
    assert str(notice(replace(known(log, BEN), is_abstaining=True))).startswith("abstaining")
    barred = replace(log.position.electorate, barred=(DAN.peer_id,))
    seen = known(log, BEN, me=DAN)
    assert str(notice(replace(seen, position=replace(seen.position, electorate=barred)))).startswith("removed")
    suspended = written(3, {1: joins(BEN), 2: (Suspend(BEN.peer_id),)})
    assert str(notice(known(suspended, ANN, me=BEN))).startswith("suspended")
    split = Split(log.decided(3), log.decided(3))
    said = str(notice(replace(known(log), split=split)))
    assert said.startswith("stopped: round 3")
    assert "shoal swarm fork" in said


def test_a_removal_counts_the_others_votes_alone() -> None:
    seen = known(written(4, {1: joins(BEN, CLEO), 2: joins(DAN)}))
    seen = replace(seen, removers={DAN.peer_id: (BEN.peer_id, DAN.peer_id)})
    said = Removal(DAN.peer_id, (BEN.peer_id,), 1, 3, is_wanted=False)
    assert membership_view(NOW, seen).removals == (said,)
    said = Removal(BEN.peer_id, (), 0, 3, is_wanted=False)
    assert removal_of(seen, BEN.peer_id) == said
    others = (ANN.peer_id, BEN.peer_id, CLEO.peer_id)
    wanted = removal_of(replace(seen, removers={DAN.peer_id: others}), DAN.peer_id)
    assert wanted == Removal(DAN.peer_id, others, 3, 3, is_wanted=True)
    assert removal_of(seen, PeerId("a stranger")) is None


def test_whom_all_others_together_cannot_remove_is_told() -> None:
    pair = electorate_of(Quorum.MAJORITY, {ANN.peer_id: 1, BEN.peer_id: 1})
    senior = pair.senior
    junior = next(key.peer_id for key in (ANN, BEN) if key.peer_id != senior)
    assert senior is not None
    assert cannot_remove(pair, junior) is None
    assert "all others together have 1 of 2 votes" in str(cannot_remove(pair, senior))


@given(st.sampled_from(Quorum), st.lists(st.integers(0, 9), min_size=1, max_size=4), st.data())
def test_the_votes_needed_are_a_quorum_and_one_less_is_none_but_with_the_senior(
    quorum: Quorum, votes: list[int], data: st.DataObject
) -> None:
    keys = (ANN, BEN, CLEO, DAN)[: len(votes)]
    electorate = electorate_of(quorum, {key.peer_id: count for key, count in zip(keys, votes, strict=True)})
    some = data.draw(st.sets(st.sampled_from([key.peer_id for key in keys])))
    if electorate.count(some) >= electorate.votes_needed:
        assert electorate.is_quorum(some)
    elif electorate.is_quorum(some):
        assert quorum is Quorum.MAJORITY
        assert electorate.senior in some
        assert 2 * electorate.count(some) == electorate.total


def test_who_left_is_no_member_any_more() -> None:
    log = written(3)
    log.write(*leaves(log.position, CLEO))
    assert [member.peer for member in membership_view(NOW, known(log)).members] == sorted((ANN.peer_id, BEN.peer_id))
    assert record_value(log.keeps[-1].record).hash == membership_view(NOW, known(log)).newest.record
