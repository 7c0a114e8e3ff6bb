"""Runs handlers for calls and streams of peers, and turns what they do into replies.

Here, and nowhere else, is a broad `except`. Handlers are many, written by the layers above, and run on input that any
peer chooses. An exception that left one would end the reader's nursery, and with it the node: a peer that found a bug
in one method could stop every node that serves it. So a handler's bug ends its own call or stream alone: INTERNAL to
the caller, the traceback to the log. Cancellation is never among what is caught.
"""

import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, TypeVar

import trio

from .calls import Data
from .link import Link
from .port import ByteStream, Code, PeerId, Refusal, StreamBroken, Streaming, Unary
from .stream_call import StreamCall
from .wire import Malformed, Message, decode, encode

_log = logging.getLogger(__name__)

Stream = TypeVar("Stream", bound=ByteStream)

_INTERNAL = Refusal(Code.INTERNAL, "the handler failed; its node has logged why")


class UnaryHandling:
    """The answering side of a unary call."""

    __slots__ = ("_call", "_handler", "_link", "_method", "_peer", "_scope")

    def __init__(
        self, link: Link, call: int, peer: PeerId, method: Unary[Any, Any], handler: Callable[[PeerId, Any], Any]
    ) -> None:
        self._link, self._call, self._peer, self._method, self._handler = link, call, peer, method, handler
        self._scope: trio.CancelScope | None = None

    def received(self, data: Data, is_last: bool) -> None:
        """Answer: at once if the handler is a plain function, else in a task."""
        request = decode(memoryview(data), self._method.request_type, self._method.request_bytes_max)
        if isinstance(request, Malformed) or not is_last:
            reason = request.reason if isinstance(request, Malformed) else "more than one request"
            self._reply(Refusal(Code.MALFORMED, reason))
            return
        try:
            reply = self._handler(self._peer, request)
        except Exception:  # noqa: BLE001
            self._reply(_report_bug(self._method.name, self._peer))
            return
        if isinstance(reply, Message):
            self._reply(reply)
        else:
            assert self._link.nursery is not None
            self._scope = trio.CancelScope()
            self._link.nursery.start_soon(self._wait_for_reply, self._scope, reply)

    def finished(self) -> None:
        self._reply(Refusal(Code.MALFORMED, "no request"))

    def stopped(self, refusal: Refusal | None) -> None:
        del refusal
        if self._scope is None:
            self._release()
        else:
            self._scope.cancel()

    def drained(self) -> None:
        pass

    async def _wait_for_reply(self, scope: trio.CancelScope, reply: Awaitable[Message]) -> None:
        answer: Message = Refusal(Code.CANCELLED, "the call is over")
        try:
            with scope:
                answer = await _isolate(reply, self._method.name, self._peer) or _INTERNAL
        finally:
            self._reply(answer)
            self._link.kick()

    def _reply(self, reply: Message) -> None:
        session = self._link.session
        if isinstance(reply, Refusal):
            session.stop(self._call, reply)
        else:
            too_large = session.send(self._call, encode(reply), is_last=True)
            if too_large is not None and too_large.code is Code.TOO_LARGE:
                _log.error("the reply of %s: %s", self._method.name, too_large.message)
                session.stop(self._call, _INTERNAL)
        self._release()

    def _release(self) -> None:
        self._link.ends.pop(self._call, None)
        self._link.session.release(self._call)


async def handle_streaming(
    link: Link,
    call_id: int,
    peer: PeerId,
    method: Streaming[Any, Any],
    handler: Callable[[PeerId, Any], Awaitable[Refusal | None]],
    call: StreamCall[Any, Any],
) -> None:
    """Run the handler of a streaming call to its end or the call's."""
    try:
        with call.scope:
            link.session.stop(call_id, await _isolate(handler(peer, call), method.name, peer))
    finally:
        link.ends.pop(call_id, None)
        link.session.release(call_id)
        link.kick()


async def handle_protocol(
    protocol: str, peer: PeerId, stream: Stream, handler: Callable[[PeerId, Stream], Awaitable[None]]
) -> None:
    """Run the handler of a plain stream to its end. Whoever calls this closes the stream."""

    async def serve() -> None:
        with suppress(StreamBroken):
            await handler(peer, stream)

    await _isolate(serve(), protocol, peer)


async def _isolate(outcome: Awaitable[Any], name: str, peer: PeerId) -> Any:
    """What the handler returns, or the refusal that stands for its bug."""
    try:
        return await outcome
    except Exception:  # noqa: BLE001
        return _report_bug(name, peer)
    except BaseExceptionGroup as group:  # a handler that had a nursery may fail and be cancelled at once
        bugs, rest = group.split(Exception)
        assert rest is not None  # or it would be an ExceptionGroup
        if bugs is not None:
            _log.error("the handler of %s failed on a call from %s", name, peer, exc_info=bugs)
        raise rest from None


def _report_bug(name: str, peer: PeerId) -> Refusal:
    _log.exception("the handler of %s failed on a call from %s", name, peer)
    return _INTERNAL
