"""The yamux protocol (hashicorp/yamux, spec.md): many streams over one connection, as a state machine without I/O.

Everything that decides about frames, windows and signs of life lives here. Bytes and the time go in by `receive` and
`tick`; bytes come out of `take`, and the streams that changed out of `receive`. Both sides run the same code; they
differ only in who uses odd stream ids.

libp2p's own yamux is not used because it does not hold a peer to its window (a stream nobody reads grows without
bound), resets a stream whose reader pauses for 5 s, stops at 256 streams, sends pings and draws no conclusion, and
loses the connection when a writer is cancelled in mid-frame. None of that can be changed from outside.

What a malicious peer may send: any bytes. What it achieves: the end of its connection, with a reason. What it cannot:
have more buffered here than the windows it was granted (256 KiB a stream, and together WINDOWS_BYTES_MAX more for those
that read fast), have more than `streams_max` streams, make this side queue answers that it does not take
(ANSWERS_MAX), or stay without answering pings (DEAD_S).
"""

import enum
import math
import struct
from collections import deque
from collections.abc import Callable
from typing import Final

DATA_BYTES_MAX: Final = 65_000  # in one frame, with which it fits one Noise message; 64 KiB would split in two (-25%)
WRITE_BYTES_MAX: Final = 65_519  # of the plaintext of a Noise message
QUEUE_BYTES_MAX: Final = 256 * 1024  # ready to be written: above it senders wait; smaller: they wait for one another
FRESH_WINDOW_BYTES: Final = 256 * 1024  # of every new stream, by the specification
STREAM_WINDOW_BYTES_MAX: Final = 8 * 1024 * 1024  # smaller: slower over long distances (80 MB/s at 100 ms)
WINDOWS_BYTES_MAX: Final = 16 * 1024 * 1024  # what all streams' windows may grow to together; memory per connection
FRAMES_AT_ONCE: Final = 256  # looked at before others get their turn: 1 ms; large ones come four at a time
ANSWERS_MAX: Final = 1024  # pongs, resets and window updates that wait to be written
PING_S: Final = 4.0
DEAD_S: Final = 12.0  # shorter: a busy machine is taken for a dead one; longer: a dead one holds up a round
DOUBT_S: Final = 2.5  # the same for one that is in doubt, as its other side or this one seems to be elsewhere
STUCK_S: Final = 60.0  # for who sends but answers no ping: it does not read, or a very slow line is full
LINGER_S: Final = 5.0  # how long the other side may take to end a stream that was closed here
GROW_S: Final = 0.02  # a half window read within this time, or within 4 round trips, doubles the window

_HEAD: Final = struct.Struct(">BBHII")  # version, kind, flags, stream, length
_SYN, _ACK, _FIN, _RST = 1, 2, 4, 8


class _Kind(enum.IntEnum):
    DATA = 0
    WINDOW = 1
    PING = 2
    GO_AWAY = 3


_WORDS: Final = {0: "normally", 1: "for a protocol error", 2: "for an error of its own"}


class MuxStream:
    """One stream's state. Read it; change it only through `Mux`."""

    __slots__ = (
        "abandoned_at", "buffer", "has_ended", "has_finished", "id", "is_reset", "on_change", "send_window", "unread",
        "updated_at", "window",
    )  # fmt: skip

    def __init__(self, stream_id: int) -> None:
        self.id = stream_id
        self.on_change: Callable[[], None] | None = None  # the shell's, to wake who waits; never called here
        self.buffer = bytearray()  # received and not yet read
        self.unread = FRESH_WINDOW_BYTES  # what the other side may still send
        self.window = FRESH_WINDOW_BYTES  # what it may have on the way at most
        self.updated_at = -math.inf  # when it was last allowed to send more
        self.send_window = FRESH_WINDOW_BYTES
        self.has_finished = False  # this side sends nothing more
        self.has_ended = False  # the other side sends nothing more
        self.is_reset = False
        self.abandoned_at: float | None = None  # closed here; what still comes is thrown away


