"""Two yamux machines against each other, and one against whatever a peer may send."""

import os
import struct
from typing import Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shoal.transport.yamux import (
    ANSWERS_MAX,
    DATA_BYTES_MAX,
    DEAD_S,
    DOUBT_S,
    FRAMES_AT_ONCE,
    FRESH_WINDOW_BYTES,
    GROW_S,
    LINGER_S,
    PING_S,
    QUEUE_BYTES_MAX,
    STREAM_WINDOW_BYTES_MAX,
    STUCK_S,
    WINDOWS_BYTES_MAX,
    WRITE_BYTES_MAX,
    Mux,
    MuxStream,
)

COUNT: Final = 100_000 if os.environ.get("SHOAL_SOAK") else 300
DATA, WINDOW, PING, GO_AWAY = 0, 1, 2, 3
SYN, ACK, FIN, RST = 1, 2, 4, 8


def frame(kind: int, flags: int, stream: int, length: int, body: bytes = b"") -> bytes:
    return struct.pack(">BBHII", 0, kind, flags, stream, length) + body


def data_frame(stream: int, body: bytes, flags: int = 0) -> bytes:
    return frame(DATA, flags, stream, len(body), body)


def pair(streams_max: int = 32) -> tuple[Mux, Mux]:
    return Mux(True, streams_max, 0.0), Mux(False, streams_max, 0.0)


def flush(one: Mux, other: Mux, now: float = 0.0) -> list[MuxStream]:
    """Everything each has to say reaches the other. Returns the streams of `other` that changed."""
    changed: list[MuxStream] = []
    while one.has_output or other.has_output:
        changed += other.receive(one.take(), now)
        one.receive(other.take(), now)
    return changed


def accepted(one: Mux, other: Mux) -> tuple[MuxStream, MuxStream]:
    stream = one.open()
    (theirs,) = flush(one, other)
    return stream, theirs


def send(mux: Mux, stream: MuxStream, data: bytes) -> int:
    return mux.send(stream, memoryview(data))


actions = st.lists(
    st.tuples(st.sampled_from(["open", "send", "read", "finish", "flush"]), st.integers(0, 9), st.binary(max_size=400)),
    max_size=60,
)


@settings(max_examples=COUNT)
@given(actions, st.lists(st.integers(1, 200), min_size=1, max_size=20))
def test_bytes_arrive_whole_and_in_order_however_the_connection_cuts_them(
    script: list[tuple[str, int, bytes]], cuts: list[int]
) -> None:
    one, other = pair()
    mine: list[MuxStream] = []
    sent: dict[int, bytes] = {}
    read: dict[int, bytes] = {}
    theirs: dict[int, MuxStream] = {}

    def carry() -> None:
        wire = b"".join(iter(one.take, b""))
        index = 0
        while wire:
            piece, wire = wire[: cuts[index % len(cuts)]], wire[cuts[index % len(cuts)] :]
            for stream in other.receive(piece, 0.0):
                theirs[stream.id] = stream
            index += 1
        one.receive(b"".join(iter(other.take, b"")), 0.0)

    def drain() -> None:
        for stream in theirs.values():
            read[stream.id] = read.get(stream.id, b"") + other.read(stream, 10**9, 0.0)

    for action, which, data in script:
        if action == "open":
            mine.append(one.open())
        elif action == "flush":
            carry()
        elif action == "read":
            drain()
        elif mine:
            stream = mine[which % len(mine)]
            if action == "finish":
                one.finish(stream)
            else:
                size = send(one, stream, data)
                sent[stream.id] = sent.get(stream.id, b"") + data[:size]
    carry()
    drain()
    assert one.over is None
    assert other.over is None
    for stream in mine:
        if stream.id in theirs:  # streams above the limit were refused
            assert read.get(stream.id, b"") == sent.get(stream.id, b"")
            assert theirs[stream.id].has_ended == stream.has_finished


frames = st.builds(
    frame,
    st.integers(0, 4),
    st.one_of(st.integers(0, 15), st.integers(0, 2**16 - 1)),
    st.one_of(st.integers(0, 6), st.integers(0, 2**32 - 1)),
    st.one_of(st.integers(0, 20), st.integers(0, 2**32 - 1)),
    st.binary(max_size=20),
)


