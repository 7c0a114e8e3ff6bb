"""Who may have lost what it has signed says nothing until that can do no harm."""

from shoal.training.agreed import Position
from shoal.training.agreeing import Agreement
from shoal.training.members import electorate_of
from shoal.training.records import Head
from shoal.training.spec import Quorum
from shoal.training.taking_care import CAREFUL_ROUNDS, TakingCare
from shoal.training.voting_effects import Timeouts
from tests.training.seated import PEOPLE, stranger

SWARM = b"s" * 32
ME, *OTHERS = PEOPLE[:4]
NEWEST = Head(5, b"r" * 32, bytes(32))
END = NEWEST.round + CAREFUL_ROUNDS


def careful(quorum: Quorum) -> tuple[Agreement, TakingCare]:
    """One of four, whose log is gone."""
    electorate = electorate_of(quorum, {each.peer_id: 1 for each in (ME, *OTHERS)})
    agreement = Agreement(SWARM, ME, Timeouts(), Position(0, SWARM, electorate))
    care = TakingCare(ME.peer_id, agreement)
    care.begin()
    return agreement, care


def test_it_says_nothing_until_a_quorum_has_told_where_it_stands_and_two_rounds_more_are_over() -> None:
    agreement, care = careful(Quorum.TWO_THIRDS)
    assert agreement.is_abstaining
    assert not care.is_over({NEWEST: {OTHERS[0].peer_id}}, 10**6)
    assert not care.is_over({NEWEST: {OTHERS[0].peer_id, stranger(1).peer_id}}, 10**6)
    told = {NEWEST: {each.peer_id for each in OTHERS[:2]}}
    overs = [round for round in range(END + 3) if care.is_over(told, round)]
    assert overs == [END + 1]  # said once
    assert agreement.is_abstaining
    agreement.leap(Position(END, bytes(32), agreement.position.electorate))
    assert not agreement.is_abstaining


def test_of_those_who_tell_the_furthest_counts() -> None:
    _, care = careful(Quorum.MAJORITY)
    behind = Head(2, b"b" * 32, bytes(32))
    told = {behind: {OTHERS[0].peer_id}, NEWEST: {OTHERS[1].peer_id}}
    assert [round for round in range(END + 2) if care.is_over(told, round)] == [END + 1]


def test_who_tells_of_a_round_that_will_never_be_silences_nobody_for_good() -> None:
    _, care = careful(Quorum.MAJORITY)
    honest = {NEWEST: {each.peer_id for each in OTHERS[:2]}}
    liar = {Head(2**31, b"r" * 32, bytes(32)): {OTHERS[2].peer_id}}
    assert not care.is_over(honest | liar, NEWEST.round)
    assert not care.is_over(honest, NEWEST.round)  # the liar is doubted by now
    assert care.is_over(honest, END + 1)
