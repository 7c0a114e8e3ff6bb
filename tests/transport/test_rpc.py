"""The RPC session: two of them driven against each other, and one against whatever bytes."""

import itertools
import os
import random
import tracemalloc
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from shoal.transport.calls import MESSAGE_COST_BYTES, NEXT, WINDOW_BYTES, State, Step
from shoal.transport.framing import (
    BEGIN,
    END,
    FRAME_BYTES_MAX,
    HEAD,
    LENGTH,
    MAGIC,
    PREAMBLE,
    Kind,
    credit_frame,
    open_head,
    stop_frame,
)
from shoal.transport.limits import Limits
from shoal.transport.port import Code, Refusal, Streaming
from shoal.transport.rpc import CONGESTED_BYTES, Role, Session
from shoal.transport.rpc_events import Closed, Drained, Event, Finished, Opened, Received, Stopped
from shoal.transport.sending import QUEUE_BYTES
from shoal.transport.token_bucket import TokenBucket
from shoal.transport.wire import WIRE_VERSION, Message, encode

SOAK = bool(os.environ.get("SHOAL_SOAK"))


class Text(Message, frozen=True):
    text: str


MIB = 1024 * 1024
ECHO = Streaming("/test/1/echo", Text, Text, 8 * MIB, 8 * MIB)
SMALL = Streaming("/test/1/small", Text, Text, 100, 100)
METHODS = {method.name.encode(): method for method in (ECHO, SMALL)}
LEFT = Refusal(Code.CANCELLED, "left")


def session(role: Role, limits: Limits | None = None) -> Session:
    limits = limits or Limits()
    bucket = TokenBucket(limits.requests_per_peer_per_s, limits.requests_per_peer_burst)
    return Session(role, limits, METHODS if role is Role.SERVER else {}, bucket)


@dataclass
class Pair:
    """A client and a server, and what each was told."""

    client: Session = field(default_factory=lambda: session(Role.CLIENT))
    server: Session = field(default_factory=lambda: session(Role.SERVER))
    now: float = 0.0
    to_client: list[Event] = field(default_factory=list[Event])
    to_server: list[Event] = field(default_factory=list[Event])

    def open(self, method: Streaming[Text, Text] = ECHO, timeout_s: float = 10.0) -> int:
        call = self.client.open(method, timeout_s, self.now)
        assert isinstance(call, int)
        return call

    def ask(self, data: bytes, method: Streaming[Text, Text] = ECHO) -> int:
        call = self.open(method)
        assert self.client.send(call, data, is_last=True) is None
        return call

    def pump_to_server(self) -> int:
        writes = 0
        while self.client.has_output:
            data, events = self.client.output()
            self.to_client += events
            self.to_server += self.server.receive(data, self.now)
            writes += 1
        return writes

    def pump_to_client(self) -> int:
        writes = 0
        while self.server.has_output:
            data, events = self.server.output()
            self.to_server += events
            self.to_client += self.client.receive(data, self.now)
            writes += 1
        return writes

    def pump(self) -> None:
        while self.client.has_output or self.server.has_output:
            self.pump_to_server()
            self.pump_to_client()

    def take(self) -> tuple[list[Event], list[Event]]:
        """What the client and the server were told since the last time."""
        got = self.to_client, self.to_server
        self.to_client, self.to_server = [], []
        return got

    def assert_nothing_is_left(self) -> None:
        for each in (self.client, self.server):
            assert (each.held_count, each.live_count, each.reserved_bytes) == (0, 0, 0)
            assert not each.has_output
            assert each.deadline == float("inf")
            assert each.closed is None


def test_a_request_and_its_reply() -> None:
    pair = Pair()
    call = pair.ask(b"hello")
    pair.pump()
    assert pair.take() == ([], [Opened(call, ECHO.name.encode()), Received(call, b"hello", True)])
    pair.server.send(call, b"world", is_last=True)
    pair.server.release(call)
    pair.pump()
    assert pair.take() == ([Received(call, b"world", True)], [])
    pair.client.release(call)
    pair.assert_nothing_is_left()


def test_the_bytes_are_those_of_the_example_in_the_protocols_description() -> None:
    echo = Streaming("echo", Text, Text)
    client = session(Role.CLIENT)
    call = client.open(echo, 2.0, 0.0)
    assert isinstance(call, int)
    client.send(call, encode(Text("hi")), is_last=True)
    assert client.output()[0].hex() == "73686f616c01" + "0103001100000001" + "000007d1046563686f" + "0000000491a26869"
    server = Session(Role.SERVER, Limits(), {b"echo": echo}, TokenBucket(1, 1))
    server.receive(bytes.fromhex("73686f616c010103001100000001000007d1046563686f0000000491a26869"), 0.0)
    server.send(1, encode(Text("hi")), is_last=True)
    assert server.output()[0].hex() == "73686f616c01" + "0203000800000001" + "0000000491a26869"


