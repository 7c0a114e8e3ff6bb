"""When to look for a better path to a peer, without a network."""

import math
from itertools import pairwise

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from shoal.transport.paths import (
    AGAIN_S,
    ATTEMPTS_MAX,
    BUSY_S,
    HEAD_START_S,
    PAUSE_S_MAX,
    PAUSE_S_MIN,
    PEERS_MAX,
    STABLE_S,
    STEPS_MAX,
    UNDER_WAY_MAX,
    Outcome,
    Paths,
    Way,
)
from shoal.transport.port import PeerId

SELF = PeerId("M")
PEER = PeerId("P")  # greater than SELF, which therefore begins at once
SMALL = PeerId("A")


def relayed(*peers: PeerId, now: float = 0.0) -> Paths:
    paths = Paths(SELF)
    for peer in peers or (PEER,):
        paths.changed(peer, Way.RELAYED, now)
    return paths


def fail_all(paths: Paths, until: float, outcome: Outcome = Outcome.FAILED, peer: PeerId = PEER) -> list[float]:
    """When attempts begin, if each takes no time and ends so."""
    times: list[float] = []
    while (now := paths.deadline) <= until:
        for each in paths.due(now):
            if each == peer:
                times.append(now)
            paths.ended(each, outcome, "nobody came", now)
    return times


def test_the_smaller_id_begins_at_once_and_the_greater_gives_it_a_head_start() -> None:
    assert relayed().due(0.0) == [PEER]
    other = relayed(SMALL)
    assert other.due(0.0) == []
    assert other.deadline == HEAD_START_S
    assert other.offered(SMALL, 0.1) == ""
    assert other.deadline == math.inf


def test_both_at_once_are_one_attempt_at_the_next_turn() -> None:
    small, great = Paths(SMALL), Paths(PEER)
    small.changed(PEER, Way.RELAYED, 0.0)
    great.changed(SMALL, Way.RELAYED, -HEAD_START_S)
    assert small.due(0.0) == [PEER]
    assert great.due(0.0) == [SMALL]
    for paths, peer in ((small, PEER), (great, SMALL)):
        why = paths.offered(peer, 0.1)
        assert why == "an attempt is under way"
        paths.ended(peer, Outcome.BUSY, why, 0.1)
    assert small.deadline == 0.1 + BUSY_S
    assert great.deadline == pytest.approx(small.deadline + HEAD_START_S)
    assert small.due(small.deadline) == [PEER]
    assert great.offered(SMALL, small.deadline) == ""


def test_a_few_attempts_at_once_and_then_pauses_that_double_up_to_their_bound() -> None:
    times = fail_all(relayed(), until=40_000.0)
    pauses = [later - earlier for earlier, later in pairwise(times)]
    assert pauses[: ATTEMPTS_MAX - 1] == pytest.approx([AGAIN_S] * (ATTEMPTS_MAX - 1))
    later = pauses[ATTEMPTS_MAX - 1 :]
    assert later == pytest.approx([min(PAUSE_S_MAX, PAUSE_S_MIN * 2**n) for n in range(len(later))])
    assert later[-1] == PAUSE_S_MAX


def test_what_is_hopeless_is_tried_once_and_then_ever_more_seldom() -> None:
    times = fail_all(relayed(), until=200.0, outcome=Outcome.HOPELESS)
    assert times == pytest.approx([0.0, 60.0, 180.0])


def test_a_busy_peer_is_asked_again_soon_and_then_more_seldom_and_its_own_offer_is_welcome() -> None:
    paths = relayed()
    times = fail_all(paths, until=300.0, outcome=Outcome.BUSY)
    assert times[:5] == pytest.approx([0.0, 1.0, 3.0, 7.0, 15.0])
    assert times[-1] - times[-2] == PAUSE_S_MIN
    assert paths.offered(PEER, times[-1] + 0.1) == ""


