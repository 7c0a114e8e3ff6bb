"""A router that lies, or knows less than others, makes a node ask nobody else and hold nothing."""

import subprocess
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import pytest
import trio

from shoal.node.laboratory import Home

from .hands import open_world
from .test_port_mapping import PORT, REASON_S, START_S, STRETCH, home_and_peer, mapping

ROUTER: Final = str(Path(__file__).with_name("false_router.py"))


@asynccontextmanager
async def false_router(home: Home, way: str, victim: str) -> AsyncGenerator[None]:
    process = await trio.lowlevel.open_process(
        [*home.router.prefix, sys.executable, "-I", ROUTER, way, victim], stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    try:
        assert await process.stdout.receive_some()
        yield
    finally:
        process.kill()
        with trio.CancelScope(shield=True):
            await process.wait()
            await process.stdout.aclose()


async def test_a_router_without_leases_maps_for_ever() -> None:
    async with open_world() as world:
        home, inside, peer = await home_and_peer(world)
        async with false_router(home, "permanent", peer.host.address), mapping(inside) as mapper:
            assert await mapper.next() == ([home.outside, PORT, "UPnP"], "")


async def test_another_computers_mapping_is_left_alone_though_the_router_would_overwrite_it() -> None:
    async with open_world() as world:
        home, inside, peer = await home_and_peer(world)
        async with false_router(home, "others", peer.host.address), mapping(inside) as mapper:
            place, _ = await mapper.next()
            assert place is not None
            assert place[0] == home.outside
            assert place[1] != PORT


@pytest.mark.parametrize("way", ["elsewhere", "leading", "endless"])
async def test_a_device_that_leads_elsewhere_or_has_no_end_is_no_router(way: str) -> None:
    async with open_world() as world:
        home, inside, peer = await home_and_peer(world)
        await peer.do("listen 80")
        async with false_router(home, way, peer.host.address), mapping(inside) as mapper:
            began = trio.current_time()
            assert await mapper.next() == (None, "no router answers PCP, NAT-PMP or UPnP")
            assert trio.current_time() - began < REASON_S + START_S * STRETCH
            assert await peer.do("accept 80") == "silence"  # nobody made us ask there