def test_a_stream_in_both_directions() -> None:
    pair = Pair()
    call = pair.open()
    for data in (b"a", b"b", b""):
        pair.client.send(call, data, is_last=False)
    pair.pump()
    for data in (b"x", b"y"):
        pair.server.send(call, data, is_last=False)
    pair.client.finish(call)
    pair.pump()
    pair.server.send(call, b"z", is_last=False)
    pair.server.stop(call, None)
    pair.server.release(call)
    pair.pump()
    to_client, to_server = pair.take()
    assert [event.data for event in to_server if isinstance(event, Received)] == [b"a", b"b", b""]
    assert to_server[-1] == Finished(call)
    assert [event.data for event in to_client if isinstance(event, Received)] == [b"x", b"y", b"z"]
    assert to_client[-1] == Stopped(call, None)
    pair.client.release(call)
    pair.assert_nothing_is_left()


def test_a_refusal_comes_after_the_messages_that_were_sent_before_it() -> None:
    pair = Pair()
    call = pair.ask(b"?")
    pair.pump()
    pair.server.send(call, b"half", is_last=False)
    pair.server.stop(call, Refusal(Code.NOT_FOUND, "no other half"))
    pair.server.release(call)
    pair.pump()
    assert pair.take()[0] == [Received(call, b"half", False), Stopped(call, Refusal(Code.NOT_FOUND, "no other half"))]
    pair.client.release(call)
    pair.assert_nothing_is_left()


def test_an_unknown_method_is_refused_and_the_session_goes_on() -> None:
    pair = Pair()
    call = pair.ask(b"x", Streaming("/test/1/none", Text, Text))
    pair.pump()
    to_client, to_server = pair.take()
    assert to_server == []
    assert isinstance(to_client[0], Stopped)
    assert to_client[0].refusal == Refusal(Code.UNKNOWN_METHOD, "no method '/test/1/none' here")
    pair.client.release(call)
    pair.assert_nothing_is_left()


def test_a_message_too_large_is_refused_before_its_bytes_are_here() -> None:
    pair = Pair()
    method = replace(SMALL, request_bytes_max=MIB)  # a client that does not know the bound, or ignores it
    call = pair.open(method)
    pair.client.send(call, bytes(MIB), is_last=True)
    data, _ = pair.client.output()
    pair.to_server += pair.server.receive(data[:200], 0.0)
    pair.to_server += pair.server.receive(data[200:], 0.0)
    refusal = Refusal(Code.TOO_LARGE, f"a message of {MIB} bytes exceeds the limit of 100")
    assert pair.take()[1] == [Opened(call, SMALL.name.encode()), Stopped(call, refusal)]
    assert pair.server.reserved_bytes == 0
    pair.server.release(call)
    pair.pump()
    assert pair.take()[0][-1] == Stopped(call, refusal)
    pair.client.release(call)
    pair.assert_nothing_is_left()


def test_a_reply_too_large_ends_the_call_on_both_sides() -> None:
    pair = Pair()
    call = pair.ask(b"x", replace(ECHO, reply_bytes_max=100))
    pair.pump()
    pair.server.send(call, bytes(101), is_last=True)
    pair.pump()
    pair.server.release(call)
    (stopped,) = pair.take()[0]
    assert isinstance(stopped, Stopped)
    assert stopped.refusal is not None
    assert stopped.refusal.code is Code.TOO_LARGE
    pair.client.release(call)
    pair.assert_nothing_is_left()


def test_own_messages_that_are_too_large_are_not_sent() -> None:
    pair = Pair()
    call = pair.open(SMALL)
    refusal = pair.client.send(call, bytes(101), is_last=True)
    assert refusal is not None
    assert refusal.code is Code.TOO_LARGE
    pair.client.cancel(call, LEFT)
    pair.client.release(call)
    pair.pump()
    assert pair.take() == ([], [])
    pair.assert_nothing_is_left()


def test_sixty_four_small_requests_share_one_write_and_so_do_their_replies() -> None:
    pair = Pair()
    calls = [pair.ask(bytes(128)) for _ in range(64)]
    assert pair.pump_to_server() == 1
    for call in calls:
        pair.server.send(call, bytes(128), is_last=True)
        pair.server.release(call)
    assert pair.pump_to_client() == 1
    assert len(pair.take()[0]) == 64


def test_no_write_is_longer_than_one_encrypted_message_holds() -> None:
    pair = Pair()
    for size in (0, 1, 100_000, 65_000, 64_990, 30):
        pair.ask(bytes(size))
    while pair.client.has_output:
        data, _ = pair.client.output()
        assert 0 < len(data) <= FRAME_BYTES_MAX
        pair.server.receive(data, 0.0)
    assert pair.server.live_count == 6


