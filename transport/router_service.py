"""Asks the home's router for a port: datagrams to its port 5351, a search by multicast, and small requests by HTTP.

All of them end: the caller's patience bounds a question, and TEXT_BYTES_MAX what is read. Nothing runs between them.
"""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address
from pathlib import Path
from typing import Final, TypeVar

import h11
import trio

from .pcp import (
    RESPONSE_BYTES_MAX,
    ROUTER_PORT,
    nat_pmp_address_request,
    nat_pmp_request,
    pcp_request,
    read_nat_pmp,
    read_nat_pmp_address,
    read_pcp,
)
from .port_mapping import Answer, Ask, GiveBack, Protocol, Silent, Taken
from .upnp import (
    CONTROLS_MAX,
    SEARCH_BYTES_MAX,
    SEARCH_GROUP,
    SEARCHED,
    TEXT_BYTES_MAX,
    Control,
    Place,
    action,
    added_entry,
    entry_of,
    is_others,
    read_added,
    read_address,
    read_description,
    read_found,
    search,
)
from .wire import Malformed

FIRST_WAIT_S: Final = 0.25  # for the answer to a datagram; each further wait is twice as long (RFC 6886, section 3.1)
SEARCHES: Final = 2  # for one may be lost
SEARCH_S: Final = 1.0  # for the answers to each; devices wait up to MX seconds, which is one
ROUTES: Final = Path("/proc/net/route")
HEADERS_BYTES_MAX: Final = 16 * 1024
_PIECE_BYTES: Final = 16 * 1024
_HAS_GATEWAY: Final = 2  # RTF_GATEWAY of linux/route.h

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Response:
    """What came by HTTP, and the address of ours that it came to."""

    status: int
    body: bytes
    client: str


class RouterService:
    """Questions to one router, one at a time.

    Args:
        nonce: by which PCP knows us again; a secret.
        gateway: where the router is, if that is known; asked anew for each question.
        router_port: where it takes datagrams.
    """

    def __init__(self, nonce: bytes, gateway: Callable[[], str | None], router_port: int = ROUTER_PORT) -> None:
        self._nonce = nonce
        self._gateway = gateway
        self._router_port = router_port
        self._control: Control | None = None  # where UPnP granted something

    def forget(self) -> None:
        """There may be another router."""
        self._control = None

    async def ask(self, port: int, ask: Ask) -> Answer:
        """For an external port that leads to ours."""
        answer: Answer = Silent()
        with trio.move_on_after(ask.patience_s):
            match ask.protocol:
                case Protocol.PCP:
                    answer = await self._pcp(port, ask.external_port, ask.lease_s)
                case Protocol.NAT_PMP:
                    answer = await self._nat_pmp(port, ask.external_port, ask.lease_s)
                case Protocol.UPNP:
                    answer = await self._upnp(port, ask.external_port, ask.lease_s)
        return answer

    async def give_back(self, port: int, back: GiveBack) -> None:
        """Until the router has answered, or for ever: the caller bounds it."""
        match back.protocol:
            case Protocol.PCP:
                await self._pcp(port, back.external_port, 0)
            case Protocol.NAT_PMP:
                await self._exchange(lambda _: nat_pmp_request(port, 0, 0), lambda data: read_nat_pmp(data, "", port))
            case Protocol.UPNP:
                if self._control is not None:
                    await _act(self._control, "DeletePortMapping", entry_of(back.external_port))

    async def _pcp(self, port: int, external_port: int, lease_s: int) -> Answer:
        return await self._exchange(
            lambda client: pcp_request(client, self._nonce, port, external_port, lease_s),
            lambda data: read_pcp(data, self._nonce, port),
        )

    async def _nat_pmp(self, port: int, external_port: int, lease_s: int) -> Answer:
        host: str | Answer = await self._exchange(lambda _: nat_pmp_address_request(), read_nat_pmp_address)
        if not isinstance(host, str):
            return host
        return await self._exchange(
            lambda _: nat_pmp_request(port, external_port, lease_s), lambda data: read_nat_pmp(data, host, port)
        )

    async def _exchange(
        self, request_from: Callable[[str], bytes], read: Callable[[bytes], T | Malformed]
    ) -> T | Silent:
        """Repeat a request until an answer makes sense. The socket takes datagrams from the router alone."""
        gateway = self._gateway()
        if gateway is None:
            return Silent()
        wait_s = FIRST_WAIT_S
        with trio.socket.socket(trio.socket.AF_INET, trio.socket.SOCK_DGRAM) as udp:
            try:
                await udp.connect((gateway, self._router_port))
                request = request_from(udp.getsockname()[0])
                while True:
                    await udp.send(request)
                    with trio.move_on_after(wait_s):
                        while True:
                            answer = read(await udp.recv(RESPONSE_BYTES_MAX + 1))
                            if not isinstance(answer, Malformed):
                                return answer
                    wait_s *= 2
            except OSError:  # nobody there: the router's system says so, or ours
                return Silent()

    async def _upnp(self, port: int, external_port: int, lease_s: int) -> Answer:
        remembered, self._control = self._control, None
        answer: Answer = Silent()
        if remembered is not None:
            answer = await self._map_at([remembered], port, external_port, lease_s)
        if isinstance(answer, Silent):  # it may have restarted, at another port
            answer = await self._map_at(await self._find(), port, external_port, lease_s)
        return answer

    async def _map_at(self, controls: Sequence[Control], port: int, external_port: int, lease_s: int) -> Answer:
        """By the first connection that has an address, or else by the last."""
        for control in controls:
            asked = await _act(control, "GetExternalIPAddress", {})
            host = None if asked is None else read_address(asked.status, asked.body)
            if asked is None or (host is None and control is not controls[-1]):
                continue
            entry = await _act(control, "GetSpecificPortMappingEntry", entry_of(external_port))
            if entry is not None and is_others(entry.status, entry.body, asked.client):
                return Taken()
            self._control = control  # already: what is granted while we no longer wait must be given back
            added = await _act(control, "AddPortMapping", added_entry(asked.client, port, external_port, lease_s))
            return Silent() if added is None else read_added(added.status, added.body, host, external_port, lease_s)
        return Silent()

    async def _find(self) -> list[Control]:
        """The connections of the router."""
        for place in await self._search():
            got = await fetch(place, h11.Request(method="GET", target=place.path, headers=[_host(place)]), b"")
            controls = None if got is None or got.status != 200 else read_description(got.body, place)
            if isinstance(controls, list):
                return controls
        return []

    async def _search(self) -> list[Place]:
        """Descriptions of devices that may be the router. If it is known which one is, only that is waited for."""
        gateway = self._gateway()
        places: list[Place] = []
        with trio.socket.socket(trio.socket.AF_INET, trio.socket.SOCK_DGRAM) as udp:
            try:
                for _ in range(SEARCHES):
                    for target in SEARCHED:
                        await udp.sendto(search(target), SEARCH_GROUP)
                    with trio.move_on_after(SEARCH_S):
                        while len(places) < CONTROLS_MAX:
                            data, (sender, _) = await udp.recvfrom(SEARCH_BYTES_MAX + 1)
                            place = read_found(data, sender, gateway)
                            if isinstance(place, Malformed) or place in places:
                                continue
                            if gateway in (None, sender):
                                return [place]
                            places.append(place)
            except OSError:  # no network at all
                pass
        return places


