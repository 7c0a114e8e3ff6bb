"""Announces a node on its LANs and hears who else is there: libp2p's mDNS, by the zeroconf library.

Its threads are zeroconf's own; what they hear goes to `heard`. A text is taken where it comes, and nobody is asked for
one that does not: libp2p's nodes send it with their names, and a neighbour could name services without end, each of
which would be waited for, also at the end.
"""

import logging
import secrets
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial

import trio
from zeroconf import Error as ZeroconfError
from zeroconf import RecordUpdate, RecordUpdateListener, ServiceInfo, ServiceListener, Zeroconf

from shoal.transport.addresses import Endpoint

from .lan import SERVICE, lan_text

log = logging.getLogger(__name__)


class _Listener(ServiceListener, RecordUpdateListener):
    """Called in zeroconf's own threads: of the names it looks for, which alone say nothing, and of all records."""

    def __init__(self, heard: Callable[[bytes], None]) -> None:
        super().__init__()
        self._heard = heard

    def async_update_records(self, zc: Zeroconf, now: float, records: list[RecordUpdate]) -> None:
        for record in (update.new for update in records):
            text = getattr(record, "text", None)
            if isinstance(text, bytes) and record.key.endswith(f".{SERVICE}") and not record.is_expired(now):
                self._heard(text)

    def add_service(self, zc: Zeroconf, type_: str, name: str) -> None: ...
    def update_service(self, zc: Zeroconf, type_: str, name: str) -> None: ...
    def remove_service(self, zc: Zeroconf, type_: str, name: str) -> None: ...


@asynccontextmanager
async def announced(endpoints: Sequence[Endpoint], heard: Callable[[bytes], None]) -> AsyncGenerator[None]:
    """On the networks of these endpoints, where this node listens, for as long as the context lasts.

    Args:
        heard: called in another thread, with the text of each neighbour's announcement.

    Raises:
        OSError: there is no multicast.
    """
    cards = [each.host for each in endpoints if each.kind == "ip4"] or [each.host for each in endpoints]
    zeroconf = await trio.to_thread.run_sync(partial(Zeroconf, interfaces=cards))
    try:
        await trio.to_thread.run_sync(_announce, zeroconf, endpoints, _Listener(heard))
        yield
    finally:
        with trio.CancelScope(shield=True):
            await trio.to_thread.run_sync(zeroconf.close)  # 0.25 s: it says goodbye


def _announce(zeroconf: Zeroconf, endpoints: Sequence[Endpoint], listener: _Listener) -> None:
    zeroconf.add_listener(listener, None)
    zeroconf.add_service_listener(SERVICE, listener)
    name = secrets.token_hex(16)  # as the specification wants it: it says nothing about who this is
    info = ServiceInfo(
        SERVICE,
        f"{name}.{SERVICE}",
        endpoints[0].port,
        properties=lan_text(endpoint.address for endpoint in endpoints),
        server=f"{name}.local.",
        parsed_addresses=[endpoint.host for endpoint in endpoints],
    )
    try:
        zeroconf.register_service(info, cooperating_responders=True)  # nobody else has that name: no need to probe
    except (OSError, ZeroconfError) as error:
        log.warning("this node is not announced on the LAN: %s", error)
