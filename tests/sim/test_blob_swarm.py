"""Rounds' exchanges on simulated lines: how close to the floor of swarming they come, and what spoils them how much."""

import math
import os

import pytest
from blake3 import blake3

from shoal.transport.blob_picks import PATIENCE_S_MAX
from shoal.transport.port import PeerId
from tests.sim.blob_swarm import MBIT, Member, Swarm, direct_s, floor_s

SOAK = bool(os.environ.get("SHOAL_SOAK"))
SEEDS = range(300 if SOAK else 4)
FEW = range(30 if SOAK else 2)
UPLINKS = (5, 5, 10, 10, 20, 20, 100, 100)  # Mbit/s
PAYLOAD_BYTES = 10_000_000
HONEST = [0, 1, 2, 3, 4, 5, 7]


def members_of(uplinks: tuple[float, ...], seed: int, down: int = 200) -> list[Member]:
    names = [blake3(b"%d %d" % (seed, number)).hexdigest()[:12] for number in range(len(uplinks))]
    return [Member(PeerId(name), up * MBIT, down * MBIT) for name, up in zip(names, uplinks, strict=True)]


def spent_s(swarm: Swarm, member: Member) -> float:
    """From its first fetch's beginning to its last one's end."""
    fetches = member.fetches.values()
    return max(fetch.done_at or math.inf for fetch in fetches) - min(fetch.began_at for fetch in fetches)


@pytest.mark.parametrize("seed", SEEDS)
def test_eight_unequal_members_exchange_in_at_most_1_3_times_the_floor(seed: int) -> None:
    members = members_of(UPLINKS, seed)
    swarm = Swarm(members, PAYLOAD_BYTES, seed)
    assert swarm.run() <= 1.3 * floor_s(members, PAYLOAD_BYTES)
    for number in (0, 1):  # a slow line carries each of its chunks little more than once
        own = [
            times
            for (name, payload, _), times in swarm.sent.items()
            if (name, payload) == (members[number].name, number)
        ]
        assert sum(own) <= 1.1 * swarm.count


@pytest.mark.parametrize("seed", FEW)
def test_sending_directly_takes_as_long_as_it_is_computed_to(seed: int) -> None:
    members = members_of(UPLINKS, seed)
    took_s = Swarm(members, PAYLOAD_BYTES, seed, only_origin=True).run()
    assert 1.0 <= took_s / direct_s(members, PAYLOAD_BYTES) < 1.02
    assert took_s > 6 * floor_s(members, PAYLOAD_BYTES)


@pytest.mark.parametrize("seed", FEW)
def test_equal_members_come_as_close_to_the_floor(seed: int) -> None:
    members = members_of((20,) * 8, seed)
    assert Swarm(members, PAYLOAD_BYTES, seed).run() <= 1.15 * floor_s(members, PAYLOAD_BYTES)


@pytest.mark.parametrize("seed", FEW)
def test_thirty_that_ask_a_slow_line_at_once_have_it_all_soon(seed: int) -> None:
    """Sent to all at once each chunk would take 46 s, and be given up before."""
    members = members_of((5, *(20,) * 29), seed)
    swarm = Swarm(members, PAYLOAD_BYTES, seed, payloads=[0])
    assert swarm.run() < 3 * floor_s(members[:2], PAYLOAD_BYTES)
    assert sum(times for (name, *_), times in swarm.sent.items() if name == members[0].name) < 4 * swarm.count


@pytest.mark.parametrize("mbit", [0.5, 2])
def test_thirty_that_ask_a_very_slow_line_wait_for_their_turns_and_have_it_all(mbit: float) -> None:
    """Before turns were waited for, they had given up after two minutes."""
    members = members_of((mbit, *(20,) * 29), 0)
    swarm = Swarm(members, PAYLOAD_BYTES, 0, payloads=[0])
    assert swarm.run() < 2 * floor_s(members[:2], PAYLOAD_BYTES)


@pytest.mark.parametrize("mbit", [5, 20, 100, 1_000])
def test_one_holder_alone_fills_its_line(mbit: int) -> None:
    members = members_of((mbit, 10), 0, down=mbit)
    size = mbit * 1_000_000
    assert Swarm(members, size, 0, payloads=[0]).run() < size / members[0].up / 0.9


@pytest.mark.parametrize("seed", FEW)
def test_holders_that_leave_in_the_middle_take_nothing_with_them_but_their_lines(seed: int) -> None:
    members = members_of(UPLINKS, seed)
    for number in (4, 7):
        members[number].leaves_at = 6.0
    swarm = Swarm(members, PAYLOAD_BYTES, seed, payloads=[0, 1, 2, 3, 5, 6])
    assert swarm.run() < 2 * floor_s(members, PAYLOAD_BYTES)


@pytest.mark.parametrize("seed", FEW)
def test_a_fast_holder_that_lies_costs_less_than_its_line(seed: int) -> None:
    members = members_of(UPLINKS, seed)
    members[6].lies = True
    swarm = Swarm(members, PAYLOAD_BYTES, seed, payloads=HONEST)
    assert swarm.run() < 2 * floor_s([members[number] for number in HONEST], PAYLOAD_BYTES)
    liars = {liar for fetch in swarm.fetches for liar in fetch.plan.liars}
    assert liars == {members[6].name}


@pytest.mark.parametrize("seed", FEW)
def test_a_holder_that_claims_everything_and_sends_nothing_costs_seconds(seed: int) -> None:
    members = members_of(UPLINKS, seed)
    members[6].stalls = True
    swarm = Swarm(members, PAYLOAD_BYTES, seed, payloads=HONEST)
    assert swarm.run() < 2 * floor_s([members[number] for number in HONEST], PAYLOAD_BYTES)


@pytest.mark.parametrize("seed", FEW)
def test_who_says_that_it_is_fastest_and_never_gets_anything_is_waited_for_once(seed: int) -> None:
    members = members_of(UPLINKS, seed)
    members[6].boasts = True
    swarm = Swarm(members, PAYLOAD_BYTES, seed, payloads=HONEST)
    assert swarm.run() < 2 * floor_s([members[number] for number in HONEST], PAYLOAD_BYTES) + PATIENCE_S_MAX


@pytest.mark.parametrize("seed", FEW)
def test_members_that_fetch_nothing_are_not_waited_for(seed: int) -> None:
    members = members_of(UPLINKS, seed)
    for number in (3, 6):
        members[number].is_idle = True
    assert Swarm(members, PAYLOAD_BYTES, seed).run() <= 1.3 * floor_s(members, PAYLOAD_BYTES)


@pytest.mark.parametrize("seed", FEW)
def test_who_comes_late_gets_all_from_all(seed: int) -> None:
    members = members_of(UPLINKS, seed)
    members[7].joins_at = 30.0
    swarm = Swarm(members, PAYLOAD_BYTES, seed, payloads=[0, 1, 2, 3, 4, 5, 6])
    assert swarm.run() < math.inf
    assert spent_s(swarm, members[7]) < 16.0  # of the slowest holder alone, one payload's
