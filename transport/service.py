"""Calls between peers over byte streams: what `host` and `memory` share of the Transport Protocol.

Each side opens one stream for the calls it makes and keeps it; so a pair of peers has at most two, and nobody has to
agree on whose stream counts. When there is a better connection new calls are made on a second stream, by that one, and
the first ends with its last call. A third from the same peer ends one of the two: an unused one, else the first.
"""

import math
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

import trio

from .calls import Data
from .handling import UnaryHandling, handle_streaming
from .limits import Limits
from .link import CallEnd, Link
from .port import (
    ByteStream,
    Call,
    Code,
    PeerId,
    Refusal,
    Reply,
    Request,
    StreamBroken,
    StreamHandler,
    Streaming,
    Unary,
    UnaryHandler,
)
from .rpc import Role, Session
from .rpc_events import Opened
from .stream_call import FailedCall, StreamCall
from .token_bucket import TokenBucket
from .wire import Malformed, decode, encode

OPEN_S: Final = 30.0  # for a stream to a connected peer
INBOUND_MAX: Final = 2  # streams of a peer's calls; more: what a peer may have buffered here, each time again
BUCKETS_MAX: Final = 1024  # peers whose request rate is remembered; the oldest is forgotten

OpenStream = Callable[[PeerId], Awaitable[ByteStream | Refusal]]
AnyMethod = Unary[Any, Any] | Streaming[Any, Any]
End = TypeVar("End", bound=CallEnd)

_LEFT: Final = Refusal(Code.CANCELLED, "the caller left")
_DISCONNECTED: Final = Refusal(Code.UNREACHABLE, "the peer disconnected")


class _Answer:
    """The caller's side of a unary call."""

    __slots__ = ("done", "result")

    def __init__(self) -> None:
        self.done = trio.Event()
        self.result: Data | Refusal | None = None

    def received(self, data: Data, is_last: bool) -> None:
        del is_last
        if self.result is None:
            self.result = data
            self.done.set()

    def finished(self) -> None:
        self.stopped(None)

    def stopped(self, refusal: Refusal | None) -> None:
        if self.result is None:
            self.result = refusal or Refusal(Code.MALFORMED, "the peer ended the call without a reply")
            self.done.set()

    def drained(self) -> None:
        pass


@dataclass(slots=True, eq=False)
class _Opening:
    """A stream on its way, and those who wait for it."""

    done: trio.Event = field(default_factory=trio.Event)
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)
    result: Link | Refusal = _DISCONNECTED
    is_outdone: bool = False  # there is a better connection than the one on which it was begun


