"""Votes: whose they are, how many are enough, whose turn it is."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal.training.members import (
    BARRED_MAX,
    Change,
    Electorate,
    Expel,
    Join,
    Leave,
    Remove,
    Resume,
    Suspend,
    Vouch,
    electorate_of,
)
from shoal.training.spec import Quorum
from shoal.training.votes import ShortBallot, Step
from shoal.transport.port import PeerId
from shoal.transport.wire import Malformed

PEERS = [PeerId(f"peer {number}".ljust(40, ".")) for number in range(8)]
SHORT = ShortBallot(1, 0, Step.PREVOTE, b"", None, bytes(64))

quorums = st.sampled_from(Quorum)
votes = st.dictionaries(st.sampled_from(PEERS), st.integers(0, 20), min_size=1).filter(lambda each: any(each.values()))
electorates = st.builds(electorate_of, quorums, votes)


@st.composite
def changes(draw: st.DrawFn) -> Change:
    member, other = draw(st.sampled_from(PEERS)), draw(st.sampled_from(PEERS))
    count = draw(st.integers(1, 10))
    made: list[Change] = [
        Join(member, count, b""),
        Vouch(member, other, count, bytes(64)),
        Leave(member, bytes(64)),
        Remove(member, ()),
        Expel(member, SHORT, SHORT),
        Suspend(member),
        Resume(member),
    ]
    return draw(st.sampled_from(made))


def after(electorate: Electorate, *made: Change, round: int = 1) -> Electorate:
    changed = electorate.after(round, made)
    assert isinstance(changed, Electorate), changed
    return changed


@given(electorates, st.sets(st.sampled_from(PEERS)), st.sets(st.sampled_from(PEERS)))
def test_any_two_quorums_share_what_liars_below_the_bound_cannot_be(
    electorate: Electorate, one: set[PeerId], other: set[PeerId]
) -> None:
    if not (electorate.is_quorum(one) and electorate.is_quorum(other)):
        return
    shared = electorate.count(one & other)
    assert shared > 0
    if electorate.quorum is Quorum.TWO_THIRDS:
        assert 3 * shared > electorate.total
    assert electorate.has_honest(one & other)


@given(electorates)
def test_all_together_are_a_quorum_and_nobody_is_none(electorate: Electorate) -> None:
    assert electorate.is_quorum(electorate.by_member)
    assert not electorate.is_quorum(())
    assert not electorate.has_honest(())


@given(electorates, st.lists(changes(), max_size=6), st.integers(1, 9))
def test_votes_come_by_joining_alone(electorate: Electorate, made: list[Change], round: int) -> None:
    total = electorate.total
    for change in made:
        changed = electorate.after(round, (change,))
        if isinstance(changed, Malformed):
            continue
        total += change.votes if isinstance(change, Join) else 0
        assert changed.total <= total
        if not isinstance(change, Join | Expel | Leave | Remove):
            assert changed.total == electorate.total
        assert [seat.member for seat in changed.seats] == sorted(seat.member for seat in changed.seats)
        electorate, total = changed, changed.total


@given(electorates, st.sets(st.sampled_from(PEERS)), st.sets(st.sampled_from(PEERS)))
def test_suspension_changes_no_quorum(electorate: Electorate, silent: set[PeerId], those: set[PeerId]) -> None:
    suspended = after(electorate, *(Suspend(peer) for peer in sorted(silent & electorate.by_member.keys())))
    assert suspended.is_quorum(those) == electorate.is_quorum(those)
    assert suspended.has_honest(those) == electorate.has_honest(those)


@given(electorates, st.integers(0, 1000))
def test_turns_are_shared_as_votes_are(electorate: Electorate, round: int) -> None:
    turns = Counter(electorate.proposer(round, attempt) for attempt in range(electorate.total))
    assert turns == {peer: count for peer in electorate.by_member if (count := electorate.votes(peer))}


def test_equal_voters_take_turns() -> None:
    electorate = electorate_of(Quorum.TWO_THIRDS, dict.fromkeys(PEERS, 1))
    assert {electorate.proposer(5, attempt) for attempt in range(8)} == set(PEERS)


@pytest.mark.parametrize("liars", [1, 2])
def test_liars_have_few_turns_in_a_row(liars: int) -> None:
    """However the votes are spread, as long as the liars have less than a third of them."""
    for heavy in range(1, 30):
        weights = {peer: (heavy if number < liars else 5 + number) for number, peer in enumerate(PEERS)}
        electorate = electorate_of(Quorum.TWO_THIRDS, weights)
        if 3 * electorate.count(PEERS[:liars]) >= electorate.total:
            continue
        turns = [electorate.proposer(0, attempt) in PEERS[:liars] for attempt in range(2 * electorate.total)]
        longest = max(len(run) for run in "".join("x" if turn else " " for turn in turns).split(" "))
        assert longest <= 2


def test_who_is_suspended_has_no_turn_unless_all_are() -> None:
    electorate = electorate_of(Quorum.MAJORITY, dict.fromkeys(PEERS[:3], 1))
    one = after(electorate, Suspend(PEERS[0]))
    assert PEERS[0] not in {one.proposer(0, attempt) for attempt in range(9)}
    all_of_them = after(electorate, *map(Suspend, PEERS[:3]))
    assert {all_of_them.proposer(0, attempt) for attempt in range(9)} == set(PEERS[:3])


def test_of_two_the_one_who_was_there_first_may_go_on_alone() -> None:
    alone = electorate_of(Quorum.MAJORITY, {PEERS[1]: 1})
    two = after(alone, Join(PEERS[0], 1, b""))
    assert two.senior == PEERS[1]
    assert two.is_quorum([PEERS[1]])
    assert not two.is_quorum([PEERS[0]])


def test_votes_that_were_lent_come_back_and_those_of_who_lied_do_not() -> None:
    lent = after(
        electorate_of(Quorum.TWO_THIRDS, {PEERS[0]: 10, PEERS[1]: 10}),
        Join(PEERS[2], 0, b""),
        Vouch(PEERS[2], PEERS[0], 4, bytes(64)),
    )
    assert [lent.votes(peer) for peer in PEERS[:3]] == [6, 10, 4]
    assert after(lent, Leave(PEERS[2], bytes(64))).votes(PEERS[0]) == 10
    assert after(lent, Expel(PEERS[2], SHORT, SHORT)).votes(PEERS[0]) == 6


@pytest.mark.parametrize(
    "change",
    [
        Join(PEERS[0], 1, b""),
        Vouch(PEERS[1], PEERS[0], 1, bytes(64)),
        Vouch(PEERS[2], PEERS[0], 2, bytes(64)),
        Vouch(PEERS[0], PEERS[0], 1, bytes(64)),
        Leave(PEERS[5], bytes(64)),
        Suspend(PEERS[5]),
        Resume(PEERS[0]),
    ],
)
def test_what_does_not_fit_is_refused(change: Change) -> None:
    electorate = after(electorate_of(Quorum.MAJORITY, {PEERS[0]: 2, PEERS[1]: 1}), Join(PEERS[2], 0, b""))
    assert isinstance(electorate.after(2, (change,)), Malformed)


def test_the_last_voter_cannot_go() -> None:
    alone = electorate_of(Quorum.MAJORITY, {PEERS[0]: 1})
    assert isinstance(alone.after(1, (Leave(PEERS[0], bytes(64)),)), Malformed)


def test_equal_members_have_equal_digests_and_others_do_not() -> None:
    electorate = electorate_of(Quorum.MAJORITY, {PEERS[0]: 1, PEERS[1]: 2})
    assert electorate.digest() == electorate_of(Quorum.MAJORITY, {PEERS[1]: 2, PEERS[0]: 1}).digest()
    assert electorate.digest() != electorate_of(Quorum.TWO_THIRDS, {PEERS[0]: 1, PEERS[1]: 2}).digest()
    assert electorate.digest() != after(electorate, Suspend(PEERS[0])).digest()


def test_of_those_who_are_barred_the_oldest_are_forgotten_whatever_their_ids() -> None:
    electorate = electorate_of(Quorum.MAJORITY, {PEERS[0]: 1})
    gone = [PeerId(f"{number * 7 % 1031:040}") for number in range(BARRED_MAX + 2)]
    for round, member in enumerate(gone, 1):
        electorate = after(electorate, Join(member, 1, b""), Remove(member, ()), round=round)
    assert electorate.barred == tuple(gone[2:])


def test_who_has_no_vote_cannot_push_others_out_of_memory_by_lying() -> None:
    guest = after(electorate_of(Quorum.MAJORITY, {PEERS[0]: 1}), Join(PEERS[1], 0, b""))
    assert isinstance(guest.after(6, [Expel(PEERS[1], SHORT, SHORT)]), Malformed)


@pytest.mark.parametrize("change", [Remove(PEERS[1], ()), Expel(PEERS[1], SHORT, SHORT)])
def test_who_was_removed_or_proved_to_lie_does_not_come_back(change: Change) -> None:
    three = electorate_of(Quorum.MAJORITY, dict.fromkeys(PEERS[:3], 1))
    without = after(three, change)
    assert without.barred == (PEERS[1],)
    assert isinstance(without.after(6, [Join(PEERS[1], 1, b"")]), Malformed)
    assert without.digest() != after(three, Leave(PEERS[1], bytes(64))).digest()
