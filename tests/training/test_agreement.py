"""When a round may close and by whom; and that members who compare heads end at the same one."""

from itertools import permutations

from hypothesis import given
from hypothesis import strategies as st

from shoal.training.agreement import LowestPeerCloses, Propose, Standings, Wait, follow
from shoal.training.records import Head
from shoal.transport.port import PeerId

A, B, C, D = (PeerId(name) for name in "ABCD")
ALL = frozenset((A, B, C, D))
OVERDUE_AT = 40.0


def decide(rule: LowestPeerCloses, now: float, held: frozenset[PeerId], awaited_min: int = 1) -> Propose | Wait:
    return rule.decide(now, Standings(ALL, held, awaited_min, OVERDUE_AT))


def rule_of(me: PeerId, members_min: int = 2) -> LowestPeerCloses:
    return LowestPeerCloses(me, members_min, silence_s=5.0)


def test_the_lowest_peer_proposes_as_soon_as_everybody_is_in() -> None:
    assert decide(rule_of(A), 1.0, ALL) == Propose("everybody is in")


def test_nobody_proposes_while_somebody_is_still_at_work() -> None:
    assert decide(rule_of(A), 1.0, frozenset((A, B, C))) == Wait(OVERDUE_AT, "1 of 4 are still at work")


def test_when_the_time_is_up_the_round_closes_without_the_missing() -> None:
    assert decide(rule_of(A), OVERDUE_AT, frozenset((A, B))) == Propose("time is up, 2 are missing")


def test_below_the_least_number_of_contributions_it_waits_however_late_it_is() -> None:
    assert decide(rule_of(A), 1e6, frozenset((A,))) == Wait(float("inf"), "1 of at least 2 contributions are in")


def test_members_who_are_awaited_at_the_start_are_waited_for_until_the_time_is_up() -> None:
    alone = Standings({A}, {A}, 4, OVERDUE_AT)
    assert rule_of(A, members_min=1).decide(1.0, alone) == Wait(OVERDUE_AT, "1 of 4 contributions are in")
    assert isinstance(rule_of(A, members_min=1).decide(OVERDUE_AT, alone), Propose)


def test_each_rank_waits_one_span_of_silence_longer() -> None:
    for rank, me in enumerate((A, B, C, D)):
        rule = rule_of(me)
        for now in (10.0, 10.0 + 5.0 * rank - 0.1):
            assert rank == 0 or decide(rule, now, ALL) == Wait(10.0 + 5.0 * rank, "A proposes")
        assert isinstance(decide(rule, 10.0 + 5.0 * rank, ALL), Propose)


def test_silence_counts_from_when_the_round_could_close() -> None:
    rule = rule_of(B)
    assert isinstance(decide(rule, 10.0, ALL), Wait)
    assert decide(rule, 12.0, ALL - {D}) == Wait(OVERDUE_AT, "1 of 4 are still at work")  # D's was refused, say
    assert decide(rule, 14.0, ALL) == Wait(19.0, "A proposes")


def test_who_is_frozen_without_having_contributed_costs_no_silence() -> None:
    assert isinstance(decide(rule_of(B), OVERDUE_AT, frozenset((B, C))), Propose)


def test_who_has_no_contribution_itself_proposes_after_all_who_have() -> None:
    rule = rule_of(A)
    assert decide(rule, OVERDUE_AT, frozenset((B, C))) == Wait(OVERDUE_AT + 10.0, "B proposes")


def test_who_takes_no_part_never_proposes() -> None:
    bystander = rule_of(PeerId("0"))
    assert decide(bystander, OVERDUE_AT, ALL) == Wait(float("inf"), "not taking part in this round")


def head(round: int, record: int, digest: int = 0) -> Head:
    return Head(round, bytes([record]) * 32, bytes([digest]) * 32)


def test_the_higher_round_prevails_then_the_smaller_record() -> None:
    told = {head(5, 1): {A}, head(6, 9): {B}, head(6, 8): {C}}
    assert follow(head(5, 0), told) == head(6, 8)
    assert follow(head(6, 7), told) is None
    assert follow(head(7, 200), told) is None


def test_where_only_the_state_differs_the_most_members_prevail() -> None:
    told = {head(5, 1, 1): {A, B}, head(5, 1, 2): {C}}
    assert follow(head(5, 1, 1), told) is None
    assert follow(head(5, 1, 2), told) == head(5, 1, 1)  # two against two: the smaller digest
    assert follow(head(5, 1, 3), {head(5, 1, 1): {A, B}}) == head(5, 1, 1)


def test_without_a_common_state_there_is_nothing_to_differ_in() -> None:
    assert follow(Head(5, bytes(32), b""), {Head(5, bytes(32), b"x" * 32): {A}}) is None


HEADS = st.lists(st.builds(head, st.integers(0, 3), st.integers(0, 2), st.integers(0, 2)), min_size=1, max_size=5)


@given(HEADS)
def test_members_who_hear_of_each_others_heads_end_at_the_same_record(heads: list[Head]) -> None:
    told = {each: frozenset({PeerId(str(number))}) for number, each in enumerate(heads)}
    ends = {(end.round, end.record) for mine in heads for end in [follow(mine, told) or mine]}
    assert len(ends) == 1


@given(HEADS)
def test_following_never_leads_in_circles(heads: list[Head]) -> None:
    for one, two in permutations(heads, 2):
        assert follow(one, {two: {A}}) is None or follow(two, {one: {A}}) is None
