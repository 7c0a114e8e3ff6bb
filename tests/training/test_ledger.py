"""The newest records at hand: how old a contribution is, what was taken, and which states are agreed upon."""

import pytest

from shoal.training.agreed import Position
from shoal.training.ledger import RECORDS_KEPT, Closed, Ledger, closed_by
from shoal.training.members import Join
from shoal.training.records import Head
from tests.training.round_member import ALONE, ANN, BEN, SWARM, contribution, ended, record_of


class Growing:
    """A ledger, and where it stands."""

    def __init__(self, start_digest: bytes | None = None) -> None:
        self.ledger = Ledger(ALONE, start_digest)
        self.position = ALONE

    def add(self, *, takes: bool = True, state: bytes = bytes(32)) -> Closed:
        """One more record, with Ann's contribution from the state before it or with nothing."""
        number = self.position.round
        base = Head(number, self.position.record, state)
        offers = [contribution(ANN, number + 1, base)] if takes else []
        added, self.position = closed_by(
            self.position, ended(record_of(*offers, after=self.position, state=state), ANN)
        )
        self.ledger.add(added)
        return added


def test_what_a_decision_ends_says_who_decided_and_whose_turn_it_was() -> None:
    record = record_of(after=ALONE, changes=(Join(BEN.peer_id, 1, b"asked"),))
    found, position = closed_by(ALONE, ended(record, ANN))
    assert found.voters == ALONE.electorate
    assert found.proposer == ANN.peer_id
    assert (position.round, position.record) == (1, found.hash)
    assert position.electorate.votes(BEN.peer_id) == 1


def test_what_does_not_follow_is_our_own_mistake() -> None:
    with pytest.raises(ValueError, match="follows another record"):
        closed_by(Position(1, SWARM, ALONE.electorate), ended(record_of(after=ALONE), ANN))


def test_the_newest_round_and_its_hash() -> None:
    growing = Growing()
    assert growing.ledger.newest == 0
    assert growing.ledger.hash_at(0) == SWARM
    added = growing.add()
    assert growing.ledger.newest == 1
    assert growing.ledger.hash_at(1) == added.hash
    assert growing.ledger.closed(1) == added
    assert growing.ledger.hash_at(2) is None
    assert growing.ledger.closed(2) is None


def test_a_state_is_agreed_upon_by_the_record_that_follows() -> None:
    growing = Growing()
    growing.add(state=b"\x05" * 32)
    assert growing.ledger.digest_at(0) == b"\x05" * 32
    assert growing.ledger.digest_at(1) is None
    growing.add(state=b"\x06" * 32)
    assert growing.ledger.digest_at(1) == b"\x06" * 32


def test_the_state_of_round_0_may_stand_in_the_spec() -> None:
    assert Ledger(ALONE).digest_at(0) is None
    assert Ledger(ALONE, b"\x07" * 32).digest_at(0) == b"\x07" * 32


def test_rounds_that_took_nothing_make_nothing_stale() -> None:
    growing = Growing()
    for takes in (True, False, False, True):
        growing.add(takes=takes)
    assert [growing.ledger.staleness(base) for base in range(5)] == [2, 1, 1, 1, 0]
    assert [growing.ledger.staleness(base, until=3) for base in range(4)] == [1, 0, 0, 0]


def test_how_old_it_is_cannot_be_said_of_what_is_not_in_the_log() -> None:
    growing = Growing()
    growing.add()
    assert growing.ledger.staleness(2) is None
    assert growing.ledger.staleness(7) is None


def test_what_was_taken_is_known_by_member_round_and_base() -> None:
    growing = Growing()
    growing.add()
    growing.add()
    taken = growing.ledger.was_taken
    assert taken(ANN.peer_id, 1, 0)
    assert taken(ANN.peer_id, 2, 1)
    assert not taken(ANN.peer_id, 2, 0)
    assert not taken(ANN.peer_id, 3, 1)
    assert not taken(BEN.peer_id, 1, 0)


def test_so_many_records_are_kept_and_of_older_ones_nothing_is_known() -> None:
    growing = Growing()
    for _ in range(RECORDS_KEPT + 2):
        growing.add()
    assert growing.ledger.closed(2) is None
    assert growing.ledger.closed(3) is not None
    assert growing.ledger.staleness(2) is None
    assert growing.ledger.staleness(3) == RECORDS_KEPT - 1
    assert growing.ledger.hash_at(0) == SWARM  # where it began
