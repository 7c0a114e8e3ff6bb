"""How fast lines are, as what comes and goes shows it."""

import math

import pytest

from shoal.transport.blob_holder import (
    LATE_S_MAX,
    LOOK_S,
    RATE_S,
    SOON_S,
    WIDE_BYTES_PER_S,
    WINDOW_MIN,
    Holder,
    Line,
    Lines,
    speed_class,
)
from shoal.transport.blobs import CHUNK_BYTES
from shoal.transport.port import PeerId


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


def test_two_chunks_that_come_side_by_side_make_no_slow_line_fast() -> None:
    line = Line(under_way=2)
    for start in range(0, 40, 4):
        line.delivered(CHUNK_BYTES, start + 3.4)
        line.delivered(CHUNK_BYTES, start + 4.0)
        assert line.rate is not None
        assert line.rate < 0.6 * CHUNK_BYTES


def holder_of(rate: float, *, under_way: int, others: int = 0, speed: float = 0.0) -> Holder:
    """One that has all of the blob; `others`: chunks of other blobs that come by the same line."""
    line = Line(rate=rate, speed=speed_class(speed), under_way=under_way + others)
    return Holder(PeerId("holder"), 0, line, is_full=True, under_way=list(range(under_way)))


def test_a_slow_holder_is_asked_for_the_next_chunk_shortly_before_it_is_done_with_one() -> None:
    holder = holder_of(CHUNK_BYTES / 4, under_way=1)
    assert holder.soon_at == pytest.approx(4 - SOON_S)
    assert holder.room(is_shared=True, now=holder.soon_at - 0.01) == 0
    assert holder.room(is_shared=True, now=holder.soon_at) == 1
    assert holder_of(CHUNK_BYTES / 4, under_way=0).soon_at == math.inf


def test_who_sends_much_to_all_is_not_slow_for_being_busy() -> None:
    for speed, is_slow in ((0.0, True), (WIDE_BYTES_PER_S / 2, True), (WIDE_BYTES_PER_S, False)):
        holder = holder_of(CHUNK_BYTES / 2, under_way=0, speed=speed)
        assert holder.is_slow(0.0) == is_slow
        assert holder.is_quick(0.0) != is_slow


def test_of_a_busy_line_each_blob_has_one_chunk_under_way() -> None:
    assert holder_of(4e6, under_way=0).room(is_shared=True, now=0.0) == WINDOW_MIN
    assert holder_of(4e6, under_way=0, others=WINDOW_MIN + 1).room(is_shared=True, now=0.0) == 1


def test_a_chunk_is_not_late_while_others_come_of_the_same_line_but_for_so_long() -> None:
    holder = holder_of(CHUNK_BYTES, under_way=1, others=6)
    silent_at = holder.late_at(1.0)
    holder.line.since = 4.0
    assert holder.late_at(1.0) == silent_at + 4.0
    assert not holder.is_silent(1.0, silent_at + 3.9)
    assert holder.is_silent(1.0, silent_at + 4.0)
    holder.line.since = 100.0
    assert holder.late_at(1.0) == LATE_S_MAX
