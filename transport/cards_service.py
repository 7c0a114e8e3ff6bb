"""This machine's network cards: at which addresses others reach it, and whether IPv4 and IPv6 lead out of it."""

import ipaddress
import socket
import sys
from collections.abc import Callable
from contextlib import ExitStack, suppress
from typing import Final

import trio
from multiaddr.utils import get_network_addrs

LOOPBACK: Final = ("127.0.0.1", "::1")
LOOK_S: Final = 1.0  # between two looks, of 0.3 ms; longer: whoever moves is away for longer
SETTLE_S: Final = 0.2  # news come in dozens
NEWS_BYTES: Final = 65_536
_NEWS: Final = 0x1 | 0x10 | 0x40 | 0x100 | 0x400  # links, addresses and routes of IPv4 and IPv6
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

    async def follow(
        self,
        tell: Callable[[frozenset[str]], None],
        moved: Callable[[], None],
        unsettled: Callable[[], None],
    ) -> None:
        """Watch whether the machine is carried elsewhere, until cancelled.

        Args:
            tell: hears at once which families lead out, and again when there are other addresses.
            moved: there are other addresses.
            unsettled: something about the network has changed, perhaps only a cable. Linux tells of it at once;
                elsewhere other addresses are seen within LOOK_S, and nothing else.
        """
        known = None
        with ExitStack() as stack:
            news = _open_news(stack)
            while True:
                ips = self.all()
                if ips != known:
                    tell(self.families())
                    if known is not None:
                        moved()
                    known = ips
                with trio.move_on_after(LOOK_S):
                    if await _hear(news):
                        unsettled()
                        await trio.sleep(SETTLE_S)


def _open_news(stack: ExitStack) -> trio.socket.SocketType | None:
    """Where Linux tells of links, addresses and routes that change (rtnetlink(7)); None elsewhere."""
    if sys.platform != "linux":
        return None
    try:
        opened = stack.enter_context(socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE))
        opened.bind((0, _NEWS))
    except OSError:
        return None
    opened.setblocking(False)
    return trio.socket.from_stdlib_socket(opened)


async def _hear(news: trio.socket.SocketType | None) -> bool:
    """Wait for news; what they say is looked up elsewhere."""
    if news is None:
        await trio.sleep_forever()
        return False
    with suppress(OSError):  # more news than its buffer holds are news, too
        await news.recv(NEWS_BYTES)
    return True


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
