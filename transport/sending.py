"""What a session writes next: control frames first, then its calls in turn, as much as one write holds. Pure."""

from collections import deque
from dataclasses import dataclass, field
from typing import Final

from .calls import CallState, Data
from .framing import FRAME_BYTES_MAX

FRAGMENT_BYTES_MAX: Final = 16_000  # while others wait: how long a big message holds up a small one
QUEUE_BYTES: Final = 256 * 1024  # of one call, above which its sender waits
ROOM_BYTES_MIN: Final = 256  # less is left of a write: the next frame goes into the next one


@dataclass(slots=True)
class Write:
    """Bytes to write, at most FRAME_BYTES_MAX, and what they change."""

    data: bytes = b""
    drained: list[CallState] = field(default_factory=list[CallState])  # their senders may go on
    ended: list[CallState] = field(default_factory=list[CallState])  # this was their last frame


class Sending:
    """The frames and calls of one session that have something to send."""

    def __init__(self, first: bytes) -> None:
        self._control: deque[bytes] = deque([first])
        self._turns: deque[CallState] = deque()  # each has something to send and credit for it
        self.control_bytes = len(first)
        self.ready_bytes = len(first)  # in both
        self.queued_bytes = 0  # in all calls, also those that wait for credit

    def is_full(self, call: CallState) -> bool:
        """Whether the call's sender must wait until it is `drained`."""
        return call.queue_bytes > QUEUE_BYTES

    @property
    def has_output(self) -> bool:
        return bool(self._control or self._turns)

    def push(self, frame: bytes) -> None:
        """A control frame: it goes before all messages."""
        self._control.append(frame)
        self.control_bytes += len(frame)
        self.ready_bytes += len(frame)

    def queue(self, call: CallState, data: Data) -> None:
        """A message, to be left unchanged from now on."""
        call.queue.append(data if len(data) <= FRAGMENT_BYTES_MAX else memoryview(data))
        call.queue_bytes += len(data)
        self.queued_bytes += len(data)
        if call.is_ready:
            self.ready_bytes += len(data)
        else:
            self.wake(call)

    def wake(self, call: CallState) -> None:
        """The call may have something to send."""
        if not call.is_ready and call.is_sendable:
            call.is_ready = True
            self._turns.append(call)
            self.ready_bytes += call.queue_bytes

    def drop(self, call: CallState) -> None:
        """The call sends nothing more."""
        if call.is_ready:
            call.is_ready = False
            self._turns.remove(call)
            self.ready_bytes -= call.queue_bytes
        self.queued_bytes -= call.queue_bytes
        call.drop_queue()

    def clear(self) -> None:
        """No call sends anything more; control frames still go out."""
        self._turns.clear()
        self.ready_bytes = self.control_bytes
        self.queued_bytes = 0

    def clear_control(self) -> None:
        self._control.clear()
        self.ready_bytes -= self.control_bytes
        self.control_bytes = 0

    def next_write(self) -> Write:
        """What goes out now: as much of what is ready as fits one write."""
        write = Write()
        parts: list[bytes] = []
        room = FRAME_BYTES_MAX
        while self._control and len(self._control[0]) <= room:
            parts.append(self._control.popleft())
            room -= len(parts[-1])
            self.control_bytes -= len(parts[-1])
            self.ready_bytes -= len(parts[-1])
        while self._turns and room >= ROOM_BYTES_MIN and not self._control:
            call = self._turns.popleft()
            before = call.queue_bytes
            parts.append(call.emit(min(room, FRAGMENT_BYTES_MAX) if self._turns else room))
            room -= len(parts[-1])
            self.queued_bytes -= before - call.queue_bytes
            if call.is_over or not call.is_sendable:
                call.is_ready = False
                self.ready_bytes -= before
            else:
                self._turns.append(call)
                self.ready_bytes -= before - call.queue_bytes
            if call.is_over:
                write.ended.append(call)
            elif before > QUEUE_BYTES >= call.queue_bytes:
                write.drained.append(call)
        write.data = b"".join(parts)
        return write
