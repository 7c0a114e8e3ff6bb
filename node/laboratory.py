"""An internet of the nodes' own, with homes in it: routers of every kind, slow and lossy lines, people who move.

Each home is a router in a network namespace, its hosts are namespaces of their own behind it, and a core joins the
homes' lines. Addresses look like the internet's, for nodes treat private ones differently; no packet leaves the
machine. Hosts behind NAT have the same few private addresses in every home, as they have in life. A home may have IPv6
as well (`dual_stack`).

A line has a rate (tc's tbf), a delay (`delay_line`; many kernels have no netem) and loss. Nobody has to clean up:
`namespaces` says why.
"""

import os
import signal
from collections.abc import AsyncGenerator, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from itertools import permutations
from typing import Final

from . import dual_stack, namespaces
from .delays import Delays, open_delays
from .namespaces import Namespace, open_namespace
from .routers import LAN, Router, Way, core_rules, router_rules

TOOLS: Final = {**namespaces.TOOLS, "tc": "iproute2", "nft": "nftables", "iptables": "iptables"}
TRIAL: Final = """
ip link add lan type bridge && ip link add wan type veth peer name far && ip link set wan up &&
tc qdisc add dev wan root tbf rate 20mbit burst 32k latency 100ms && nft -f - <<END
table inet trial {
  set seen { type inet_proto . inet_service . ipv4_addr; flags dynamic; size 9; }
  chain inbound { type nat hook postrouting priority srcnat; oifname "wan" masquerade fully-random; }
  chain forward { type filter hook forward priority filter; ct state established accept;
                  meta random < 9 drop; meta mark set iifname . oifname map { "wan" . "lan" : 9 }; }
}
END
iptables -t mangle -A FORWARD -m mark --mark 9 -j NFQUEUE --queue-num 9"""
MTU: Final = 1500
PREFIX_BITS: Final = 24
ROUTER, FIRST_HOST = 1, 10  # the last numbers of addresses in a home
FIRST_WAN, GATEWAY = 2, 254  # and on a line
CARRIER, CARRIERS_CUSTOMER = "100.64.0.1", "100.64.0.2"
FLOWS: Final = ("tcp_timeout_established", "udp_timeout", "udp_timeout_stream")  # what conntrack forgets
BUFFER_MS: Final = 100  # what the buffer before a slow line holds, as a home router's does
BURST_BYTES: Final = 32_768


@dataclass(frozen=True, slots=True)
class Line:
    """What leads from a home to the internet.

    Attributes:
        up_mbit, down_mbit: rates in Mbit/s; None is as fast as the machine.
        delay_ms: one way, from the home to the core; a round trip between two homes takes twice the sum of theirs.
        loss: the share of packets lost in each direction, 0 to 1.
    """

    up_mbit: float | None = None
    down_mbit: float | None = None
    delay_ms: int = 0
    loss: float = 0.0
    mtu: int = MTU


@dataclass(frozen=True, slots=True)
class Habits:
    """What routers of one kind differ in.

    Attributes:
        hairpin: hosts inside reach each other by the router's address and mapped ports.
        forgets_s: how long a silent flow is remembered; None is as Linux does, five days for TCP.
        ipv6: whether the provider gives the home a prefix beside its IPv4 address.
    """

    hairpin: bool = False
    passes_udp: bool = True
    forgets_s: int | None = None
    ipv6: bool = False


class Host:
    """A computer in a home. Obtained from `Home.add_host`."""

    def __init__(self, home: "Home", place: Namespace, number: int) -> None:
        self.home = home
        self.number = number
        self._place = place
        self._has_ipv6 = False

    @property
    def prefix(self) -> tuple[str, ...]:
        """What to put before a command that is to run on this computer."""
        return self._place.prefix

    @property
    def address(self) -> str:
        """Where it is reached in its home; with a public router or firewall everywhere."""
        return self.home.inside(self.number)

    @property
    def address6(self) -> str:
        """Its own everywhere, if its home's router lets one in; empty in a home without IPv6."""
        return dual_stack.address(self.home.prefix6, self.number)

    def freeze(self) -> None:
        """Stop all its processes where they are, as a laptop that sleeps."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let them go on."""
        self._signal(signal.SIGCONT)

    async def move(self, home: "Home") -> None:
        """Carry it to another home: its interface stays, its address becomes one of that home's. Raises Complaint."""
        await self.home.router.ip([f"link set {self._cable} netns {home.router.pid}"])
        self.home.hosts.remove(self)
        home.hosts.append(self)
        self.home = home
        await self.connect()

    async def connect(self) -> None:
        """Take part in its home's network, with an address of it and the router's help. Raises Complaint."""
        await self.home.router.ip([f"link set {self._cable} master lan up"])
        await self._place.ip(
            [
                "addr flush dev eth0 to 0.0.0.0/0",
                f"addr add {self.address}/{PREFIX_BITS} dev eth0",
                f"route add default via {self.home.inside(ROUTER)}",
            ]
        )
        await self.renumber()

    async def renumber(self) -> None:
        """Take an address of its home's prefix in place of the last. Raises Complaint."""
        if self.address6 or self._has_ipv6:
            await dual_stack.number_host(self._place, self.address6)
        self._has_ipv6 = bool(self.address6)

    async def build(self) -> None:
        """Lead a cable to the router, once. Raises Complaint."""
        await self.home.router.ip([f"link add {self._cable} type veth peer name eth0 netns {self._place.pid}"])
        # Segments are cut before they leave, so that losing a packet loses one.
        await self._place.ip(["link set lo up", "link set eth0 up", "link set eth0 gso_max_segs 1"])
        await self.connect()

    @property
    def _cable(self) -> str:
        return f"host{self.number}"

    def _signal(self, number: signal.Signals) -> None:
        for pid in self._place.processes():
            os.kill(pid, number)


