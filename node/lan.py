"""A LAN of the nodes' own that can be torn: a network namespace for each node, a cable from each to one of two bridges.

Packets pass between the nodes on the same bridge, and a partition moves cables to the other one. Measured: that takes
10 to 40 ms for any number of cables and holds for the very next packet; nothing is refused, for both ends of a cable
stay up: what is sent is never heard, a call times out, and a connection that outlives the partition goes on. (Rejected:
taking interfaces down, which the node notices at once; port isolation, which cannot tell two groups apart; nftables,
which few machines have installed.) No packet leaves the machine.
"""

from collections.abc import AsyncGenerator, Iterable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Final

from . import namespaces
from .namespaces import Namespace, open_namespace
from .places import PORT, Place

TRIAL: Final = "ip link add side0 type bridge && ip link add cable0 type veth peer name eth0 && nsenter -t $$ -n true"
PREFIX_BITS: Final = 24


class Lan:
    """Obtained from `open_lan`."""

    def __init__(self, bridges: Namespace, places: Sequence[Namespace]) -> None:
        self._bridges = bridges
        self._places = places

    @property
    def places(self) -> list[Place]:
        """Where each node runs; its address is its own for good, however often it is started."""
        return [Place(each.prefix, f"/ip4/{host(node)}/tcp/{PORT}") for node, each in enumerate(self._places)]

    async def tear(self, nodes: Iterable[int]) -> None:
        """From now on no packet passes between these nodes and the others. Raises Complaint."""
        await self._bridges.ip(f"link set cable{node} master side1" for node in nodes)

    async def mend(self) -> None:
        """All reach all again. Raises Complaint."""
        await self._bridges.ip(f"link set cable{node} master side0" for node in range(len(self._places)))


def host(node: int) -> str:
    """Node `node`'s address."""
    return f"10.77.0.{node + 1}"


async def obstacle() -> str:
    """Why there can be no LAN of the nodes' own on this machine, for a person; empty if there can."""
    return await namespaces.obstacle(TRIAL)


@asynccontextmanager
async def open_lan(nodes: int) -> AsyncGenerator[Lan]:
    """A LAN with a place for each of so many nodes. Raises Complaint; ask for an `obstacle` first."""
    async with AsyncExitStack() as stack:
        bridges = await stack.enter_async_context(open_namespace())
        places = [await stack.enter_async_context(bridges.open_another()) for _ in range(nodes)]
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


def _cable(node: int, place: Namespace) -> str:
    return f"link add cable{node} type veth peer name eth0 netns {place.pid}"
