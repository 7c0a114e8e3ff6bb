"""Punches holes: finds out as whom a fresh port is seen, agrees on a moment with the other side, and dials.

The two sides talk over their connection through a relay (`PUNCH`): both offer where they are, the one that began
measures the round trip, says go, and dials half of it later, when the other hears it. The first socket that both have
opened, and on which the other proves who it is, becomes a connection beside the relayed one.
"""

import logging
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from typing import Final, Protocol

import trio

from .addresses import Endpoint, ip_endpoint, ranges_of
from .books_service import How
from .connections_service import Connections
from .outlet_service import Outlet, open_outlet
from .paths import Outcome, Paths, Way
from .port import Call, Code, PeerId, Refusal, Streaming
from .punching import DIALED_MAX, DIALS_MAX, Budget, Offer, Plan, explanation, mapping_of, plan
from .service import CallService
from .tcp_service import dial
from .wire import Message

ATTEMPT_S: Final = 10.0  # for all of one attempt
MEET_S: Final = 1.8  # for dialing: the first packet, and the one that the system sends again after a second
ADOPT_S: Final = 2.0  # after that, for handshakes under way
ACCEPTED_MAX: Final = 8  # at one outlet; more: sockets for whoever floods it
REFUSED_S: Final = 0.4  # after this a refused attempt is given up, for one with other ports
LAST_WORD_S: Final = 1.0  # for the other side to be done as well
AGAIN_S: Final = 0.02  # before an address that refused is dialed again; then twice as long, and so on
OBSERVERS: Final = 2  # asked about a port
_Adopt = Callable[[trio.SocketStream, How], None]
_OUTCOMES: Final = {Code.REFUSED: Outcome.HOPELESS, Code.BUSY: Outcome.BUSY}

log = logging.getLogger(__name__)


class Word(Message, frozen=True):
    """Of either side: an offer first, then signals."""

    offer: Offer | None


PUNCH: Final = Streaming("/shoal/reach/1/punch", Word, Word, request_bytes_max=4096, reply_bytes_max=4096)


class Surroundings(Protocol):
    """What is known about this node's place in the network."""

    def observers(self, kind: str) -> list[Endpoint]:
        """Whom to ask as whom one is seen, by ip4 or ip6, the best first."""
        ...

    def local_ips(self) -> frozenset[str]: ...

    def listening(self) -> list[Endpoint]:
        """Where this node is dialed, of its own network's addresses and of those that are known to be reached."""
        ...


@dataclass(slots=True)
class _Meeting:
    """One attempt's sockets at work."""

    peer: PeerId
    plan: Plan
    outlets: list[Outlet]
    refused: set[Endpoint] = field(default_factory=set[Endpoint])
    is_through: bool = False
    over: trio.Event = field(default_factory=trio.Event)


