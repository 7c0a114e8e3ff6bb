"""With whom a node compares, and when."""

import math
from itertools import pairwise

from shoal.crdt.exchange import Outcome
from shoal.crdt.partners import (
    AGAIN_S,
    AT_ONCE_MAX,
    DOUBT_S,
    DOUBT_S_MAX,
    DOUBTED_MAX,
    PERIOD_S,
    SLOW_S,
    SOON_S,
    UNDER_WAY_MAX,
    Partners,
)
from shoal.transport.port import PeerId

A, B = PeerId("a"), PeerId("b")
DONE, FAILED = Outcome(), Outcome(failure="garbage")


def idle(*peers: PeerId) -> Partners:
    """All have been compared with at their connect."""
    partners = Partners(0, 0.0)
    for peer in peers:
        partners.connected(peer, 0.0)
        assert partners.begin(SOON_S) == peer
        partners.ended(peer, DONE, SOON_S)
    return partners


def test_who_connects_is_compared_with_soon_and_once() -> None:
    partners = Partners(0, 0.0)
    partners.connected(A, 0.0)
    assert partners.deadline <= SOON_S
    assert partners.begin(partners.deadline) == A
    assert partners.begin(SOON_S) is None


def test_with_no_reason_the_longest_not_compared_is_every_now_and_then() -> None:
    partners = idle(A, B)
    seen: list[tuple[float, PeerId]] = []
    while len(seen) < 6:
        now = partners.deadline
        peer = partners.begin(now)
        assert peer is not None
        seen.append((now, peer))
        partners.ended(peer, DONE, now)
    assert [peer for _, peer in seen] == [A, B, A, B, A, B]
    assert (5 * 0.75) * PERIOD_S <= seen[-1][0] - seen[0][0] <= (5 * 1.25) * PERIOD_S


def test_where_something_is_missing_it_is_asked_for_soon_but_not_more_often_than_that() -> None:
    partners = idle(A)
    partners.is_missing(A, 1.0)
    now = partners.deadline
    assert SOON_S + AGAIN_S <= now <= 1.0 + SOON_S + AGAIN_S
    assert partners.begin(now) == A


def test_the_others_are_told_of_news_and_the_source_is_not() -> None:
    partners = idle(A, B)
    partners.has_news(A, 2.0)
    assert partners.begin(2.0 + SOON_S) == B
    assert partners.begin(2.0 + SOON_S) is None


def test_who_fails_is_asked_less_and_less_often_even_if_it_connects_anew() -> None:
    partners = idle(A)
    now, waits = 100.0, list[float]()
    for _ in range(12):
        partners.disconnected(A)
        partners.connected(A, now)
        at = now
        while partners.begin(at) != A:
            at = max(at + 0.1, partners.deadline)
        waits.append(at - now)
        now = at
        partners.ended(A, FAILED, now)
    assert all(later >= earlier for earlier, later in pairwise(waits[1:]))
    assert waits[1] >= DOUBT_S
    assert DOUBT_S_MAX <= waits[-1] <= DOUBT_S_MAX + PERIOD_S
    assert partners.is_doubted(A, now)


def test_an_exchange_with_more_to_settle_goes_on_at_once_and_one_that_was_left_a_little_later() -> None:
    partners = idle(A)
    partners.is_missing(A, 1.0)
    assert partners.begin(1.0 + SOON_S) == A
    partners.ended(A, Outcome(is_unfinished=True), 2.0)
    assert partners.begin(2.0) == A
    partners.ended(A, Outcome(is_left=True, is_unfinished=True), 2.0)
    assert partners.deadline == 2.0 + AGAIN_S


def test_there_are_only_so_many_exchanges_at_once() -> None:
    partners = Partners(0, 0.0)
    for number in range(10):
        partners.connected(PeerId(str(number)), 0.0)
    begun = [partners.begin(SOON_S) for _ in range(10)]
    assert len([peer for peer in begun if peer]) == AT_ONCE_MAX
    assert partners.deadline == SOON_S + SLOW_S


def test_slow_exchanges_hold_up_no_others_until_there_are_many() -> None:
    partners = Partners(0, 0.0)
    for number in range(UNDER_WAY_MAX + 1):
        partners.connected(PeerId(str(number)), 0.0)
    now, begun = SOON_S, set[PeerId]()
    while len(begun) < UNDER_WAY_MAX:
        peer = partners.begin(now)
        if peer is None:
            assert len(begun) % AT_ONCE_MAX == 0
            now = partners.deadline
        else:
            assert peer not in begun
            begun.add(peer)
    assert now == SOON_S + (UNDER_WAY_MAX // AT_ONCE_MAX - 1) * SLOW_S
    assert partners.deadline == math.inf
    assert partners.begin(now + 100) is None
    partners.ended(min(begun), DONE, now)
    assert partners.begin(now + SLOW_S) is not None


def test_only_so_many_doubts_are_remembered() -> None:
    partners = Partners(0, 0.0)
    for number in range(DOUBTED_MAX + 1):
        partners.doubt(PeerId(str(number)), 0.0)
    assert not partners.is_doubted(PeerId("0"), DOUBT_S / 2)
    assert partners.is_doubted(PeerId("1"), DOUBT_S / 2)


def test_who_asks_is_not_asked_at_the_same_time() -> None:
    partners = Partners(0, 0.0)
    partners.connected(A, 0.0)
    partners.heard(A, 0.0)
    assert partners.begin(SOON_S) is None
    assert partners.begin(AGAIN_S) == A