def test_a_small_request_overtakes_a_big_one() -> None:
    pair = Pair()
    big = pair.ask(bytes(MIB))
    pair.client.output()
    small = pair.ask(b"small")
    assert small > big
    data, _ = pair.client.output()
    assert b"small" in data


def test_big_messages_take_turns() -> None:
    pair = Pair()
    calls = [pair.ask(bytes([number]) * 200_000) for number in range(4)]
    writes = 0
    while len(pair.to_server) < 5:
        data, _ = pair.client.output()
        pair.to_server += pair.server.receive(data, 0.0)
        writes += 1
    assert writes >= 11, "the first was not finished before the others had most of theirs"
    pair.pump()
    messages = {event.call: event.data for event in pair.to_server if isinstance(event, Received)}
    assert messages == {call: bytes([number]) * 200_000 for number, call in enumerate(calls)}


def test_time_is_up_on_both_sides_at_the_moment_that_was_agreed() -> None:
    pair = Pair()
    call = pair.open(timeout_s=2.5)
    pair.client.send(call, b"x", is_last=True)
    pair.pump()
    pair.take()
    assert pair.client.deadline == 2.5
    assert 2.5 <= pair.server.deadline <= 2.502
    for each in (pair.client, pair.server):
        assert each.tick(2.499) == []
        (stopped,) = each.tick(2.502)
        assert isinstance(stopped, Stopped)
        assert stopped.refusal is not None
        assert stopped.refusal.code is Code.DEADLINE_EXCEEDED
        each.release(call)
    pair.pump()
    assert pair.take() == ([], [])
    pair.assert_nothing_is_left()


def test_a_caller_that_leaves_frees_the_other_side() -> None:
    pair = Pair()
    call = pair.open()
    pair.client.send(call, bytes(3 * MIB), is_last=False)
    data, _ = pair.client.output()
    pair.server.receive(data, 0.0)
    assert pair.server.reserved_bytes == 3 * MIB + MESSAGE_COST_BYTES
    pair.client.cancel(call, LEFT)
    pair.client.release(call)
    pair.pump()
    assert pair.take()[1] == [Stopped(call, LEFT)]
    pair.server.release(call)
    pair.assert_nothing_is_left()


def test_a_caller_that_leaves_before_anything_was_written_sends_nothing() -> None:
    pair = Pair()
    pair.pump()
    call = pair.ask(b"x")
    pair.client.cancel(call, LEFT)
    pair.client.release(call)
    assert not pair.client.has_output
    pair.assert_nothing_is_left()


def test_what_was_on_its_way_to_a_call_that_ended_is_dropped() -> None:
    pair = Pair()
    call = pair.open()
    pair.client.send(call, bytes(10), is_last=False)
    pair.pump()
    pair.server.stop(call, Refusal(Code.REFUSED, "no"))
    pair.server.release(call)
    answer, _ = pair.server.output()
    pair.client.send(call, bytes(10), is_last=False)
    pair.client.finish(call)
    pair.pump_to_server()
    pair.client.receive(answer, 0.0)
    pair.client.release(call)
    pair.assert_nothing_is_left()


def test_a_stop_that_crosses_the_other_sides_end_is_not_needed_any_more() -> None:
    pair = Pair()
    call = pair.open()
    pair.client.finish(call)
    pair.pump()
    pair.client.stop(call, LEFT)
    pair.server.send(call, b"", is_last=True)
    pair.pump_to_client()
    pair.pump()
    for side in (pair.client, pair.server):
        side.release(call)
    pair.assert_nothing_is_left()


def test_a_slow_reader_holds_its_sender_back_and_loses_nothing() -> None:
    pair = Pair()
    call = pair.open()
    sent = [bytes([number]) * 100_000 for number in range(100)]
    for data in sent:
        pair.client.send(call, data, is_last=False)
    assert pair.client.is_full(call)
    pair.pump()
    received = [event.data for event in pair.take()[1] if isinstance(event, Received)]
    assert 0 < pair.server.reserved_bytes <= WINDOW_BYTES + 100_000 + MESSAGE_COST_BYTES
    while len(received) < len(sent):
        assert pair.client.is_full(call) or len(sent) - len(received) < 25
        pair.server.consume(call)
        pair.pump()
        to_client, to_server = pair.take()
        received += [event.data for event in to_server if isinstance(event, Received)]
        assert all(event == Drained(call) for event in to_client)
    assert received == sent
    assert not pair.client.is_full(call)


