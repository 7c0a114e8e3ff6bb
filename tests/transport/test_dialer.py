"""Whom to dial when, without a network."""

import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal.transport.dialer import (
    ADDRESSES_KEPT,
    DIALS_MAX,
    HEAD_START_S,
    PAUSE_S_MAX,
    PAUSE_S_MIN,
    PEERS_KEPT_MAX,
    STABLE_S,
    STAGGER_S,
    Dial,
    Dialer,
)
from shoal.transport.port import Address, Code, Missing, PeerId, Undialed, Why

SELF = PeerId("M")
PEER = PeerId("P")  # greater than SELF, which therefore dials at once
DEAD = Address("/ip4/192.0.2.1/tcp/1")
GOOD = Address("/ip4/192.0.2.2/tcp/1")


def keeping(*addresses: Address) -> Dialer:
    dialer = Dialer(SELF, seed=1)
    dialer.keep(PEER, addresses, 0.0, is_connected=False)
    return dialer


def fail_all(dialer: Dialer, until: float) -> list[float]:
    """When dials are made, if each fails at once."""
    times: list[float] = []
    while (now := dialer.deadline) <= until:
        for dial in dialer.due(now):
            times.append(now)
            dialer.ended(dial, now, is_connected=False)
    return times


def test_the_smaller_id_dials_at_once_and_the_greater_gives_it_a_head_start() -> None:
    assert keeping(GOOD).due(0.0) == [Dial(PEER, GOOD)]
    other = Dialer(PEER, seed=1)
    other.keep(SELF, (GOOD,), 0.0, is_connected=False)
    assert other.due(0.0) == []
    assert other.deadline == HEAD_START_S
    assert other.due(HEAD_START_S) == [Dial(SELF, GOOD)]


def test_a_dead_address_first_costs_one_stagger() -> None:
    dialer = keeping(DEAD, GOOD)
    assert dialer.due(0.0) == [Dial(PEER, DEAD)]  # and nobody answers
    assert dialer.deadline == STAGGER_S
    assert dialer.due(STAGGER_S) == [Dial(PEER, GOOD)]
    dialer.ended(Dial(PEER, GOOD), 1.1, is_connected=True)
    assert dialer.deadline == math.inf
    dialer.ended(Dial(PEER, DEAD), 9.0, is_connected=False)
    assert dialer.due(1000.0) == []


def test_an_address_that_refuses_costs_nothing() -> None:
    dialer = keeping(DEAD, GOOD)
    (dial,) = dialer.due(0.0)
    dialer.ended(dial, 0.01, is_connected=False)
    assert dialer.due(0.01) == [Dial(PEER, GOOD)]


def test_who_is_carried_to_where_there_is_no_ipv6_dials_it_last() -> None:
    old, new = Address("/ip4/8.8.8.8/tcp/1"), Address("/ip6/2a00::1/tcp/1")
    dialer = keeping(old, new)
    assert dialer.due(0.0) == [Dial(PEER, new)]
    dialer.lead_out(frozenset({"ip4"}))
    assert dialer.addresses(PEER) == (old, new)
    assert dialer.due(dialer.deadline) == [Dial(PEER, old)]
    dialer.keep(PEER, (new, old), 9.0, is_connected=False)
    assert dialer.addresses(PEER) == (old, new)


def test_pauses_double_up_to_their_bound_and_jitter() -> None:
    times = fail_all(keeping(GOOD), until=600.0)
    pauses = [later - earlier for earlier, later in pairwise(times)]
    for round, pause in enumerate(pauses):
        whole = min(PAUSE_S_MAX, PAUSE_S_MIN * 2**round)
        assert whole / 2 <= pause < whole
    assert len(set(pauses)) == len(pauses)


def test_an_address_under_way_is_not_dialed_twice() -> None:
    dialer = keeping(GOOD)
    assert len(dialer.due(0.0)) == 1
    assert dialer.due(STAGGER_S + PAUSE_S_MIN) == []


def test_a_lost_connection_is_dialed_again_after_a_short_pause() -> None:
    dialer = keeping(GOOD)
    (dial,) = dialer.due(0.0)
    dialer.ended(dial, 0.1, is_connected=True)
    dialer.disconnected(PEER, 0.1 + STABLE_S)
    assert 0.1 + STABLE_S <= dialer.deadline <= 0.1 + STABLE_S + PAUSE_S_MIN
    assert dialer.due(dialer.deadline) == [dial]


def test_a_peer_that_accepts_and_drops_is_dialed_ever_more_rarely() -> None:
    dialer = keeping(GOOD)
    now, dials = 0.0, 0
    while (now := dialer.deadline) < 600.0:
        for dial in dialer.due(now):
            dials += 1
            dialer.ended(dial, now, is_connected=True)
            dialer.disconnected(PEER, now + 0.1)
    assert dials < 60


def test_whoever_dialed_a_connection_counts() -> None:
    dialer = keeping(GOOD)
    dialer.connected(PEER, 0.0)
    assert dialer.due(0.0) == []
    assert dialer.deadline == math.inf


def test_a_peer_that_is_connected_when_it_is_first_kept_is_dialed_once_it_is_lost() -> None:
    dialer = Dialer(SELF, seed=1)
    dialer.keep(PEER, (GOOD,), 0.0, is_connected=True)
    assert dialer.deadline == math.inf
    dialer.disconnected(PEER, 5.0)
    assert dialer.due(5.0 + PAUSE_S_MIN) == [Dial(PEER, GOOD)]


def test_a_released_peer_is_left_alone_even_if_a_dial_was_under_way() -> None:
    dialer = keeping(GOOD)
    (dial,) = dialer.due(0.0)
    dialer.release(PEER)
    dialer.ended(dial, 1.0, is_connected=True)
    dialer.disconnected(PEER, 2.0)
    assert dialer.deadline == math.inf


