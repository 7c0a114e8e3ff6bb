"""How long the pieces are by which rows are gone over: rules need memory for a piece of each row."""

import pytest

from shoal.training.codecs import BLOCK
from shoal.training.rows import LONG_ROWS_MAX, PIECE_VALUES, fitting, one_by_one
from shoal.training.sweep_service import ThreadedSweep


def span(start: int, stop: int) -> tuple[int, int]:
    return start, stop


@pytest.mark.parametrize("size", [0, 1, 40 * PIECE_VALUES - 1])
def test_many_rows_are_gone_over_by_short_pieces_in_order(size: int) -> None:
    assert list(fitting(ThreadedSweep(2), LONG_ROWS_MAX + 1)(span, size)) == list(one_by_one(span, size))


def test_few_rows_are_gone_over_by_the_pieces_that_a_sweep_has() -> None:
    sweep = ThreadedSweep(2)
    assert fitting(sweep, LONG_ROWS_MAX) is sweep


def test_pieces_begin_where_blocks_do() -> None:
    assert PIECE_VALUES % BLOCK == 0
