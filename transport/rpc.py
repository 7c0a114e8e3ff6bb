"""The RPC session: many calls on one byte stream, as a state machine without I/O.

What concerns more than one call lives here: limits, deadlines, whose turn it is to send, whose fault an error is.
The side that opened the stream makes calls (CLIENT), the other answers them (SERVER); but for `open` and OPEN frames
both run the same code. The session never reads a clock: `now` goes in, `deadline` comes out.

What a malicious peer may send: any bytes, in any pieces. What it achieves: one refusal per call (unknown method, too
large, busy, too fast) or, where a frame breaks the rules, one GOODBYE and the end of its session. What it cannot: make
this side hold more than `bytes_per_peer_buffered_max` of its messages plus a frame (each message is refused or paid for
when its length is read, before its bytes), have more than `calls_per_peer_max` calls open, keep a call past its
deadline, or reach a call of another session.
"""

import enum
import heapq
import math
from collections.abc import Mapping
from typing import Final, Protocol

from .calls import MESSAGE_COST_BYTES, CallState, Data, Step, too_large
from .framing import (
    BEGIN,
    CALL_MAX,
    CREDIT_MAX,
    END,
    LENGTH,
    PREAMBLE,
    TIMEOUT_S_MAX,
    Frame,
    FrameCutter,
    Kind,
    credit_frame,
    open_head,
    parse_credit,
    parse_open,
    parse_stop,
    stop_frame,
)
from .limits import Limits
from .port import Code, Refusal
from .rpc_events import Closed, Drained, Event, Finished, Opened, Received, Stopped
from .sending import Sending
from .token_bucket import TokenBucket
from .wire import WIRE_VERSION, Malformed

CONGESTED_BYTES: Final = 1024 * 1024  # ready and not taken by the peer: above it nothing more is read from it
LINGERING_FACTOR: Final = 2  # calls whose handler still cleans up count against this multiple of the limit
DEADLINES_SPARE: Final = 64  # dead ones kept before the heap is rebuilt


class Role(enum.Enum):
    CLIENT = "makes calls"
    SERVER = "answers them"


class Bounds(Protocol):
    """What the session must know of a method."""

    @property
    def name(self) -> str: ...
    @property
    def request_bytes_max(self) -> int: ...
    @property
    def reply_bytes_max(self) -> int: ...


