"""This machine's network cards: at which addresses others reach it, and whether IPv4 and IPv6 lead out of it."""

import ipaddress
import socket
from collections.abc import Callable
from contextlib import suppress
from typing import Final

import trio
from multiaddr.utils import get_network_addrs

LOOPBACK: Final = ("127.0.0.1", "::1")
LOOK_S: Final = 1.0  # between two looks, of 0.3 ms; longer: whoever moves is away for longer
PUBLIC_IP6_MAX: Final = 2  # named to others; a card may have a dozen, of which most will be gone tomorrow
_FAR: Final = {"ip4": (socket.AF_INET, "192.0.2.1"), "ip6": (socket.AF_INET6, "2001:db8::1")}  # nobody's


class Cards:
    """See the module's text."""

    def __init__(self) -> None:
        self._ips: dict[str, list[str]] = {}
        self._all: frozenset[str] = frozenset()

    def ips(self, kind: str) -> list[str]:
        """All of them, loopback last, but of IPv6's public ones a few: that from which the system sends comes first."""
        with suppress(OSError):  # where no file can be opened the system cannot be asked: then as before
            self._ips[kind] = _few(get_network_addrs(6)) if kind == "ip6" else [*get_network_addrs(4), "127.0.0.1"]
        return self._ips.get(kind, [])

    def families(self) -> frozenset[str]:
        """Those of ip4 and ip6 that lead out; of IPv6 a public address is needed, too."""
        found = {kind: _source(kind) for kind in _FAR}
        return frozenset(kind for kind, ip in found.items() if ip is not None and (kind == "ip4" or ip.is_global))

    def all(self) -> frozenset[str]:
        """Of both families, but loopback."""
        with suppress(OSError):
            self._all = frozenset((*get_network_addrs(4), *get_network_addrs(6)))
        return self._all

    async def follow(self, tell: Callable[[frozenset[str]], None], moved: Callable[[], None]) -> None:
        """Tell at once which families lead out, and again, with the news itself, when the machine is elsewhere."""
        known = None
        while True:
            ips = self.all()
            if ips != known:
                tell(self.families())
                if known is not None:
                    moved()
                known = ips
            await trio.sleep(LOOK_S)


def _few(ips: list[str]) -> list[str]:
    source = str(_source("ip6"))
    ips.sort(key=lambda ip: ip != source)
    public = [ip for ip in ips if ipaddress.ip_address(ip).is_global]
    return [*(ip for ip in ips if ip not in public[PUBLIC_IP6_MAX:]), "::1"]


def _source(kind: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """From where the system would send to somebody far away; None: nowhere. Connecting UDP sends nothing."""
    family, far = _FAR[kind]
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect((far, 9))
            ip = ipaddress.ip_address(probe.getsockname()[0].partition("%")[0])
    except OSError:
        return None
    return None if ip.is_loopback or ip.is_link_local or ip.is_unspecified else ip
