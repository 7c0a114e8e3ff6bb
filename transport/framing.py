"""How RPC frames lie in a byte stream: the preamble, the frame head, and what each kind of frame carries.

A peer can send any bytes in pieces of any size. It gets whole frames cut from them, or one reason why there are none;
at most one frame (FRAME_BYTES_MAX) is ever held back while the rest of it is on the way.
"""

import enum
import struct
from typing import Final

import msgspec

from .port import Code, Refusal
from .wire import WIRE_VERSION, Malformed

MAGIC: Final = b"shoal"
PREAMBLE: Final = MAGIC + bytes([WIRE_VERSION])  # first on the stream, in both directions; the same in all versions
FRAME_BYTES_MAX: Final = 65_000  # one write: a 64 KiB yamux frame would split into two Noise messages (measured: -25%)
FRAMES_AT_ONCE: Final = 256  # cut at once: 2 ms of work; large ones come a few dozen at a time
METHOD_BYTES_MAX: Final = 128
REASON_BYTES_MAX: Final = 1024
CALL_MAX: Final = 2**32 - 1  # calls of a session are numbered from 1, ascending
CREDIT_MAX: Final = 2**32 - 1  # of one call, together
TIMEOUT_S_MAX: Final = 86_400.0  # longer timeouts are cut to a day

HEAD: Final = struct.Struct(">BBHI")  # kind, flags, bytes of the body, call
LENGTH: Final = struct.Struct(">I")  # of a message, at its beginning
OPEN_HEAD: Final = struct.Struct(">IB")  # timeout in ms, bytes of the method's name

BEGIN: Final = 1  # flag: a message begins here, its length first
END: Final = 2  # flag: this side sends nothing after this frame


class Kind(enum.IntEnum):
    """The numbers are on the wire."""

    OPEN = 1  # timeout, method, and as DATA
    DATA = 2  # a message, or a fragment of it
    CREDIT = 3  # so many bytes more may be sent
    STOP = 4  # the call is over: code (0: nothing failed) and reason
    GOODBYE = 5  # the session is over: code and reason; call is 0. The same in all versions


_FLAGS_ALLOWED: Final = {1: BEGIN | END, 2: BEGIN | END, 3: 0, 4: 0, 5: 0}
_CODES: Final = {code.value: code for code in Code if code is not Code.UNREACHABLE}


class Frame(msgspec.Struct, frozen=True, gc=False):
    """One frame, its body not yet looked at."""

    kind: int
    flags: int
    call: int
    body: bytes


class FrameCutter:
    """Cuts a byte stream, which comes in pieces of any size, into its preamble and frames.

    At most FRAMES_AT_ONCE at a time: a megabyte of the smallest frames would take a second to answer.
    """

    def __init__(self) -> None:
        self._rest = b""
        self.version: int | None = None  # of the other side, once its preamble is here
        self.violation: Malformed | None = None  # after it nothing more is cut

        self.has_more = False  # frames that `cut` did not get to: call it again, with or without more bytes

    @property
    def held_bytes(self) -> int:
        """Of a frame whose rest is on the way."""
        return len(self._rest)

    def cut(self, data: bytes) -> list[Frame]:
        """The frames that are whole now. After bytes that are no frame, `violation` says why."""
        frames: list[Frame] = []
        if self.violation is not None:
            return frames
        data = self._rest + data if self._rest else data
        at = 0
        if self.version is None:
            if not data.startswith(MAGIC[: len(data)]):
                self.violation = Malformed(f"the stream does not begin with {MAGIC!r}, as Shoal's do")
                return frames
            if len(data) >= len(PREAMBLE):
                self.version = data[len(MAGIC)]
                at = len(PREAMBLE)
        if self.version is not None:
            at = self._cut_frames(data, at, frames)
        self._rest = b"" if self.violation is not None else data[at:]
        return frames

    def _cut_frames(self, data: bytes, at: int, frames: list[Frame]) -> int:
        end = len(data)
        self.has_more = False
        while end - at >= HEAD.size:
            if len(frames) == FRAMES_AT_ONCE:
                self.has_more = True
                break
            kind, flags, length, call = HEAD.unpack_from(data, at)
            if length > FRAME_BYTES_MAX - HEAD.size:
                self.violation = Malformed(f"a frame of {length} bytes exceeds {FRAME_BYTES_MAX - HEAD.size}")
                break
            if flags & ~_FLAGS_ALLOWED.get(kind, 0) or kind not in _FLAGS_ALLOWED:
                self.violation = Malformed(f"a frame of kind {kind} with flags {flags}")
                break
            body_at = at + HEAD.size
            if body_at + length > end:
                break
            at = body_at + length
            frames.append(Frame(kind, flags, call, data[body_at:at]))
        return at


def stop_frame(kind: Kind, call: int, refusal: Refusal | None) -> bytes:
    """A STOP or GOODBYE; None: nothing failed. What was unreachable for this side is only refused by it."""
    if refusal is None:
        return HEAD.pack(kind, 0, 1, call) + b"\0"
    code = Code.REFUSED if refusal.code is Code.UNREACHABLE else refusal.code
    reason = refusal.message.encode(errors="replace")[:REASON_BYTES_MAX]
    return HEAD.pack(kind, 0, 1 + len(reason), call) + bytes([code]) + reason


def parse_stop(body: bytes) -> Refusal | Malformed | None:
    """The failure that a STOP or GOODBYE states; None: nothing failed."""
    if not body or len(body) > 1 + REASON_BYTES_MAX:
        return Malformed(f"a reason of {len(body)} bytes; 1 to {1 + REASON_BYTES_MAX} are allowed")
    if body[0] == 0:
        return None if len(body) == 1 else Malformed("a reason for a call that did not fail")
    code = _CODES.get(body[0])
    if code is None:
        return Malformed(f"a failure with the unknown code {body[0]}")
    return Refusal(code, body[1:].decode(errors="replace"))  # errors: truncated in mid-character


def credit_frame(call: int, credit_bytes: int) -> bytes:
    return HEAD.pack(Kind.CREDIT, 0, LENGTH.size, call) + LENGTH.pack(credit_bytes)


def parse_credit(body: bytes) -> int | Malformed:
    """Bytes granted, at least 1."""
    credit = LENGTH.unpack(body)[0] if len(body) == LENGTH.size else 0
    return credit or Malformed(f"a credit of {len(body)} bytes that grants {credit}")


class Opening(msgspec.Struct, frozen=True, gc=False):
    """What an OPEN says before its message."""

    timeout_s: float
    method: bytes
    rest: bytes  # the beginning of the message, if the frame has one


def open_head(method: bytes, timeout_s: float) -> bytes:
    """Rounded up to whole milliseconds: the other side must not give up first."""
    timeout_ms = int(timeout_s * 1000) + 1
    return OPEN_HEAD.pack(timeout_ms, len(method)) + method


def parse_open(body: bytes) -> Opening | Malformed:
    if len(body) < OPEN_HEAD.size:
        return Malformed(f"an opening of {len(body)} bytes")
    timeout_ms, name_bytes = OPEN_HEAD.unpack_from(body)
    end = OPEN_HEAD.size + name_bytes
    if not 0 < name_bytes <= METHOD_BYTES_MAX or end > len(body):
        return Malformed(f"a method's name of {name_bytes} bytes in an opening of {len(body)}")
    if not 0 < timeout_ms <= TIMEOUT_S_MAX * 1000 + 1:
        return Malformed(f"a timeout of {timeout_ms} ms")
    return Opening(timeout_ms / 1000, body[OPEN_HEAD.size : end], body[end:])
