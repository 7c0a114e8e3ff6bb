"""A LAN of the nodes' own that can be torn: a network namespace for each node, a cable from each to one of two bridges.

Packets pass between the nodes on the same bridge, and a partition moves cables to the other one. Measured: that takes
10 to 40 ms for any number of cables and holds for the very next packet; nothing is refused, for both ends of a cable
stay up: what is sent is never heard, a call times out, and a connection that outlives the partition goes on. (Rejected:
taking interfaces down, which the node notices at once; port isolation, which cannot tell two groups apart; nftables,
which few machines have installed.)

Nobody has to clean up: the namespaces have no names and end with the processes in them, the cables with the namespaces.
Each is held by a `cat` whose standard input is a pipe from this process, so it ends when this process does, even by
kill -9; it outlives the node in it, so a node that is started again has its address still. No packet leaves the
machine. As root, or without by a user namespace, where the system allows them.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import AsyncGenerator, Iterable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Final

import trio

from .complaint import Complaint
from .processes import own_group

TOOLS: Final = {"ip": "iproute2", "nsenter": "util-linux", "unshare": "util-linux"}  # and their packages
TRIAL: Final = "ip link add side0 type bridge && ip link add cable0 type veth peer name eth0 && nsenter -t $$ -n true"
PORT: Final = 4011
PREFIX_BITS: Final = 24
HELD_TIMEOUT_S: Final = 10.0  # until a namespace is there


class Lan:
    """Obtained from `open_lan`."""

    def __init__(self, bridges: "_Namespace", places: Sequence["_Namespace"]) -> None:
        self._bridges = bridges
        self._places = places

    def prefix(self, node: int) -> tuple[str, ...]:
        """What to put before a command that is to run where node `node` is."""
        return self._places[node].prefix

    def listen_address(self, node: int) -> str:
        """Its own for good, however often it is started."""
        return f"/ip4/{host(node)}/tcp/{PORT}"

    async def tear(self, nodes: Iterable[int]) -> None:
        """From now on no packet passes between these nodes and the others. Raises Complaint."""
        await self._bridges.ip(f"link set cable{node} master side1" for node in nodes)

    async def mend(self) -> None:
        """All reach all again. Raises Complaint."""
        await self._bridges.ip(f"link set cable{node} master side0" for node in range(len(self._places)))


class _Namespace:
    """A network namespace, and the process that holds it."""

    def __init__(self, holder: trio.Process, *, is_users: bool) -> None:
        self.holder = holder
        users = ("--user", "--preserve-credentials") if is_users else ()
        self.prefix = ("nsenter", "--target", str(holder.pid), *users, "--net", "--")

    async def ip(self, commands: Iterable[str]) -> None:
        """Run `ip` inside, once for all commands. Raises Complaint."""
        done = await trio.run_process(
            [*self.prefix, "ip", "-batch", "-"],
            stdin="".join(f"{command}\n" for command in commands).encode(),
            capture_stdout=True,
            capture_stderr=True,
            check=False,
        )
        if done.returncode:
            raise Complaint(f"the nodes' own network: {done.stderr.decode(errors='replace')}")


def host(node: int) -> str:
    """Node `node`'s address."""
    return f"10.77.0.{node + 1}"


async def obstacle() -> str:
    """Why there can be no LAN of the nodes' own on this machine, for a person; empty if there can."""
    if sys.platform != "linux":
        return "there are network namespaces on Linux alone"
    for tool, package in TOOLS.items():
        if shutil.which(tool) is None:
            return f"the command `{tool}` is not installed here (Debian: {package})"
    tried = await trio.run_process(
        [*_unshare(), "sh", "-c", TRIAL], capture_stdout=True, capture_stderr=True, check=False
    )
    if tried.returncode == 0:
        return ""
    reason = " ".join(tried.stderr.decode(errors="replace").split())
    return f"the system allows no network namespaces with bridges: {reason}"


@asynccontextmanager
async def open_lan(nodes: int) -> AsyncGenerator[Lan]:
    """A LAN with a place for each of so many nodes. Raises Complaint; ask for an `obstacle` first."""
    is_users = not _is_root()
    async with AsyncExitStack() as stack:
        bridges = await stack.enter_async_context(_hold(_unshare(), is_users=is_users))
        inside = (*bridges.prefix, "unshare", "--net")
        places = [await stack.enter_async_context(_hold(inside, is_users=is_users)) for _ in range(nodes)]
        await bridges.ip(
            [
                *(f"link add side{side} type bridge" for side in range(2)),
                *(f"link set side{side} up" for side in range(2)),
                *(_cable(node, place) for node, place in enumerate(places)),
                *(f"link set cable{node} master side0 up" for node in range(nodes)),
            ]
        )
        for node, place in enumerate(places):
            address = f"addr add {host(node)}/{PREFIX_BITS} dev eth0"
            await place.ip(["link set lo up", "link set eth0 up", address])
        yield Lan(bridges, places)


def _cable(node: int, place: _Namespace) -> str:
    return f"link add cable{node} type veth peer name eth0 netns {place.holder.pid}"


@asynccontextmanager
async def _hold(enter: Sequence[str], *, is_users: bool) -> AsyncGenerator[_Namespace]:
    """A namespace that `enter` makes and a process of ours holds."""
    holder = await trio.lowlevel.open_process(
        [*enter, "cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, **own_group()
    )
    assert holder.stdin is not None
    assert holder.stdout is not None
    try:
        is_inside = False
        with trio.move_on_after(HELD_TIMEOUT_S):
            await holder.stdin.send_all(b"\n")
            is_inside = bool(await holder.stdout.receive_some())  # `cat` answers once it is
        if not is_inside:
            raise Complaint("a network namespace cannot be made here")
        yield _Namespace(holder, is_users=is_users)
    finally:
        holder.kill()
        with trio.CancelScope(shield=True):
            await holder.wait()
            await holder.stdin.aclose()
            await holder.stdout.aclose()


def _unshare() -> tuple[str, ...]:
    return ("unshare", "--net") if _is_root() else ("unshare", "--user", "--map-root-user", "--net")


def _is_root() -> bool:
    return sys.platform != "win32" and os.geteuid() == 0
