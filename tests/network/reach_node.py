"""A node of the laboratory's: keeps connected to relays, and reaches whom a test names.

python tests/network/reach_node.py SEED [RELAY ...]
"""

import json
import random
import socket
import sys
import tempfile
import time
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import trio

from shoal.transport.blob_store import BlobStore
from shoal.transport.blobs import BlobRef
from shoal.transport.bulk import BlobService
from shoal.transport.host import open_host
from shoal.transport.identity import Identity
from shoal.transport.port import Address, PeerId, Refusal, Transport, Unary
from shoal.transport.relay import RelayLimits
from shoal.transport.wire import Message

TOLD_AT_BYTES = 6 * 2**20


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


async def put(blobs: BlobService, order: dict[str, Any]) -> dict[str, Any]:
    """Hold a blob of random bytes."""
    ref = await blobs.put([random.Random(1).randbytes(order["put"])], pin="x")
    assert isinstance(ref, BlobRef), ref
    return {"digest": ref.digest.hex(), "size": ref.size}


async def fetch(host: Transport, blobs: BlobService, order: dict[str, Any]) -> dict[str, Any]:
    """Fetch a blob from a kept peer; says so at 6 MiB of it, and at its end what has come in and by which ways."""
    addresses = tuple(Address(each) for each in order["fetch"])
    peer = PeerId(addresses[0].rpartition("/p2p/")[2])
    ways: list[str] = []
    host.keep(peer, addresses)
    while not any(each.peer == peer for each in host.connections()):  # noqa: ASYNC110
        await trio.sleep(0.01)
    began = host.traffic().bytes_received

    async def watch() -> None:
        is_told = False
        while True:
            found = [each.address for each in host.connections() if each.peer == peer]
            ways.extend(each for each in found if [each] != ways[-1:])
            if not is_told and host.traffic().bytes_received - began > TOLD_AT_BYTES:
                is_told = True
                tell({"through": ways[-1]})
            await trio.sleep(0.01)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(watch)
        ref = BlobRef(bytes.fromhex(order["digest"]), order["size"])
        refusal = await blobs.fetch(ref, lambda: [peer], pin="x", timeout_s=100)
        assert refusal is None, refusal
        nursery.cancel_scope.cancel()
    return {"received": host.traffic().bytes_received - began, "ways": ways}


async def main() -> None:
    seed, *arguments = sys.argv[1:]
    relays = [each for each in arguments if not each.startswith("--")]
    identity = Identity.from_seed(int(seed).to_bytes(32, "big"))
    relay = None if relays else RelayLimits()
    listen = ["/ip4/0.0.0.0/tcp/0", "/ip6/::/tcp/0"] if has_ipv6() else ["/ip4/0.0.0.0/tcp/0"]
    async with (
        AsyncExitStack() as stack,
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
        blobs = BlobService(host, BlobStore(Path(stack.enter_context(tempfile.TemporaryDirectory())), 10**9))
        await nursery.start(blobs.run)
        tell({**summary(host), "connected_for_s": time.monotonic() - connected_at})
        async for line in lines():
            order = json.loads(line)
            if "put" in order:
                tell(await put(blobs, order))
            elif "fetch" in order:
                tell(await fetch(host, blobs, order))
            else:
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
