"""Through which relays to be reached, on a clock of the test's own."""

from collections.abc import Iterable, Mapping

from hypothesis import given
from hypothesis import strategies as st

from shoal.transport.addresses import ip_endpoint
from shoal.transport.identity import Identity
from shoal.transport.port import PeerId
from shoal.transport.relay_choice import (
    BETTER_S,
    PAUSE_S_MIN,
    TRY_S,
    WANTED,
    Candidate,
    Change,
    Kind,
    Leave,
    RelayChoice,
    State,
    Use,
)

PEERS = [Identity.from_seed(bytes([index]) * 32).peer_id for index in range(1, 20)]
A, B, C, D = PEERS[:4]
NOTHING: Mapping[PeerId, State] = {}


def candidate(peer: PeerId, kind: Kind = Kind.FOUND, ip: str | None = None, rtt_s: float | None = None) -> Candidate:
    """In a range of its own unless `ip` says otherwise."""
    return Candidate(peer, ip_endpoint(ip or f"5.{PEERS.index(peer)}.1.1", 4011, peer), kind, rtt_s)


def used(changes: Iterable[Change]) -> list[PeerId]:
    return [change.candidate.peer for change in changes if isinstance(change, Use)]


def left(changes: Iterable[Change]) -> list[tuple[PeerId, str]]:
    return [(change.peer, change.reason) for change in changes if isinstance(change, Leave)]


def holding(*candidates: Candidate, now: float = 0.0) -> RelayChoice:
    """One that has tried these, and they have agreed."""
    choice = RelayChoice(1)
    assert set(used(choice.look(now, True, NOTHING, candidates))) == {each.peer for each in candidates}
    for each in candidates:
        assert not choice.told(each.peer, State.HELD, now)
    return choice


def test_two_are_used_members_first_and_then_those_that_answer_quickly() -> None:
    choice = RelayChoice(1)
    offers = [candidate(A, rtt_s=0.3), candidate(B, Kind.KNOWN), candidate(C, rtt_s=0.01), candidate(D, Kind.MEMBER)]
    assert used(choice.look(0, True, NOTHING, offers)) == [D, C]
    assert not choice.look(1, True, NOTHING, offers)


def test_two_of_one_range_only_where_there_is_no_other() -> None:
    near = [candidate(A, ip="5.5.5.1", rtt_s=0.0), candidate(B, ip="5.5.5.2", rtt_s=0.0)]
    assert used(RelayChoice(1).look(0, True, NOTHING, [*near, candidate(C, rtt_s=2.0)]))[1] == C
    assert used(RelayChoice(1).look(0, True, NOTHING, near)) in ([A, B], [B, A])


def test_who_can_be_dialed_uses_none_and_gives_up_those_it_has() -> None:
    choice = holding(candidate(A), candidate(B))
    assert [peer for peer, _ in left(choice.look(1, False, NOTHING, []))] == [A, B]
    assert choice.used == ()
    assert not choice.look(2, False, NOTHING, [candidate(C)])


def test_configured_ones_that_stand_count_among_the_two() -> None:
    choice = RelayChoice(1)
    assert used(choice.look(0, True, {C: State.HELD, D: State.TRYING}, [candidate(A), candidate(C)])) == [A]
    choice.told(A, State.HELD, 0)
    assert left(choice.look(1, True, {C: State.HELD, D: State.HELD}, [])) == [(A, "there are better ones")]


def test_who_refuses_is_left_alone_ever_longer_and_the_next_is_tried_at_once() -> None:
    choice = RelayChoice(1)
    offers = [candidate(A, Kind.MEMBER), candidate(B)]
    now, pause_s = 0.0, PAUSE_S_MIN
    assert used(choice.look(now, True, NOTHING, offers)) == [A, B]
    choice.told(B, State.HELD, now)
    for _ in range(4):
        assert left(choice.told(A, State.REFUSED, now)) == [(A, "it refused")]
        assert not choice.look(now + pause_s - 1, True, NOTHING, offers)
        now += pause_s
        assert used(choice.look(now, True, NOTHING, offers)) == [A]
        pause_s *= 2
    choice.told(A, State.REFUSED, now)
    assert used(choice.look(now, True, NOTHING, [*offers, candidate(C)])) == [C]