@settings(max_examples=COUNT)
@given(st.lists(st.one_of(frames, st.binary(max_size=50)), max_size=30))
def test_any_bytes_end_the_connection_at_worst(pieces: list[bytes]) -> None:
    mux = Mux(True, 4, 0.0)
    mux.open()
    for piece in pieces:
        for stream in mux.receive(piece, 0.0):
            assert isinstance(stream, MuxStream)
        assert sum(len(stream.buffer) for stream in mux.streams.values()) <= 5 * FRESH_WINDOW_BYTES
        assert len(mux.streams) <= 5 or mux.over is not None
        mux.tick(0.0)
    mux.take()


@pytest.mark.parametrize(
    ("wire", "reason"),
    [
        (b"\x01" + frame(PING, SYN, 0, 1)[1:], "version 1"),
        (frame(4, 0, 0, 0), "kind 4"),
        (frame(WINDOW, 16, 1, 0), "flags 16"),
        (frame(WINDOW, SYN, 1, 0), "stream 1, which is not its to open"),
        (frame(WINDOW, SYN, 0, 0), "stream 0, which is not its to open"),
        (frame(WINDOW, SYN, 2, 0) * 2, "stream 2, which is not its to open"),
        (frame(WINDOW, SYN, 2, 0) + frame(DATA, 0, 2, FRESH_WINDOW_BYTES + 1), "262145 bytes where 262144"),
        (frame(DATA, SYN, 2, 2**32 - 1), "4294967295 bytes where 262144"),
        (frame(WINDOW, SYN | FIN, 2, 0) + data_frame(2, b"x"), "data on a stream that it had ended"),
        (frame(GO_AWAY, 0, 0, 0), "ended the connection normally"),
        (frame(GO_AWAY, 0, 0, 1), "for a protocol error"),
        (frame(GO_AWAY, 0, 0, 77), "for a reason of its own"),
    ],
)
def test_a_violation_ends_the_connection_with_its_reason(wire: bytes, reason: str) -> None:
    mux = Mux(True, 4, 0.0)
    own = mux.open()
    mux.receive(wire, 0.0)
    assert mux.over is not None
    assert reason in mux.over
    assert own.is_reset


