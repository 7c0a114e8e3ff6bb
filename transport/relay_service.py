"""Circuit relay v2 at work: passes streams on for others, and holds this node's own reservations at relays.

Knows streams and peers, but not libp2p.
"""

import logging
import math
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Final, cast

import trio

from .addresses import Endpoint, ranges_of
from .connections_service import Connections
from .port import Code, PeerConnected, PeerDisconnected, PeerEvent, PeerId, Place, Refusal
from .relay import Circuit, Relay
from .relay_choice import State
from .relay_messages import HOP, STOP, Answer, Connect, RelayMessage, Reserve, Status
from .relay_streams_service import ANSWER_S, Turns, ask, passed_socket, receive, send, splice, words
from .tcp_service import Socket
from .wire import Malformed
from .yamux_service import YamuxStream

HOP_PROTOCOL: Final = "/libp2p/circuit/relay/0.2.0/hop"
STOP_PROTOCOL: Final = "/libp2p/circuit/relay/0.2.0/stop"
RENEW_S_MAX: Final = 1800.0  # at the latest; more often: requests for nothing
RENEW_S_MIN: Final = 30.0  # also where the relay's clock differs from ours, and after it refused

AWAY: Final = "it is not connected, or has not answered yet"

OpenStream = Callable[[PeerId, str], Awaitable[YamuxStream | Refusal]]

log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Place:
    """A relay at which this node wants to be reached."""

    endpoint: Endpoint
    is_given: bool  # in the configuration: kept connected, and named before it has answered
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)
    state: State = State.TRYING
    limit_bytes: int | None = None  # of a circuit to us
    said: str = AWAY  # for people