def test_new_addresses_are_tried_soon() -> None:
    dialer = keeping(DEAD)
    fail_all(dialer, until=200.0)
    dialer.keep(PEER, (GOOD,), 200.0, is_connected=False)
    assert dialer.due(200.0 + PAUSE_S_MIN) == [Dial(PEER, GOOD)]


def test_a_peer_without_addresses_is_awaited() -> None:
    dialer = keeping()
    assert dialer.deadline == math.inf
    assert dialer.due(100.0) == []


def test_a_node_does_not_dial_itself() -> None:
    dialer = Dialer(SELF, seed=1)
    assert dialer.keep(SELF, (GOOD,), 0.0, is_connected=False)
    assert dialer.deadline == math.inf


def test_addresses_of_a_peer_are_bounded() -> None:
    dialer = keeping(*(Address(f"/ip4/192.0.2.1/tcp/{port}") for port in range(100)))
    assert len(dialer.addresses(PEER)) == ADDRESSES_KEPT


def test_kept_peers_are_bounded() -> None:
    dialer = Dialer(SELF, seed=1)
    kept = [dialer.keep(PeerId(f"P{index}"), (GOOD,), 0.0, is_connected=False) for index in range(PEERS_KEPT_MAX + 1)]
    assert kept == [True] * PEERS_KEPT_MAX + [False]


def test_dials_under_way_are_bounded_and_the_rest_follow() -> None:
    dialer = Dialer(SELF, seed=1)
    for index in range(2 * DIALS_MAX):
        dialer.keep(PeerId(f"P{index:02}"), (GOOD,), 0.0, is_connected=False)
    first = dialer.due(0.0)
    assert len(first) == DIALS_MAX
    assert dialer.deadline == math.inf
    for dial in first:
        dialer.ended(dial, 1.0, is_connected=True)
    second = dialer.due(1.0)
    assert {dial.peer for dial in first + second} == {PeerId(f"P{index:02}") for index in range(2 * DIALS_MAX)}


def test_nodes_that_lose_a_peer_together_come_back_apart() -> None:
    pauses: set[float] = set()
    for name in ("A", "B", "C", "D"):
        dialer = Dialer(PeerId(name), seed=1)
        dialer.keep(PEER, (GOOD,), 0.0, is_connected=True)
        dialer.disconnected(PEER, 100.0)
        pauses.add(dialer.deadline)
    assert len(pauses) == 4


Step = tuple[str, float, bool]
steps = st.lists(
    st.tuples(
        st.sampled_from(["due", "end", "connect", "disconnect", "keep", "release"]), st.floats(0, 40), st.booleans()
    ),
    max_size=60,
)


def run(script: list[Step], seed: int) -> list[tuple[float, Dial]]:
    dialer = Dialer(SELF, seed)
    now, log, open_dials = 0.0, list[tuple[float, Dial]](), list[Dial]()
    for what, wait, flag in script:
        now += wait
        match what:
            case "due":
                dials = dialer.due(now)
                log += [(now, dial) for dial in dials]
                open_dials += dials
            case "end" if open_dials:
                dialer.ended(open_dials.pop(0), now, flag)
            case "connect":
                dialer.connected(PEER, now)
            case "disconnect":
                dialer.disconnected(PEER, now)
            case "keep":
                dialer.keep(PEER, (DEAD, GOOD) if flag else (GOOD,), now, is_connected=False)
            case "release":
                dialer.release(PEER)
            case _:
                pass
        assert len(open_dials) <= DIALS_MAX
        assert len(set(open_dials)) == len(open_dials) or "release" in [step[0] for step in script]
    return log


@given(steps, st.integers(0, 3))
def test_equal_seeds_and_events_give_equal_dials(script: list[Step], seed: int) -> None:
    assert run(script, seed) == run(script, seed)


@pytest.mark.parametrize("rounds", [1, 100, 10_000])
def test_a_peer_that_never_answers_is_tried_for_ever(rounds: int) -> None:
    dialer = keeping(GOOD)
    for _ in range(rounds):
        now = dialer.deadline
        for dial in dialer.due(now):
            dialer.ended(dial, now, is_connected=False)
    assert dialer.deadline < math.inf


def test_of_addresses_through_relays_one_is_dialed_second_and_the_others_last() -> None:
    relayed, other = (Address(f"/ip4/192.0.2.{number}/tcp/1/p2p/R/p2p-circuit") for number in (3, 4))
    dialer = keeping(relayed, other, DEAD, GOOD)
    assert dialer.addresses(PEER) == (DEAD, relayed, GOOD, other)


def test_it_keeps_why_each_address_failed_and_says_whether_that_is_news() -> None:
    dialer = keeping(DEAD, GOOD)
    (dial,) = dialer.due(0.0)
    refused = Undialed(Code.UNREACHABLE, "refused", dial.address, Why.REFUSED)
    silent = Undialed(Code.UNREACHABLE, "timed out", dial.address, Why.TIMED_OUT)
    assert dialer.missing() == (Missing(PEER, (DEAD, GOOD), ()),)
    assert [dialer.failed(dial, each) for each in (refused, refused, silent)] == [True, False, True]
    assert dialer.missing() == (Missing(PEER, (DEAD, GOOD), (silent,)),)
    dialer.keep(PEER, (GOOD,), 1.0, is_connected=False)
    assert dialer.missing() == (Missing(PEER, (GOOD,), ()),)
    assert not dialer.failed(dial, silent)  # nobody wants to know any more
    dialer.connected(PEER, 2.0)
    assert dialer.missing() == ()
    assert not dialer.failed(Dial(PEER, GOOD), silent)
