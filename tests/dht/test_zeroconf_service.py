"""What neighbours send on a LAN, by real multicast on loopback; nodes that find each other are in
tests/integration/test_dht_mdns.py.
"""

import socket
import struct
from typing import Final

import trio

from shoal.dht.lan import SERVICE
from shoal.dht.zeroconf_service import announced
from shoal.transport.addresses import Endpoint
from tests.dht.peers import identity

HERE: Final = Endpoint("ip4", "127.0.0.1", 4001, identity(1).peer_id)
PATIENCE_S: Final = 10.0


MULTICAST: Final = ("224.0.0.251", 5353)
POINTER, TEXT = 12, 16  # types of records


def announcement(name: str, text: bytes | None = None) -> bytes:
    """Of a service, with or without its text: an answer as RFC 1035 has it."""
    answers = [record(SERVICE, POINTER, dns_name(name))]
    answers += [] if text is None else [record(name, TEXT, text)]
    return struct.pack(">6H", 0, 0x8400, 0, len(answers), 0, 0) + b"".join(answers)


def record(name: str, kind: int, data: bytes) -> bytes:
    return dns_name(name) + struct.pack(">HHIH", kind, 1, 4500, len(data)) + data


def dns_name(name: str) -> bytes:
    return b"".join(bytes([len(label)]) + label.encode() for label in name.split("."))


async def test_names_that_say_nothing_keep_nobody_from_being_heard_and_hold_up_no_end() -> None:
    send, receive = trio.open_memory_channel[bytes](64)
    token = trio.lowlevel.current_trio_token()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as neighbour:
        neighbour.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton("127.0.0.1"))
        async with announced([HERE], lambda text: token.run_sync_soon(send.send_nowait, text)):
            for name in ("no-service.", *(f"{number}.{SERVICE}" for number in range(100))):
                neighbour.sendto(announcement(name), MULTICAST)
            neighbour.sendto(announcement(f"sound.{SERVICE}", b"\x05hello"), MULTICAST)
            with trio.fail_after(PATIENCE_S):
                while await receive.receive() != b"\x05hello":
                    pass
            ended_at = trio.current_time()
        assert trio.current_time() < ended_at + 1.0  # it asks for none of these texts, each of which would take 1 s
