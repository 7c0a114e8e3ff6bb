"""Nodes in homes with both: which way they take to each other."""

import json
import os
import subprocess
import sys
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Final

import pytest
import trio

from shoal.node.laboratory import Habits, Host, obstacle, open_internet
from shoal.node.routers import Router

from .hands import PATIENCE_S

ROOT: Final = Path(__file__).resolve().parents[2]
DUAL: Final = Habits(ipv6=True)
NODE: Final = """
import json, logging, sys, trio
from pathlib import Path
from shoal.node.config import Config
from shoal.node.listening import listen_addresses
from shoal.transport.host import open_host
from shoal.transport.identity import Identity

class Refused(logging.Handler):
    said = []
    def emit(self, record):
        self.said.append(record.getMessage())

async def main(seed, addresses):
    dials = logging.getLogger("shoal.transport.connections_service")
    dials.addHandler(Refused())
    dials.setLevel(logging.DEBUG)
    me = Identity.from_seed(bytes([int(seed)] * 32))
    async with open_host(me, listen_addresses(Config().listen, Path("/nonexistent")), seed=1) as host:
        print(json.dumps(host.addresses()), flush=True)
        if addresses:
            host.keep(addresses[0].rpartition("/p2p/")[2], addresses)
            async with host.events() as events:
                await events.receive()
            print(json.dumps([host.connections()[0].address, Refused.said]), flush=True)
        await trio.to_thread.run_sync(sys.stdin.read)

trio.run(main, sys.argv[1], sys.argv[2:])
"""


@pytest.mark.parametrize(
    ("habits", "way"), [(DUAL, "/ip6/2a00:5:2:2::10/"), (Habits(), "/ip4/5.1.2.10/")], ids=["both", "one"]
)
async def test_a_kept_peer_is_reached_by_ipv6_where_both_have_it(habits: Habits, way: str) -> None:
    if reason := await obstacle(ipv6=True):
        pytest.skip(f"NOT TESTED: {reason}")
    with trio.fail_after(PATIENCE_S):
        async with open_internet() as internet, AsyncExitStack() as stack:
            home = await internet.add_home(Router.PORT_RESTRICTED, habits=habits)
            peers_home = await internet.add_home(Router.PUBLIC, habits=DUAL)
            there = await peers_home.add_host()
            here = await home.add_host()
            peer = await start(stack, there, "2")
            addresses = await heard(peer)
            ports = {address.split("/")[4] for address in addresses}
            assert len(ports) == 1
            assert addresses[0].startswith(f"/ip6/{there.address6}/")
            assert addresses[1].startswith(f"/ip4/{there.address}/")
            in_other_order = addresses[:2] if not habits.ipv6 else addresses[1::-1]
            node = await start(stack, here, "1", *in_other_order)
            await heard(node)
            address, refused = await heard(node)
            assert address.startswith(way)
            assert refused == []  # where no IPv6 leads out, none is dialed


async def start(stack: AsyncExitStack, host: Host, *arguments: str) -> trio.Process:
    """A node on a computer, which ends with the test."""
    process = await trio.lowlevel.open_process(
        [*host.prefix, sys.executable, "-c", NODE, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    stack.push_async_callback(end, process)
    return process


async def heard(process: trio.Process) -> Any:
    """What a node says in its next line."""
    assert process.stdout is not None
    said = b""
    while not said.endswith(b"\n"):
        data = await process.stdout.receive_some(1)
        assert data, "the node has ended"
        said += data
    return json.loads(said)


async def end(process: trio.Process) -> None:
    process.kill()
    with trio.CancelScope(shield=True):
        await process.wait()
        for pipe in (process.stdin, process.stdout):
            assert pipe is not None
            await pipe.aclose()
