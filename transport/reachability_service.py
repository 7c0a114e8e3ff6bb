"""Finds out whether others can dial this node, and helps others to find out: see `reachability`.

Who is asked to dial back dials nobody but the asker, at the address at which it sees it, a few ports, now and then.
"""

import logging
import secrets
from collections import OrderedDict
from collections.abc import Callable
from typing import Annotated, Final

import msgspec
import trio

from .addresses import Endpoint, parse_endpoint, ranges_of
from .connections_service import Connections
from .outlet_service import Outlet, open_outlet, show
from .port import Code, PeerConnected, PeerDisconnected, PeerId, Refusal, Unary
from .punching import mapping_of
from .reachability import LOOK_MAX, AskToDial, Attempt, Look, Reachability, Tried
from .service import CallService
from .stun import ID_BYTES
from .token_bucket import TokenBucket
from .wire import AddressText, Message

PORTS_MAX: Final = 3
DIAL_S: Final = 3.0  # a helper waits so long for one dial
ASK_S: Final = 4.5  # and who asked, for its answer
ARRIVAL_S: Final = 1.0  # for a word that is on its way; on a busy machine the answer overtakes it
HELPING_MAX: Final = 8  # at once
HELP_PER_S, HELP_BURST = 0.2, 6  # of one peer
ASKERS_MAX: Final = 1024  # whose questions are counted

log = logging.getLogger(__name__)

_Port = Annotated[int, msgspec.Meta(ge=1, le=65_535)]
_Id = Annotated[bytes, msgspec.Meta(min_length=ID_BYTES, max_length=ID_BYTES)]


class DialBack(Message, frozen=True):
    """Dial me at these ports, and show there the id that stands beside each."""

    ports: Annotated[tuple[_Port, ...], msgspec.Meta(min_length=1, max_length=PORTS_MAX)]
    ids: Annotated[tuple[_Id, ...], msgspec.Meta(min_length=1, max_length=PORTS_MAX)]


class DialedBack(Message, frozen=True):
    seen: AddressText
    attempts: Annotated[tuple[Annotated[int, msgspec.Meta(ge=0, le=3)], ...], msgspec.Meta(max_length=PORTS_MAX)]


DIAL_BACK: Final = Unary("/shoal/reach/1/dial_back", DialBack, DialedBack, 1024, 1024)


