"""Circuit relay v2 at work: passes streams on for others, and holds this node's own reservations at relays.

The relay copies bytes that its two peers have encrypted end to end; it reads from one only what the other takes, so a
slow reader slows its writer and fills nothing here. Knows streams and peers, but not libp2p.
"""

import logging
import math
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, cast

import trio

from .addresses import Endpoint
from .connections_service import Connections
from .port import Code, PeerConnected, PeerDisconnected, PeerEvent, PeerId, Refusal, StreamBroken
from .relay import Circuit, Relay
from .relay_messages import (
    HOP,
    STOP,
    Answer,
    Connect,
    Grammar,
    RelayMessage,
    Reserve,
    Status,
    decode_length,
    decode_relay,
    encode_relay,
)
from .tcp_service import Counter, Socket
from .wire import Malformed
from .yamux_service import YamuxStream

HOP_PROTOCOL: Final = "/libp2p/circuit/relay/0.2.0/hop"
STOP_PROTOCOL: Final = "/libp2p/circuit/relay/0.2.0/stop"
ANSWER_S: Final = 5.0  # for one message of a peer; a circuit may be half open so long
PIECE_BYTES: Final = 64 * 1024  # copied at once; memory: twice that per circuit, beside the windows of its streams
RENEW_S_MAX: Final = 1800.0  # at the latest; more often: requests for nothing
RENEW_S_MIN: Final = 30.0  # also where the relay's clock differs from ours, and after it refused

OpenStream = Callable[[PeerId, str], Awaitable[YamuxStream | Refusal]]

log = logging.getLogger(__name__)


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


def _socket(stream: YamuxStream) -> Socket:
    # Its bytes are counted in the total already, as those of the connection with the relay.
    return Socket(cast(trio.SocketStream, _Passed(stream)), Counter())


