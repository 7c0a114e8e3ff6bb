"""How long a member says nothing whose log was damaged."""

from shoal.training.agreed import Position
from shoal.training.agreeing import Agreement
from shoal.training.records import Head
from shoal.training.taking_care import CAREFUL_ROUNDS, TakingCare
from shoal.training.voting_effects import Timeouts
from tests.training.round_member import ANN, BEN, CAT, SWARM, THREE


def head(round: int) -> Head:
    return Head(round, bytes(32), bytes(32))


def test_it_is_over_when_what_a_quorum_tells_and_two_rounds_more_are_over() -> None:
    agreement = Agreement(SWARM, ANN, Timeouts(), THREE)
    care = TakingCare(ANN.peer_id, agreement)
    care.begin()
    assert not care.is_over({}, 100)
    told = {head(3): {BEN.peer_id}}
    overs = [round for round in range(3, 10) if care.is_over(told, round)]
    assert overs == [3 + CAREFUL_ROUNDS + 1]
    assert agreement.is_abstaining
    agreement.leap(Position(3 + CAREFUL_ROUNDS, bytes(32), THREE.electorate))
    assert not agreement.is_abstaining


def test_who_tells_of_a_round_that_will_never_be_silences_nobody_for_good() -> None:
    care = TakingCare(ANN.peer_id, Agreement(SWARM, ANN, Timeouts(), THREE))
    care.begin()
    assert not care.is_over({head(3): {BEN.peer_id}, head(2**31): {CAT.peer_id}}, 3)
    told = {head(3): {BEN.peer_id}}  # Cat is doubted by now
    assert not care.is_over(told, 3)
    assert care.is_over(told, 3 + CAREFUL_ROUNDS + 1)
