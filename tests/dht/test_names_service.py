"""Where a stranger's address leads, when it hides behind a name. Nothing here asks a name server."""

import threading
from collections import Counter
from typing import Any

import pytest
import trio
import trio.testing

from shoal.dht.names_service import NAMES_AT_ONCE_MAX, PLACES_MAX, Names
from shoal.transport.port import Address
from tests.dht.peers import identity

PEER, RELAY = identity(1).peer_id, identity(2).peer_id


@pytest.mark.parametrize(
    "name", ["dns/localhost", "dns4/localhost", "dns/127.0.0.1", "dns4/192.168.1.1", "dns/2130706433"]
)
async def test_a_name_that_leads_behind_the_owners_router_leads_nowhere(name: str) -> None:
    assert await Names().places(Address(f"/{name}/tcp/22/p2p/{PEER}")) == ()
    assert await Names().places(Address(f"/{name}/tcp/22/p2p/{RELAY}/p2p-circuit/p2p/{PEER}")) == ()


async def test_a_public_name_stands_for_its_addresses() -> None:
    through = f"/tcp/1/p2p/{RELAY}/p2p-circuit/p2p/{PEER}"
    assert await Names().places(Address(f"/dns/8.8.8.8/tcp/1/p2p/{PEER}")) == (f"/ip4/8.8.8.8/tcp/1/p2p/{PEER}",)
    assert await Names().places(Address(f"/dns4/8.8.8.8{through}")) == (f"/ip4/8.8.8.8{through}",)
    assert await Names().places(Address(f"/dns6/8.8.8.8/tcp/1/p2p/{PEER}")) == ()


async def test_ip_addresses_and_what_is_no_address_need_no_look() -> None:
    address = Address(f"/ip4/192.168.1.1/tcp/1/p2p/{PEER}")
    assert await Names().places(address) == (address,)
    assert await Names().places(Address("/unix/x")) == ()


async def test_of_a_name_with_many_addresses_a_few_public_ones_are_dialed() -> None:
    ips = ["127.0.0.1", *(f"8.8.8.{number}" for number in range(1, 20)), "fe80::1%eth0", "192.168.1.1"]

    def look(*_: object) -> list[tuple[Any, ...]]:
        return [(0, 0, 0, "", (ip, 1)) for ip in ips]

    places = await Names(look).places(Address(f"/dns/example.org/tcp/1/p2p/{PEER}"))
    assert places == tuple(f"/ip4/8.8.8.{number}/tcp/1/p2p/{PEER}" for number in range(1, PLACES_MAX + 1))


async def test_name_servers_that_keep_silent_hold_only_so_many_threads() -> None:
    under_way, over, begun = Counter[str](), threading.Event(), trio.Event()
    token = trio.lowlevel.current_trio_token()

    def look(*_: object) -> list[tuple[Any, ...]]:
        under_way["now"] += 1
        if under_way["now"] == NAMES_AT_ONCE_MAX:
            token.run_sync_soon(begun.set)
        over.wait()
        return []

    names = Names(look)
    async with trio.open_nursery() as nursery:
        for number in range(3 * NAMES_AT_ONCE_MAX):
            nursery.start_soon(names.places, Address(f"/dns/{number}.example.org/tcp/1/p2p/{PEER}"))
        await begun.wait()
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()  # who asked need not wait for the name server
    assert under_way["now"] == NAMES_AT_ONCE_MAX
    over.set()


async def test_a_name_that_nobody_knows_leads_nowhere() -> None:
    def look(*_: object) -> list[tuple[Any, ...]]:
        raise OSError("no such name")

    assert await Names(look).places(Address(f"/dns/example.org/tcp/1/p2p/{PEER}")) == ()
