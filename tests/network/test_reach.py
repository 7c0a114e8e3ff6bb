"""Nodes in homes of every kind: whether they know that nobody can dial them, and whom they get through to."""

import itertools
import json
import subprocess
import sys
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, Final

import pytest
import trio

from shoal.node.laboratory import Home, Internet, Line
from shoal.node.routers import Router
from shoal.transport.port import Address

from .hands import open_world

NODE: Final = str(Path(__file__).with_name("reach_node.py"))
ROOT: Final = Path(__file__).parents[2]
LINE: Final = Line(delay_ms=12)
DIRECT: Final = {
    frozenset(pair)
    for pair in itertools.combinations_with_replacement(Router, 2)
    if Router.PUBLIC in pair
    or not (Router.SYMMETRIC in pair and set(pair) - {Router.FULL_CONE, Router.ADDRESS_RESTRICTED} == set(pair))
}


class Player:
    """A node in a process of its own, told what to do in lines of JSON."""

    def __init__(self, process: trio.Process) -> None:
        self.process = process
        self._heard = b""

    async def do(self, **order: object) -> dict[str, Any]:
        assert self.process.stdin is not None
        await self.process.stdin.send_all(json.dumps(order).encode() + b"\n")
        return await self.answer()

    async def answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        while b"\n" not in self._heard:
            data = await self.process.stdout.receive_some()
            assert data, "the node has ended"
            self._heard += data
        line, _, self._heard = self._heard.partition(b"\n")
        answer = json.loads(line)
        assert isinstance(answer, dict)
        return answer


class Stage:
    """An internet with nodes in it."""

    def __init__(self, internet: Internet, stack: AsyncExitStack) -> None:
        self.internet = internet
        self._stack = stack
        self._count = 0

    async def node_in(self, home: Home, *relays: Address) -> tuple[Player, dict[str, Any]]:
        """A node, and what it says at its start."""
        host = await home.add_host()
        self._count += 1
        process = await trio.lowlevel.open_process(
            [*host.prefix, sys.executable, NODE, str(self._count), *relays],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=ROOT,
        )
        self._stack.push_async_callback(_end, process)
        player = Player(process)
        return player, await player.answer()


async def _end(process: trio.Process) -> None:
    process.kill()
    with trio.CancelScope(shield=True):
        await process.wait()
        for pipe in (process.stdin, process.stdout):
            assert pipe is not None
            await pipe.aclose()


@asynccontextmanager
async def open_stage() -> AsyncGenerator[Stage]:
    async with open_world() as world, AsyncExitStack() as stack:
        yield Stage(world.internet, stack)


def address(said: dict[str, Any], host: str) -> Address:
    (found,) = [each for each in said["addresses"] if f"/{host}/" in each and "p2p-circuit" not in each]
    return Address(found)


async def meet(one: Router, other: Router) -> dict[str, Any]:
    """What becomes of a relayed call between two homes."""
    async with open_stage() as stage:
        middles = [await stage.internet.add_home(Router.PUBLIC, LINE) for _ in range(2)]
        relays: list[Address] = []
        for home in middles:
            _, said = await stage.node_in(home)
            relays.append(address(said, home.inside(10 + len(relays))))
        homes = [await stage.internet.add_home(kind, LINE) for kind in (one, other)]
        (left, _), (_, there) = [await stage.node_in(home, *relays) for home in homes]
        circuits = [each for each in there["addresses"] if "p2p-circuit" in each]
        return await left.do(reach=circuits[0], patience_s=12)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (Router.PORT_RESTRICTED, Router.PORT_RESTRICTED),
        (Router.FULL_CONE, Router.SYMMETRIC),
        (Router.SYMMETRIC, Router.SYMMETRIC),
        (Router.RST_ROUTER, Router.RST_ROUTER),
    ],
    ids=lambda kind: kind.value,
)
async def test_two_homes_meet_directly_where_their_routers_let_them(one: Router, other: Router) -> None:
    said = await meet(one, other)
    print(one.value, other.value, said)
    assert said["called_s"] < 5
    assert (said["direct_s"] is not None) == (frozenset((one, other)) in DIRECT), said