class RelayService:
    """Both ends of the two protocols.

    Args:
        relay: what this node grants others; None: nothing.
        relays: the addresses of relays at which this node wants to be reached always.
        open_stream: a stream to a connected peer, for a protocol.
    """

    def __init__(self, relay: Relay | None, relays: Sequence[Endpoint], open_stream: OpenStream) -> None:
        self._relay = relay
        self._places = {cast(PeerId, endpoint.peer): _Place(endpoint, is_given=True) for endpoint in relays}
        self._open_stream = open_stream
        self._turns = Turns(relay.limits.bytes_per_s_max if relay is not None else math.inf)
        self._started: tuple[trio.Nursery, Connections] | None = None
        self.changed = trio.Event()  # set, and replaced, when a reservation has changed

    def know(self, swarms_of: Callable[[PeerId], frozenset[bytes]]) -> None:
        """From now on serve members as such; as `Relay` wants it."""
        if self._relay is not None:
            self._relay.swarms_of = swarms_of

    def stand(self, *, is_public: bool) -> None:
        """Whether others can dial this node, so that it is of use as a relay. Until it is said, they can."""
        if self._relay is not None:
            self._relay.is_public = is_public

    @property
    def is_relay(self) -> bool:
        """Whether this node relays for anybody."""
        return self._relay is not None and self._relay.is_public

    def use(self, relays: Iterable[Endpoint]) -> None:
        """Be reached through these, too, from now on, and through no others but the given. Whoever calls keeps them
        connected."""
        wanted = {cast(PeerId, endpoint.peer): endpoint for endpoint in relays}
        for peer, place in list(self._places.items()):
            if not place.is_given and wanted.get(peer) != place.endpoint:
                place.scope.cancel()
                del self._places[peer]
        for peer, endpoint in wanted.items():
            if peer not in self._places:
                place = self._places[peer] = _Place(endpoint, is_given=False)
                if self._started is not None:
                    nursery, connections = self._started
                    nursery.start_soon(self._stay_reserved, peer, place, connections)

    def states(self, *, is_given: bool) -> dict[PeerId, State]:
        """How it stands with each relay: those given, or those that `use` named."""
        return {peer: place.state for peer, place in self._places.items() if place.is_given == is_given}

    def limit_bytes(self, relay: PeerId) -> int | None:
        """What a circuit to us through a relay may carry, where that is known."""
        place = self._places.get(relay)
        return None if place is None else place.limit_bytes

    def endpoints(self, self_id: PeerId) -> list[Endpoint]:
        """Where this node is reached through relays. A given one that is away for the moment comes back; one that
        refuses us is not named."""
        named = [
            place.endpoint
            for place in self._places.values()
            if place.state is State.HELD or (place.is_given and place.state is State.TRYING)
        ]
        return [endpoint.through(self_id) for endpoint in named]

    def is_busy(self, peer: PeerId) -> bool:
        """Whether this node relays for `peer`, or to it."""
        return self._relay is not None and self._relay.is_busy(peer, trio.current_time())

    async def run(
        self, connections: Connections, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Keep the books and the reservations until cancelled."""
        async with trio.open_nursery() as nursery:
            self._started = nursery, connections
            for peer, place in self._places.items():
                nursery.start_soon(self._stay_reserved, peer, place, connections)
            if self._relay is not None:
                nursery.start_soon(self._strike_off, self._relay, connections)
                nursery.start_soon(self._turns.run)
            task_status.started()
            await trio.sleep_forever()  # `use` may come later, also where there is nothing to do yet

    def places(self) -> tuple[Place, ...]:
        """How it stands with each relay, for people."""
        return tuple(Place(relay, place.state is State.HELD, place.said) for relay, place in self._places.items())

    # As a client.

    async def pass_on(self, relay: PeerId, target: PeerId) -> Socket | Refusal:
        """A stream to `target` through a connected relay. Whoever gets it closes it."""
        stream = await self._open_stream(relay, HOP_PROTOCOL)
        if isinstance(stream, Refusal):
            return stream
        is_open = False
        try:
            answer = await ask(stream, HOP, Connect(target))
            if isinstance(answer, Refusal):
                return answer
            if answer.status is not Status.OK:
                return Refusal(Code.UNREACHABLE, f"{relay} does not connect us to {target}: {words(answer.status)}")
            is_open = True
            return passed_socket(stream, answer.limit)
        finally:
            if not is_open:
                stream.reset()

    async def serve_stop(self, connections: Connections, relay: PeerId, stream: YamuxStream) -> None:
        """A relay says that somebody wants to talk to us."""
        message: RelayMessage | Malformed | None = None
        with trio.move_on_after(ANSWER_S):
            message = await receive(stream, STOP)
        place = connections.direct_endpoint(relay)
        if not isinstance(message, Connect):
            await send(stream, STOP, Answer(Status.MALFORMED_MESSAGE))
        elif relay not in self._places or place is None:
            await send(stream, STOP, Answer(Status.PERMISSION_DENIED))
        elif await send(stream, STOP, Answer(Status.OK)):
            try:
                await connections.admit(passed_socket(stream, message.limit), place.through(None))
            finally:
                stream.reset()

    async def _stay_reserved(self, relay: PeerId, place: _Place, connections: Connections) -> None:
        with place.scope:
            while True:  # the channel ends for who is too far behind
                async with connections.events() as events:
                    await self._follow(relay, place, connections, events)

    async def _follow(
        self, relay: PeerId, place: _Place, connections: Connections, events: trio.MemoryReceiveChannel[PeerEvent]
    ) -> None:
        address = place.endpoint.address
        if place.is_given:
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
                next_at = trio.current_time() + await self._reserve(relay, place)
            elif event == PeerDisconnected(relay):
                if place.is_given:
                    connections.keep_also(relay, address)  # a swarm may have let it go meanwhile
                self._become(place, State.TRYING, AWAY)
                next_at = math.inf

    async def _reserve(self, relay: PeerId, place: _Place) -> float:
        """Ask for a reservation. Gives the seconds until it is time to ask again."""
        stream = await self._open_stream(relay, HOP_PROTOCOL)
        answer = stream if isinstance(stream, Refusal) else await ask(stream, HOP, Reserve())
        if not isinstance(stream, Refusal):
            await stream.aclose()
        if isinstance(answer, Answer) and answer.status is Status.OK:
            place.limit_bytes = None if answer.limit is None else answer.limit.data_bytes or None
            self._become(place, State.HELD, "it has granted a reservation")
            log.info("reachable through the relay %s", relay)
            return renew_after_s(answer.expires_at, time.time())
        reason = words(answer.status) if isinstance(answer, Answer) else answer.message
        self._become(place, State.REFUSED, f"it grants no reservation: {reason}")
        log.warning("no reservation at the relay %s: %s. Trying again every %g s", relay, reason, RENEW_S_MIN)
        return RENEW_S_MIN

    def _become(self, place: _Place, state: State, said: str) -> None:
        place.state, place.said = state, said
        self.changed.set()
        self.changed = trio.Event()

    # As a relay.

    async def serve_hop(self, connections: Connections, peer: PeerId, stream: YamuxStream) -> None:
        """A peer asks for a reservation or a circuit."""
        message: RelayMessage | Malformed | None = None
        with trio.move_on_after(ANSWER_S):
            message = await receive(stream, HOP)
        relay, endpoint = self._relay, connections.direct_endpoint(peer)
        if relay is None or endpoint is None:  # no circuits over circuits, says the law
            await send(stream, HOP, Answer(Status.PERMISSION_DENIED))
            return
        match message:
            case Reserve():
                status, limit = relay.reserve(peer, trio.current_time(), ranges_of(endpoint.address))
                expires_at = int(time.time() + relay.limits.reservation_s) if status is Status.OK else None
                await send(stream, HOP, Answer(status, expires_at, limit))
            case Connect(target):
                circuit = relay.connect(peer, target, trio.current_time(), ranges_of(endpoint.address))
                if isinstance(circuit, Status):
                    await send(stream, HOP, Answer(circuit))
                    return
                try:
                    await self._carry(relay, circuit, stream)
                finally:
                    relay.closed(circuit)
            case _:
                await send(stream, HOP, Answer(Status.MALFORMED_MESSAGE))

    async def _carry(self, relay: Relay, circuit: Circuit, source: YamuxStream) -> None:
        """One circuit, from the question to the target to its end."""
        limit = circuit.limit
        limit_s = relay.limits.circuit_s_max if circuit.is_full else limit.duration_s  # which is whole seconds
        target = None
        with trio.move_on_after(ANSWER_S):
            target = await self._open_stream(circuit.target, STOP_PROTOCOL)
        if target is None or isinstance(target, Refusal):
            await send(source, HOP, Answer(Status.CONNECTION_FAILED))
            return
        try:
            answer = await ask(target, STOP, Connect(circuit.source, limit))
            if isinstance(answer, Refusal) or answer.status is not Status.OK:
                await send(source, HOP, Answer(Status.CONNECTION_FAILED))
            elif await send(source, HOP, Answer(Status.OK, limit=limit)):
                with trio.move_on_after(limit_s):
                    await splice(source, target, partial(self._spend, relay, circuit), self._turns, circuit.swarm)
                source.reset()
        finally:
            target.reset()

    def _spend(self, relay: Relay, circuit: Circuit, count: int) -> bool:
        return relay.spend(circuit, count, trio.current_time())

    async def _strike_off(self, relay: Relay, connections: Connections) -> None:
        while True:
            async with connections.events() as events:
                async for event in events:
                    if isinstance(event, PeerDisconnected):
                        relay.disconnected(event.peer)


def renew_after_s(expires_at: int | None, unix_now: float) -> float:
    """When to renew a reservation: halfway, within bounds, as the relay's clock may say anything."""
    left_s = math.inf if expires_at is None else expires_at - unix_now
    return min(RENEW_S_MAX, max(RENEW_S_MIN, left_s / 2))
