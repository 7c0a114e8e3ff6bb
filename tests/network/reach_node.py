"""A node of the laboratory's: keeps connected to relays, and reaches whom a test names.

python tests/network/reach_node.py SEED [RELAY ...]
"""

import json
import socket
import sys
import time
from collections.abc import AsyncGenerator
from typing import Any

import trio

from shoal.transport.host import open_host
from shoal.transport.identity import Identity
from shoal.transport.port import Address, PeerId, Refusal, Transport, Unary
from shoal.transport.relay import RelayLimits
from shoal.transport.wire import Message


class Word(Message, frozen=True):
    data: bytes


ECHO = Unary("/test/1/echo", Word, Word)


def tell(said: dict[str, Any]) -> None:
    print(json.dumps(said), flush=True)


def summary(host: Transport) -> dict[str, Any]:
    reach = host.reach()
    return {
        "addresses": host.addresses(),
        "verdict": reach.verdict.value,
        "reason": reach.reason,
        "nat": reach.nat,
        "outside": reach.outside,
        "port_mapping": reach.port_mapping,
        "peers": {
            each.peer: {"address": each.address, "is_relayed": each.is_relayed, "note": each.note}
            for each in host.connections()
        },
    }


async def reach(host: Transport, order: dict[str, Any]) -> dict[str, Any]:
    """Call somebody through a relay, and wait for a direct connection."""
    address = Address(order["reach"])
    peer = PeerId(address.rpartition("/p2p/")[2])
    began = time.monotonic()
    host.keep(peer, (address,))
    answer: Word | Refusal | None = None
    while not isinstance(answer, Word):
        answer = await host.request(peer, ECHO, Word(b"?"), timeout_s=10)
        if isinstance(answer, Refusal):
            await trio.sleep(0.01)
    called_s = time.monotonic() - began
    direct_s = None
    note, path = "", ""
    while time.monotonic() - began < order["patience_s"]:
        (connection,) = [each for each in host.connections() if each.peer == peer]
        note, path = connection.note, connection.address
        if not connection.is_relayed:
            answer = await host.request(peer, ECHO, Word(b"?"), timeout_s=10)
            assert isinstance(answer, Word), answer
            direct_s = time.monotonic() - began
            break
        await trio.sleep(0.01)
    return {"called_s": called_s, "direct_s": direct_s, "note": note, "address": path, **summary(host)}


async def main() -> None:
    seed, *arguments = sys.argv[1:]
    relays = [each for each in arguments if not each.startswith("--")]
    identity = Identity.from_seed(int(seed).to_bytes(32, "big"))
    relay = None if relays else RelayLimits()
    listen = ["/ip4/0.0.0.0/tcp/0", "/ip6/::/tcp/0"] if has_ipv6() else ["/ip4/0.0.0.0/tcp/0"]
    async with (
        open_host(identity, listen, relay=relay, relays=relays, seed=int(seed)) as host,
        trio.open_nursery() as nursery,
    ):
        if "--map-port" in arguments:
            nursery.start_soon(host.map_port)
        host.serve(ECHO, lambda _, word: word)
        with trio.fail_after(30):
            while len(host.connections()) < len(relays):  # noqa: ASYNC110
                await trio.sleep(0.02)
            connected_at = time.monotonic()
            while sum("p2p-circuit" in each for each in host.addresses()) < len(relays):  # noqa: ASYNC110
                await trio.sleep(0.02)
        tell({**summary(host), "connected_for_s": time.monotonic() - connected_at})
        async for line in lines():
            order = json.loads(line)
            tell(await reach(host, order) if "reach" in order else summary(host))


def has_ipv6() -> bool:
    try:
        with socket.create_server(("::", 0), family=socket.AF_INET6):
            return True
    except OSError:
        return False


async def lines() -> AsyncGenerator[str]:
    while line := await trio.to_thread.run_sync(sys.stdin.readline, abandon_on_cancel=True):
        yield line


if __name__ == "__main__":
    trio.run(main)
