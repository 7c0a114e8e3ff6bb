"""Finds peers on the LAN, so that nobody has to name an address there: libp2p's mDNS, by the zeroconf library.

Who does not want it does not start it. What anybody on the LAN may do: announce any number of services, at any rate.
What it achieves: HEARD_MAX wait to be met, PEERS_REMEMBERED_MAX are remembered, each is met once in AGAIN_S at most.
"""

import logging
import secrets
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Final

import trio
from zeroconf import Error as ZeroconfError
from zeroconf import InterfaceChoice, ServiceInfo, ServiceListener, Zeroconf

from shoal.transport.port import Address, Transport

from .contacts import Contact
from .lan import SERVICE, lan_text, read_lan_text

HEARD_MAX: Final = 64
PEERS_REMEMBERED_MAX: Final = 1024
AGAIN_S: Final = 60.0
RESOLVE_MS: Final = 1000  # for the text of a service whose name was heard

log = logging.getLogger(__name__)


class _Listener(ServiceListener):
    """Called in zeroconf's own thread."""

    def __init__(self, heard: Callable[[bytes], None]) -> None:
        self._heard = heard

    def add_service(self, zc: Zeroconf, type_: str, name: str) -> None:
        info = zc.get_service_info(type_, name, RESOLVE_MS)
        if info is not None and info.text:
            self._heard(info.text)

    def update_service(self, zc: Zeroconf, type_: str, name: str) -> None:
        self.add_service(zc, type_, name)

    def remove_service(self, zc: Zeroconf, type_: str, name: str) -> None:
        pass


async def find_neighbours(
    transport: Transport,
    meet: Callable[[tuple[Address, ...]], Awaitable[bool]],
    interfaces: Sequence[str] | None = None,
    *,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Announce this node on the LAN and meet whoever announces itself, until cancelled.

    Args:
        meet: what to do with a neighbour's addresses: `DhtService.join`.
        interfaces: IP addresses of this machine's network cards; all of them if none are named.
    """
    send, receive = trio.open_memory_channel[bytes](HEARD_MAX)
    token = trio.lowlevel.current_trio_token()

    def take(text: bytes) -> None:
        try:
            send.send_nowait(text)
        except (trio.WouldBlock, trio.BrokenResourceError):
            log.debug("a neighbour more than can be met at once")

    def heard(text: bytes) -> None:
        with suppress(trio.RunFinishedError):
            token.run_sync_soon(take, text)

    chosen = InterfaceChoice.All if interfaces is None else list(interfaces)
    try:
        zeroconf = await trio.to_thread.run_sync(partial(Zeroconf, interfaces=chosen))
    except OSError as error:
        log.warning("no peers will be found on the LAN: %s", error)
        task_status.started()
        return
    try:
        await trio.to_thread.run_sync(_announce, zeroconf, transport.addresses(), _Listener(heard))
        task_status.started()
        with receive:
            await _meet_all(transport, meet, receive)
    finally:
        with trio.CancelScope(shield=True):
            await trio.to_thread.run_sync(zeroconf.close)


def _announce(zeroconf: Zeroconf, addresses: tuple[Address, ...], listener: ServiceListener) -> None:
    name = secrets.token_hex(16)  # as the specification wants it: it says nothing about who this is
    port = next((int(address.split("/")[4]) for address in addresses if address.count("/") > 4), 4001)
    hosts = [address.split("/")[2] for address in addresses if address.startswith("/ip4/")]
    try:
        if addresses:
            info = ServiceInfo(
                SERVICE,
                f"{name}.{SERVICE}",
                port,
                properties=lan_text(addresses),
                server=f"{name}.local.",
                parsed_addresses=hosts or ["127.0.0.1"],  # without one zeroconf takes it for incomplete
            )
            zeroconf.register_service(info)
    except (OSError, ZeroconfError) as error:
        log.warning("this node is not announced on the LAN: %s", error)
    zeroconf.add_service_listener(SERVICE, listener)


async def _meet_all(
    transport: Transport,
    meet: Callable[[tuple[Address, ...]], Awaitable[bool]],
    texts: trio.MemoryReceiveChannel[bytes],
) -> None:
    met: dict[Contact, float] = {}
    async for text in texts:
        contact, now = read_lan_text(text), trio.current_time()
        if contact is None or contact.peer == transport.peer_id or now < met.get(contact, -AGAIN_S) + AGAIN_S:
            continue
        met[contact] = now
        if len(met) > PEERS_REMEMBERED_MAX:
            del met[next(iter(met))]
        if await meet(contact.addresses):
            log.info("found %s on the LAN", contact.peer)