class PunchingService:
    """Begins attempts when the paths say so, and takes part in those of others."""

    def __init__(self, self_id: PeerId, calls: CallService, connections: Connections, around: Surroundings) -> None:
        self.paths = Paths(self_id)
        self._self_id = self_id
        self._calls = calls
        self._connections = connections
        self._around = around
        self._budget = Budget()
        self._wake = trio.Event()
        calls.serve_stream(PUNCH, self._take_part)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Until cancelled."""
        async with trio.open_nursery() as nursery:
            task_status.started()
            while True:
                self._wake = trio.Event()
                for peer in self.paths.due(trio.current_time()):
                    nursery.start_soon(self._attempt, peer)
                with trio.move_on_at(self.paths.deadline):
                    await self._wake.wait()

    def changed(self, peer: PeerId, way: Way) -> None:
        """Connections with `peer` have come or gone."""
        with self._telling(peer):
            self.paths.changed(peer, way, trio.current_time())
        self._wake.set()

    def network_changed(self) -> None:
        """This node is somewhere else."""
        self.paths.network_changed(trio.current_time())
        self._wake.set()

    async def _attempt(self, peer: PeerId) -> None:
        """One that this side begins."""
        outcome, reason = Outcome.FAILED, f"it took longer than {ATTEMPT_S:g} s"
        with trio.move_on_after(ATTEMPT_S):
            try:
                async with (
                    self._here() as (outlets, offer),
                    self._calls.stream(peer, PUNCH, timeout_s=ATTEMPT_S) as call,
                ):
                    outcome, reason = await self._lead(peer, outlets, offer, call)
            except OSError as error:
                reason = f"no fresh port: {error}"
        self._note(peer, outcome, reason)

    async def _lead(
        self, peer: PeerId, outlets: list[Outlet], own: Offer, call: Call[Word, Word]
    ) -> tuple[Outcome, str]:
        theirs = await _exchange(call, Word(own))
        if isinstance(theirs, Refusal):
            return _refused(theirs)
        if theirs.offer is None:
            return Outcome.FAILED, "the other side offers nothing"
        planned = self._plan(own, theirs.offer)
        if isinstance(planned, Refusal):
            return _refused(planned)
        began = trio.current_time()
        ready = await _exchange(call, Word(None))
        if isinstance(ready, Refusal):
            return _refused(ready)
        round_trip_s = trio.current_time() - began
        await call.send(Word(None))
        await trio.sleep(round_trip_s / 2)
        meeting = _Meeting(peer, planned, outlets)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_until_told, call, meeting, nursery.cancel_scope.cancel)
            await self._meet(meeting)
            if meeting.is_through:
                with trio.move_on_after(LAST_WORD_S):
                    await meeting.over.wait()
            nursery.cancel_scope.cancel()
        return _result(meeting, own, theirs.offer)

    async def _take_part(self, peer: PeerId, call: Call[Word, Word]) -> Refusal | None:
        """One that the other side begins."""
        if why_not := self.paths.offered(peer, trio.current_time()):
            return Refusal(Code.BUSY, why_not)
        outcome, reason = Outcome.FAILED, "the other side gave up"
        try:
            with trio.move_on_after(ATTEMPT_S):  # whatever time the other side allows itself
                outcome, reason, refusal = await self._follow(peer, call)
                return refusal
            return None
        except OSError as error:
            reason = f"no fresh port: {error}"
            return Refusal(Code.REFUSED, reason)
        finally:
            self._note(peer, outcome, reason)

    async def _follow(self, peer: PeerId, call: Call[Word, Word]) -> tuple[Outcome, str, Refusal | None]:
        theirs = await call.receive()
        if not isinstance(theirs, Word) or theirs.offer is None:
            return Outcome.FAILED, "the other side offers nothing", Refusal(Code.MALFORMED, "an offer comes first")
        async with self._here() as (outlets, own):
            planned = self._plan(own, theirs.offer)
            if isinstance(planned, Refusal):
                return *_refused(planned), planned
            for word in (Word(own), Word(None)):
                await call.send(word)
                if not isinstance(await call.receive(), Word):
                    return Outcome.FAILED, "the other side gave up", None
            meeting = _Meeting(peer, planned, outlets)
            await self._meet(meeting)
            outcome, reason = _result(meeting, own, theirs.offer)
            return outcome, reason, None if meeting.is_through else Refusal(Code.REFUSED, reason)

    def _note(self, peer: PeerId, outcome: Outcome, reason: str) -> None:
        log.debug("punching with %s: %s: %s", peer, outcome.value, reason)
        with self._telling(peer):
            self.paths.ended(peer, outcome, reason, trio.current_time())
        self._wake.set()

    @contextmanager
    def _telling(self, peer: PeerId) -> Generator[None]:
        """Log what becomes of a relayed path, the same reason once."""
        before = [(each.way, each.reason) for each in self.paths.steps(peer)[-1:]]
        yield
        after = [(each.way, each.reason) for each in self.paths.steps(peer)[-1:]]
        if after and after != before and any(way is Way.RELAYED for way, _ in before + after):
            log.info("%s: %s", peer, after[0][1])

    def _plan(self, own: Offer, theirs: Offer) -> Plan | Refusal:
        planned = plan(own, theirs)
        if isinstance(planned, str):
            return Refusal(Code.REFUSED, planned)
        if not self._budget.allows(planned, trio.current_time()):
            return Refusal(Code.BUSY, "too many attempts have been made to dial those addresses")
        return planned

    @asynccontextmanager
    async def _here(self) -> AsyncGenerator[tuple[list[Outlet], Offer]]:
        """Fresh ports, and what to offer of them. Raises OSError."""
        async with AsyncExitStack() as stack:
            seen: dict[str, list[Endpoint]] = {"ip4": [], "ip6": []}
            local_ips = self._around.local_ips()
            own_ip6 = [ip for ip in sorted(local_ips) if ":" in ip and _is_global(ip)]
            kinds = ["ip4", "ip6"] if own_ip6 else ["ip4"]
            outlets = [await stack.enter_async_context(open_outlet(kind)) for kind in kinds]
            async with trio.open_nursery() as nursery:
                for outlet in outlets:
                    for observer in self._around.observers(outlet.kind)[:OBSERVERS]:
                        nursery.start_soon(_ask, outlet, observer, seen[outlet.kind].append)
            punched = [each[0] for each in seen.values() if each]
            if own_ip6 and not seen["ip6"]:  # nobody to ask by IPv6: but it is hardly ever translated
                punched.append(ip_endpoint(own_ip6[0], outlets[1].port))
            mapping = mapping_of(outlets[0].port, local_ips, seen["ip4"])
            listening = tuple(each.address for each in self._around.listening()[:DIALED_MAX])
            yield outlets, Offer(mapping, tuple(each.address for each in punched), listening)

    async def _meet(self, meeting: _Meeting) -> None:
        """Dial and listen, until there is a connection or no hope.

        Handshakes under way may still end: on one of them the other side may have settled.
        """
        with trio.move_on_after(MEET_S + ADOPT_S):
            async with trio.open_nursery() as adopting:
                with trio.move_on_after(MEET_S) as dialing:

                    def adopt(stream: trio.SocketStream, how: How) -> None:
                        adopting.start_soon(self._adopt, meeting, stream, how, dialing.cancel)

                    await _dial_all(meeting, adopt)

    async def _adopt(self, meeting: _Meeting, stream: trio.SocketStream, how: How, done: Callable[[], None]) -> None:
        """Where both sides dialed it is their ids that say who speaks first."""
        is_first = how is How.DIALED or self._self_id < meeting.peer
        if await self._connections.adopt(stream, meeting.peer, how, is_initiator=is_first) == meeting.peer:
            where = self._connections.direct_endpoint(meeting.peer)
            if not meeting.is_through and where is not None:
                self._budget.proved(meeting.plan, where)
            meeting.is_through = True
            done()


async def _dial_all(meeting: _Meeting, adopt: _Adopt) -> None:
    """Until cancelled, or no hope is left."""
    kinds = {outlet.kind for outlet in meeting.outlets}
    punched = {endpoint for endpoint in meeting.plan.punched if endpoint.kind in kinds}
    async with trio.open_nursery() as nursery:
        for outlet in meeting.outlets:
            nursery.start_soon(_listen, outlet, adopt)
            for endpoint in punched:
                if endpoint.kind == outlet.kind:
                    nursery.start_soon(_dial, meeting, outlet, endpoint, adopt)
        for endpoint in meeting.plan.dialed:
            nursery.start_soon(_connect, endpoint, adopt)
        await trio.sleep(REFUSED_S)
        if punched and punched == meeting.refused and not meeting.plan.dialed:
            nursery.cancel_scope.cancel()


async def _listen(outlet: Outlet, adopt: _Adopt) -> None:
    with suppress(OSError):
        for _ in range(ACCEPTED_MAX):
            adopt(await outlet.accept(), How.PUNCHED)


async def _dial(meeting: _Meeting, outlet: Outlet, endpoint: Endpoint, adopt: _Adopt) -> None:
    for turn in range(DIALS_MAX):
        try:
            stream = await outlet.connect(endpoint)
        except (ConnectionRefusedError, ConnectionResetError):
            meeting.refused.add(endpoint)
        except OSError as error:  # no way leads there, or what came from there was accepted meanwhile
            log.debug("%s: %s", endpoint.address, error)
        else:
            adopt(stream, How.PUNCHED)
            return
        await trio.sleep(AGAIN_S * 2.0**turn)


async def _connect(endpoint: Endpoint, adopt: _Adopt) -> None:
    with suppress(OSError):
        adopt(await dial(endpoint), How.DIALED)


async def _ask(outlet: Outlet, observer: Endpoint, found: Callable[[Endpoint], None]) -> None:
    seen = await outlet.ask(observer)
    if isinstance(seen, Endpoint):
        found(seen)
    else:
        log.debug("no observer: %s", seen.message)


async def _exchange(call: Call[Word, Word], word: Word) -> Word | Refusal:
    refusal = await call.send(word)
    if refusal is not None:
        return refusal
    answer = await call.receive()
    return Refusal(Code.UNREACHABLE, "the other side ended the attempt") if answer is None else answer


async def _until_told(call: Call[Word, Word], meeting: _Meeting, stop: Callable[[], None]) -> None:
    """The other side says at its end whether it is through."""
    if isinstance(await call.receive(), Refusal):
        stop()
    meeting.over.set()


def _refused(refusal: Refusal) -> tuple[Outcome, str]:
    words = "".join(letter if letter.isprintable() else "?" for letter in refusal.message)  # a peer's, for a terminal
    return _OUTCOMES.get(refusal.code, Outcome.FAILED), words


def _result(meeting: _Meeting, own: Offer, theirs: Offer) -> tuple[Outcome, str]:
    if meeting.is_through:
        return Outcome.DIRECT, "a hole was punched"
    return Outcome.FAILED, explanation(own, theirs, len(meeting.refused))


def _is_global(ip: str) -> bool:
    return ranges_of(ip_endpoint(ip, 1).address) is not None
