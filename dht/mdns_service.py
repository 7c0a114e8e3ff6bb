"""Finds peers on the LAN, so that nobody has to name an address there.

Who does not want it does not start it. A laptop changes its network, sleeps and wakes up, so every LOOK_S its addresses
are compared with those announced. A node that listens on loopback alone has no LAN, and nothing is started for it.

What anybody on the LAN may do: announce any number of services, at any rate. What it achieves: HEARD_MAX wait to be
met, PEERS_REMEMBERED_MAX are remembered, each is met once in AGAIN_S at most, at addresses of this LAN (`lan`).
"""

import ipaddress
import logging
import time
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, suppress
from dataclasses import dataclass
from typing import Final

import ifaddr
import trio

from shoal.transport.addresses import Endpoint
from shoal.transport.port import Address, Transport

from .contacts import Contact
from .lan import IpNetwork, lan_endpoints, read_lan_text
from .zeroconf_service import announced

HEARD_MAX: Final = 64
PEERS_REMEMBERED_MAX: Final = 1024
AGAIN_S: Final = 60.0
LOOK_S: Final = 15.0

log = logging.getLogger(__name__)

Meet = Callable[[tuple[Address, ...]], Awaitable[bool]]


@dataclass(frozen=True, slots=True)
class _Lan:
    """Where this machine is, and where this node listens there."""

    endpoints: tuple[Endpoint, ...]
    networks: tuple[IpNetwork, ...]


@dataclass(frozen=True, slots=True)
class Heard:
    """A neighbour's announcement."""

    text: bytes
    networks: tuple[IpNetwork, ...]  # on one of which it was heard


async def find_neighbours(
    transport: Transport,
    meet: Meet,
    look_s: float = LOOK_S,
    *,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Announce this node on the LAN and meet whoever announces itself, until cancelled.

    Args:
        meet: what to do with a neighbour's addresses: `DhtService.join`.
        look_s: between two looks at the addresses of this machine.
    """
    send, receive = trio.open_memory_channel[Heard](HEARD_MAX)
    task_status.started()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(meet_all, transport, meet, receive)
        while True:
            lan = _lan_of(transport)
            try:
                async with AsyncExitStack() as stack:
                    if lan is not None:
                        await stack.enter_async_context(_announced(lan, send))
                    await _until_changed(transport, lan, look_s)
            except OSError as error:
                log.warning("no peers will be found on the LAN: %s", error)
                await _until_changed(transport, lan, look_s)


def _announced(lan: _Lan, send: trio.MemorySendChannel[Heard]) -> AbstractAsyncContextManager[None]:
    token = trio.lowlevel.current_trio_token()

    def heard(text: bytes) -> None:
        with suppress(trio.RunFinishedError):
            token.run_sync_soon(hear, send, Heard(text, lan.networks))

    return announced(lan.endpoints, heard)


def hear(send: trio.MemorySendChannel[Heard], heard: Heard) -> None:
    """In line with those that wait to be met, unless the line is full: it will announce itself again."""
    try:
        send.send_nowait(heard)
    except (trio.WouldBlock, trio.BrokenResourceError):
        log.debug("a neighbour more than can be met at once")


async def _until_changed(transport: Transport, lan: _Lan | None, look_s: float) -> None:
    """Until this machine is elsewhere, or was asleep: then it has missed what others said."""
    awake_s = _asleep_s()
    while True:
        await trio.sleep(look_s)
        if _lan_of(transport) != lan or _asleep_s() - awake_s > look_s:
            return


def _lan_of(transport: Transport) -> _Lan | None:
    """None: nobody on a LAN can reach this node."""
    addresses = transport.addresses()
    if all(address.startswith(("/ip4/127.", "/ip6/::1/")) for address in addresses):
        return None
    try:
        ips = [ip for adapter in ifaddr.get_adapters() for ip in adapter.ips]
    except OSError:  # where no file can be opened the system cannot be asked
        return None
    named = [(ip.ip if isinstance(ip.ip, str) else ip.ip[0], ip.network_prefix) for ip in ips]
    networks = (ipaddress.ip_network(f"{host}/{bits}", strict=False) for host, bits in named)
    usable = tuple(sorted({each for each in networks if not (each.is_loopback or each.is_link_local)}, key=str))
    endpoints = lan_endpoints(addresses, usable)
    return _Lan(endpoints, usable) if endpoints else None


def _asleep_s() -> float:
    """Grows by what this machine sleeps: the clock on the wall goes on, that of the loop stands still."""
    return time.time() - trio.current_time()


async def meet_all(transport: Transport, meet: Meet, neighbours: trio.MemoryReceiveChannel[Heard]) -> None:
    """Each once in AGAIN_S at most."""
    met: dict[Contact, float] = {}  # longest ago first
    async for heard in neighbours:
        contact, now = read_lan_text(heard.text, heard.networks), trio.current_time()
        if contact is None or contact.peer == transport.peer_id or now < met.get(contact, -AGAIN_S) + AGAIN_S:
            continue
        met.pop(contact, None)
        met[contact] = now
        if len(met) > PEERS_REMEMBERED_MAX:
            del met[next(iter(met))]
        if await meet(contact.addresses):
            log.info("found %s on the LAN", contact.peer)
