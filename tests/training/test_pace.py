"""How many steps fit: decided by the clock within the spec's bounds."""

import math

from hypothesis import given
from hypothesis import strategies as st

from shoal.training.pace import StepRange, expected_step_s, has_time


def steps_done(steps: StepRange, step_s: list[float], deadline_s: float, remembered_s: float | None = None) -> int:
    """A turn in which step i takes step_s[i], or step_s[-1] after the last."""
    now, done = 0.0, 0
    while has_time(steps, done, 0.0, now, deadline_s, remembered_s):
        now += step_s[min(done, len(step_s) - 1)]
        done += 1
    return done


def test_equal_bounds_fix_the_number_whatever_the_clock_says() -> None:
    assert steps_done(StepRange(50, 50, 50), [9.0], deadline_s=1.0) == 50
    assert steps_done(StepRange(50, 50, 50), [0.0], deadline_s=math.inf) == 50


def test_without_a_deadline_it_is_the_reference() -> None:
    assert steps_done(StepRange(10, 200, 50), [0.1], deadline_s=math.inf) == 50


def test_members_at_speeds_1_1_2_4_do_steps_in_that_proportion() -> None:
    steps = StepRange(5, 400, 50)
    done = [steps_done(steps, [1 / speed], deadline_s=50.0, remembered_s=1 / speed) for speed in (1, 1, 2, 4)]
    assert done == [50, 50, 100, 200]


def test_a_slow_member_still_does_the_least() -> None:
    assert steps_done(StepRange(5, 400, 50), [100.0], deadline_s=10.0) == 5


def test_one_slow_first_step_does_not_end_a_turn_of_a_member_that_remembers() -> None:
    steps = StepRange(1, 1000, 50)
    assert steps_done(steps, [6.0, 0.1], deadline_s=10.0, remembered_s=0.1) > 30
    assert steps_done(steps, [6.0, 0.1], deadline_s=10.0) == 1


@given(
    st.lists(st.floats(0.01, 10), min_size=1, max_size=50),
    st.floats(0.1, 100),
    st.none() | st.floats(0.01, 10),
)
def test_the_number_is_within_its_bounds_and_no_step_starts_after_the_deadline(
    step_s: list[float], deadline_s: float, remembered_s: float | None
) -> None:
    steps = StepRange(2, 60, 30)
    done = steps_done(steps, step_s, deadline_s, remembered_s)
    assert 2 <= done <= 60
    before_last = sum(step_s[min(i, len(step_s) - 1)] for i in range(done - 1))
    assert done == 2 or before_last <= deadline_s


def test_the_expected_step_weighs_memory_as_five_steps() -> None:
    assert expected_step_s(0, 0.0, None) is None
    assert expected_step_s(4, 2.0, None) == 0.5
    assert expected_step_s(5, 10.0, 1.0) == 1.5