def default_gateway() -> str | None:
    """The router's address; None where it is not known: this machine has none, or is not a Linux one."""
    try:
        return gateway_in(ROUTES.read_text())
    except OSError:
        return None


def gateway_in(table: str) -> str | None:
    """The gateway of the default route that counts most, of a table as Linux writes it."""
    found: list[tuple[int, str]] = []
    for line in table.splitlines()[1:]:
        fields = line.split()
        if len(fields) > 7 and fields[1] == fields[7] == "00000000" and int(fields[3], 16) & _HAS_GATEWAY:
            gateway = IPv4Address(int(fields[2], 16).to_bytes(4, sys.byteorder))  # written in the machine's order
            found.append((int(fields[6]), str(gateway)))
    return min(found)[1] if found else None


async def _act(control: Control, name: str, arguments: dict[str, str]) -> Response | None:
    headers, body = action(control, name, arguments)
    fields = [_host(control.place), *headers, ("Content-Length", str(len(body)))]
    return await fetch(control.place, h11.Request(method="POST", target=control.place.path, headers=fields), body)


def _host(place: Place) -> tuple[str, str]:
    return ("Host", f"{place.host}:{place.port}")


async def fetch(place: Place, request: h11.Request, body: bytes) -> Response | None:
    """What a device answers; None if that is nothing, nonsense, or too much."""
    http = h11.Connection(h11.CLIENT, max_incomplete_event_size=HEADERS_BYTES_MAX)
    events: Sequence[h11.Event] = (request, h11.Data(body), h11.EndOfMessage())
    with trio.socket.socket(trio.socket.AF_INET, trio.socket.SOCK_STREAM) as tcp:
        try:
            await tcp.connect((place.host, place.port))
            stream = trio.SocketStream(tcp)
            await stream.send_all(b"".join(http.send(event) or b"" for event in events))
            return await _receive(http, stream)
        except (OSError, trio.BrokenResourceError, h11.RemoteProtocolError):
            return None


async def _receive(http: h11.Connection, stream: trio.SocketStream) -> Response | None:
    status, body = 0, bytearray()
    while True:
        event = http.next_event()
        if event is h11.NEED_DATA:
            http.receive_data(await stream.receive_some(_PIECE_BYTES))
        elif isinstance(event, h11.Response):
            status = event.status_code
        elif isinstance(event, h11.Data):
            body += event.data
            if len(body) > TEXT_BYTES_MAX:
                return None
        elif isinstance(event, h11.EndOfMessage):
            return Response(status, bytes(body), stream.socket.getsockname()[0])
        elif not isinstance(event, h11.InformationalResponse):
            return None