class Home:
    """A router, its line, and the computers behind it. Obtained from `Internet.add_home`."""

    def __init__(
        self, internet: "Internet", number: int, kind: Router, habits: Habits, routers: list[Namespace]
    ) -> None:
        self.number = number
        self.kind = kind
        self.line = Line()
        self.router = routers[0]
        self.hosts: list[Host] = []
        self._habits = habits
        self._routers = routers  # from inside to outside: the home's own and, with carrier-grade NAT, the provider's
        self._internet = internet
        self._wan_number = FIRST_WAN

    @property
    def outside(self) -> str:
        """The router's address, as the internet sees it."""
        return f"5.0.{self.number}.{self._wan_number}"

    @property
    def prefix6(self) -> str:
        """What its hosts' IPv6 addresses begin with: another one with each address of the router. Empty: none."""
        return dual_stack.prefix(self.number, self._wan_number) if self._habits.ipv6 else ""

    @property
    def cable(self) -> str:
        """The core's end of its line."""
        return f"home{self.number}"

    def inside(self, place: int) -> str:
        """An address in its LAN."""
        return f"{LAN}.{place}" if self.kind.has_nat else f"5.1.{self.number}.{place}"

    async def add_host(self) -> Host:
        """One more computer in it. Raises Complaint."""
        host = Host(self, await self._internet.open_namespace(), self._internet.next_host())
        await host.build()
        self.hosts.append(host)
        return host

    async def change_line(self, line: Line) -> None:
        """Give it another line; what is on its way may be lost. Raises Complaint."""
        self.line = line
        outermost = self._routers[-1]
        for place, device, rate_mbit in (
            (outermost, "wan", line.up_mbit),
            (self._internet.core, self.cable, line.down_mbit),
        ):
            await place.ip([f"link set {device} mtu {line.mtu}"])
            shape = "noqueue" if rate_mbit is None else _shape(rate_mbit)
            await place.run("tc", "qdisc", "replace", "dev", device, "root", *shape.split())
        await self._internet.rule()

    async def change_address(self) -> None:
        """Let the provider give the router another address, and the home another prefix: every connection breaks.

        Raises:
            Complaint: the commands failed.
        """
        old = self.prefix6
        self._wan_number += 1
        await self._routers[-1].ip(
            [
                "addr flush dev wan to 0.0.0.0/0",
                f"addr add {self.outside}/{PREFIX_BITS} dev wan",
                f"route add default via {self._gateway}",
            ]
        )
        await self._rule()
        if old:
            await dual_stack.lead(self._internet.core, self.cable, self._routers, self.prefix6, old)
            for host in self.hosts:
                await host.renumber()

    async def build(self) -> None:
        """Join its routers to each other and to the core, once. Raises Complaint."""
        core, outermost = self._internet.core, self._routers[-1]
        await core.ip(
            [
                f"link add {self.cable} type veth peer name wan netns {outermost.pid}",
                f"addr add {self._gateway}/{PREFIX_BITS} dev {self.cable}",
                f"link set {self.cable} up",
            ]
        )
        await outermost.ip(
            [
                "link set wan up",
                f"addr add {self.outside}/{PREFIX_BITS} dev wan",
                f"route add default via {self._gateway}",
            ]
        )
        if outermost is not self.router:
            await outermost.ip(
                [
                    f"link add lan type veth peer name wan netns {self.router.pid}",
                    f"addr add {CARRIER}/{PREFIX_BITS} dev lan",
                    "link set lan up",
                ]
            )
            await self.router.ip(
                [
                    "link set wan up",
                    f"addr add {CARRIERS_CUSTOMER}/{PREFIX_BITS} dev wan",
                    f"route add default via {CARRIER}",
                ]
            )
        await self.router.ip(
            ["link add lan type bridge", f"addr add {self.inside(ROUTER)}/{PREFIX_BITS} dev lan", "link set lan up"]
        )
        if not self.kind.has_nat:
            await core.ip([f"route add {self.inside(0)}/{PREFIX_BITS} via {self.outside}"])
        for router in self._routers:
            await router.ip(["link set lo up"])
            await router.run("sh", "-c", _forwarding(self._habits.forgets_s))
        if self._habits.ipv6:
            await dual_stack.lead(self._internet.core, self.cable, self._routers, self.prefix6)
        await self._rule()

    async def _rule(self) -> None:
        for router in self._routers:
            wan = CARRIERS_CUSTOMER if router is not self._routers[-1] else self.outside
            habits, network6 = self._habits, dual_stack.network(self.prefix6)
            rules = router_rules(
                self.kind, wan, hairpin=habits.hairpin, passes_udp=habits.passes_udp, network6=network6
            )
            await router.run("nft", "-f", "-", given=rules)

    @property
    def _gateway(self) -> str:
        return f"5.0.{self.number}.{GATEWAY}"