def test_a_peer_cannot_have_more_buffered_than_its_window() -> None:
    mux = Mux(True, 4, 0.0)
    mux.receive(frame(WINDOW, SYN, 2, 0), 0.0)
    for _ in range(FRESH_WINDOW_BYTES // 1024):
        mux.receive(data_frame(2, bytes(1024)), 0.0)
    assert mux.over is None
    assert len(mux.streams[2].buffer) == FRESH_WINDOW_BYTES
    mux.receive(data_frame(2, b"x"), 0.0)
    assert mux.over == "1 bytes where 0 were allowed"


def test_streams_above_the_limit_are_reset_and_the_others_go_on() -> None:
    one, other = pair(streams_max=2)
    streams = [one.open() for _ in range(3)]
    flush(one, other)
    assert [stream.is_reset for stream in streams] == [False, False, True]
    one.finish(streams[0])
    other.finish(other.streams[streams[0].id])
    flush(one, other)
    another = one.open()
    flush(one, other)
    assert not another.is_reset


def hear(mux: Mux, data: bytes) -> int:
    """Let it take in all of `data`. Returns in how many turns."""
    mux.receive(data, 0.0)
    turns = 1
    while mux.has_input:
        mux.receive(b"", 0.0)
        turns += 1
    return turns


def test_so_many_frames_are_looked_at_in_one_turn_and_none_is_lost() -> None:
    mux = Mux(True, 4, 0.0)
    data = frame(WINDOW, SYN, 2, 0) + frame(WINDOW, 0, 2, 1) * (5 * FRAMES_AT_ONCE) + data_frame(2, b"last")
    assert hear(mux, data) == 6
    assert mux.streams[2].send_window == FRESH_WINDOW_BYTES + 5 * FRAMES_AT_ONCE
    assert mux.read(mux.streams[2], 10, 0.0) == b"last"


def test_who_asks_and_does_not_read_the_answers_is_cut_off() -> None:
    mux = Mux(True, 4, 0.0)
    hear(mux, frame(PING, SYN, 0, 7) * ANSWERS_MAX)
    assert mux.over is None
    assert mux.take()
    hear(mux, frame(PING, SYN, 0, 7) * (ANSWERS_MAX + 1))
    assert mux.over == f"{ANSWERS_MAX} answers wait for it, and it does not read them"


def test_answers_that_were_taken_do_not_count_however_long_the_queue_is_never_empty() -> None:
    mux = Mux(True, 4, 0.0)
    stream = mux.open()
    stream.send_window = 2**40  # a fast reader on the other side
    for _ in range(3 * ANSWERS_MAX):
        while mux.send(stream, memoryview(bytes(DATA_BYTES_MAX))):
            pass
        mux.receive(frame(PING, SYN, 0, 7), 0.0)
        assert mux.take()
    assert mux.over is None
    hear(mux, frame(PING, SYN, 0, 7) * (ANSWERS_MAX + 1))
    assert mux.over is not None


def test_a_sender_stops_at_the_window_and_goes_on_when_it_is_read() -> None:
    one, other = pair()
    stream, theirs = accepted(one, other)
    total = 0
    while size := send(one, stream, bytes(10**6)):
        total += size
        flush(one, other)
    assert total == FRESH_WINDOW_BYTES
    assert len(other.read(theirs, FRESH_WINDOW_BYTES // 4, 10.0)) == FRESH_WINDOW_BYTES // 4
    flush(one, other)
    assert send(one, stream, b"x") == 0  # less than half was read: not worth a message
    other.read(theirs, 10**6, 20.0)
    flush(one, other)
    assert send(one, stream, b"x") == 1


def test_a_sender_stops_when_the_connection_takes_no_more() -> None:
    one, other = pair()
    streams = [accepted(one, other)[0] for _ in range(10)]
    queued = sum(size for stream in streams for _ in range(5) if (size := send(one, stream, bytes(DATA_BYTES_MAX))))
    assert one.is_congested
    assert QUEUE_BYTES_MAX <= queued < QUEUE_BYTES_MAX + DATA_BYTES_MAX
    while written := one.take():
        assert len(written) <= WRITE_BYTES_MAX
    assert not one.is_congested


def test_a_fast_reader_gets_a_larger_window_up_to_the_bounds() -> None:
    one, other = pair(streams_max=1000)
    pairs = [accepted(one, other) for _ in range(8)]
    now = 1.0
    for _ in range(300):
        for stream, theirs in pairs:
            send(one, stream, bytes(DATA_BYTES_MAX))
            flush(one, other, now)
            other.read(theirs, 10**9, now)
            flush(one, other, now)
        now += GROW_S / 100
    windows = [theirs.window for _, theirs in pairs]
    assert max(windows) <= STREAM_WINDOW_BYTES_MAX
    assert STREAM_WINDOW_BYTES_MAX <= sum(windows) <= WINDOWS_BYTES_MAX + 8 * FRESH_WINDOW_BYTES


def test_a_slow_reader_keeps_the_window_it_has() -> None:
    one, other = pair()
    stream, theirs = accepted(one, other)
    for step in range(20):
        while send(one, stream, bytes(DATA_BYTES_MAX)):
            flush(one, other)
        other.read(theirs, 10**9, float(step))
        flush(one, other)
    assert theirs.window == FRESH_WINDOW_BYTES


def test_what_a_window_grew_by_is_given_back_with_the_stream() -> None:
    one, other = pair()
    for _ in range(20):
        stream, theirs = accepted(one, other)
        for _ in range(100):
            send(one, stream, bytes(DATA_BYTES_MAX))
            flush(one, other)
            other.read(theirs, 10**9, 0.0)
            flush(one, other)
        assert theirs.window > FRESH_WINDOW_BYTES
        one.finish(stream)
        other.finish(theirs)
        flush(one, other)
    assert not one.streams
    assert not other.streams


def test_small_frames_of_many_streams_go_out_in_one_write() -> None:
    one, other = pair()
    streams = [accepted(one, other)[0] for _ in range(10)]
    for stream in streams:
        send(one, stream, b"hello")
    assert len(one.take()) == 10 * (12 + 5)
    assert one.take() == b""


def test_each_side_may_end_before_the_other() -> None:
    one, other = pair()
    stream, theirs = accepted(one, other)
    send(one, stream, b"question")
    one.finish(stream)
    flush(one, other)
    assert theirs.has_ended
    assert other.read(theirs, 100, 0.0) == b"question"
    assert send(other, theirs, b"answer") == 6
    other.finish(theirs)
    flush(one, other)
    assert one.read(stream, 100, 0.0) == b"answer"
    assert stream.has_ended
    assert not one.streams
    assert not other.streams


def test_a_reset_ends_both_directions() -> None:
    one, other = pair()
    stream, theirs = accepted(one, other)
    send(one, stream, b"lost")
    one.reset(stream)
    flush(one, other)
    assert theirs.is_reset
    assert send(other, theirs, b"x") == 0
    assert not one.streams
    assert not other.streams


def test_what_an_abandoned_stream_said_still_arrives_and_what_comes_is_thrown_away() -> None:
    one, other = pair()
    stream, theirs = accepted(one, other)
    send(one, stream, b"last words")
    one.abandon(stream, 0.0)
    send(other, theirs, bytes(1000))
    flush(one, other)
    assert other.read(theirs, 100, 0.0) == b"last words"
    assert not stream.buffer
    other.finish(theirs)
    flush(one, other)
    assert not one.streams


def test_who_does_not_end_an_abandoned_stream_is_reset() -> None:
    one, other = pair()
    stream, theirs = accepted(one, other)
    one.abandon(stream, 0.0)
    one.tick(LINGER_S - 0.1)
    flush(one, other)
    assert not theirs.is_reset
    one.tick(LINGER_S)
    flush(one, other)
    assert theirs.is_reset
    assert not one.streams


def test_pings_are_answered_and_measure_the_round_trip() -> None:
    one, other = pair()
    one.tick(0.0)
    other.receive(one.take(), 0.1)
    one.receive(other.take(), 0.2)
    assert one.rtt_s == pytest.approx(0.2)
    assert one.tick(0.2) <= PING_S + 0.2


def test_a_pong_that_nobody_asked_for_says_nothing() -> None:
    mux = Mux(True, 4, 0.0)
    mux.receive(frame(PING, ACK, 0, 1) * 5, 0.0)
    mux.tick(0.0)
    mux.receive(frame(PING, ACK, 0, 99), 1.0)
    assert mux.rtt_s is None


def test_signs_of_life_and_windows_are_not_counted_as_carried() -> None:
    one, other = pair()
    stream, theirs = accepted(one, other)
    for second in range(0, 60, 2):
        one.tick(float(second))
        other.tick(float(second))
        flush(one, other, float(second))
    assert one.rtt_s is not None
    assert (one.carried_bytes, other.carried_bytes) == (0, 0)
    send(one, stream, bytes(1000))
    flush(one, other)
    assert (one.carried_bytes, other.carried_bytes) == (1000, 1000)
    other.read(theirs, 1000, 0.0)
    send(other, theirs, b"yes")
    flush(other, one)
    assert (one.carried_bytes, other.carried_bytes) == (1003, 1003)


def test_silence_is_taken_for_death_after_its_bound() -> None:
    mux = Mux(True, 4, 0.0)
    now = 0.0
    while now < DEAD_S:
        assert mux.over is None
        now = mux.tick(now)
    mux.tick(now)
    assert mux.over == f"no sign of life for {DEAD_S:.0f} s"
    assert now < DEAD_S + 0.1


def test_any_sign_of_life_counts() -> None:
    mux = Mux(True, 4, 0.0)
    for step in range(10):
        mux.receive(frame(PING, SYN, 0, 1), step * 5.0)
        mux.take()
        mux.tick(step * 5.0)
    assert mux.over is None


def test_who_sends_but_never_answers_a_ping_is_cut_off() -> None:
    mux = Mux(True, 4, 0.0)
    now = 0.0
    while mux.over is None and now < 1000:
        mux.tick(now)
        mux.receive(frame(WINDOW, 0, 1, 0), now)
        now += 1.0
    assert mux.over == f"no answer to a ping for {STUCK_S:.0f} s"


def test_who_is_in_doubt_shows_soon_that_it_is_there_or_is_given_up() -> None:
    for answers in (True, False):
        mux = Mux(True, 4, 0.0)
        mux.tick(0.0)
        mux.doubt(1.0)
        assert mux.tick(1.0) == 1.0 + DOUBT_S
        if answers:
            mux.receive(frame(PING, ACK, 0, 1), 1.5)
        mux.tick(1.0 + DOUBT_S)
        assert (mux.over is None) == answers


def test_doubting_again_and_again_puts_nothing_off() -> None:
    mux = Mux(True, 4, 0.0)
    now = 1.0
    while mux.over is None and now < 20.0:
        mux.doubt(now)
        mux.tick(now)
        now += 0.5
    assert now <= 1.0 + DOUBT_S + 0.5


def test_the_first_reason_stands() -> None:
    mux = Mux(True, 4, 0.0)
    mux.end("one")
    mux.end("two")
    assert mux.over == "one"
