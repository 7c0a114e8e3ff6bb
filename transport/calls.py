"""One call of an RPC session: its states, what it has to send and may send, what it is receiving. Pure.

A peer's fragments reach a call only through `Session`, which has checked lengths and bounds; a call holds no more than
it was charged for.
"""

import enum
from typing import Final

from .framing import BEGIN, END, HEAD, LENGTH, Kind
from .port import Code, Refusal

WINDOW_BYTES: Final = 2 * 1024 * 1024  # credit of a fresh call; part of the protocol. Larger: fewer slow readers fit
MESSAGE_COST_BYTES: Final = 64  # charged for each message on top of its bytes, or empty ones would be free

Data = bytes | bytearray


class State(enum.IntEnum):
    """Of a call, seen from one side. (IntEnum: its hash costs a tenth of Enum's, and every message takes a step.)"""

    OPEN = 0  # both sides may send
    SENT_END = 1  # the other side may send
    GOT_END = 2  # this side may send
    OVER = 3  # nobody may send


class Step(enum.IntEnum):
    """What changes the state."""

    SEND_END = 0  # this side ends
    GET_END = 1  # the other side ends
    STOP = 2  # either side gives up


NEXT: Final[dict[tuple[State, Step], State]] = {
    (State.OPEN, Step.SEND_END): State.SENT_END,
    (State.OPEN, Step.GET_END): State.GOT_END,
    (State.OPEN, Step.STOP): State.OVER,
    (State.SENT_END, Step.GET_END): State.OVER,
    (State.SENT_END, Step.STOP): State.OVER,
    (State.GOT_END, Step.SEND_END): State.OVER,
    (State.GOT_END, Step.STOP): State.OVER,
}


_UNENDED: Final = (State.OPEN, State.GOT_END)  # on this side