def test_a_peer_that_comes_again_and_again_does_not_shorten_its_pause() -> None:
    paths = relayed()
    fail_all(paths, until=1.0)
    begun = 0
    for second in range(2, 59):
        paths.changed(PEER, Way.NONE, second)
        paths.changed(PEER, Way.RELAYED, second + 0.5)
        begun += len(paths.due(second + 0.5))
    assert begun == 0
    assert paths.deadline == pytest.approx(PAUSE_S_MIN + 2 * AGAIN_S)
    assert paths.due(paths.deadline) == [PEER]


def test_who_leaves_in_mid_attempt_has_had_it() -> None:
    paths = relayed()
    begun = 0
    for tenth in range(100):
        now = tenth / 10
        for peer in paths.due(now):
            begun += 1
            paths.changed(peer, Way.NONE, now)
            paths.ended(peer, Outcome.FAILED, "it left", now)
        paths.changed(PEER, Way.RELAYED, now)
    assert begun == ATTEMPTS_MAX


def test_a_direct_connection_that_does_not_last_makes_up_for_nothing() -> None:
    paths = relayed()
    begun = 0
    for tenth in range(100):
        now = tenth / 10
        for peer in paths.due(now):
            begun += 1
            paths.changed(peer, Way.DIRECT, now)
            paths.ended(peer, Outcome.DIRECT, "", now)
        paths.changed(PEER, Way.RELAYED, now)
    assert begun == ATTEMPTS_MAX
    paths.changed(PEER, Way.DIRECT, 20.0)
    paths.changed(PEER, Way.RELAYED, 20.0 + STABLE_S)
    assert paths.due(20.0 + STABLE_S) == [PEER]


def test_a_peer_that_says_it_is_busy_and_comes_again_wins_nothing() -> None:
    paths = relayed()
    begun = 0
    for second in range(600):
        for peer in paths.due(second):
            begun += 1
            paths.ended(peer, Outcome.BUSY, "busy", second)
        paths.changed(PEER, Way.NONE, second)
        paths.changed(PEER, Way.RELAYED, second)
    assert begun < 17


def test_offers_are_refused_while_the_pause_stands_with_a_reason() -> None:
    paths = relayed()
    fail_all(paths, until=1.0)
    assert paths.offered(PEER, 10.0) == "3 attempts have failed, the next is due in 50 s"
    assert paths.offered(PEER, PAUSE_S_MIN) == ""
    paths.ended(PEER, Outcome.FAILED, "", PAUSE_S_MIN)
    assert "the next is due in 119 s" in paths.offered(PEER, PAUSE_S_MIN + 1)
    assert paths.offered(SMALL, 0.0) == "there is no relayed connection to improve"


def test_two_whose_pauses_are_not_the_same_meet_at_the_later_one() -> None:
    fresh, tired = Paths(SELF), Paths(PEER)
    fresh.changed(PEER, Way.RELAYED, 0.0)
    tired.changed(SELF, Way.RELAYED, 0.0)
    for _ in range(8):
        now = tired.deadline
        assert tired.due(now) == [SELF]
        tired.ended(SELF, Outcome.FAILED, "", now)
    until = tired.deadline
    met = False
    while (now := fresh.deadline) <= until and not met:
        for peer in fresh.due(now):
            met = not tired.offered(SELF, now)
            fresh.ended(peer, Outcome.FAILED if met else Outcome.BUSY, "", now)
    assert met or not fresh.offered(PEER, until)


def test_another_network_is_a_reason_to_try_at_once() -> None:
    paths = relayed()
    fail_all(paths, until=2000.0)
    paths.network_changed(2000.0)
    assert paths.due(2000.0) == [PEER]
    assert paths.steps(PEER)[-1].reason == "this node's network has changed"
    direct = Paths(SELF)
    direct.changed(PEER, Way.DIRECT, 0.0)
    direct.network_changed(1.0)
    assert direct.deadline == math.inf


def test_no_more_are_under_way_than_allowed_and_nobody_asks_in_vain_meanwhile() -> None:
    peers = [PeerId(f"P{index:02}") for index in range(UNDER_WAY_MAX + 3)]
    paths = relayed(*peers)
    assert paths.due(0.0) == peers[:UNDER_WAY_MAX]
    assert paths.due(0.0) == []
    assert paths.deadline == math.inf  # or whoever waits for it would turn in circles
    assert paths.offered(peers[-1], 0.0) == "too many attempts are under way"
    paths.ended(peers[0], Outcome.FAILED, "", 1.0)
    assert paths.due(paths.deadline) == [peers[UNDER_WAY_MAX]]


