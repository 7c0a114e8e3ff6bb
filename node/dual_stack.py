"""IPv6 beside IPv4 in the laboratory, as providers give it: a prefix for each home, and no translation.

Routers are led to by link-local addresses, as in life; those of a home's hosts are of its prefix, and the internet's.
No address waits for a second to see whether it is somebody else's already (nodad).
"""

from collections.abc import Sequence
from typing import Final

from .namespaces import Namespace

PREFIX_BITS: Final = 64
ABOVE, BELOW = "fe80::1", "fe80::2"  # at the two ends of a link: who is nearer to the core, and who is not
CORE: Final = "2a00:5::1"  # says which packets are too big
FORWARDING: Final = "echo 1 > /proc/sys/net/ipv6/conf/all/forwarding"
TRIAL: Final = f"""
{FORWARDING} && ip addr add {ABOVE}/{PREFIX_BITS} dev lan nodad &&
ip6tables -t mangle -A FORWARD -m mark --mark 9 -j NFQUEUE --queue-num 9"""


def prefix(home: int, generation: int) -> str:
    """What the provider gives a home: up to the number of a host."""
    return f"2a00:5:{home}:{generation}::"


def network(prefix: str) -> str:
    """All addresses of a home with that prefix; empty without one."""
    return f"{prefix}/{PREFIX_BITS}" if prefix else ""


def address(prefix: str, number: int) -> str:
    """Of a host or router in a home with that prefix; without one it has none."""
    return f"{prefix}{number}" if prefix else ""


async def lead(core: Namespace, cable: str, routers: Sequence[Namespace], prefix: str, old: str = "") -> None:
    """Lead a home's prefix to it, in place of an old one. Raises Complaint.

    Args:
        cable: the core's end of the home's line.
        routers: from inside to outside; the first one is the home's.
    """
    is_new = not old
    if is_new:
        for place in (core, *routers):
            await place.run("sh", "-c", FORWARDING)
    for place, device in ((core, cable), *((router, "lan") for router in reversed(routers))):
        is_home = place is routers[0]
        commands = [f"addr replace {ABOVE}/{PREFIX_BITS} dev {device} nodad"] if is_new else []
        if is_new and place is core:
            commands.append(f"addr replace {CORE}/128 dev lo nodad")
        elif is_new:
            commands += [
                f"addr add {BELOW}/{PREFIX_BITS} dev wan nodad",
                f"route add default via {ABOVE} dev wan",
            ]
        if is_home:
            commands += [f"addr del {address(old, 1)}/{PREFIX_BITS} dev lan"] if old else []
            commands.append(f"addr add {address(prefix, 1)}/{PREFIX_BITS} dev lan nodad")
        else:
            commands += [f"route del {network(old)}"] if old else []
            commands.append(f"route add {network(prefix)} via {BELOW} dev {device}")
        await place.ip(commands)


async def number_host(place: Namespace, address: str) -> None:
    """Give a host that address in place of the last, or none. Raises Complaint."""
    await place.run("ip", "-6", "route", "flush", "default")  # what `ip` flushes in a batch is IPv4's
    commands = ["addr flush dev eth0 scope global to ::/0"]
    if address:
        commands += [f"addr add {address}/{PREFIX_BITS} dev eth0 nodad", f"route add default via {ABOVE} dev eth0"]
    await place.ip(commands)