class RelayService:
    """Both ends of the two protocols.

    Args:
        relay: what this node grants others; None: nothing.
        relays: the addresses of relays at which this node wants to be reached.
        open_stream: a stream to a connected peer, for a protocol.
    """

    def __init__(self, relay: Relay | None, relays: Sequence[Endpoint], open_stream: OpenStream) -> None:
        self._relay = relay
        self._relays = {cast(PeerId, endpoint.peer): endpoint for endpoint in relays}
        self._refused: set[PeerId] = set()  # relays that do not want us
        self._open_stream = open_stream

    def endpoints(self, self_id: PeerId) -> list[Endpoint]:
        """Where this node is reached through relays. A relay that is away for the moment comes back; one that refuses
        us is not named."""
        return [relay.through(self_id) for peer, relay in self._relays.items() if peer not in self._refused]

    def is_busy(self, peer: PeerId) -> bool:
        """Whether this node relays for `peer`, or to it."""
        return self._relay is not None and self._relay.is_busy(peer, trio.current_time())

    async def run(
        self, connections: Connections, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Keep the books and the reservations until cancelled."""
        async with trio.open_nursery() as nursery:
            for peer in self._relays:
                nursery.start_soon(self._stay_reserved, peer, connections)
            if self._relay is not None:
                nursery.start_soon(self._strike_off, self._relay, connections)
            task_status.started()

    # As a client.

    async def pass_on(self, relay: PeerId, target: PeerId) -> Socket | Refusal:
        """A stream to `target` through a connected relay. Whoever gets it closes it."""
        stream = await self._open_stream(relay, HOP_PROTOCOL)
        if isinstance(stream, Refusal):
            return stream
        is_open = False
        try:
            answer = await _ask(stream, HOP, Connect(target))
            if isinstance(answer, Refusal):
                return answer
            if answer.status is not Status.OK:
                return Refusal(Code.UNREACHABLE, f"{relay} does not connect us to {target}: {_words(answer.status)}")
            is_open = True
            return _socket(stream)
        finally:
            if not is_open:
                stream.reset()

    async def serve_stop(self, connections: Connections, relay: PeerId, stream: YamuxStream) -> None:
        """A relay says that somebody wants to talk to us."""
        message: RelayMessage | Malformed | None = None
        with trio.move_on_after(ANSWER_S):
            message = await _receive(stream, STOP)
        place = connections.direct_endpoint(relay)
        if not isinstance(message, Connect):
            await _send(stream, STOP, Answer(Status.MALFORMED_MESSAGE))
        elif relay not in self._relays or place is None:
            await _send(stream, STOP, Answer(Status.PERMISSION_DENIED))
        elif await _send(stream, STOP, Answer(Status.OK)):
            try:
                await connections.admit(_socket(stream), place.through(None))
            finally:
                stream.reset()

    async def _stay_reserved(self, relay: PeerId, connections: Connections) -> None:
        while True:  # the channel ends for who is too far behind
            async with connections.events() as events:
                await self._follow(relay, connections, events)

    async def _follow(
        self, relay: PeerId, connections: Connections, events: trio.MemoryReceiveChannel[PeerEvent]
    ) -> None:
        address = self._relays[relay].address
        connections.keep_also(relay, address)
        next_at = math.inf
        while True:
            event = None
            with trio.move_on_at(next_at) as scope:
                try:
                    event = await events.receive()
                except trio.EndOfChannel:
                    return
            if scope.cancelled_caught or event == PeerConnected(relay):
                next_at = trio.current_time() + await self._reserve(relay)
            elif event == PeerDisconnected(relay):
                connections.keep_also(relay, address)  # a swarm may have let it go meanwhile
                next_at = math.inf

    async def _reserve(self, relay: PeerId) -> float:
        """Ask for a reservation. Gives the seconds until it is time to ask again."""
        stream = await self._open_stream(relay, HOP_PROTOCOL)
        answer = stream if isinstance(stream, Refusal) else await _ask(stream, HOP, Reserve())
        if not isinstance(stream, Refusal):
            await stream.aclose()
        if isinstance(answer, Answer) and answer.status is Status.OK:
            self._refused.discard(relay)
            log.info("reachable through the relay %s", relay)
            return renew_after_s(answer.expires_at, time.time())
        self._refused.add(relay)
        reason = _words(answer.status) if isinstance(answer, Answer) else answer.message
        log.warning("no reservation at the relay %s: %s. Trying again every %g s", relay, reason, RENEW_S_MIN)
        return RENEW_S_MIN

    # As a relay.

    async def serve_hop(self, connections: Connections, peer: PeerId, stream: YamuxStream) -> None:
        """A peer asks for a reservation or a circuit."""
        message: RelayMessage | Malformed | None = None
        with trio.move_on_after(ANSWER_S):
            message = await _receive(stream, HOP)
        relay = self._relay
        if relay is None or connections.direct_endpoint(peer) is None:  # no circuits over circuits, says the law
            await _send(stream, HOP, Answer(Status.PERMISSION_DENIED))
            return
        match message:
            case Reserve():
                status = relay.reserve(peer, trio.current_time())
                expires_at = int(time.time() + relay.limits.reservation_s) if status is Status.OK else None
                await _send(stream, HOP, Answer(status, expires_at, relay.limits.of_circuit))
            case Connect(target):
                circuit = relay.connect(peer, target, trio.current_time())
                if isinstance(circuit, Status):
                    await _send(stream, HOP, Answer(circuit))
                    return
                try:
                    await self._carry(relay, circuit, stream)
                finally:
                    relay.closed(circuit)
            case _:
                await _send(stream, HOP, Answer(Status.MALFORMED_MESSAGE))

    async def _carry(self, relay: Relay, circuit: Circuit, source: YamuxStream) -> None:
        """One circuit, from the question to the target to its end."""
        limit = relay.limits.of_circuit
        target = None
        with trio.move_on_after(ANSWER_S):
            target = await self._open_stream(circuit.target, STOP_PROTOCOL)
        if target is None or isinstance(target, Refusal):
            await _send(source, HOP, Answer(Status.CONNECTION_FAILED))
            return
        try:
            answer = await _ask(target, STOP, Connect(circuit.source, limit))
            if isinstance(answer, Refusal) or answer.status is not Status.OK:
                await _send(source, HOP, Answer(Status.CONNECTION_FAILED))
            elif await _send(source, HOP, Answer(Status.OK, limit=limit)):
                with trio.move_on_after(relay.limits.circuit_s_max):
                    await splice(source, target, relay.limits.circuit_bytes_max)
                source.reset()
        finally:
            target.reset()

    async def _strike_off(self, relay: Relay, connections: Connections) -> None:
        while True:
            async with connections.events() as events:
                async for event in events:
                    if isinstance(event, PeerDisconnected):
                        relay.disconnected(event.peer)


async def splice(one: YamuxStream, other: YamuxStream, bytes_max: int) -> None:
    """Copy in both directions until both have ended, either breaks, or more than `bytes_max` came in all."""
    left = bytes_max

    async def copy(source: YamuxStream, target: YamuxStream, scope: trio.CancelScope) -> None:
        nonlocal left
        try:
            while data := await source.receive_some(PIECE_BYTES):
                left -= len(data)
                if left < 0:
                    break
                await target.send_all(data)
            else:
                await target.finish()
                return
        except StreamBroken:
            pass
        scope.cancel()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(copy, one, other, nursery.cancel_scope)
        nursery.start_soon(copy, other, one, nursery.cancel_scope)


def renew_after_s(expires_at: int | None, unix_now: float) -> float:
    """When to renew a reservation: halfway, within bounds, as the relay's clock may say anything."""
    left_s = math.inf if expires_at is None else expires_at - unix_now
    return min(RENEW_S_MAX, max(RENEW_S_MIN, left_s / 2))


async def _ask(stream: YamuxStream, grammar: Grammar, question: RelayMessage) -> Answer | Refusal:
    message: RelayMessage | Malformed | None = None
    with trio.move_on_after(ANSWER_S):
        if await _send(stream, grammar, question):
            message = await _receive(stream, grammar)
    if isinstance(message, Answer):
        return message
    reason = message.reason if isinstance(message, Malformed) else f"nothing of use within {ANSWER_S:g} s"
    return Refusal(Code.UNREACHABLE, f"a relayed connection: expected an answer, got {reason}")


async def _send(stream: YamuxStream, grammar: Grammar, message: RelayMessage) -> bool:
    """False if the stream is broken, or blocked for ANSWER_S."""
    with trio.move_on_after(ANSWER_S):
        try:
            await stream.send_all(encode_relay(grammar, message))
        except StreamBroken:
            return False
        return True
    return False


async def _receive(stream: YamuxStream, grammar: Grammar) -> RelayMessage | Malformed:
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


def _words(status: Status) -> str:
    return status.name.lower().replace("_", " ")
