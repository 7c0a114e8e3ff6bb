"""Memory that is used again: never while anybody can still see it."""

import gc

import numpy as np

from shoal.training.spare import Spare


def address(vector: "np.ndarray") -> int:
    return int(vector.__array_interface__["data"][0])


def test_memory_is_given_out_again_when_nobody_refers_to_it() -> None:
    spare = Spare(2)
    first = spare.vector(1000)
    place = address(first)
    del first
    gc.collect()
    assert address(spare.vector(1000)) == place


def test_a_view_keeps_the_memory_from_being_given_out() -> None:
    spare = Spare(2)
    first = spare.vector(1000)
    first[:] = 7
    for view in (first[10:], first.reshape(10, 100).T, first.data):
        kept = view
        del view
    del first
    gc.collect()
    other = spare.vector(1000)
    other[:] = 8
    assert bytes(kept) == np.full(1000, 7, np.float32).tobytes()


def test_memory_of_another_size_is_not_given_out() -> None:
    spare = Spare(2)
    del_me = spare.vector(10)
    del del_me
    assert len(spare.vector(1000)) == 1000


def test_no_more_is_kept_than_was_said() -> None:
    spare = Spare(2)
    vectors = [spare.vector(1000) for _ in range(5)]
    places = {address(vector) for vector in vectors}
    del vectors
    gc.collect()
    again = [spare.vector(1000) for _ in range(5)]
    assert len({address(vector) for vector in again} & places) >= 2
    assert len({id(vector.base) for vector in again}) == 5