class Session:
    """One end of an RPC stream. Every call must be let go with `release`.

    Args:
        methods: by name, what this side answers; looked up when a call comes in. A client has none.
        bucket: the peer's: it outlives the session.
    """

    def __init__(self, role: Role, limits: Limits, methods: Mapping[bytes, Bounds], bucket: TokenBucket) -> None:
        self._role, self._limits, self._methods, self._bucket = role, limits, methods, bucket
        self._cutter = FrameCutter()
        self._calls: dict[int, CallState] = {}
        self.live_count = 0  # calls that are not over
        self._last_call = 0
        self._deadlines: list[tuple[float, int]] = []
        self._sending = Sending(PREAMBLE)
        self.reserved_bytes = 0  # for the peer's messages, here or on the way
        self.closed: Refusal | None = None  # why the session is over

    @property
    def deadline(self) -> float:
        """When `tick` is to be called."""
        while self._deadlines and self._is_dead(self._deadlines[0][1]):
            heapq.heappop(self._deadlines)
        return self._deadlines[0][0] if self._deadlines else math.inf

    @property
    def has_output(self) -> bool:
        return self._sending.has_output

    @property
    def has_input(self) -> bool:
        """Whether more is here than the last `receive` took in: call it again, with or without more bytes."""
        return self.closed is None and self._cutter.has_more

    @property
    def is_congested(self) -> bool:
        """The peer does not take what is ready for it: read nothing from it until it does.

        Requests do not count: a client that stops reading while its server waits for it to take replies, and therefore
        reads nothing either, would wait for ever.
        """
        sending = self._sending
        return (sending.control_bytes if self._role is Role.CLIENT else sending.ready_bytes) > CONGESTED_BYTES

    @property
    def held_count(self) -> int:
        """Calls that are not over or not released."""
        return len(self._calls)

    def open(self, method: Bounds, timeout_s: float, now: float) -> int | Refusal:
        """Begin a call. Refused when the session is over or has as many calls as the other side allows."""
        if self.closed is not None:
            return self.closed
        if self.live_count >= self._limits.calls_per_peer_max:
            return Refusal(Code.BUSY, f"{self.live_count} calls to this peer are open already")
        if self._last_call == CALL_MAX:
            return Refusal(Code.UNREACHABLE, "all call numbers of this session are used up")
        timeout_s = min(timeout_s, TIMEOUT_S_MAX)
        opening = open_head(method.name.encode(), timeout_s)
        self._last_call += 1
        call = CallState(self._last_call, method.request_bytes_max, method.reply_bytes_max, opening)
        self._insert(call, now + timeout_s)
        self._sending.wake(call)
        return call.id

    def send(self, call_id: int, data: Data, *, is_last: bool) -> Refusal | None:
        """Queue a message, to be left unchanged from now on. Refused if it exceeds the method's bound."""
        call = self._calls.get(call_id)
        if call is None or not call.can_send:
            return Refusal(Code.CANCELLED, "the call is over")
        if len(data) > call.send_bytes_max:
            return too_large(len(data), call.send_bytes_max)
        call.is_finishing = is_last
        self._sending.queue(call, data)
        return None

    def is_full(self, call_id: int) -> bool:
        """Whether the call's sender must wait for `Drained`."""
        call = self._calls.get(call_id)
        return call is not None and self._sending.is_full(call)

    def finish(self, call_id: int) -> None:
        """Nothing more will be sent from this side."""
        call = self._calls.get(call_id)
        if call is not None and call.can_send:
            call.is_finishing = True
            self._sending.wake(call)

    def stop(self, call_id: int, refusal: Refusal | None) -> None:
        """End the call from this side, after what is queued. None: nothing failed."""
        call = self._calls.get(call_id)
        if call is not None and call.stop is None and not call.is_over:
            call.stop = stop_frame(Kind.STOP, call.id, refusal)
            call.is_finishing = False
            self._sending.wake(call)

    def cancel(self, call_id: int, refusal: Refusal) -> None:
        """End the call from this side at once. What is queued is dropped."""
        call = self._calls.get(call_id)
        if call is not None and not call.is_over:
            self._cancel(call, refusal)

    def consume(self, call_id: int) -> None:
        """The oldest message received was taken: the peer may send as much again."""
        call = self._calls.get(call_id)
        if call is not None:
            cost, grant = call.consume()
            self.reserved_bytes -= cost
            self._grant(call, grant)

    def release(self, call_id: int) -> None:
        """The owner is done with the call: what was received is dropped, what is queued goes out, and it ends."""
        call = self._calls.get(call_id)
        if call is None:
            return
        call.is_released = True
        self.reserved_bytes -= call.drop_received()
        if call.is_over:
            del self._calls[call_id]
        elif not (call.is_finishing and not call.can_get):
            self.stop(call_id, None)

    def tick(self, now: float) -> list[Event]:
        """Give up calls whose time is up."""
        events: list[Event] = []
        while self.deadline <= now:
            call = self._calls[heapq.heappop(self._deadlines)[1]]
            refusal = Refusal(Code.DEADLINE_EXCEEDED, "no answer in time")
            self._cancel(call, refusal)
            if not call.is_released:
                events.append(Stopped(call.id, refusal))
        return events

    def output(self) -> tuple[bytes, list[Event]]:
        """The next bytes to write, at most FRAME_BYTES_MAX, shared by all that is ready."""
        write = self._sending.next_write()
        for call in write.ended:
            self._end(call)
        return write.data, [Drained(call.id) for call in write.drained]

    def receive(self, data: bytes, now: float) -> list[Event]:
        """Take in what the stream gave, at most FRAMES_AT_ONCE frames at a time: see `has_input`."""
        events: list[Event] = []
        if self.closed is not None:
            return events
        frames = self._cutter.cut(data)
        version = self._cutter.version
        if version is not None and version != WIRE_VERSION:
            text = f"needs a newer Shoal: one side speaks version {WIRE_VERSION}, the other {version}"
            self._violate(Refusal(Code.NEEDS_NEWER, text), events)
            return events
        for frame in frames:
            self._handle(frame, now, events)
            if self.closed is not None:
                return events
        if self._cutter.violation is not None:
            self._violate(self._cutter.violation, events)
        return events

    def abort(self, reason: str) -> list[Event]:
        """The stream broke or ended."""
        if self.closed is not None:
            return []
        self._sending.clear_control()
        return [self._close(Refusal(Code.UNREACHABLE, reason))]

    # What comes in.

    def _handle(self, frame: Frame, now: float, events: list[Event]) -> None:
        if frame.kind == Kind.OPEN:
            self._handle_open(frame, now, events)
        elif frame.kind == Kind.GOODBYE:
            self._handle_goodbye(frame, events)
        elif frame.call > self._last_call:
            self._violate(Malformed(f"a frame for call {frame.call}, which was never opened"), events)
        else:
            call = self._calls.get(frame.call)
            if call is None or call.is_over:
                return  # it has just ended on this side: what was on its way is dropped
            if frame.kind == Kind.DATA:
                self._handle_data(call, frame.flags, frame.body, events)
            elif frame.kind == Kind.CREDIT:
                self._handle_credit(call, frame, events)
            else:
                self._handle_stop(call, frame, events)

    def _handle_goodbye(self, frame: Frame, events: list[Event]) -> None:
        refusal = parse_stop(frame.body)
        if isinstance(refusal, Malformed):
            self._violate(refusal, events)
        else:
            self._sending.clear_control()
            events.append(self._close(refusal or Refusal(Code.UNREACHABLE, "the peer closed the session")))

    def _handle_credit(self, call: CallState, frame: Frame, events: list[Event]) -> None:
        credit = parse_credit(frame.body)
        if isinstance(credit, Malformed) or call.credit + credit > CREDIT_MAX:
            self._violate(Malformed(f"call {call.id}: credit for more than {CREDIT_MAX} bytes, or none"), events)
        else:
            call.credit += credit
            self._sending.wake(call)

    def _handle_stop(self, call: CallState, frame: Frame, events: list[Event]) -> None:
        refusal = parse_stop(frame.body)
        if isinstance(refusal, Malformed):
            self._violate(refusal, events)
            return
        self._give_up(call)
        if not call.is_released:
            events.append(Stopped(call.id, refusal))
        self._end(call)

    def _handle_open(self, frame: Frame, now: float, events: list[Event]) -> None:
        opening = parse_open(frame.body)
        if self._role is Role.CLIENT:
            opening = Malformed("a call from the side that answers calls")
        elif frame.call <= self._last_call:
            opening = Malformed(f"call {frame.call} was opened after call {self._last_call}")
        if isinstance(opening, Malformed):
            self._violate(opening, events)
            return
        self._last_call = frame.call
        method = self._methods.get(opening.method)
        refusal = self._why_not(opening.method, method, now)
        if refusal is not None or method is None:
            self._sending.push(stop_frame(Kind.STOP, frame.call, refusal))
            return
        call = CallState(frame.call, method.reply_bytes_max, method.request_bytes_max)
        self._insert(call, now + opening.timeout_s)
        events.append(Opened(call.id, opening.method))
        if frame.flags or opening.rest:
            self._handle_data(call, frame.flags, opening.rest, events)

    def _why_not(self, name: bytes, method: Bounds | None, now: float) -> Refusal | None:
        limits = self._limits
        if not self._bucket.take(now):
            return Refusal(Code.BUSY, f"more than {limits.requests_per_peer_per_s:g} requests per second")
        if self.live_count >= limits.calls_per_peer_max or len(self._calls) >= (
            LINGERING_FACTOR * limits.calls_per_peer_max
        ):
            return Refusal(Code.BUSY, f"more than {limits.calls_per_peer_max} calls at once")
        if self._sending.queued_bytes > limits.bytes_per_peer_buffered_max:
            return Refusal(Code.BUSY, f"{self._sending.queued_bytes} bytes of replies wait to be taken")
        if method is None:
            return Refusal(Code.UNKNOWN_METHOD, f"no method {name.decode(errors='replace')!r} here")
        return None

    def _handle_data(self, call: CallState, flags: int, body: bytes, events: list[Event]) -> None:
        reason = call.why_wrong(flags, body)
        if reason is not None:
            self._violate(Malformed(f"call {call.id}: {reason}"), events)
            return
        message: Data | None = None
        if flags & BEGIN and not call.is_released:
            message_bytes: int = LENGTH.unpack_from(body)[0]
            refusal = self._why_no_message(call, message_bytes)
            if refusal is not None:
                self._cancel(call, refusal)
                events.append(Stopped(call.id, refusal))
                return
            self.reserved_bytes += MESSAGE_COST_BYTES + message_bytes
            self._grant(call, call.begin(message_bytes))
            body = body[LENGTH.size :]
        if call.incoming is not None:
            message = call.add(body)
        is_end = bool(flags & END)
        if is_end:
            call.advance(Step.GET_END)
        if message is not None:
            events.append(Received(call.id, message, is_end))
        elif is_end and not call.is_released:
            events.append(Finished(call.id))
        if call.is_over:
            self._sending.drop(call)  # a STOP that waited for its turn has become needless
            self._end(call)

    def _why_no_message(self, call: CallState, message_bytes: int) -> Refusal | None:
        bytes_max = min(call.receive_bytes_max, self._limits.message_bytes_max)
        if message_bytes > bytes_max:
            return too_large(message_bytes, bytes_max)
        if self.reserved_bytes + MESSAGE_COST_BYTES + message_bytes > self._limits.bytes_per_peer_buffered_max:
            return Refusal(Code.BUSY, f"{self.reserved_bytes} bytes of this peer wait to be consumed already")
        return None

    # What changes a call.

    def _insert(self, call: CallState, deadline: float) -> None:
        self._calls[call.id] = call
        self.live_count += 1
        heapq.heappush(self._deadlines, (deadline, call.id))
        if len(self._deadlines) > 2 * len(self._calls) + DEADLINES_SPARE:
            self._deadlines = [entry for entry in self._deadlines if not self._is_dead(entry[1])]
            heapq.heapify(self._deadlines)

    def _is_dead(self, call_id: int) -> bool:
        call = self._calls.get(call_id)
        return call is None or call.is_over

    def _grant(self, call: CallState, grant: int) -> None:
        if grant and not call.is_over:
            self._sending.push(credit_frame(call.id, grant))

    def _cancel(self, call: CallState, refusal: Refusal) -> None:
        if not call.opening:
            self._sending.push(stop_frame(Kind.STOP, call.id, refusal))
        self._give_up(call)
        self._end(call)

    def _give_up(self, call: CallState) -> None:
        self._sending.drop(call)
        self.reserved_bytes -= call.drop_incoming()
        call.advance(Step.STOP)

    def _end(self, call: CallState) -> None:
        """The call has just become over."""
        self.live_count -= 1
        if call.is_released:
            del self._calls[call.id]

    def _violate(self, reason: Malformed | Refusal, events: list[Event]) -> None:
        """The peer broke the rules: say so and close."""
        refusal = Refusal(Code.MALFORMED, reason.reason) if isinstance(reason, Malformed) else reason
        self._sending.push(stop_frame(Kind.GOODBYE, 0, refusal))
        events.append(self._close(refusal))

    def _close(self, refusal: Refusal) -> Closed:
        self.closed = refusal
        self._sending.clear()
        self._calls.clear()
        self._deadlines.clear()
        self.live_count = self.reserved_bytes = 0
        return Closed(refusal)
