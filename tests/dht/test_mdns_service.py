"""How many neighbours are met, and how often: the LAN itself is in tests/integration/test_dht_mdns.py."""

import ipaddress
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Final

import pytest
import trio
from trio.testing import MockClock

from shoal.dht.lan import lan_text
from shoal.dht.mdns_service import (
    AGAIN_S,
    HEARD_MAX,
    LOOK_S,
    PEERS_REMEMBERED_MAX,
    Heard,
    find_neighbours,
    hear,
    meet_all,
)
from shoal.transport.memory import MemoryTransport, Network
from shoal.transport.port import Address
from tests.dht.peers import identity

NETWORKS: Final = (ipaddress.ip_network("10.0.0.0/8"),)
PEER: Final = identity(1).peer_id


def heard(number: int = 1) -> Heard:
    """One of many announcements of one peer."""
    address = Address(f"/ip4/10.0.{number // 256}.{number % 256}/tcp/4001/p2p/{PEER}")
    return Heard(lan_text([address]), NETWORKS)


@asynccontextmanager
async def listener() -> AsyncGenerator[tuple[MemoryTransport, trio.Nursery]]:
    async with trio.open_nursery() as nursery:
        network = Network(1)
        await nursery.start(network.run)
        yield await network.open(identity(0).peer_id), nursery
        nursery.cancel_scope.cancel()


async def test_a_neighbour_is_met_once_in_a_while_and_only_so_many_are_remembered(autojump_clock: MockClock) -> None:
    met: list[tuple[Address, ...]] = []

    async def meet(addresses: tuple[Address, ...]) -> bool:
        met.append(addresses)
        return True

    async with listener() as (transport, nursery):
        send, receive = trio.open_memory_channel[Heard](0)
        nursery.start_soon(meet_all, transport, meet, receive)
        for pause_s, met_count in ((0.0, 1), (AGAIN_S - 1, 1), (1.0, 2)):
            await trio.sleep(pause_s)
            await send.send(heard())
            await send.send(Heard(b"garbage", NETWORKS))
            assert len(met) == met_count
        for number in range(2, PEERS_REMEMBERED_MAX + 1):
            await send.send(heard(number))
        await send.send(heard())
        assert len(met) == 1 + PEERS_REMEMBERED_MAX  # the first is remembered still
        await send.send(heard(PEERS_REMEMBERED_MAX + 1))
        await send.send(heard())
        await send.send(Heard(b"garbage", NETWORKS))
        assert len(met) == 1 + PEERS_REMEMBERED_MAX + 2


async def test_only_so_many_wait_to_be_met() -> None:
    send, receive = trio.open_memory_channel[Heard](HEARD_MAX)
    for number in range(2 * HEARD_MAX):
        hear(send, heard(number))
    assert receive.statistics().current_buffer_used == HEARD_MAX


async def test_a_node_without_a_lan_looks_for_one_and_starts_nothing(autojump_clock: MockClock) -> None:
    async def meet(addresses: tuple[Address, ...]) -> bool:
        raise AssertionError(addresses)

    async with listener() as (transport, nursery):
        await nursery.start(find_neighbours, transport, meet)
        await trio.sleep(10 * LOOK_S)


async def test_a_machine_on_which_no_file_can_be_opened_has_no_lan_for_now(autojump_clock: MockClock) -> None:
    async def meet(addresses: tuple[Address, ...]) -> bool:
        raise AssertionError(addresses)

    resource = pytest.importorskip("resource")
    most = resource.getrlimit(resource.RLIMIT_NOFILE)
    async with listener() as (transport, nursery):
        resource.setrlimit(resource.RLIMIT_NOFILE, (0, most[1]))
        try:
            await nursery.start(find_neighbours, transport, meet)
            await trio.sleep(2 * LOOK_S)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, most)
