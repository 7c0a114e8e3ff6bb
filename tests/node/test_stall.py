"""The meter of the loop's longest stall, on a clock that the test moves."""

from shoal.node.stall import RECENT_S, STALLS_KEPT_MAX, StallMeter


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def turn(meter: StallMeter, clock: Clock, *, work_s: float, wait_s: float, timeout_s: float = 1.0) -> None:
    """One turn of the loop: work, then a wait for the network."""
    clock.now += work_s
    meter.before_io_wait(timeout_s)
    clock.now += wait_s
    meter.after_io_wait(timeout_s)


def test_a_task_that_computes_is_a_stall() -> None:
    clock = Clock()
    meter = StallMeter(clock)
    turn(meter, clock, work_s=0.25, wait_s=0.5)
    assert meter.longest_s == 0.25


def test_waiting_for_the_network_is_none() -> None:
    clock = Clock()
    meter = StallMeter(clock)
    turn(meter, clock, work_s=0.0, wait_s=0.9)
    turn(meter, clock, work_s=0.0, wait_s=1.0)
    assert meter.longest_s == 0.0


def test_a_wake_up_that_comes_late_is_one() -> None:
    clock = Clock()
    meter = StallMeter(clock)
    turn(meter, clock, work_s=0.0, wait_s=1.75, timeout_s=1.0)
    assert meter.longest_s == 0.75


def test_the_recent_longest_falls_when_its_minute_is_over_and_the_longest_ever_stays() -> None:
    clock = Clock()
    meter = StallMeter(clock)
    turn(meter, clock, work_s=4.0, wait_s=0.0)
    turn(meter, clock, work_s=2.0, wait_s=0.0)
    assert meter.recent_s() == 4.0
    clock.now = 4.0 + RECENT_S + 1.0
    assert meter.recent_s() == 2.0
    clock.now = 4.0 + 2.0 + RECENT_S + 1.0
    assert meter.recent_s() == 0.0
    assert meter.longest_s == 4.0


def test_ever_shorter_stalls_fill_no_more_than_their_bound() -> None:
    clock = Clock()
    meter = StallMeter(clock)
    for number in range(STALLS_KEPT_MAX * 3):
        turn(meter, clock, work_s=0.2 - number / 1000, wait_s=0.0)
    assert meter.recent_s() == 0.2