class CallService:
    """Makes and answers calls.

    Args:
        open_stream: a fresh stream to a peer, or why there is none.
    """

    def __init__(self, peer_id: PeerId, limits: Limits, open_stream: OpenStream) -> None:
        self.peer_id = peer_id
        self._limits = limits
        self._open_stream = open_stream
        self._methods: dict[bytes, AnyMethod] = {}
        self._handlers: dict[bytes, Callable[[PeerId, Any], Any]] = {}
        self._outbound: dict[PeerId, Link] = {}
        self._inbound: dict[PeerId, list[Link]] = {}  # the newest last
        self._retired: dict[PeerId, Link] = {}  # of ours, with calls under way
        self._to_move: set[PeerId] = set()  # once the retired one is done
        self._openings: dict[PeerId, _Opening] = {}
        self._buckets: dict[PeerId, TokenBucket] = {}
        self._nursery: trio.Nursery | None = None
        self._wake_at = math.inf  # when the timer looks at deadlines again
        self._rearm = trio.Event()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Make calls possible until cancelled."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            try:
                task_status.started()
                await self._watch_deadlines()
            finally:
                self._nursery = None  # before it closes: who calls now is refused

    def serve(self, method: Unary[Request, Reply], handler: UnaryHandler[Request, Reply]) -> None:
        """Answer `method` from now on."""
        self._methods[method.name.encode()] = method
        self._handlers[method.name.encode()] = handler

    def serve_stream(self, method: Streaming[Request, Reply], handler: StreamHandler[Reply, Request]) -> None:
        """Answer `method` from now on."""
        self._methods[method.name.encode()] = method
        self._handlers[method.name.encode()] = handler

    def stop_serving(self, name: str) -> None:
        """Calls that are open go on."""
        self._methods.pop(name.encode(), None)
        self._handlers.pop(name.encode(), None)

    async def request(
        self, peer: PeerId, method: Unary[Request, Reply], request: Request, *, timeout_s: float
    ) -> Reply | Refusal:
        """As `port.Transport.request`."""
        answer = _Answer()
        opened = await self._open_call(peer, method, timeout_s, lambda link, call_id: answer)
        if isinstance(opened, Refusal):
            return opened
        link, call_id, _ = opened
        try:
            refusal = link.session.send(call_id, encode(request), is_last=True)
            link.kick()
            if refusal is not None:
                return refusal
            await answer.done.wait()
        finally:
            _leave(link, call_id)
        if isinstance(answer.result, Refusal):
            return answer.result
        assert answer.result is not None
        reply = decode(memoryview(answer.result), method.reply_type, method.reply_bytes_max)
        return Refusal(Code.MALFORMED, f"the reply is {reply.reason}") if isinstance(reply, Malformed) else reply

    @asynccontextmanager
    async def stream(
        self, peer: PeerId, method: Streaming[Request, Reply], *, timeout_s: float
    ) -> AsyncGenerator[Call[Request, Reply], None]:
        """As `port.Transport.stream`."""

        def make_end(link: Link, call_id: int) -> StreamCall[Request, Reply]:
            return StreamCall(link, call_id, method.reply_type, method.reply_bytes_max)

        opened = await self._open_call(peer, method, timeout_s, make_end)
        if isinstance(opened, Refusal):
            yield FailedCall(opened)
            return
        link, call_id, call = opened
        link.kick()
        try:
            yield call
        finally:
            _leave(link, call_id)

    async def handle_stream(self, peer: PeerId, stream: ByteStream) -> None:
        """Answer the calls that come on `stream`, which `peer` opened, until it ends."""
        session = Session(Role.SERVER, self._limits, self._methods, self._bucket(peer))

        def accept(link: Link, opened: Opened) -> None:
            self._accept(peer, link, opened)

        link = Link(session, stream, accept)
        links = self._inbound.setdefault(peer, [])
        links.append(link)
        if len(links) > INBOUND_MAX:
            unused = next((each for each in links[:-1] if not each.is_busy), links[0])
            links.remove(unused)  # now: a peer may open many at once
            unused.close(f"the peer opened {INBOUND_MAX} more streams")
        try:
            await link.run(self._arm)
        finally:
            if link in links:
                links.remove(link)
            if not links and self._inbound.get(peer) is links:
                del self._inbound[peer]

    def refuse(self) -> None:
        """Make no more calls, from this moment on."""
        self._nursery = None

    def is_busy(self, peer: PeerId) -> bool:
        """Whether a call with `peer` is under way, whoever makes it."""
        return peer in self._openings or any(link.is_busy for link in self._links(peer))

    def move(self, peer: PeerId) -> None:
        """There is a better connection with `peer`: new calls go by that one, those under way end where they are.

        While some are under way on an older one still, calls go where they went, for the other side takes no third
        stream.
        """
        opening = self._openings.get(peer)
        if opening is not None:
            opening.is_outdone = True
        link = self._outbound.get(peer)
        if link is None:
            return
        if peer in self._retired:
            self._to_move.add(peer)
            return
        del self._outbound[peer]
        self._retired[peer] = link
        link.retire()

    def drop(self, peer: PeerId) -> None:
        """The peer disconnected: fail its calls and close its sessions."""
        opening = self._openings.pop(peer, None)
        if opening is not None:
            opening.scope.cancel()
        for link in self._links(peer):
            link.close("the peer disconnected")
        self._outbound.pop(peer, None)
        self._to_move.discard(peer)

    def _links(self, peer: PeerId) -> list[Link]:
        own = (self._outbound.get(peer), self._retired.get(peer))
        return [*(link for link in own if link is not None), *self._inbound.get(peer, ())]

    # Making calls.

    async def _open_call(
        self, peer: PeerId, method: AnyMethod, timeout_s: float, make_end: Callable[[Link, int], End]
    ) -> tuple[Link, int, End] | Refusal:
        now = trio.current_time()
        deadline = now + timeout_s
        await trio.lowlevel.checkpoint_if_cancelled()
        link = self._outbound.get(peer)
        while link is None or link.session.closed is not None:  # again, if it was retired before it was used
            opening = await self._open_link(peer, deadline)
            if isinstance(opening, Refusal):
                return opening
            link = opening
            now = trio.current_time()
        if deadline <= now:
            return Refusal(Code.DEADLINE_EXCEEDED, f"no time to ask in {timeout_s:g} s")
        call_id = link.session.open(method, deadline - now, now)
        if isinstance(call_id, Refusal):
            return call_id
        end = link.ends[call_id] = make_end(link, call_id)
        if deadline < self._wake_at:
            self._arm(link)
        return link, call_id, end

    async def _open_link(self, peer: PeerId, deadline: float) -> Link | Refusal:
        opening = self._openings.get(peer)
        if opening is None:
            if self._nursery is None:
                return Refusal(Code.UNREACHABLE, "this node makes no calls yet, or no more")
            opening = self._openings[peer] = _Opening()
            self._nursery.start_soon(self._run_link, peer, opening)
        with trio.move_on_at(deadline):
            await opening.done.wait()
            return opening.result
        return Refusal(Code.DEADLINE_EXCEEDED, "no stream to the peer in time")

    async def _run_link(self, peer: PeerId, opening: _Opening) -> None:
        """Runs apart from the callers that wait for it: one that leaves must not fail the others."""
        link: Link | None = None
        try:
            with opening.scope, trio.move_on_after(OPEN_S):
                stream = await self._open_stream(peer)
                while opening.is_outdone:
                    opening.is_outdone = False
                    if not isinstance(stream, Refusal):
                        await stream.aclose()
                    stream = await self._open_stream(peer)
                if isinstance(stream, Refusal):
                    opening.result = stream
                else:
                    session = Session(Role.CLIENT, self._limits, {}, self._bucket(peer))
                    opening.result = link = self._outbound[peer] = Link(session, stream)
        except StreamBroken as error:
            opening.result = Refusal(Code.UNREACHABLE, f"no stream to the peer: {error}")
        finally:
            if self._openings.get(peer) is opening:
                del self._openings[peer]
            opening.done.set()
        if link is not None:
            try:
                await link.run(lambda _: None)
            finally:
                if self._outbound.get(peer) is link:
                    del self._outbound[peer]
                if self._retired.get(peer) is link:
                    del self._retired[peer]
                    if peer in self._to_move:
                        self._to_move.discard(peer)
                        self.move(peer)

    def _accept(self, peer: PeerId, link: Link, opened: Opened) -> None:
        method, handler = self._methods[opened.method], self._handlers[opened.method]
        assert link.nursery is not None
        if isinstance(method, Unary):
            link.ends[opened.call] = UnaryHandling(link, opened.call, peer, method, handler)
        else:
            call = StreamCall[Any, Any](link, opened.call, method.request_type, method.request_bytes_max)
            link.ends[opened.call] = call
            link.nursery.start_soon(handle_streaming, link, opened.call, peer, method, handler, call)

    def _bucket(self, peer: PeerId) -> TokenBucket:
        bucket = self._buckets.pop(peer, None)
        if bucket is None:
            bucket = TokenBucket(self._limits.requests_per_peer_per_s, self._limits.requests_per_peer_burst)
        self._buckets[peer] = bucket
        if len(self._buckets) > BUCKETS_MAX:
            del self._buckets[next(iter(self._buckets))]
        return bucket

    # One timer for all sessions: a task for each would cost memory with hundreds of simulated nodes.

    def _arm(self, link: Link) -> None:
        if link.session.deadline < self._wake_at:
            self._wake_at = link.session.deadline
            self._rearm.set()

    async def _watch_deadlines(self) -> None:
        while True:
            self._rearm = trio.Event()
            with trio.move_on_at(self._wake_at):
                await self._rearm.wait()
            if self._wake_at <= trio.current_time():
                peers = {*self._outbound, *self._inbound, *self._retired}
                links = [link for peer in peers for link in self._links(peer)]
                for link in links:
                    link.tick()
                self._wake_at = min((link.session.deadline for link in links), default=math.inf)


def _leave(link: Link, call_id: int) -> None:
    """The caller is done with its call, finished or not."""
    link.ends.pop(call_id, None)
    link.session.cancel(call_id, _LEFT)
    link.session.release(call_id)
    link.kick()