class CallState:
    """One side of a call. All byte counts of credit include MESSAGE_COST_BYTES per message."""

    __slots__ = (
        "can_get", "credit", "held", "id", "incoming", "incoming_bytes", "is_finishing", "is_over", "is_ready",
        "is_released", "opening", "queue", "queue_bytes", "receive_bytes_max", "send_bytes_max", "sent_bytes", "state",
        "stop", "unread", "window",
    )  # fmt: skip

    def __init__(self, call_id: int, send_bytes_max: int, receive_bytes_max: int, opening: bytes = b"") -> None:
        self.id = call_id
        self.send_bytes_max = send_bytes_max
        self.receive_bytes_max = receive_bytes_max
        self.state = State.OPEN
        self.is_over = False  # as the state says
        self.can_get = True  # the other side may still send messages, as the state says
        self.opening = opening  # what an OPEN says, until it is on its way
        self.queue: list[Data | memoryview] = []  # messages to send: few, and mostly one, for which a deque costs more
        self.queue_bytes = 0
        self.sent_bytes = 0  # of the first of them
        self.is_finishing = False  # this side ends when the queue is empty
        self.stop: bytes | None = None  # a frame to send when the queue is empty
        self.credit = WINDOW_BYTES  # what the peer lets us send
        self.window = WINDOW_BYTES  # what we let the peer send
        self.incoming: bytearray | None = None  # a message of which bytes are still to come
        self.incoming_bytes = 0  # its length
        self.unread: list[int] = []  # costs of messages that are here and not consumed
        self.held = 0  # their sum, and the cost of the incoming one
        self.is_ready = False  # in the session's turn of calls that send
        self.is_released = False  # the owner is done with it

    def advance(self, step: Step) -> None:
        """Raises KeyError where the table has no way: the session has let through what it must not."""
        self.state = NEXT[self.state, step]
        self.is_over = self.state is State.OVER
        self.can_get = self.state < State.GOT_END

    @property
    def can_send(self) -> bool:
        """Whether this side may still queue messages."""
        return not self.is_finishing and self.stop is None and not self.is_over

    @property
    def is_sendable(self) -> bool:
        """Whether `emit` has something to give."""
        if self.is_over:
            return False
        if self.queue:
            return self.credit > (0 if self.sent_bytes else MESSAGE_COST_BYTES)
        has_end = self.is_finishing and self.state in _UNENDED
        return has_end or bool(self.opening) or self.stop is not None

    def emit(self, room: int) -> bytes:
        """The next frame, of at most `room` bytes, which must hold an opening and a byte. Only if `is_sendable`."""
        if self.queue:
            return self._emit_message(room)
        if not self.opening and self.stop is not None:
            self.advance(Step.STOP)
            return self.stop
        kind, opening = self._take_opening()
        return HEAD.pack(kind, self._take_end(), len(opening), self.id) + opening

    def _emit_message(self, room: int) -> bytes:
        """A frame with a message, or as much of it as there is room and credit for."""
        message = self.queue[0]
        kind, opening = self._take_opening()
        flags, length = 0, b""
        if not self.sent_bytes:
            flags, length = BEGIN, LENGTH.pack(len(message))
            self.credit -= MESSAGE_COST_BYTES
        end = self.sent_bytes + min(room - HEAD.size - len(opening) - len(length), self.credit)
        fragment = message[self.sent_bytes : end]
        size = len(fragment)
        self.credit -= size
        self.queue_bytes -= size
        self.sent_bytes += size
        if self.sent_bytes == len(message):
            self.queue.pop(0)
            self.sent_bytes = 0
        flags |= self._take_end()
        return b"".join((HEAD.pack(kind, flags, len(opening) + len(length) + size, self.id), opening, length, fragment))

    def _take_opening(self) -> tuple[Kind, bytes]:
        opening, self.opening = self.opening, b""
        return (Kind.OPEN if opening else Kind.DATA), opening

    def _take_end(self) -> int:
        """END, if the frame on its way is the last."""
        if self.queue or not self.is_finishing:
            return 0
        self.advance(Step.SEND_END)
        return END

    def why_wrong(self, flags: int, body: bytes) -> str | None:
        """Why no honest peer sends this as the next fragment; None: it may."""
        if not self.can_get:
            return "more after the end"
        if self.is_released:
            return None  # whatever it is, nobody reads it
        fragment_bytes, cost, missing = len(body), 0, 0
        if flags & BEGIN:
            if self.incoming is not None or fragment_bytes < LENGTH.size:
                return "a message begins within another, or without its length"
            fragment_bytes, cost, missing = (
                fragment_bytes - LENGTH.size,
                MESSAGE_COST_BYTES,
                LENGTH.unpack_from(body)[0],
            )
        elif self.incoming is not None:
            missing = self.incoming_bytes - len(self.incoming)
            if not fragment_bytes:
                return "an empty fragment"
        elif fragment_bytes or not flags & END:
            return "a fragment of no message"
        if fragment_bytes > missing or cost + fragment_bytes > self.window:
            return "more bytes than announced or credited"
        return "the end within a message" if flags & END and fragment_bytes < missing else None

    def begin(self, message_bytes: int) -> int:
        """A message of this length comes in. Returns the credit to grant, so that it can come in whole."""
        cost = MESSAGE_COST_BYTES + message_bytes
        self.held += cost
        self.window -= MESSAGE_COST_BYTES
        self.incoming, self.incoming_bytes = bytearray(), message_bytes
        grant = max(0, message_bytes - self.window)
        self.window += grant
        return grant

    def add(self, fragment: bytes) -> Data | None:
        """A fragment of the incoming message, in which nothing is wrong. Returns the message when whole."""
        assert self.incoming is not None
        self.window -= len(fragment)
        if not self.incoming and len(fragment) == self.incoming_bytes:
            message: Data = fragment  # the usual case, without a copy
        else:
            self.incoming += fragment
            if len(self.incoming) < self.incoming_bytes:
                return None
            message = self.incoming
        self.incoming = None
        self.unread.append(MESSAGE_COST_BYTES + len(message))
        return message

    def consume(self) -> tuple[int, int]:
        """The oldest unread message was taken. Returns the bytes let go, and the credit to grant."""
        if not self.unread:
            return 0, 0
        cost = self.unread.pop(0)
        self.held -= cost
        to_come = self.incoming_bytes - len(self.incoming) if self.incoming is not None else 0
        grant = WINDOW_BYTES - self.window - (self.held - to_come)
        if grant < WINDOW_BYTES // 2 or not self.can_get:
            return cost, 0
        self.window += grant
        return cost, grant

    def drop_incoming(self) -> int:
        """Forget the message that is being received. Returns the bytes let go."""
        if self.incoming is None:
            return 0
        cost = MESSAGE_COST_BYTES + self.incoming_bytes
        self.incoming = None
        self.held -= cost
        return cost

    def drop_received(self) -> int:
        """Forget what was received and not consumed. Returns the bytes let go."""
        held, self.held = self.held, 0
        self.unread.clear()
        self.incoming = None
        return held

    def drop_queue(self) -> None:
        self.queue.clear()
        self.queue_bytes = self.sent_bytes = 0


def too_large(message_bytes: int, bytes_max: int) -> Refusal:
    return Refusal(Code.TOO_LARGE, f"a message of {message_bytes} bytes exceeds the limit of {bytes_max}")
