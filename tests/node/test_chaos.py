"""The plan of what befalls a testnet: what holds for every seed."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal.node.chaos import (
    CALM_FIRST,
    CALM_LAST,
    HARSH,
    LONGEST_S,
    NODES_MIN,
    SPAN_MIN_S,
    Kind,
    Misfortune,
    misfortunes,
)

seeds = st.integers(0, 2**32 - 1)
counts = st.integers(NODES_MIN, 64)
spans = st.floats(SPAN_MIN_S, 3600)


def together(plan: tuple[Misfortune, ...], nodes: int, at_s: float) -> int:
    """How many nodes are up and reach one another at a time: the larger side's."""
    now = [each for each in plan if each.at_s <= at_s < each.until_s]
    up = set(range(nodes)) - {node for each in now for node in each.nodes if each.kind is not Kind.PARTITION}
    cut = {node for each in now for node in each.nodes if each.kind is Kind.PARTITION}
    return max(len(up & cut), len(up - cut))


def without_majority_s(plan: tuple[Misfortune, ...], nodes: int) -> float:
    times = sorted({time for each in plan for time in (each.at_s, each.until_s)})
    return sum(after - before for before, after in pairwise(times) if 2 * together(plan, nodes, before) <= nodes)


@given(seeds, counts, spans)
def test_each_kind_comes_and_all_is_over_before_the_last_fifth(seed: int, nodes: int, span_s: float) -> None:
    plan = misfortunes(seed, nodes, span_s)
    assert {each.kind for each in plan} == set(Kind)
    assert [each.at_s for each in plan] == sorted(each.at_s for each in plan)
    for each in plan:
        assert span_s * CALM_FIRST <= each.at_s < each.until_s <= span_s * (1 - CALM_LAST)
        assert each.until_s - each.at_s <= LONGEST_S
        assert each.nodes == tuple(sorted(set(each.nodes)))
        assert 0 < len(each.nodes) < nodes
        assert set(each.nodes) <= set(range(nodes))


@given(seeds, counts, spans)
def test_no_node_suffers_two_at_a_time_and_the_network_is_torn_in_two_at_most(
    seed: int, nodes: int, span_s: float
) -> None:
    plan = misfortunes(seed, nodes, span_s)
    for index, one in enumerate(plan):
        for other in plan[index + 1 :]:
            if other.at_s < one.until_s:
                assert not set(one.nodes) & set(other.nodes)
                assert one.kind is not Kind.PARTITION or other.kind is not Kind.PARTITION


@given(seeds, counts, spans)
def test_a_majority_is_up_and_together_nearly_always(seed: int, nodes: int, span_s: float) -> None:
    assert without_majority_s(misfortunes(seed, nodes, span_s), nodes) <= span_s * HARSH + 1e-6


def test_now_and_then_there_is_no_majority() -> None:
    lost = [without_majority_s(misfortunes(seed, 8, 120.0), 8) for seed in range(50)]
    assert sum(each > 0 for each in lost) > 40


@given(seeds, counts, spans)
def test_the_same_seed_gives_the_same_and_another_seed_others(seed: int, nodes: int, span_s: float) -> None:
    assert misfortunes(seed, nodes, span_s) == misfortunes(seed, nodes, span_s)
    assert misfortunes(seed, nodes, span_s) != misfortunes(seed + 1, nodes, span_s)


@pytest.mark.parametrize(("nodes", "span_s"), [(NODES_MIN - 1, 60.0), (8, SPAN_MIN_S / 2)])
def test_too_few_nodes_or_too_short_a_span_is_refused(nodes: int, span_s: float) -> None:
    with pytest.raises(ValueError, match="at least"):
        misfortunes(0, nodes, span_s)
