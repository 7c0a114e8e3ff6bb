"""What a node finds out about itself from helpers that try, fail, contradict one another, lie or say nothing."""

import math

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from shoal.transport.addresses import Endpoint, ip_endpoint
from shoal.transport.port import PeerId, Verdict
from shoal.transport.punching import Mapping
from shoal.transport.reachability import (
    AGAIN_S,
    AT_ONCE_MAX,
    CHANGE_S,
    CHANGES_MAX,
    HELPERS_MAX,
    LOOK_S,
    RECHECK_S,
    AskToDial,
    Attempt,
    Look,
    Reachability,
    Tried,
)

LAN, OUTSIDE, VICTIM = "192.168.1.2", "5.1.1.1", "9.9.9.9"
PORT = 4001
A, B, C, D = (PeerId(letter) for letter in "ABCD")


def came(seen: str = OUTSIDE, *ports: int) -> Tried:
    ports = ports or (PORT,)
    return Tried(ip_endpoint(seen, 60_000), dict.fromkeys(ports, Attempt.CONNECTED), frozenset(ports))


def missed(how: Attempt = Attempt.TIMED_OUT, seen: str = OUTSIDE) -> Tried:
    return Tried(ip_endpoint(seen, 60_000), {PORT: how}, frozenset())


def at_home(*helpers: PeerId, local_ip: str = LAN, now: float = 0.0) -> Reachability:
    state = Reachability(frozenset({local_ip}), now)
    for helper in helpers:
        state.helper_came(helper, now)
    return state


def asked(state: Reachability, now: float) -> list[PeerId]:
    return [order.helper for order in state.due(now) if isinstance(order, AskToDial)]


def test_without_helpers_nothing_is_known_and_nobody_waits() -> None:
    state = at_home()
    assert state.due(0.0) == []
    assert state.verdict is Verdict.UNKNOWN
    assert state.deadline == RECHECK_S


@pytest.mark.parametrize(
    ("local_ip", "tried", "verdict", "words"),
    [
        (OUTSIDE, came(), Verdict.PUBLIC, "1 of 1 who tried reached 5.1.1.1, port 4001"),
        (LAN, came(), Verdict.MAPPED, "1 of 1 who tried reached 5.1.1.1, port 4001"),
        (LAN, missed(), Verdict.PRIVATE, "port 4001 from outside timed out: a router that translates addresses (NAT)"),
        (OUTSIDE, missed(Attempt.REFUSED), Verdict.PRIVATE, "was refused: a firewall"),
        (LAN, missed(Attempt.UNREACHABLE), Verdict.PRIVATE, "failed"),
        (LAN, missed(Attempt.CONNECTED), Verdict.PRIVATE, "failed"),  # it says so, but nothing came in here
    ],
)
def test_one_helper_is_enough_for_a_verdict(local_ip: str, tried: Tried, verdict: Verdict, words: str) -> None:
    state = at_home(A, local_ip=local_ip)
    assert asked(state, 0.0) == [A]
    state.tried(A, tried, 0.5)
    assert state.verdict is verdict
    assert words in state.reason
    assert state.endpoints == ((ip_endpoint(OUTSIDE, PORT),) if tried.arrived else ())


def test_two_who_contradict_one_another_have_a_third_asked_at_once() -> None:
    for first, second, third, verdict in (
        (came(), missed(), missed(), Verdict.PRIVATE),
        (missed(), came(), came(), Verdict.MAPPED),
    ):
        state = at_home(A, B, C)
        assert asked(state, 0.0) == [A, B]
        state.tried(A, first, 0.5)
        state.tried(B, second, 1.0)
        assert state.deadline == 1.0
        assert asked(state, 1.0) == [C]
        state.tried(C, third, 1.5)
        assert state.verdict is verdict
        assert asked(state, 2.0) == []


def test_two_who_agree_are_enough() -> None:
    state = at_home(A, B, C)
    for helper in asked(state, 0.0):
        state.tried(helper, came(), 0.5)
    assert asked(state, 1.0) == []
    assert state.endpoints == (ip_endpoint(OUTSIDE, PORT),)


