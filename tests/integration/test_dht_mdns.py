"""Two nodes on one network card find each other without an address."""

import socket
import struct

import pytest
import trio

from shoal.dht.mdns_service import find_neighbours
from shoal.dht.service import open_dht
from shoal.transport.host import open_host
from tests.dht.peers import identity

ANYWHERE = ["/ip4/127.0.0.1/tcp/0"]


def carries_multicast() -> bool:
    """Whether the loopback card passes multicast on here."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as listener:
        listener.bind(("", 0))
        listener.settimeout(1)
        group = struct.pack("4s4s", socket.inet_aton("224.0.0.251"), socket.inet_aton("127.0.0.1"))
        try:
            listener.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, group)
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
                sender.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton("127.0.0.1"))
                sender.sendto(b"there?", ("224.0.0.251", listener.getsockname()[1]))
            return listener.recv(16) == b"there?"
        except OSError:
            return False


async def test_two_nodes_find_each_other_with_no_address_given() -> None:
    if not carries_multicast():
        pytest.skip("NOT TESTED: the loopback card of this machine carries no multicast")
    with trio.fail_after(30):
        async with (
            open_host(identity(1), ANYWHERE) as a,
            open_host(identity(2), ANYWHERE) as b,
            open_dht(a, identity(1)) as one,
            open_dht(b, identity(2)) as two,
            trio.open_nursery() as nursery,
        ):
            await nursery.start(find_neighbours, a, one.join, ["127.0.0.1"])
            await nursery.start(find_neighbours, b, two.join, ["127.0.0.1"])
            while not (one.contacts() and two.contacts()):  # noqa: ASYNC110
                await trio.sleep(0.1)
            assert [each.peer for each in one.contacts()] == [b.peer_id]
            assert [each.peer for each in two.contacts()] == [a.peer_id]
            nursery.cancel_scope.cancel()