def test_a_slow_reader_of_one_call_does_not_hold_up_others() -> None:
    pair = Pair()
    slow = pair.open()
    for _ in range(40):
        pair.client.send(slow, bytes(100_000), is_last=False)
    pair.pump()
    pair.take()
    quick = pair.ask(b"quick")
    pair.pump()
    assert pair.take()[1][-1] == Received(quick, b"quick", True)


def test_a_message_larger_than_the_window_is_paid_for_when_it_begins() -> None:
    pair = Pair()
    call = pair.ask(bytes(8 * MIB))
    pair.pump()
    (received,) = [event for event in pair.take()[1] if isinstance(event, Received)]
    assert received.data == bytes(8 * MIB)
    assert pair.server.reserved_bytes == 8 * MIB + MESSAGE_COST_BYTES
    pair.server.consume(call)
    assert pair.server.reserved_bytes == 0


def test_the_buffer_of_a_peer_is_bounded_over_all_its_calls() -> None:
    pair = Pair()
    calls = [pair.ask(bytes(5 * MIB)) for _ in range(4)]
    pair.pump()
    to_client, to_server = pair.take()
    stopped = [event for event in to_client if isinstance(event, Stopped)]
    assert len(stopped) == 1
    assert stopped[0].refusal is not None
    assert stopped[0].refusal.code is Code.BUSY
    assert len([event for event in to_server if isinstance(event, Received)]) == 3
    for call in calls:
        pair.server.release(call)
    assert pair.server.reserved_bytes == 0


def test_as_many_calls_as_allowed_and_no_more() -> None:
    pair = Pair(
        client=session(Role.CLIENT, Limits(calls_per_peer_max=5)),
        server=session(Role.SERVER, Limits(calls_per_peer_max=3)),
    )
    calls = [pair.ask(b"x") for _ in range(5)]
    refusal = pair.client.open(ECHO, 1.0, 0.0)
    assert isinstance(refusal, Refusal)
    assert refusal.code is Code.BUSY
    pair.pump()
    to_client, to_server = pair.take()
    assert [event.call for event in to_server if isinstance(event, Opened)] == calls[:3]
    assert [event.call for event in to_client if isinstance(event, Stopped)] == calls[3:]


def test_calls_whose_handlers_still_clean_up_count_against_a_wider_limit() -> None:
    pair = Pair(server=session(Role.SERVER, Limits(calls_per_peer_max=3)))
    for _ in range(3):
        for call in [pair.ask(b"x") for _ in range(3)]:
            pair.pump_to_server()
            pair.client.cancel(call, LEFT)
            pair.client.release(call)
            pair.pump_to_server()
    opened = [event for event in pair.take()[1] if isinstance(event, Opened)]
    assert len(opened) == 6
    assert (pair.server.live_count, pair.server.held_count) == (0, 6)


def test_too_many_requests_per_second_are_refused_until_time_has_passed() -> None:
    pair = Pair(server=session(Role.SERVER, Limits(requests_per_peer_per_s=10, requests_per_peer_burst=3)))
    calls = [pair.ask(b"x") for _ in range(5)]
    pair.pump()
    refused = [event for event in pair.take()[0] if isinstance(event, Stopped)]
    assert [event.call for event in refused] == calls[3:]
    assert refused[0].refusal == Refusal(Code.BUSY, "more than 10 requests per second")
    pair.now = 0.1
    pair.ask(b"x")
    pair.pump()
    assert pair.take()[0] == []


def test_a_peer_that_does_not_take_its_replies_is_read_no_further() -> None:
    pair = Pair()
    calls = [pair.ask(b"x") for _ in range(20)]
    pair.pump_to_server()
    for call in calls:
        assert pair.server.is_congested == (call * 100_000 > CONGESTED_BYTES + 100_000)
        pair.server.send(call, bytes(100_000), is_last=True)
    assert pair.server.is_congested
    pair.pump_to_client()
    assert not pair.server.is_congested


def test_who_has_requests_to_send_still_reads() -> None:
    """Both would wait for ever: the server for its replies to be taken, the client for its requests."""
    pair = Pair()
    for _ in range(20):
        pair.client.send(pair.open(), bytes(100_000), is_last=True)
    assert not pair.client.is_congested


def test_a_call_without_credit_does_not_congest_the_session() -> None:
    pair = Pair()
    call = pair.open()
    pair.pump()
    for _ in range(60):
        pair.server.send(call, bytes(100_000), is_last=False)
    pair.pump()
    assert pair.server.is_full(call)
    assert not pair.server.is_congested


def test_replies_that_are_never_taken_end_in_refusals_of_new_calls() -> None:
    pair = Pair()
    first = pair.open()
    pair.pump()
    for _ in range(3):
        pair.server.send(first, bytes(8 * MIB), is_last=False)
    pair.ask(b"x")
    pair.pump_to_server()
    pair.pump_to_client()
    stopped = pair.take()[0][-1]
    assert isinstance(stopped, Stopped)
    assert stopped.refusal is not None
    assert stopped.refusal.code is Code.BUSY