def test_who_does_not_agree_in_time_or_goes_and_stays_away_is_replaced() -> None:
    choice = RelayChoice(1)
    choice.look(0, True, NOTHING, [candidate(A), candidate(B)])
    choice.told(A, State.HELD, 1)
    changes = choice.look(TRY_S, True, NOTHING, [candidate(C)])
    assert left(changes) == [(B, f"no reservation within {TRY_S:g} s")]
    assert used(changes) == [C]
    choice.told(C, State.HELD, TRY_S + 1)
    choice.told(A, State.TRYING, 100)  # its connection broke
    assert not choice.look(100 + TRY_S - 1, True, NOTHING, [candidate(D)])
    changes = choice.look(100 + TRY_S, True, NOTHING, [candidate(D)])
    assert ([peer for peer, _ in left(changes)], used(changes)) == ([A], [D])


def test_a_relay_that_comes_back_in_time_keeps_its_place() -> None:
    choice = holding(candidate(A), candidate(B))
    choice.told(A, State.TRYING, 100)
    choice.told(A, State.TRYING, 100 + TRY_S - 1)
    choice.told(A, State.HELD, 100 + TRY_S - 1)
    assert not choice.look(200, True, NOTHING, [])


def test_a_members_relay_takes_the_place_of_a_strangers_once_it_has_agreed() -> None:
    choice = holding(candidate(A, Kind.KNOWN), candidate(B))
    offers = [candidate(C, Kind.MEMBER)]
    changes = choice.look(10, True, NOTHING, offers)
    assert changes == [Use(offers[0], f"it is better than {A}")]
    assert not choice.look(11, True, NOTHING, offers)
    choice.told(C, State.HELD, 12)
    assert left(choice.look(12, True, NOTHING, offers)) == [(A, "there are better ones")]
    assert {each.peer for each in choice.used} == {B, C}


def test_a_better_one_that_does_not_agree_costs_nothing_and_no_others_for_a_while() -> None:
    choice = holding(candidate(A), candidate(B))
    offers = [candidate(C, Kind.MEMBER), candidate(D, Kind.MEMBER)]
    (first,) = used(choice.look(10, True, NOTHING, offers))
    choice.told(first, State.REFUSED, 11)
    assert not choice.look(12, True, NOTHING, offers)
    assert {each.peer for each in choice.used} == {A, B}
    assert used(choice.look(10 + BETTER_S, True, NOTHING, offers)) in ([C], [D])


def test_a_second_range_of_addresses_is_better_than_one_twice() -> None:
    choice = holding(candidate(A, ip="5.5.5.1"), candidate(B, ip="5.5.5.2"))
    assert used(choice.look(10, True, NOTHING, [candidate(C, ip="5.5.5.3")])) == []
    assert used(choice.look(11, True, NOTHING, [candidate(C, ip="5.6.5.3")])) == [C]


@given(st.data())
def test_whatever_happens_no_more_than_one_beyond_the_two_is_used_and_nobody_twice(data: st.DataObject) -> None:
    choice = RelayChoice(data.draw(st.integers(0, 9)))
    named: set[PeerId] = set()
    now = 0.0
    for _ in range(data.draw(st.integers(1, 30))):
        now += data.draw(st.sampled_from((0.0, 1.0, TRY_S, BETTER_S)))
        peer = data.draw(st.sampled_from(PEERS[:8]))
        if data.draw(st.booleans()):
            changes = choice.told(peer, data.draw(st.sampled_from(State)), now)
        else:
            kinds = st.sampled_from((Kind.MEMBER, Kind.FOUND, Kind.KNOWN))
            offers = [candidate(each, data.draw(kinds)) for each in PEERS[:8]]
            given_ones = {peer: data.draw(st.sampled_from(State))} if data.draw(st.booleans()) else NOTHING
            changes = choice.look(now, True, given_ones, offers)
        for change in changes:
            if isinstance(change, Use):
                assert change.candidate.peer not in named
                named.add(change.candidate.peer)
            else:
                named.remove(change.peer)
        assert named == {each.peer for each in choice.used}
        assert len(named) <= WANTED + 1
