"""Which way to another's state should be faster."""

import pytest

from shoal.training.agreed import Position
from shoal.training.ledger import Ledger, closed_by
from shoal.training.members import electorate_of
from shoal.training.records import Head
from shoal.training.replaying import BYTES_PER_S, OVER_TIME_S, Way, contributors, estimate, why_not
from shoal.training.spec import Quorum
from shoal.transport.identity import Identity
from tests.training.agreed_log import SWARM, written

MIB = 2**20
KEY = Identity.from_seed(bytes(32))


class Applies:
    """So many contributions a second."""

    def __init__(self, per_s: float) -> None:
        self.per_s = per_s

    def replay_s(self, contributions: int) -> float:
        return contributions / self.per_s


@pytest.mark.parametrize(
    ("rounds", "checkpoint_bytes", "per_s", "way"),
    [
        (1000, 30_000, 1e5, Way.CHECKPOINT),  # norm gains: the state is smaller than what it was made of
        (1000, 540 * MIB, 1e3, Way.LOG),  # all of 135M parameters, quickly applied
        (1000, 540 * MIB, 4.0, Way.CHECKPOINT),  # slowly
        (5, 540 * MIB, 4.0, Way.LOG),  # who was away for a moment
        (0, 0, 1e3, Way.CHECKPOINT),  # of two equal ones
    ],
)
def test_the_faster_way_is_taken_first(rounds: int, checkpoint_bytes: int, per_s: float, way: Way) -> None:
    found = estimate(Applies(per_s), 4 * rounds, 320, checkpoint_bytes, 0)
    assert found.ways[0] is way
    assert set(found.ways) == set(Way)
    assert found.checkpoint_s == checkpoint_bytes / BYTES_PER_S
    assert found.patience_s == 4 * found.log_s + OVER_TIME_S


def test_the_line_counts_for_both() -> None:
    slow, fast = (estimate(Applies(100.0), 4000, 320, 50 * MIB, rate) for rate in (1e5, 1e9))
    assert (slow.ways[0], fast.ways[0]) == (Way.LOG, Way.CHECKPOINT)
    assert slow.log_s == pytest.approx(4000 * 320 / 1e5 + 4000 * 1e-4 + 40.0)


def test_how_many_contribute_follows_from_the_records_at_hand() -> None:
    log = written(9)
    ledger = Ledger(log.origin)
    assert contributors(ledger, 7) == 7.0
    position = log.origin
    for round in range(1, 10):
        closed, position = closed_by(position, log.decided(round))
        ledger.add(closed)
    assert contributors(ledger, 7) == (1 + 2 + 7 * 3) / 9


def test_from_a_state_that_others_do_not_have_nothing_leads_on() -> None:
    position = Position(5, SWARM, electorate_of(Quorum.MAJORITY, {KEY.peer_id: 1}))
    ledger = Ledger(position)
    own, ahead = Head(5, SWARM, b"a" * 32), Head(9, SWARM, b"b" * 32)
    assert why_not(own, ahead, ledger, None) is None
    assert why_not(own, Head(5, SWARM, b"b" * 32), ledger, None) is not None
    start = Head(0, SWARM, b"a" * 32)
    assert why_not(start, ahead, ledger, b"a" * 32) is None
    assert why_not(start, ahead, ledger, b"c" * 32) is not None
