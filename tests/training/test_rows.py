"""How long the pieces are by which rows are gone over: rules need memory for a piece of each row."""

import numpy as np
import pytest

from shoal.training.codecs import BLOCK
from shoal.training.rows import LONG_ROWS_MAX, LONGER, PIECE_VALUES, Rooms, fitting, longer, one_by_one
from shoal.training.sweep_service import ThreadedSweep


def span(start: int, stop: int) -> tuple[int, int]:
    return start, stop


@pytest.mark.parametrize("size", [0, 1, 40 * PIECE_VALUES - 1])
def test_many_rows_are_gone_over_by_short_pieces_in_order(size: int) -> None:
    assert list(fitting(ThreadedSweep(2), LONG_ROWS_MAX + 1)(span, size)) == list(one_by_one(span, size))


def test_few_rows_are_gone_over_by_the_pieces_that_a_sweep_has() -> None:
    sweep = ThreadedSweep(2)
    assert fitting(sweep, LONG_ROWS_MAX) is sweep


@pytest.mark.parametrize("size", [0, 1, LONGER, 9 * PIECE_VALUES - 1, 40 * PIECE_VALUES + 1])
def test_longer_pieces_cover_every_value_once(size: int) -> None:
    ends = list(longer(one_by_one)(span, size))
    assert [start for start, _ in ends] == [0, *(stop for _, stop in ends[:-1])][: len(ends)]
    assert all(stop - start == LONGER * PIECE_VALUES for start, stop in ends[:-1])
    assert not ends or ends[-1][1] == size


def test_rooms_are_used_again_and_never_by_two() -> None:
    rooms = Rooms()
    first, second = rooms.take(2, 5), rooms.take(2, 5)
    assert not np.shares_memory(first, second)
    rooms.give_back(first)
    assert rooms.take(2, 5) is first
    rooms.give_back(second)
    assert rooms.take(3, 5).shape == (3, 5)


def test_pieces_begin_where_blocks_do() -> None:
    assert PIECE_VALUES % BLOCK == 0
