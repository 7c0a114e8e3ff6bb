"""Pieces come in order from several threads, what goes wrong in one is told, and no more are begun than may be."""

import threading
from itertools import islice

import pytest

from shoal.training.codecs import BLOCK
from shoal.training.sweep_service import LONG_PIECE_VALUES, PIECES_PER_THREAD, ThreadedSweep


def span(start: int, stop: int) -> tuple[int, int]:
    return start, stop


@pytest.mark.parametrize("size", [0, 1, LONG_PIECE_VALUES, LONG_PIECE_VALUES + 1, 40 * LONG_PIECE_VALUES - 1])
def test_the_pieces_are_all_of_it_in_order_from_block_to_block(size: int) -> None:
    pieces = list(ThreadedSweep(3)(span, size))
    assert [0, *(stop for _, stop in pieces)] == [*(start for start, _ in pieces), size]
    assert all(start % BLOCK == 0 for start, _ in pieces)


def test_several_pieces_are_worked_on_at_once() -> None:
    """Each waits until the other has begun."""
    both = threading.Barrier(2, timeout=60)

    def meet(start: int, stop: int) -> int:
        both.wait()
        return start

    assert list(ThreadedSweep(2)(meet, 2 * LONG_PIECE_VALUES)) == [0, LONG_PIECE_VALUES]


def test_results_come_in_order_when_the_first_is_done_last() -> None:
    others_done = threading.Semaphore(0)

    def first_last(start: int, stop: int) -> int:
        if start:
            others_done.release()
        else:
            for _ in range(5):
                assert others_done.acquire(timeout=60)
        return start // LONG_PIECE_VALUES

    assert list(ThreadedSweep(2)(first_last, 6 * LONG_PIECE_VALUES)) == list(range(6))


def test_what_a_piece_raises_comes_in_its_place_and_ends_the_sweep() -> None:
    begun: list[int] = []

    def fail_in_the_third(start: int, stop: int) -> int:
        begun.append(start)
        if start == 2 * LONG_PIECE_VALUES:
            raise ValueError("the third piece")
        return start

    results = iter(ThreadedSweep(2)(fail_in_the_third, 1_000 * LONG_PIECE_VALUES))
    assert [next(results), next(results)] == [0, LONG_PIECE_VALUES]
    with pytest.raises(ValueError, match="the third piece"):
        next(results)
    assert len(begun) <= 2 + 2 * PIECES_PER_THREAD
    assert list(results) == []


def test_no_more_pieces_are_begun_than_may_wait_to_be_taken() -> None:
    begun: list[int] = []
    results = iter(ThreadedSweep(2)(lambda start, stop: begun.append(start), 1_000 * LONG_PIECE_VALUES))
    for taken in range(1, 50):
        next(results)
        assert len(begun) <= taken + 2 * PIECES_PER_THREAD
    assert len(list(islice(results, 1))) == 1


def test_no_thread_is_left_when_results_are_taken_or_given_up() -> None:
    def named() -> list[str]:
        return [thread.name for thread in threading.enumerate() if thread.name.startswith("shoal-sweep")]

    results = iter(ThreadedSweep(2)(span, 1_000 * LONG_PIECE_VALUES))
    next(results)
    assert len(named()) == 2
    results.close()  # type: ignore[attr-defined]
    assert named() == []
    list(ThreadedSweep(2)(span, 10 * LONG_PIECE_VALUES))
    assert named() == []