def test_a_stream_that_ends_fails_the_session() -> None:
    pair = Pair()
    call = pair.ask(b"x")
    pair.pump()
    refusal = Refusal(Code.UNREACHABLE, "the peer ended the stream")
    assert pair.client.abort(refusal.message) == [Closed(refusal)]
    assert pair.client.abort("again") == []
    assert pair.client.open(ECHO, 1.0, 0.0) == refusal
    assert pair.client.send(call, b"", is_last=True) is not None
    pair.client.release(call)
    assert pair.client.output() == (b"", [])


def opened(call: int = 1, flags: int = 0, rest: bytes = b"") -> bytes:
    body = open_head(ECHO.name.encode(), 10.0) + rest
    return HEAD.pack(Kind.OPEN, flags, len(body), call) + body


def data(flags: int, body: bytes, call: int = 1) -> bytes:
    return HEAD.pack(Kind.DATA, flags, len(body), call) + body


BEGUN = opened(1, BEGIN, LENGTH.pack(10) + b"12345")
VIOLATIONS = {
    "not Shoal": (b"GET / HTTP/1.1\r\n", "does not begin with"),
    "call opened twice": (PREAMBLE + opened(1) + opened(1), "was opened after"),
    "calls out of order": (PREAMBLE + opened(5) + opened(4), "was opened after"),
    "call 0": (PREAMBLE + opened(0), "was opened after"),
    "no such call": (PREAMBLE + data(BEGIN, LENGTH.pack(0), 9), "never opened"),
    "empty opening": (PREAMBLE + HEAD.pack(Kind.OPEN, 0, 0, 1), "an opening of 0 bytes"),
    "no timeout": (PREAMBLE + HEAD.pack(Kind.OPEN, 0, 6, 1) + b"\0\0\0\0\1x", "a timeout of 0"),
    "no method": (PREAMBLE + HEAD.pack(Kind.OPEN, 0, 5, 1) + b"\0\0\0\1\0", "name of 0 bytes"),
    "method longer than its frame": (PREAMBLE + HEAD.pack(Kind.OPEN, 0, 6, 1) + b"\0\0\0\1\2x", "name of 2 bytes"),
    "opening with bytes of no message": (PREAMBLE + opened(1, 0, b"x"), "fragment of no message"),
    "message without a length": (PREAMBLE + opened(1, BEGIN, b"123"), "without its length"),
    "fragment of no message": (PREAMBLE + opened() + data(0, b"x"), "fragment of no message"),
    "nothing at all": (PREAMBLE + opened() + data(0, b""), "fragment of no message"),
    "message within a message": (PREAMBLE + BEGUN + data(BEGIN, LENGTH.pack(1) + b"x"), "begins within"),
    "more than announced": (PREAMBLE + BEGUN + data(0, b"678901"), "more bytes"),
    "more than announced at once": (PREAMBLE + opened(1, BEGIN, LENGTH.pack(1) + b"12"), "more bytes"),
    "empty fragment": (PREAMBLE + BEGUN + data(0, b""), "empty fragment"),
    "end within a message": (PREAMBLE + BEGUN + data(END, b"678"), "the end within"),
    "end within a begun message": (PREAMBLE + opened(1, BEGIN | END, LENGTH.pack(9) + b"1"), "the end within"),
    "message after the end": (PREAMBLE + opened(1, END) + data(BEGIN, LENGTH.pack(0)), "after the end"),
    "two ends": (PREAMBLE + opened(1, END) + data(END, b""), "after the end"),
    "credit for nothing": (PREAMBLE + opened() + credit_frame(1, 0), "credit"),
    "credit without end": (PREAMBLE + opened() + credit_frame(1, 2**32 - 1), "credit"),
    "credit of odd length": (PREAMBLE + opened() + HEAD.pack(Kind.CREDIT, 0, 3, 1) + b"123", "credit"),
    "stop without a code": (PREAMBLE + opened() + HEAD.pack(Kind.STOP, 0, 0, 1), "a reason of 0"),
    "stop with an unknown code": (PREAMBLE + opened() + HEAD.pack(Kind.STOP, 0, 1, 1) + b"\x63", "code 99"),
    "goodbye without a code": (PREAMBLE + HEAD.pack(Kind.GOODBYE, 0, 0, 0), "a reason of 0"),
    "unknown kind": (PREAMBLE + HEAD.pack(9, 0, 0, 1), "kind 9"),
    "frame too long": (PREAMBLE + HEAD.pack(Kind.DATA, 0, 65_535, 1), "65535"),
}


