"""How fast lines are, as what comes and goes shows it."""

import pytest

from shoal.transport.blob_holder import LOOK_S, RATE_S, Line, Lines, speed_class


def test_chunks_that_come_at_once_make_no_line_fast() -> None:
    """Four connections bring a chunk each every two seconds, all in the same moment."""
    line = Line(under_way=8)
    for second in range(2, 20, 2):
        for part in range(4):
            line.delivered(2**20, second + part * 1e-4)
    assert line.rate == pytest.approx(2 * 2**20, rel=0.25)


def test_a_fast_line_is_known_from_its_first_chunk_and_followed() -> None:
    line, now = Line(under_way=1), 0.0
    for rate, seconds in ((100e6, 0.02), (100e6, 2.0), (10e6, 4.0)):
        until = now + seconds
        while now < until:
            now += 2**20 / rate
            line.delivered(2**20, now)
        assert line.rate == pytest.approx(rate, rel=0.1)


def test_what_a_line_does_between_two_fetches_does_not_count() -> None:
    line = Line()
    for start in (0.0, 100.0, 200.0):
        line.under_way, line.since = 1, start
        for chunk in range(1, 5):
            line.delivered(2**20, start + chunk * RATE_S)
    assert line.rate == pytest.approx(2**20 / RATE_S, rel=0.01)


def test_a_nodes_own_rate_is_its_best_of_late_and_what_the_system_buffers_counts_little() -> None:
    lines, sent = Lines(), 0
    lines.sent(0, 0.0)
    for tick in range(
        1, 400
    ):  # 0.1 s each: a megabyte at once every 2 s, as a line of half a megabyte per second takes
        sent += 2**20 if tick % 20 == 0 else 0
        lines.sent(sent, tick * 0.1)
    assert speed_class(lines.own_rate) in (speed_class(2**19), speed_class(2**19 - 1))
    busy = lines.own_rate
    lines.sent(sent, 1000.0)
    assert lines.own_rate == pytest.approx(busy, rel=0.01)
    for look in range(1, 2_001):
        lines.sent(sent, 1000.0 + LOOK_S * look)
    assert lines.own_rate < busy / 4