class ReachabilityService:
    """Both sides of it.

    Args:
        ports: at which this node listens, and to which routers lead.
        local_ips: of this machine.
        changed: called when there is another verdict, or the network has changed (True).
    """

    def __init__(
        self,
        calls: CallService,
        connections: Connections,
        ports: Callable[[], list[int]],
        local_ips: Callable[[], frozenset[str]],
        changed: Callable[[bool], None],
    ) -> None:
        self.state = Reachability(local_ips(), trio.current_time())
        self._calls = calls
        self._connections = connections
        self._ports = ports
        self._local_ips = local_ips
        self._changed = changed
        self._awaited: dict[bytes, Callable[[], None]] = {}
        self._helping = 0
        self._look_count = 0
        self._askers: OrderedDict[PeerId, TokenBucket] = OrderedDict()
        self._wake = trio.Event()
        calls.serve(DIAL_BACK, self._dial_back)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._follow)
            task_status.started()
            while True:
                self._wake = trio.Event()
                for order in self.state.due(trio.current_time()):
                    match order:
                        case AskToDial(helper):
                            nursery.start_soon(self._ask, helper)
                        case Look():
                            nursery.start_soon(self._look)
                with trio.move_on_at(self.state.deadline):
                    await self._wake.wait()

    def network_changed(self) -> None:
        """This machine is somewhere else."""
        self.state.network_changed(self._local_ips(), trio.current_time())
        self._changed(True)
        self._wake.set()

    def look_soon(self) -> None:
        """Something about the network has changed: others may see this node elsewhere."""
        self.state.look_soon(trio.current_time())
        self._wake.set()

    def ports_changed(self) -> None:
        """There are other ports to try."""
        self.state.ports_changed(trio.current_time())
        self._wake.set()

    def arrived(self, id: bytes) -> None:
        """Somebody has shown an id at a port where this node listens."""
        note = self._awaited.pop(id, None)
        if note is not None:
            note()

    def observers(self, kind: str) -> list[Endpoint]:
        """Nodes that were dialed at global addresses, by ip4 or ip6, one of each range, the quickest first."""
        found: dict[object, Endpoint] = {}
        for endpoint in self._connections.dialed():
            ranges = ranges_of(endpoint.address)
            if endpoint.kind == kind and ranges is not None:
                found.setdefault(ranges, endpoint)
        return list(found.values())

    async def _follow(self) -> None:
        while True:  # the channel ends for who is too far behind
            async with self._connections.events() as events:
                async for event in events:
                    match event:
                        case PeerConnected(peer):
                            self.look_at(peer)
                        case PeerDisconnected(peer):
                            self.state.helper_left(peer)

    def look_at(self, peer: PeerId) -> None:
        """A peer's connections have changed."""
        endpoint = self._connections.direct_endpoint(peer)
        if endpoint is not None and ranges_of(endpoint.address) is not None:
            self.state.helper_came(peer, trio.current_time())
            self._wake.set()

    # As the one who asks.

    async def _ask(self, helper: PeerId) -> None:
        ports = self._ports()[:PORTS_MAX]
        before = self.state.verdict, self.state.endpoints
        if not ports:
            return
        arrived: set[int] = set()
        ids = {port: secrets.token_bytes(ID_BYTES) for port in ports}
        for port, id in ids.items():
            self._awaited[id] = lambda port=port: arrived.add(port)  # type: ignore[misc]
        try:
            request = DialBack(tuple(ids), tuple(ids.values()))
            answer = await self._calls.request(helper, DIAL_BACK, request, timeout_s=ASK_S)
            if isinstance(answer, DialedBack):  # its word at the port may come in later than its answer
                with trio.move_on_after(ARRIVAL_S):
                    while len(arrived) < answer.attempts.count(Attempt.CONNECTED):  # noqa: ASYNC110
                        await trio.sleep(ARRIVAL_S / 50)
        finally:
            for id in ids.values():
                self._awaited.pop(id, None)
        self.state.tried(helper, _tried(answer, ports, frozenset(arrived)), trio.current_time())
        if (self.state.verdict, self.state.endpoints) != before:
            log.info("this node is %s: %s", self.state.verdict.value, self.state.reason)
            self._changed(False)
        self._wake.set()

    async def _look(self) -> None:
        seen: dict[PeerId, Endpoint] = {}
        observers = self.observers("ip4")
        self._look_count += 1
        turn = LOOK_MAX * self._look_count % max(1, len(observers))
        try:
            async with open_outlet("ip4") as outlet, trio.open_nursery() as nursery:
                for observer in [*observers[turn:], *observers[:turn]][:LOOK_MAX]:
                    nursery.start_soon(_show, outlet, observer, seen)
        except OSError as error:
            log.debug("no fresh port: %s", error)
            return
        mapping = mapping_of(outlet.port, self._local_ips(), list(seen.values()))
        if self.state.looked(seen, mapping, trio.current_time()):
            log.info("this node's address outside is another one now")
            self._changed(True)
        self._wake.set()

    # As the one who helps.

    async def _dial_back(self, peer: PeerId, request: DialBack) -> DialedBack | Refusal:
        seen = self._connections.direct_endpoint(peer)
        if seen is None:
            return Refusal(Code.REFUSED, "there is no direct connection, so your address is not known here")
        if len(request.ports) != len(request.ids):
            return Refusal(Code.MALFORMED, "an id for each port")
        bucket = self._askers.setdefault(peer, TokenBucket(HELP_PER_S, HELP_BURST))
        self._askers.move_to_end(peer)
        if len(self._askers) > ASKERS_MAX:
            self._askers.popitem(last=False)
        if self._helping >= HELPING_MAX or not bucket.take(trio.current_time()):
            return Refusal(Code.BUSY, "too many ask to be dialed back")
        self._helping += 1
        attempts = [Attempt.UNREACHABLE] * len(request.ports)

        async def dial(at: int, port: int, id: bytes) -> None:
            attempts[at] = await _attempt(Endpoint(seen.kind, seen.host, port), id)

        try:
            async with trio.open_nursery() as nursery:
                for at, (port, id) in enumerate(zip(request.ports, request.ids, strict=True)):
                    nursery.start_soon(dial, at, port, id)
        finally:
            self._helping -= 1
        return DialedBack(Endpoint(seen.kind, seen.host, seen.port).address, tuple(attempts))


def _tried(answer: DialedBack | Refusal, ports: list[int], arrived: frozenset[int]) -> Tried | None:
    if isinstance(answer, Refusal):
        log.debug("not dialed back: %s", answer.message)
        return None
    seen = parse_endpoint(answer.seen)
    if not isinstance(seen, Endpoint) or ranges_of(seen.address) is None or len(answer.attempts) != len(ports):
        return None
    return Tried(seen, {port: Attempt(each) for port, each in zip(ports, answer.attempts, strict=True)}, arrived)


async def _show(outlet: Outlet, observer: Endpoint, seen: dict[PeerId, Endpoint]) -> None:
    answer = await outlet.ask(observer)
    if isinstance(answer, Endpoint) and observer.peer is not None:
        seen[observer.peer] = answer


async def _attempt(endpoint: Endpoint, id: bytes) -> Attempt:
    with trio.move_on_after(DIAL_S):
        try:
            await show(endpoint, id)
        except ConnectionRefusedError:
            return Attempt.REFUSED
        except OSError:
            return Attempt.UNREACHABLE
        return Attempt.CONNECTED
    return Attempt.TIMED_OUT
