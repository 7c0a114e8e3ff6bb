"""Networks sort whatever comes, and leave out what nobody wants."""

from itertools import combinations, product

import numpy as np
import pytest

from shoal.training.sorting_network import network, select


def operations(wires: int, start: int, stop: int) -> int:
    return sum(step.is_smaller_used + step.is_larger_used for step in network(wires, start, stop))


@pytest.mark.parametrize("wires", range(1, 13))
def test_every_span_of_ranks_comes_out_in_order(wires: int) -> None:
    """The 0-1 principle (Knuth, The Art of Computer Programming 3, 5.3.4): what sorts zeros and ones sorts all."""
    inputs = np.array(list(product((0, 1), repeat=wires)), np.float32).T
    for start, stop in combinations(range(wires + 1), 2):
        found = select([vector.copy() for vector in inputs], start, stop)
        assert np.array_equal(found, np.sort(inputs, axis=0)[start:stop])


@pytest.mark.parametrize("wires", range(2, 13))
def test_two_ranks_that_need_no_order_come_out_both(wires: int) -> None:
    inputs = np.array(list(product((0, 1), repeat=wires)), np.float32).T
    for start in range(wires - 1):
        found = select([vector.copy() for vector in inputs], start, start + 2, is_ordered=False)
        assert np.array_equal(np.sort(found, axis=0), np.sort(inputs, axis=0)[start : start + 2])


@pytest.mark.parametrize("wires", [16, 17, 100, 257])
def test_larger_networks_sort_permutations(wires: int) -> None:
    generator = np.random.default_rng(wires)
    inputs = generator.permuted(np.tile(np.arange(wires, dtype=np.float64)[:, None], 500), axis=0)
    assert np.array_equal(select(list(inputs), 0, wires), np.tile(np.arange(wires)[:, None], 500))


def test_a_network_is_as_small_as_batchers_and_smaller_where_few_ranks_are_wanted() -> None:
    assert (len(network(16, 0, 16)), operations(16, 0, 16)) == (63, 126)
    assert (len(network(16, 7, 9)), operations(16, 7, 9)) == (53, 92)
    assert len(network(16, 7, 9, is_ordered=False)) == 52
    assert operations(16, 0, 1) == 15
    assert network(1, 0, 1) == ()


def test_selecting_asks_for_one_more_vector_only() -> None:
    vectors = [np.full(4, -number, np.float32) for number in range(9)]
    found = select(vectors, 0, 9)
    borrowed = [piece for piece in found if not any(np.shares_memory(piece, vector) for vector in vectors)]
    assert len(borrowed) <= 1