@pytest.mark.parametrize("name", VIOLATIONS)
def test_who_breaks_the_rules_is_told_which_and_cut_off(name: str) -> None:
    stream, words = VIOLATIONS[name]
    server = session(Role.SERVER)
    closed = server.receive(stream, 0.0)[-1]
    assert isinstance(closed, Closed)
    assert closed.refusal.code is Code.MALFORMED
    assert words in closed.refusal.message
    assert server.receive(PREAMBLE + opened(), 0.0) == []
    assert (server.held_count, server.reserved_bytes) == (0, 0)
    client = session(Role.CLIENT)
    goodbye, _ = server.output()
    assert client.receive(goodbye, 0.0) == [closed]


def test_more_than_was_credited_breaks_the_rules() -> None:
    server = session(Role.SERVER)
    message = data(BEGIN, LENGTH.pack(60_000) + bytes(60_000))
    closed = server.receive(PREAMBLE + opened() + message * (WINDOW_BYTES // 60_000 + 1), 0.0)[-1]
    assert isinstance(closed, Closed)
    assert "credited" in closed.refusal.message


def test_only_the_side_that_opened_the_stream_opens_calls() -> None:
    client = session(Role.CLIENT)
    (closed,) = client.receive(PREAMBLE + opened(), 0.0)
    assert isinstance(closed, Closed)
    assert "from the side that answers" in closed.refusal.message


@pytest.mark.parametrize("role", Role)
def test_a_newer_version_is_answered_with_what_is_needed(role: Role) -> None:
    ours = session(role)
    (closed,) = ours.receive(MAGIC + bytes([WIRE_VERSION + 1]) + b"whatever version 2 has here", 0.0)
    assert isinstance(closed, Closed)
    assert closed.refusal.code is Code.NEEDS_NEWER
    assert "needs a newer Shoal" in closed.refusal.message
    out, _ = ours.output()
    assert out.startswith(PREAMBLE)
    other = session(Role.CLIENT)
    assert other.receive(out, 0.0) == [closed]


def test_the_table_has_a_way_for_every_step_that_can_be_taken() -> None:
    for state, step in itertools.product(State, Step):
        is_possible = {
            Step.SEND_END: state in (State.OPEN, State.GOT_END),
            Step.GET_END: state in (State.OPEN, State.SENT_END),
            Step.STOP: state is not State.OVER,
        }[step]
        assert ((state, step) in NEXT) == is_possible


def test_the_same_table_holds_seen_from_the_other_side() -> None:
    other = {State.SENT_END: State.GOT_END, State.GOT_END: State.SENT_END}
    mirror = {Step.SEND_END: Step.GET_END, Step.GET_END: Step.SEND_END}
    for (state, step), after in NEXT.items():
        assert NEXT[other.get(state, state), mirror.get(step, step)] is other.get(after, after)


def test_ten_thousand_calls_leave_nothing_behind() -> None:
    pair = Pair()

    def calls(count: int) -> None:
        for number in range(count):
            call = pair.ask(b"x")
            pair.pump_to_server()
            if number % 3 == 0:
                pair.client.cancel(call, LEFT)
            elif number % 3 == 1:
                pair.server.send(call, b"y", is_last=True)
            else:
                pair.server.stop(call, Refusal(Code.REFUSED, "no"))
            pair.server.release(call)
            pair.pump()
            pair.client.release(call)
            pair.pump()
            pair.take()

    calls(500)
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    calls(10_000)
    grown = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    pair.assert_nothing_is_left()
    assert grown < 20_000


def transcript() -> tuple[bytes, bytes]:
    """What a client and a server say in a session that uses everything."""
    pair = Pair()
    said: tuple[list[bytes], list[bytes]] = ([], [])

    def exchange() -> None:
        while pair.client.has_output or pair.server.has_output:
            for mine, other, lines in ((pair.client, pair.server, said[0]), (pair.server, pair.client, said[1])):
                lines.append(mine.output()[0])
                other.receive(lines[-1], 0.0)

    calls = [pair.ask(bytes([number]) * size) for number, size in enumerate((0, 5, 300, 70_000))]
    stream = pair.open()
    pair.client.send(stream, b"one", is_last=False)
    exchange()
    for call in calls:
        pair.server.send(call, b"reply", is_last=True)
        pair.server.release(call)
    pair.client.send(stream, b"two", is_last=False)
    pair.client.finish(stream)
    lost = pair.ask(b"lost", Streaming("/test/1/none", Text, Text))
    left = pair.open(timeout_s=1e9)
    exchange()
    pair.client.cancel(left, LEFT)
    pair.server.send(stream, b"three", is_last=False)
    pair.server.stop(stream, Refusal(Code.NOT_FOUND, "four"))
    exchange()
    assert lost < left
    return b"".join(said[0]), b"".join(said[1])


CLIENT_SAID, SERVER_SAID = transcript()


def hear(role: Role, stream: bytes, ends: list[int]) -> tuple[list[Event], Session]:
    """What a session makes of a byte stream that comes in pieces."""
    heard = session(role)
    if role is Role.CLIENT:
        for _ in range(7):
            heard.open(ECHO, 10.0, 0.0)
        heard.output()
    events: list[Event] = []
    start = 0
    for end in [*sorted(ends), len(stream)]:
        events += heard.receive(stream[start:end], 0.0)
        assert heard.reserved_bytes <= Limits().bytes_per_peer_buffered_max
        start = max(start, end)
    return events, heard


@given(st.sampled_from(Role), st.lists(st.integers(0, len(CLIENT_SAID)), max_size=30))
@settings(max_examples=2_000 if SOAK else 50, deadline=None)
def test_any_fragmentation_gives_the_same_events(role: Role, ends: list[int]) -> None:
    stream = SERVER_SAID if role is Role.CLIENT else CLIENT_SAID
    events, _ = hear(role, stream, [end for end in ends if end < len(stream)])
    assert events == hear(role, stream, [])[0]
    assert not any(isinstance(event, Closed) for event in events)


def mutated(stream: bytes, random_: random.Random) -> bytes:
    """Like something a session might say, and not quite."""
    changed = bytearray(stream[:2_000] if random_.random() < 0.9 else stream)
    for _ in range(random_.randint(1, 8)):
        at = random_.randrange(len(changed))
        match random_.randrange(5):
            case 0:
                changed[at] = random_.randrange(256)
            case 1:
                del changed[at : at + random_.randint(1, 20)]
            case 2:
                changed[at:at] = random_.randbytes(random_.randint(1, 20))
            case 3:
                changed[at:at] = changed[at : at + random_.randint(1, 100)]
            case _:
                changed[at] ^= 1 << random_.randrange(8)
        if not changed:
            changed = bytearray(b"s")
    return bytes(changed)


@pytest.mark.parametrize("role", Role)
def test_any_bytes_give_events_or_one_reason_and_bounded_memory(role: Role) -> None:
    random_ = random.Random(7)
    for _ in range(100_000 if SOAK else 3_000):
        stream = SERVER_SAID if role is Role.CLIENT else CLIENT_SAID
        noise = random_.randbytes(random_.randint(0, 100))
        stream = mutated(stream, random_) if random_.random() < 0.9 else PREAMBLE + noise
        events, heard = hear(role, stream, [random_.randrange(len(stream) + 1)])
        assert sum(isinstance(event, Closed) for event in events) <= 1
        assert (heard.closed is not None) == bool(events and isinstance(events[-1], Closed))
        assert heard.live_count <= Limits().calls_per_peer_max
        heard.tick(1e9)
        while heard.has_output:
            assert len(heard.output()[0]) <= FRAME_BYTES_MAX
        assert (heard.live_count, heard.deadline) == (0, float("inf"))


def test_a_flood_of_refused_calls_congests_instead_of_filling_memory() -> None:
    server = session(Role.SERVER)
    call = itertools.count(1)
    body = open_head(b"x", 1.0)
    server.receive(PREAMBLE, 0.0)
    for _ in range(1000):
        flood = b"".join(HEAD.pack(Kind.OPEN, 0, len(body), next(call)) + body for _ in range(1000))
        server.receive(flood, 0.0)
        while server.has_input and not server.is_congested:
            server.receive(b"", 0.0)
        if server.is_congested:
            break
    assert server.is_congested
    assert next(call) < 60_000


@dataclass
class _Model:
    """What must come of one call in one direction."""

    sent: list[bytes] = field(default_factory=list[bytes])
    got: list[bytes] = field(default_factory=list[bytes])
    unconsumed: int = 0
    is_ended: bool = False


class TwoSessions(RuleBasedStateMachine):
    """Whatever both sides do and however bytes are cut: messages arrive in order, none twice, none changed."""

    def __init__(self) -> None:
        super().__init__()
        self.limits = Limits(calls_per_peer_max=6, bytes_per_peer_buffered_max=3 * MIB)
        self.client = session(Role.CLIENT, self.limits)
        self.server = session(Role.SERVER, self.limits)
        self.wire = {self.client: b"", self.server: b""}  # on its way to
        self.models: dict[tuple[Session, int], _Model] = {}  # by receiver
        self.live: list[int] = []
        self.now = 0.0
        self.count = 0

    def other(self, side: Session) -> Session:
        return self.server if side is self.client else self.client

    def note(self, side: Session, events: list[Event]) -> None:
        for event in events:
            match event:
                case Received(call, data):
                    model = self.models[side, call]
                    model.got.append(bytes(data))
                    model.unconsumed += 1
                    assert model.got == model.sent[: len(model.got)]
                case Stopped(call):
                    side.release(call)
                case Closed(refusal):
                    raise AssertionError(refusal)
                case _:
                    pass

    @initialize()
    def greet(self) -> None:
        self.flush()

    @rule(timeout_s=st.floats(0.01, 20))
    def open(self, timeout_s: float) -> None:
        call = self.client.open(ECHO, timeout_s, self.now)
        if isinstance(call, int):
            self.live.append(call)
            for side in (self.client, self.server):
                self.models[side, call] = _Model()

    @precondition(lambda self: self.live)
    @rule(pick=st.randoms(use_true_random=False), from_client=st.booleans(), is_last=st.booleans(),
          size=st.sampled_from([0, 1, 100, 20_000, 70_000, 700_000]))  # fmt: skip
    def send(self, pick: random.Random, from_client: bool, is_last: bool, size: int) -> None:
        call = pick.choice(self.live)
        side = self.client if from_client else self.server
        self.count += 1
        message = bytes([self.count % 256]) * size
        if side.send(call, message, is_last=is_last) is None:
            self.models[self.other(side), call].sent.append(message)

    @precondition(lambda self: self.live)
    @rule(pick=st.randoms(use_true_random=False), from_client=st.booleans(), what=st.sampled_from(range(5)))
    def act(self, pick: random.Random, from_client: bool, what: int) -> None:
        call = pick.choice(self.live)
        side = self.client if from_client else self.server
        match what:
            case 0:
                side.finish(call)
            case 1:
                side.stop(call, Refusal(Code.REFUSED, "no"))
            case 2:
                side.cancel(call, LEFT)
            case 3:
                side.release(call)
            case _:
                side.consume(call)

    @rule(to_client=st.booleans(), size=st.integers(1, 70_000))
    def deliver(self, to_client: bool, size: int) -> None:
        side = self.client if to_client else self.server
        self.note(self.other(side), self.write(self.other(side)))
        some, self.wire[side] = self.wire[side][:size], self.wire[side][size:]
        self.note(side, side.receive(some, self.now))

    def write(self, side: Session) -> list[Event]:
        data, events = side.output()
        self.wire[self.other(side)] += data
        return events

    @rule(seconds=st.floats(0, 3))
    def wait(self, seconds: float) -> None:
        self.now += seconds
        for side in (self.client, self.server):
            self.note(side, side.tick(self.now))
            assert side.deadline > self.now

    def flush(self) -> None:
        while any(self.wire.values()) or self.client.has_output or self.server.has_output:
            self.deliver(True, 10**9)
            self.deliver(False, 10**9)

    @invariant()
    def bounds_hold(self) -> None:
        for side in (self.client, self.server):
            assert 0 <= side.reserved_bytes <= self.limits.bytes_per_peer_buffered_max
            assert 0 <= side.live_count <= self.limits.calls_per_peer_max

    def teardown(self) -> None:
        self.flush()
        for side in (self.client, self.server):
            for call in self.live:
                side.cancel(call, LEFT)
                side.release(call)
        self.flush()
        for side in (self.client, self.server):
            assert (side.held_count, side.live_count, side.reserved_bytes) == (0, 0, 0)


TwoSessions.TestCase.settings = settings(
    max_examples=2_000 if SOAK else 40,
    stateful_step_count=60,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
test_two_sessions_keep_their_promises = TwoSessions.TestCase


def test_a_queue_above_the_bound_is_reported_when_it_has_drained() -> None:
    pair = Pair()
    call = pair.open()
    pair.client.send(call, bytes(QUEUE_BYTES), is_last=False)
    assert not pair.client.is_full(call)
    pair.client.send(call, b"x", is_last=False)
    assert pair.client.is_full(call)
    pair.pump_to_server()
    assert pair.take()[0] == [Drained(call)]


def test_a_goodbye_without_a_failure_leaves_the_peer_unreachable() -> None:
    client = session(Role.CLIENT)
    (closed,) = client.receive(PREAMBLE + stop_frame(Kind.GOODBYE, 0, None), 0.0)
    assert closed == Closed(Refusal(Code.UNREACHABLE, "the peer closed the session"))


@given(st.lists(st.floats(0, 5), max_size=60), st.floats(0.5, 20), st.integers(1, 10))
def test_a_token_bucket_lets_through_what_it_says(steps: list[float], per_s: float, burst: int) -> None:
    bucket = TokenBucket(per_s, burst)
    now, taken = 100.0, 0
    for step in steps:
        now += step
        taken += bucket.take(now)
        assert taken <= burst + (now - 100.0) * per_s + 1e-6
