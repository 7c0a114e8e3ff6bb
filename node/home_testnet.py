"""`shoal testnet --network home`: each node behind a router of its own, on a line like people have at home.

The first node has a public address and relays for the others, as nodes do that can be dialed; the others are behind
home routers of all kinds, the commonest first, and get through to one another where those let them.
"""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from math import isqrt
from pathlib import Path
from typing import Final

from shoal.transport.relay import RelayLimits

from .complaint import Complaint, Exit
from .laboratory import Line, obstacle, open_internet
from .local_protocol import prefers_socket
from .places import PORT, Place
from .routers import Router
from .testnet import Plan

LINE: Final = Line(up_mbit=20, down_mbit=100, delay_ms=15)  # 60 ms from home to home and back
ROUTERS: Final = (
    Router.PORT_RESTRICTED,
    Router.PORT_RESTRICTED,
    Router.SYMMETRIC,
    Router.CGN_HOME,
    Router.FULL_CONE,
    Router.ADDRESS_RESTRICTED,
    Router.FIREWALLED,
    Router.RST_ROUTER,
)


# All pairs but the relay's own may go through it, if only until they are through: of n others n (n - 1) / 2.
NODES_MAX: Final = 1 + (1 + isqrt(1 + 8 * RelayLimits().circuits_max)) // 2


def router_of(node: int) -> Router:
    """What node `node` is behind."""
    return ROUTERS[(node - 1) % len(ROUTERS)] if node else Router.PUBLIC


def described(plan: Plan) -> str:
    """Who is where, in a line."""
    behind = [f"node {node} {router_of(node).value}" for node in range(1, plan.nodes)]
    return f"routers: {', '.join(['node 0 none, it relays for the others', *behind])}"


async def check(plan: Plan) -> None:
    """Raises Complaint where this machine can have no such network, or no relay could carry it."""
    if plan.nodes > NODES_MAX:
        raise Complaint(f"--network home: one relay carries {NODES_MAX} nodes at most, not {plan.nodes}", Exit.USAGE)
    if reason := await obstacle():
        raise Complaint(f"--network home cannot be had on this machine: {reason}", Exit.MISSING)


@asynccontextmanager
async def open_homes(plan: Plan, where: Path) -> AsyncGenerator[list[Place]]:
    """A place for each of the plan's nodes, until the end. Raises Complaint; `check` first.

    Args:
        where: what the nodes' directories are in.
    """
    if not prefers_socket(where / f"node-{plan.nodes}"):
        raise Complaint(f"a node in another network is asked by a Unix socket, and {where} is too long a path for one")
    async with open_internet() as internet:
        places: list[Place] = []
        for node in range(plan.nodes):
            home = await internet.add_home(router_of(node), LINE)
            host = await home.add_host()
            listen = f"/ip4/{host.address}/tcp/{PORT}"
            places.append(Place(host.prefix, listen))
        yield places
