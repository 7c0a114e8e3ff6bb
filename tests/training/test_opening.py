"""Envelopes are verified once each, and no peer can have more verified than its allowance."""

from shoal.training.allowance import ENVELOPES_BURST, ENVELOPES_PER_S, Allowance
from shoal.training.opening import OPENED_MAX, PEERS_MAX, Opener
from shoal.training.records import (
    Contribution,
    Offered,
    open_contribution,
    seal_contribution,
)
from shoal.transport.identity import Identity
from shoal.transport.port import PeerId
from shoal.transport.wire import Malformed

SWARM = bytes(32)
ANN, BEN = (Identity.from_seed(bytes([n]) * 32) for n in (1, 2))
OFFERED = seal_contribution(ANN, SWARM, 1, Contribution(0, bytes(32), b"", 1, b""))


class Counting:
    """open_contribution, and how often it was needed."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self, data: bytes, swarm: bytes) -> Offered | Malformed:
        self.count += 1
        return open_contribution(data, swarm)


def test_copies_cost_no_second_verification_whoever_relays_them() -> None:
    opener, opening = Opener(SWARM), Counting()
    for peer in (ANN.peer_id, BEN.peer_id) * 50:
        assert opener.open(0.0, peer, OFFERED.envelope, opening) == OFFERED
    assert opening.count == 1


def test_one_kind_never_passes_for_another_out_of_memory() -> None:
    opener, opening = Opener(SWARM), Counting()
    assert opener.open(0.0, ANN.peer_id, OFFERED.envelope, open_contribution) == OFFERED
    opener.open(0.0, ANN.peer_id, OFFERED.envelope, opening)
    assert opening.count == 1  # another function: what the first one made is none of its business


def test_a_flood_of_forgeries_is_cut_off_and_costs_nobody_else_anything() -> None:
    opener, opening = Opener(SWARM), Counting()
    for number in range(int(ENVELOPES_BURST) + 500):
        assert isinstance(opener.open(0.0, BEN.peer_id, number.to_bytes(4, "big"), opening), Malformed)
    assert opening.count == ENVELOPES_BURST
    assert opener.open(0.0, ANN.peer_id, OFFERED.envelope, opening) == OFFERED
    assert isinstance(opener.open(1.0, BEN.peer_id, b"again", opening), Malformed)
    assert opening.count == ENVELOPES_BURST + 2


def test_what_is_remembered_is_bounded() -> None:
    opener, opening = Opener(SWARM), Counting()
    for number in range(1, OPENED_MAX + 11):
        offered = seal_contribution(ANN, SWARM, number, OFFERED.contribution)
        opener.open(0.0, PeerId(str(number % (PEERS_MAX + 10))), offered.envelope, opening)
    first = seal_contribution(ANN, SWARM, 1, OFFERED.contribution)
    opener.open(0.0, ANN.peer_id, first.envelope, opening)
    assert opening.count == OPENED_MAX + 11  # the first had been forgotten


def test_signatures_that_come_by_other_ways_count_against_the_same_allowance() -> None:
    opener = Opener(SWARM)
    assert opener.allows(0.0, BEN.peer_id, int(ENVELOPES_BURST) - 1)
    assert not opener.allows(0.0, BEN.peer_id, 2)
    assert opener.allows(0.0, BEN.peer_id, 1)
    assert isinstance(opener.open(0.0, BEN.peer_id, OFFERED.envelope, open_contribution), Malformed)
    assert opener.open(0.0, ANN.peer_id, OFFERED.envelope, open_contribution) == OFFERED


def test_ever_new_keys_have_no_more_verified_than_so_many_peers() -> None:
    opener, burst = Opener(SWARM), int(ENVELOPES_BURST)
    opener.allows(0.0, ANN.peer_id, 1)
    for number in range(PEERS_MAX - 1):
        assert opener.allows(0.0, PeerId(str(number)), burst)
    assert opener.allows(0.5, ANN.peer_id, burst - 1)
    assert not any(opener.allows(1.0, PeerId(f"new {number}"), int(ENVELOPES_PER_S) + 1) for number in range(PEERS_MAX))
    assert not opener.allows(1.0, ANN.peer_id, burst)
    assert opener.allows(100.0, PeerId("later"), burst)


def test_an_allowance_refills_with_time_up_to_its_burst() -> None:
    allowance = Allowance(0.0)
    assert sum(allowance.takes(0.0) for _ in range(10_000)) == ENVELOPES_BURST
    assert sum(allowance.takes(1.0) for _ in range(10_000)) == ENVELOPES_PER_S
    assert sum(allowance.takes(1e6) for _ in range(10_000)) == ENVELOPES_BURST
