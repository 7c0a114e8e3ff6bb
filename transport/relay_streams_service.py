"""What travels on the streams that a relay joins: its few messages, then bytes that its two peers encrypted end to end.

A relay reads from one side only what the other takes, so a slow reader slows its writer and fills nothing here.
"""

import math
from collections.abc import Callable, Hashable
from typing import Final, cast

import trio

from .fair_queue import FairQueue
from .line_rate import LOOK_S, LineRate
from .port import Code, Refusal, StreamBroken
from .relay_messages import Answer, Grammar, Limit, RelayMessage, Status, decode_length, decode_relay, encode_relay
from .tcp_service import Counter, Socket
from .wire import Malformed
from .yamux_service import YamuxStream

ANSWER_S: Final = 5.0  # for one message of a peer; a circuit may be half open so long
SLICE_BYTES: Final = 16 * 1024  # passed on at once where others wait; smaller: more work; larger: they wait longer
PIECE_BYTES: Final = 64 * 1024  # copied at once; memory: twice that per circuit, beside the windows of its streams


class _Passed:
    """A stream through a relay as `Socket` wants a TCP stream, which closes its `socket`."""

    def __init__(self, stream: YamuxStream) -> None:
        self._stream = stream
        self.socket = self

    async def send_all(self, data: bytes) -> None:
        try:
            await self._stream.send_all(data)
        except StreamBroken as error:
            raise trio.BrokenResourceError from error

    async def receive_some(self, bytes_max: int) -> bytes:
        try:
            return await self._stream.receive_some(bytes_max)
        except StreamBroken as error:
            raise trio.BrokenResourceError from error

    def close(self) -> None:
        self._stream.reset()

    def getpeername(self) -> tuple[str, int]:
        raise OSError("who is behind a relay has no address")

    def getsockname(self) -> tuple[str, int]:
        raise OSError("a circuit has no address")

    def setsockopt(self, level: int, option: int, value: int) -> None:
        raise OSError(f"a circuit has no option {level}, {option} to be {value}")


def passed_socket(stream: YamuxStream, limit: Limit | None) -> Socket:
    """The way to a peer behind a relay, on which it may carry so much."""
    # Its bytes are counted in the total already, as those of the connection with the relay.
    socket = Socket(cast(trio.SocketStream, _Passed(stream)), Counter())
    socket.limit_bytes = limit.data_bytes or None if limit is not None else None
    return socket


class Turns:
    """Who of all who send through this relay goes next: a `FairQueue` at work, at the rate that `LineRate` finds.

    Args:
        bytes_per_s_max: that all of them may send together.
    """

    def __init__(self, bytes_per_s_max: float = math.inf) -> None:
        self._queue = FairQueue()
        self._rate = LineRate(bytes_per_s_max)
        self._queue.bytes_per_s = self._rate.bytes_per_s
        self._turns: dict[Hashable, trio.Event] = {}
        self._changed = trio.Event()

    @property
    def piece_bytes(self) -> int:
        """What to pass on at once."""
        return PIECE_BYTES if math.isinf(self._queue.bytes_per_s) else SLICE_BYTES

    async def run(self) -> None:
        """Grant what is due, and look at the line, until cancelled."""
        look_at = trio.current_time()
        while True:
            now = trio.current_time()
            if now >= look_at:
                look_at = now + LOOK_S
                self._look(now)
            self._grant()
            self._changed = trio.Event()
            with trio.move_on_at(min(look_at, self._queue.deadline)):
                await self._changed.wait()

    async def take(self, group: Hashable, flow: Hashable, size: int) -> None:
        """Wait until a piece of `flow` may go."""
        turn = self._turns[flow] = trio.Event()
        self._queue.ask(group, flow, size, trio.current_time())
        self._grant()
        if not turn.is_set():
            self._changed.set()
            await turn.wait()

    def sent(self, group: Hashable, flow: Hashable) -> None:
        """A piece has left."""
        self._queue.sent(group, flow)
        self._grant()

    def ended(self, group: Hashable, flow: Hashable) -> None:
        """Nothing more of `flow` comes."""
        self._queue.ended(group, flow)
        self._turns.pop(flow, None)

    def _grant(self) -> None:
        for flow in self._queue.due(trio.current_time()):
            self._turns.pop(flow).set()
        if self._queue.deadline < math.inf:
            self._changed.set()

    def _look(self, now: float) -> None:
        self._rate.look(now, *self._queue.passed(), self._queue.busy_count(now))
        self._queue.bytes_per_s = self._rate.bytes_per_s


async def splice(
    one: YamuxStream, other: YamuxStream, spend: Callable[[int], bool], turns: Turns, group: Hashable
) -> None:
    """Copy in both directions until both have ended, either breaks, or no more bytes may be spent."""

    async def copy(source: YamuxStream, target: YamuxStream, scope: trio.CancelScope) -> None:
        flow = object()
        try:
            while data := await source.receive_some(PIECE_BYTES):
                if not spend(len(data)):
                    break
                await pass_on(flow, data, target)
            else:
                await target.finish()
                return
        except StreamBroken:
            pass
        finally:
            turns.ended(group, flow)
        scope.cancel()

    async def pass_on(flow: object, data: bytes, target: YamuxStream) -> None:
        size = turns.piece_bytes
        for start in range(0, len(data), size):
            piece = data[start : start + size] if len(data) > size else data
            await target.until_room(len(piece))  # who does not read takes no turn
            await turns.take(group, flow, len(piece))
            await target.send_all(piece)
            target.when_sent(lambda: turns.sent(group, flow))

    one.bound_backlog()
    other.bound_backlog()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(copy, one, other, nursery.cancel_scope)
        nursery.start_soon(copy, other, one, nursery.cancel_scope)


async def ask(stream: YamuxStream, grammar: Grammar, question: RelayMessage) -> Answer | Refusal:
    """The other side's answer within ANSWER_S, or why there is none."""
    message: RelayMessage | Malformed | None = None
    with trio.move_on_after(ANSWER_S):
        if await send(stream, grammar, question):
            message = await receive(stream, grammar)
    if isinstance(message, Answer):
        return message
    reason = message.reason if isinstance(message, Malformed) else f"nothing of use within {ANSWER_S:g} s"
    return Refusal(Code.UNREACHABLE, f"a relayed connection: expected an answer, got {reason}")


async def send(stream: YamuxStream, grammar: Grammar, message: RelayMessage) -> bool:
    """False if the stream is broken, or blocked for ANSWER_S."""
    with trio.move_on_after(ANSWER_S):
        try:
            await stream.send_all(encode_relay(grammar, message))
        except StreamBroken:
            return False
        return True
    return False


async def receive(stream: YamuxStream, grammar: Grammar) -> RelayMessage | Malformed:
    """The next message, and not one byte more."""
    head, body = b"", b""
    try:
        length = decode_length(head)
        while length is None:
            byte = await stream.receive_some(1)
            if not byte:
                return Malformed("the end of the stream")
            head += byte
            length = decode_length(head)
        if isinstance(length, Malformed):
            return length
        while len(body) < length:
            data = await stream.receive_some(length - len(body))
            if not data:
                return Malformed("the end of the stream")
            body += data
    except StreamBroken as error:
        return Malformed(f"no message: {error}")
    return decode_relay(grammar, body)


def words(status: Status) -> str:
    """For people."""
    return status.name.lower().replace("_", " ")
