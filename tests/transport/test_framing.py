"""Frames in a byte stream: cut alike however it is fragmented, parsed or refused whatever it holds."""

import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shoal.transport.framing import (
    BEGIN,
    END,
    FRAME_BYTES_MAX,
    HEAD,
    MAGIC,
    METHOD_BYTES_MAX,
    PREAMBLE,
    REASON_BYTES_MAX,
    TIMEOUT_S_MAX,
    Frame,
    FrameCutter,
    Kind,
    Opening,
    credit_frame,
    open_head,
    parse_credit,
    parse_open,
    parse_stop,
    stop_frame,
)
from shoal.transport.port import Code, Refusal
from shoal.transport.wire import WIRE_VERSION, Malformed

EXAMPLES = 20_000 if os.environ.get("SHOAL_SOAK") else 150


def packed(frame: Frame) -> bytes:
    return HEAD.pack(frame.kind, frame.flags, len(frame.body), frame.call) + frame.body


frames = st.builds(
    Frame,
    kind=st.sampled_from([Kind.OPEN, Kind.DATA]),
    flags=st.integers(0, BEGIN | END),
    call=st.integers(0, 2**32 - 1),
    body=st.binary(max_size=40),
) | st.builds(
    Frame,
    kind=st.sampled_from([Kind.CREDIT, Kind.STOP, Kind.GOODBYE]),
    flags=st.just(0),
    call=st.integers(0, 2**32 - 1),
    body=st.binary(max_size=40),
)


def cut_in_pieces(stream: bytes, ends: list[int]) -> tuple[list[Frame], Malformed | None, int]:
    cutter = FrameCutter()
    got: list[Frame] = []
    start = 0
    for end in [*sorted(ends), len(stream)]:
        got += cutter.cut(stream[start:end])
        start = max(start, end)
    return got, cutter.violation, cutter.held_bytes


@given(st.lists(frames, max_size=8), st.lists(st.integers(0, 400), max_size=8))
@settings(max_examples=EXAMPLES, deadline=None)
def test_any_fragmentation_gives_the_same_frames(sent: list[Frame], ends: list[int]) -> None:
    stream = PREAMBLE + b"".join(map(packed, sent))
    assert cut_in_pieces(stream, [end for end in ends if end <= len(stream)]) == (sent, None, 0)


@given(st.binary(max_size=200), st.booleans(), st.lists(st.integers(0, 200), max_size=5))
@settings(max_examples=EXAMPLES, deadline=None)
def test_any_bytes_give_frames_or_one_reason_however_they_are_fragmented(
    data: bytes, has_preamble: bool, ends: list[int]
) -> None:
    stream = (PREAMBLE if has_preamble else b"") + data
    got, violation, held = cut_in_pieces(stream, [end for end in ends if end <= len(stream)])
    assert (got, violation) == cut_in_pieces(stream, [])[:2]
    assert held <= len(stream) - sum(len(packed(frame)) for frame in got)


@given(st.binary(max_size=60))
@settings(max_examples=EXAMPLES, deadline=None)
def test_any_body_is_parsed_or_malformed(body: bytes) -> None:
    assert isinstance(parse_open(body), Opening | Malformed)
    assert isinstance(parse_credit(body), int | Malformed)
    assert isinstance(parse_stop(body), Refusal | Malformed | None)


def test_a_frame_longer_than_a_write_is_refused_by_its_head() -> None:
    cutter = FrameCutter()
    assert cutter.cut(PREAMBLE + HEAD.pack(Kind.DATA, 0, FRAME_BYTES_MAX - HEAD.size + 1, 1)) == []
    assert cutter.violation is not None
    assert cutter.cut(packed(Frame(Kind.STOP, 0, 1, b"\0"))) == []
    assert cutter.held_bytes == 0


def test_the_longest_frame_is_held_back_and_then_cut() -> None:
    frame = Frame(Kind.DATA, 0, 1, bytes(FRAME_BYTES_MAX - HEAD.size))
    cutter = FrameCutter()
    assert cutter.cut(PREAMBLE + packed(frame)[:-1]) == []
    assert cutter.held_bytes == FRAME_BYTES_MAX - 1
    assert cutter.cut(b"\0") == [frame]


@pytest.mark.parametrize(
    ("head", "word"),
    [
        (HEAD.pack(0, 0, 0, 1), "kind 0"),
        (HEAD.pack(6, 0, 0, 1), "kind 6"),
        (HEAD.pack(Kind.DATA, 4, 0, 1), "flags 4"),
        (HEAD.pack(Kind.STOP, END, 0, 1), "flags 2"),
    ],
)
def test_unknown_kinds_and_flags_are_refused(head: bytes, word: str) -> None:
    cutter = FrameCutter()
    assert cutter.cut(PREAMBLE + head) == []
    assert cutter.violation is not None
    assert word in cutter.violation.reason


def test_the_version_of_the_other_side_is_read_from_its_preamble() -> None:
    cutter = FrameCutter()
    cutter.cut(MAGIC)
    assert cutter.version is None
    cutter.cut(bytes([WIRE_VERSION + 1]))
    assert cutter.version == WIRE_VERSION + 1


def test_another_protocol_is_refused_at_its_first_wrong_byte() -> None:
    cutter = FrameCutter()
    cutter.cut(b"sh")
    assert cutter.violation is None
    cutter.cut(b"a")
    assert cutter.violation is not None
    assert "shoal" in cutter.violation.reason


@given(st.binary(min_size=1, max_size=METHOD_BYTES_MAX), st.floats(0.001, TIMEOUT_S_MAX), st.binary(max_size=20))
def test_an_opening_comes_back_with_its_timeout_rounded_up(method: bytes, timeout_s: float, rest: bytes) -> None:
    opening = parse_open(open_head(method, timeout_s) + rest)
    assert isinstance(opening, Opening)
    assert (opening.method, opening.rest) == (method, rest)
    assert timeout_s <= opening.timeout_s <= timeout_s + 0.0011


@given(st.sampled_from([code for code in Code if code is not Code.UNREACHABLE]), st.text(max_size=300))
def test_a_refusal_comes_back(code: Code, message: str) -> None:
    frame = stop_frame(Kind.STOP, 7, Refusal(code, message))
    got = parse_stop(frame[HEAD.size :])
    assert isinstance(got, Refusal)
    assert got.code is code
    assert got.message == message.encode(errors="replace")[:REASON_BYTES_MAX].decode(errors="replace")


def test_a_long_reason_is_cut() -> None:
    got = parse_stop(stop_frame(Kind.STOP, 7, Refusal(Code.REFUSED, "ü" * 5000))[HEAD.size :])
    assert isinstance(got, Refusal)
    assert len(got.message) == REASON_BYTES_MAX // 2


def test_unreachable_is_never_on_the_wire() -> None:
    got = parse_stop(stop_frame(Kind.STOP, 1, Refusal(Code.UNREACHABLE, "its peer is gone"))[HEAD.size :])
    assert got == Refusal(Code.REFUSED, "its peer is gone")
    assert isinstance(parse_stop(bytes([Code.UNREACHABLE])), Malformed)


def test_credit_comes_back_and_none_is_refused() -> None:
    assert parse_credit(credit_frame(1, 70_000)[HEAD.size :]) == 70_000
    assert isinstance(parse_credit(bytes(4)), Malformed)