class Mux:
    """One connection's state.

    Args:
        is_initiator: who dialed uses odd stream ids.
        streams_max: that the other side may have open.
        now: the time, in seconds of any monotonic clock.
    """

    def __init__(self, is_initiator: bool, streams_max: int, now: float) -> None:
        self.over: str | None = None  # why the connection is at its end
        self.rtt_s: float | None = None
        self.carried_bytes = 0  # of streams, in both directions; signs of life are none
        self.streams: dict[int, MuxStream] = {}
        self._streams_max = streams_max
        self._parity = 1 if is_initiator else 0
        self._next_id = 1 if is_initiator else 2
        self._theirs = 0  # streams that the other side opened and that are not yet forgotten
        self._grown = 0  # bytes by which windows exceed FRESH_WINDOW_BYTES
        self._out: deque[bytes] = deque()
        self._out_bytes = 0
        self.pushed_bytes = 0  # all that was ever queued
        self._answers = 0
        self._rest: bytes | memoryview = b""  # what `receive` did not get to
        self._head = bytearray()  # of a frame that is not whole yet
        self._body_left = 0
        self._body_of: MuxStream | None = None
        self._end_after_body = 0  # flags of the frame whose body is on the way
        self._heard_at = now
        self._ping_id = 0
        self._pinged_at = now - PING_S
        self._is_pinging = False  # a ping is not answered yet
        self._doubted_at = -math.inf

    # Bytes in and out.

    def receive(self, data: bytes, now: float) -> list[MuxStream]:
        """What the other side sent. Returns the streams that changed, new ones among them, in order.

        At most FRAMES_AT_ONCE frames are looked at; while `has_input`, call it again, with or without more.
        After a violation `over` says why; nothing that follows is looked at.
        """
        self._heard_at = now
        changed: dict[int, MuxStream] = {}
        view = memoryview(b"".join((self._rest, data)) if self._rest else data)
        frames_at_most = FRAMES_AT_ONCE
        while len(view) and self.over is None and frames_at_most:
            if self._body_left:
                view = self._take_body(view, changed)
                continue
            missing = _HEAD.size - len(self._head)
            self._head += view[:missing]
            view = view[missing:]
            if len(self._head) == _HEAD.size:
                head = bytes(self._head)
                self._head.clear()
                self._take_head(head, now, changed)
                frames_at_most -= 1
        self._rest = view
        return list(changed.values())

    @property
    def has_input(self) -> bool:
        """Whether more is here than the last `receive` looked at."""
        return self.over is None and len(self._rest) > 0

    def take(self) -> bytes:
        """The next bytes to write, at most WRITE_BYTES_MAX; none if there is nothing to say."""
        out = self._out
        if not out:
            return b""
        frames = [out.popleft()]
        size = len(frames[0])
        while out and size + len(out[0]) <= WRITE_BYTES_MAX:
            size += len(out[0])
            frames.append(out.popleft())
        self._out_bytes -= size
        self._answers = min(self._answers, len(out))  # at most so many still wait; cheaper than telling frames apart
        return frames[0] if len(frames) == 1 else b"".join(frames)

    @property
    def has_output(self) -> bool:
        return bool(self._out)

    @property
    def is_congested(self) -> bool:
        """Whether senders must wait until more was taken."""
        return self._out_bytes >= QUEUE_BYTES_MAX

    def tick(self, now: float) -> float:
        """Ping, give up on who is silent, end what lingers. Returns when to call again at the latest."""
        if now - self._heard_at >= DEAD_S:
            self.end(f"no sign of life for {now - self._heard_at:.0f} s")
        elif self._is_pinging and now - self._pinged_at >= STUCK_S:
            self.end(f"no answer to a ping for {now - self._pinged_at:.0f} s")
        elif self._is_in_doubt and now >= self._doubted_at + DOUBT_S:
            self.end(f"no sign of life for {now - self._doubted_at:.0f} s, and one of both sides seems to be elsewhere")
        elif not self._is_pinging and now - self._pinged_at >= PING_S:
            self._ping(now)
        for stream in list(self.streams.values()):
            if stream.abandoned_at is not None and now - stream.abandoned_at >= LINGER_S:
                self.reset(stream)
        doubt_ends_at = self._doubted_at + DOUBT_S if self._is_in_doubt else math.inf
        return min(now + PING_S, self._heard_at + DEAD_S, doubt_ends_at)

    def doubt(self, now: float) -> None:
        """The other side may be gone: without a sign of life within DOUBT_S this is the end."""
        if not self._is_in_doubt:  # or whoever doubts again and again would never know
            self._doubted_at = now
        if not self._is_pinging:
            self._ping(now)

    @property
    def _is_in_doubt(self) -> bool:
        return self._doubted_at >= self._heard_at

    def _ping(self, now: float) -> None:
        self._is_pinging = True
        self._ping_id = (self._ping_id + 1) % 2**32
        self._pinged_at = now
        self._put(_Kind.PING, _SYN, 0, self._ping_id)

    def end(self, reason: str) -> None:
        """The connection is at its end, and with it all streams. The first reason stands."""
        if self.over is None:
            self.over = reason
        for stream in self.streams.values():
            stream.is_reset = True

    # Streams.

    def open(self) -> MuxStream:
        """A new stream of this side's."""
        stream = MuxStream(self._next_id)
        self._next_id += 2
        self.streams[stream.id] = stream
        self._put(_Kind.WINDOW, _SYN, stream.id, 0)
        return stream

    def send(self, stream: MuxStream, data: memoryview) -> int:
        """Queue the beginning of `data`, as much as window and queue allow. Returns how much; 0: wait for a change."""
        if stream.is_reset or stream.has_finished or self.is_congested:
            return 0
        size = min(len(data), stream.send_window, DATA_BYTES_MAX)
        if size:
            stream.send_window -= size
            self.carried_bytes += size
            self._push(b"".join((_HEAD.pack(0, _Kind.DATA, 0, stream.id, size), data[:size])))
        return size

    def read(self, stream: MuxStream, bytes_max: int, now: float) -> bytes:
        """Up to `bytes_max` of what has come, for which the other side may then send more."""
        data = bytes(memoryview(stream.buffer)[:bytes_max])
        del stream.buffer[:bytes_max]
        if not stream.has_ended and not stream.is_reset:
            self._grant(stream, now)
        return data

    def finish(self, stream: MuxStream) -> None:
        """This side sends nothing more on `stream`."""
        if not stream.has_finished and not stream.is_reset:
            stream.has_finished = True
            self._put(_Kind.WINDOW, _FIN, stream.id, 0)
            self._forget_if_done(stream)

    def abandon(self, stream: MuxStream, now: float) -> None:
        """Neither side's bytes matter any more; what was sent is still delivered."""
        self.finish(stream)
        stream.buffer.clear()
        if stream.id in self.streams and stream.abandoned_at is None:
            stream.abandoned_at = now

    def reset(self, stream: MuxStream) -> None:
        """End `stream` in both directions at once."""
        if not stream.is_reset and stream.id in self.streams:
            stream.is_reset = True
            stream.buffer.clear()
            self._put(_Kind.WINDOW, _RST, stream.id, 0)
            self._forget(stream)

    # Frames.

    def _take_head(self, head: bytes, now: float, changed: dict[int, MuxStream]) -> None:
        version, kind, flags, stream_id, length = _HEAD.unpack(head)
        if version != 0 or kind > _Kind.GO_AWAY or flags > 15:
            self.end(f"a yamux frame of version {version}, kind {kind}, flags {flags}")
        elif kind == _Kind.PING:
            self._take_ping(flags, length, now)
        elif kind == _Kind.GO_AWAY:
            self.end(f"the other side ended the connection {_WORDS.get(length, 'for a reason of its own')}")
        else:
            stream = self._accept(stream_id) if flags & _SYN else self.streams.get(stream_id)
            if kind == _Kind.DATA and length:
                self._expect_body(stream, flags, length)
            elif stream is not None:
                if kind == _Kind.WINDOW:
                    stream.send_window += length
                self._take_end(stream, flags)
            if stream is not None:
                changed[stream_id] = stream

    def _accept(self, stream_id: int) -> MuxStream | None:
        """The other side opens a stream; None if it was refused."""
        if stream_id % 2 == self._parity or stream_id == 0 or stream_id in self.streams:
            self.end(f"it opened stream {stream_id}, which is not its to open")
            return None
        if self._theirs >= self._streams_max:
            self._answer(_Kind.WINDOW, _RST, stream_id, 0)
            return None
        stream = self.streams[stream_id] = MuxStream(stream_id)
        self._theirs += 1
        self._answer(_Kind.WINDOW, _ACK, stream_id, 0)
        return stream

    def _expect_body(self, stream: MuxStream | None, flags: int, length: int) -> None:
        if stream is not None:
            if length > stream.unread:
                self.end(f"{length} bytes where {stream.unread} were allowed")
                return
            if stream.has_ended:
                self.end("data on a stream that it had ended")
                return
            stream.unread -= length
        self._body_left, self._body_of, self._end_after_body = length, stream, flags

    def _take_body(self, view: memoryview, changed: dict[int, MuxStream]) -> memoryview:
        piece = view[: self._body_left]
        self._body_left -= len(piece)
        self.carried_bytes += len(piece)
        stream = self._body_of
        if stream is not None and not stream.is_reset:
            if stream.abandoned_at is None:
                stream.buffer += piece
                changed[stream.id] = stream
            if not self._body_left:
                self._take_end(stream, self._end_after_body)
        return view[len(piece) :]

    def _take_end(self, stream: MuxStream, flags: int) -> None:
        if flags & _RST:
            stream.is_reset = True
            stream.buffer.clear()
            self._forget(stream)
        elif flags & _FIN:
            stream.has_ended = True
            self._forget_if_done(stream)

    def _take_ping(self, flags: int, value: int, now: float) -> None:
        if flags & _SYN:
            self._answer(_Kind.PING, _ACK, 0, value)
        elif flags & _ACK and self._is_pinging and value == self._ping_id:
            self._is_pinging = False
            rtt_s = max(0.0, now - self._pinged_at)
            self.rtt_s = rtt_s if self.rtt_s is None else 0.75 * self.rtt_s + 0.25 * rtt_s

    # What all that rests on.

    def _grant(self, stream: MuxStream, now: float) -> None:
        """Let the other side send more once half the window was read; let the window of a fast reader grow."""
        free = stream.window - stream.unread - len(stream.buffer)
        if 2 * free < stream.window:
            return
        is_fast = now - stream.updated_at < max(GROW_S, 4 * (self.rtt_s or 0.0))
        growth = stream.window
        if is_fast and 2 * growth <= STREAM_WINDOW_BYTES_MAX and self._grown + growth <= WINDOWS_BYTES_MAX:
            self._grown += growth
            stream.window += growth
            free += growth
        stream.updated_at = now
        stream.unread += free
        self._answer(_Kind.WINDOW, 0, stream.id, free)

    def _forget_if_done(self, stream: MuxStream) -> None:
        if stream.has_finished and stream.has_ended:
            self._forget(stream)

    def _forget(self, stream: MuxStream) -> None:
        if self.streams.pop(stream.id, None) is not None:
            self._grown -= stream.window - FRESH_WINDOW_BYTES
            if stream.id % 2 != self._parity:
                self._theirs -= 1

    def _answer(self, kind: _Kind, flags: int, stream_id: int, length: int) -> None:
        """Queue what the other side's frame made necessary; who asks and does not take the answers is cut off."""
        self._answers += 1
        if self._answers > ANSWERS_MAX:
            self.end(f"{ANSWERS_MAX} answers wait for it, and it does not read them")
        self._put(kind, flags, stream_id, length)

    def _put(self, kind: _Kind, flags: int, stream_id: int, length: int) -> None:
        self._push(_HEAD.pack(0, kind, flags, stream_id, length))

    def _push(self, frame: bytes) -> None:
        self._out.append(frame)
        self._out_bytes += len(frame)
        self.pushed_bytes += len(frame)