def test_peers_are_forgotten_but_not_their_attempts() -> None:
    paths = relayed()
    assert paths.due(0.0) == [PEER]
    paths.changed(PEER, Way.NONE, 0.0)
    for index in range(PEERS_MAX + 10):
        paths.changed(PeerId(f"Q{index}"), Way.DIRECT, 1.0)
    assert paths.steps(PEER)
    assert not paths.steps(PeerId("Q0"))
    paths.ended(PEER, Outcome.FAILED, "", 2.0)
    paths.changed(PeerId("R"), Way.DIRECT, 3.0)
    assert not paths.steps(PEER)
    assert paths.steps(PeerId("R"))
    assert len(paths._paths) == PEERS_MAX  # pyright: ignore[reportPrivateUsage]


def test_steps_say_what_happened_and_why_and_the_oldest_go() -> None:
    paths = relayed()
    paths.due(0.0)
    paths.ended(PEER, Outcome.FAILED, "a router refused", 1.0)
    paths.changed(PEER, Way.DIRECT, 2.0)
    paths.changed(PEER, Way.NONE, 3.0)
    assert [(step.at, step.way, step.reason) for step in paths.steps(PEER)] == [
        (0.0, Way.RELAYED, "connected through a relay"),
        (1.0, Way.RELAYED, "no direct connection: a router refused"),
        (2.0, Way.DIRECT, "connected directly"),
        (3.0, Way.NONE, "the last connection is gone"),
    ]
    for _ in range(100):
        paths.changed(PEER, Way.RELAYED, 4.0)
        paths.changed(PEER, Way.NONE, 4.0)
    assert len(paths.steps(PEER)) == STEPS_MAX


class Whims(RuleBasedStateMachine):
    """Peers do what they like; each attempt is ended at some time. Our own network never changes."""

    peers = st.sampled_from([PeerId(f"{letter}{index}") for letter in "AP" for index in range(7)])

    def __init__(self) -> None:
        super().__init__()
        self.paths = Paths(SELF)
        self.now = 0.0
        self.under_way: list[PeerId] = []
        self.begun: dict[PeerId, list[float]] = {}

    def begin(self, peer: PeerId) -> None:
        assert peer not in self.under_way
        self.under_way.append(peer)
        self.begun.setdefault(peer, []).append(self.now)

    @rule(peer=peers, way=st.sampled_from(Way))
    def change(self, peer: PeerId, way: Way) -> None:
        self.paths.changed(peer, way, self.now)

    @rule(peer=peers)
    def offer(self, peer: PeerId) -> None:
        if not self.paths.offered(peer, self.now):
            self.begin(peer)

    @rule(outcome=st.sampled_from(Outcome), which=st.integers(0, UNDER_WAY_MAX))
    def end(self, outcome: Outcome, which: int) -> None:
        if self.under_way:
            peer = self.under_way.pop(which % len(self.under_way))
            self.paths.ended(peer, outcome, "so it was", self.now)

    @rule(seconds=st.sampled_from([0.0, 0.1, 1.0, 5.0, 61.0]))
    def wait(self, seconds: float) -> None:
        end = self.now + seconds
        while (deadline := self.paths.deadline) <= end:
            self.now = max(self.now, deadline)
            due = self.paths.due(self.now)
            assert due, "a deadline at which there is nothing to do"
            for peer in due:
                self.begin(peer)
        self.now = end

    @invariant()
    def not_too_many(self) -> None:
        assert len(self.under_way) <= UNDER_WAY_MAX
        for times in self.begun.values():
            # Two series, if a direct connection stood in between, and the one who is busy again and again.
            window = [at for at in times if at > self.now - PAUSE_S_MIN]
            assert len(window) <= 2 * ATTEMPTS_MAX + 8


TestWhims = Whims.TestCase
