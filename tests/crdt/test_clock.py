"""Stamps grow, stay near the wall clock, and are not carried away by anybody's."""

from hypothesis import given
from hypothesis import strategies as st

from shoal.crdt.clock import AHEAD_MS_MAX, WALL_MS_MAX, Clock, horizon, stamp_of

NOW_MS = 1_790_000_000_000
WALLS = st.integers(NOW_MS - AHEAD_MS_MAX, NOW_MS)


@given(st.lists(st.tuples(WALLS, st.none() | st.integers(0, horizon(NOW_MS - AHEAD_MS_MAX)))))
def test_each_stamp_is_later_than_all_given_or_adopted_before(steps: list[tuple[int, int | None]]) -> None:
    clock, latest = Clock(), 0
    for wall_ms, seen in steps:
        if seen is not None:
            assert clock.observe(seen, wall_ms)
            latest = max(latest, seen)
        stamp = clock.tick(wall_ms)
        assert max(latest, stamp_of(wall_ms) - 1) < stamp <= horizon(wall_ms) + len(steps)
        latest = stamp


def test_a_stamp_from_the_far_future_is_not_adopted() -> None:
    clock = Clock()
    assert not clock.observe(horizon(NOW_MS) + 1, NOW_MS)
    assert clock.tick(NOW_MS) == stamp_of(NOW_MS)
    assert clock.observe(horizon(NOW_MS), NOW_MS)
    assert [clock.tick(NOW_MS) for _ in range(3)] == [horizon(NOW_MS) + more for more in (1, 2, 3)]


def test_who_had_its_clock_far_ahead_goes_back_to_the_present() -> None:
    clock = Clock()
    ahead = clock.tick(NOW_MS + 10**9)
    assert clock.tick(NOW_MS) == stamp_of(NOW_MS) < ahead


def test_a_stamp_has_63_bits_whatever_the_wall_clock_says() -> None:
    assert 0 < Clock().tick(-1) < Clock().tick(2**60) < horizon(WALL_MS_MAX) == horizon(2**60) == 2**63 - 1


def test_many_stamps_in_a_millisecond_run_into_the_next() -> None:
    clock = Clock()
    stamps = [clock.tick(NOW_MS) for _ in range(2**15 + 2)]
    assert stamps == sorted(set(stamps))
    assert stamps[-1] > stamp_of(NOW_MS + 1)