class Internet:
    """Obtained from `open_internet`."""

    def __init__(self, core: Namespace, delays: Delays, stack: AsyncExitStack) -> None:
        self.core = core
        self._delays = delays
        self._stack = stack
        self._homes: list[Home] = []
        self._apart: frozenset[int] = frozenset()
        self._host_count = 0

    async def add_home(self, kind: Router, line: Line | None = None, habits: Habits | None = None) -> Home:
        """A home with nobody in it yet. Raises Complaint."""
        routers = [await self.open_namespace() for _ in range(2 if kind is Router.CGN_HOME else 1)]
        home = Home(self, len(self._homes) + 1, kind, habits or Habits(), routers)
        self._homes.append(home)
        await home.build()
        await home.change_line(line or Line())
        return home

    async def part(self, homes: Iterable[Home]) -> None:
        """From now on no packet passes between these homes and the others. Raises Complaint."""
        self._apart = frozenset(home.number for home in homes)
        await self.rule()

    async def heal(self) -> None:
        """All reach all again. Raises Complaint."""
        await self.part(())

    async def rule(self) -> None:
        """Let the core follow the lines as they are now. Raises Complaint."""
        ways = [Way(one.cable, other.cable, self._delay_ms(one, other)) for one, other in permutations(self._homes, 2)]
        has_ipv6 = any(home.prefix6 for home in self._homes)
        await self._delays.hold({way.delay_ms for way in ways if way.delay_ms}, ipv6=has_ipv6)
        await self.core.run("nft", "-f", "-", given=core_rules(ways, {h.cable: h.line.loss for h in self._homes}))

    async def open_namespace(self) -> Namespace:
        """One that ends with all of it. Raises Complaint."""
        return await self._stack.enter_async_context(self.core.open_another())

    def next_host(self) -> int:
        """The number of one more computer: its own in all homes, so that it can move."""
        self._host_count += 1
        return FIRST_HOST + self._host_count - 1

    def _delay_ms(self, one: Home, other: Home) -> int | None:
        if (one.number in self._apart) != (other.number in self._apart):
            return None
        return one.line.delay_ms + other.line.delay_ms


async def obstacle(*, ipv6: bool = False) -> str:
    """Why there can be no laboratory, or none with IPv6, on this machine, for a person; empty if there can."""
    trial = f"{TRIAL} && {dual_stack.TRIAL}" if ipv6 else TRIAL
    return await namespaces.obstacle(trial, TOOLS)


@asynccontextmanager
async def open_internet() -> AsyncGenerator[Internet]:
    """An internet without homes. Raises Complaint; ask for an `obstacle` first."""
    async with AsyncExitStack() as stack:
        core = await stack.enter_async_context(open_namespace())
        await core.ip(["link set lo up"])
        await core.run("sh", "-c", _forwarding(None))
        delays = await stack.enter_async_context(open_delays(core))
        yield Internet(core, delays, stack)


def _shape(rate_mbit: float) -> str:
    return f"tbf rate {rate_mbit}mbit burst {BURST_BYTES} latency {BUFFER_MS}ms"


def _forwarding(forgets_s: int | None) -> str:
    """What a shell does to make a router of its namespace."""
    settings = {"net/ipv4/ip_forward": 1}
    if forgets_s is not None:
        settings |= {f"net/netfilter/nf_conntrack_{name}": forgets_s for name in FLOWS}
    return " && ".join(f"echo {value} > /proc/sys/{name}" for name, value in settings.items())