def test_a_helper_that_lies_about_where_it_sees_this_node_is_outvoted() -> None:
    state = at_home(A, B, C)
    asked(state, 0.0)
    state.tried(A, came(VICTIM), 0.1)
    state.tried(B, came(), 0.2)
    assert asked(state, 0.2) == [C]
    state.tried(C, came(), 0.3)
    assert state.endpoints == (ip_endpoint(OUTSIDE, PORT),)
    assert state.verdict is Verdict.MAPPED


def test_a_liar_can_name_no_other_address_beside_one_of_this_machine() -> None:
    state = at_home(A, B, C, local_ip=OUTSIDE)
    asked(state, 0.0)
    for helper, seen in ((A, VICTIM), (B, VICTIM), (C, OUTSIDE)):
        state.tried(helper, came(seen), 0.1)
    assert ip_endpoint(OUTSIDE, PORT) in state.endpoints


def test_three_who_all_say_something_else_prove_nothing() -> None:
    state = at_home(A, B, C)
    asked(state, 0.0)
    for helper, seen in ((A, VICTIM), (B, OUTSIDE), (C, "7.7.7.7")):
        state.tried(helper, came(seen), 0.1)
    assert state.endpoints == ()
    assert state.verdict is Verdict.PRIVATE


def test_what_is_seen_by_ipv6_contradicts_nothing() -> None:
    state = at_home(A, B, C)
    asked(state, 0.0)
    state.tried(A, came("2a00::1"), 0.1)
    state.tried(B, came(), 0.2)
    assert asked(state, 0.3) == []
    assert {each.host for each in state.endpoints} == {"2a00::1", OUTSIDE}


def test_a_helper_that_does_not_answer_costs_no_time_where_there_is_another() -> None:
    state = at_home(A, B, C)
    assert asked(state, 0.0) == [A, B]
    state.tried(A, None, 0.1)
    assert state.deadline == 0.1
    assert asked(state, 0.1) == [C]
    state.tried(C, came(), 0.5)
    assert state.verdict is Verdict.MAPPED


def test_helpers_that_do_not_answer_are_asked_again_ever_more_seldom() -> None:
    state = at_home(A)
    times: list[float] = []
    now = 0.0
    while now < 2000.0:
        for helper in asked(state, now):
            times.append(now)
            state.tried(helper, None, now)
        now = max(now + 0.001, state.deadline)
    assert times[:4] == pytest.approx([0.0, AGAIN_S, 3 * AGAIN_S, 7 * AGAIN_S], abs=0.1)
    assert len(times) < 20
    assert state.verdict is Verdict.UNKNOWN


def test_a_change_is_noticed_within_thirty_seconds_and_asked_about_anew() -> None:
    state = at_home(A, B)
    for helper in asked(state, 0.0):
        state.tried(helper, came(), 0.1)
    assert not state.looked({A: ip_endpoint(OUTSIDE, 5)}, Mapping.INDEPENDENT, 0.2)
    assert state.outside_ips == {OUTSIDE}
    looks = [now for now in range(1, 30) if Look() in state.due(now)]
    assert looks == [LOOK_S, 2 * LOOK_S]
    assert state.looked({A: ip_endpoint("5.1.1.99", 5)}, Mapping.UNKNOWN, LOOK_S)
    assert state.verdict is Verdict.UNKNOWN
    assert state.endpoints == ()
    assert state.outside_ips == {"5.1.1.99"}
    assert asked(state, LOOK_S) == [A, B]


def test_one_observer_cannot_make_up_a_change_that_another_contradicts() -> None:
    state = at_home(A, B)
    for helper in asked(state, 0.0):
        state.tried(helper, came(), 0.1)
    honest = ip_endpoint(OUTSIDE, 5)
    assert not state.looked({A: honest, B: honest}, Mapping.INDEPENDENT, 0.2)
    for turn in range(20):
        lie = ip_endpoint(f"9.9.9.{turn}", 5)
        assert not state.looked({A: honest, B: lie}, Mapping.DEPENDENT, turn * LOOK_S)
    assert state.verdict is Verdict.MAPPED


def test_a_lone_observer_that_makes_up_changes_is_believed_now_and_then() -> None:
    state = at_home(A)
    changes = [
        now
        for now in range(0, 3600, int(LOOK_S))
        if state.looked({A: ip_endpoint(f"9.9.{now % 256}.{now // 256}", 5)}, Mapping.UNKNOWN, now)
    ]
    assert len(changes) <= CHANGES_MAX + 3600 / CHANGE_S


def test_a_change_that_was_not_believed_at_first_is_in_the_end() -> None:
    state = at_home(A)
    for turn in range(CHANGES_MAX + 1):
        state.looked({A: ip_endpoint(f"9.9.9.{turn}", 5)}, Mapping.UNKNOWN, turn)
    here = {A: ip_endpoint(OUTSIDE, 5)}
    assert not state.looked(here, Mapping.UNKNOWN, 10.0)
    assert state.looked(here, Mapping.UNKNOWN, 10.0 + CHANGE_S)


def test_observers_that_left_are_forgotten() -> None:
    state = at_home(A)
    state.looked({A: ip_endpoint(OUTSIDE, 5), B: ip_endpoint(VICTIM, 5)}, Mapping.UNKNOWN, 0.0)
    assert state.outside_ips == {OUTSIDE}
    state.helper_left(A)
    assert state.outside_ips == frozenset()


def test_it_is_asked_again_from_time_to_time_and_another_one_each_time() -> None:
    state = at_home(A, B)
    for helper in asked(state, 0.0):
        state.tried(helper, came(), 0.1)
    assert asked(state, RECHECK_S - 1) == []
    assert asked(state, RECHECK_S) == [A]
    state.tried(A, missed(), RECHECK_S)
    assert asked(state, RECHECK_S) == [B]
    state.tried(B, missed(), RECHECK_S)
    assert state.verdict is Verdict.PRIVATE


def test_this_machine_elsewhere_is_asked_about_anew() -> None:
    state = at_home(A)
    asked(state, 0.0)
    state.tried(A, came(), 0.1)
    state.network_changed(frozenset({OUTSIDE}), 10.0)
    assert (state.verdict, state.endpoints) == (Verdict.UNKNOWN, ())
    assert asked(state, 10.0) == [A]
    state.tried(A, came(), 10.1)
    assert state.verdict is Verdict.PUBLIC


class Whims(RuleBasedStateMachine):
    """Helpers come, go and answer as they like."""

    helpers = st.sampled_from([PeerId(f"helper{index}") for index in range(6)])
    endpoints = st.builds(ip_endpoint, st.sampled_from([OUTSIDE, VICTIM, LAN, "2a00::1"]), st.integers(1, 9))

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.state = Reachability(frozenset({LAN}), 0.0)
        self.under_way: list[PeerId] = []
        self.asked: list[float] = []

    @rule(helper=helpers)
    def come(self, helper: PeerId) -> None:
        self.state.helper_came(helper, self.now)

    @rule(helper=helpers)
    def go(self, helper: PeerId) -> None:
        self.state.helper_left(helper)

    @rule(seen=endpoints, how=st.sampled_from(Attempt), arrived=st.booleans(), answers=st.booleans())
    def answer(self, seen: Endpoint, how: Attempt, arrived: bool, answers: bool) -> None:
        if self.under_way:
            tried = Tried(seen, {PORT: how}, frozenset({PORT} if arrived else ()))
            self.state.tried(self.under_way.pop(0), tried if answers else None, self.now)

    @rule(seen=st.dictionaries(helpers, endpoints), mapping=st.sampled_from(Mapping))
    def look(self, seen: dict[PeerId, Endpoint], mapping: Mapping) -> None:
        self.state.looked(seen, mapping, self.now)

    @rule(seconds=st.sampled_from([0.0, 1.0, 13.0, 301.0]))
    def wait(self, seconds: float) -> None:
        end = self.now + seconds
        for _ in range(1000):
            if self.state.deadline > end:
                break
            self.now = max(self.now, self.state.deadline)
            for order in self.state.due(self.now):
                if isinstance(order, AskToDial):
                    self.under_way.append(order.helper)
                    self.asked.append(self.now)
        else:
            raise AssertionError("it turns in circles")
        self.now = end

    @invariant()
    def verdicts_have_reasons(self) -> None:
        state = self.state
        assert state.reason
        assert (state.verdict in (Verdict.PUBLIC, Verdict.MAPPED)) <= bool(state.endpoints)
        assert len({each.host for each in state.endpoints}) <= HELPERS_MAX
        assert state.deadline < math.inf
        assert AT_ONCE_MAX <= HELPERS_MAX


TestWhims = Whims.TestCase
