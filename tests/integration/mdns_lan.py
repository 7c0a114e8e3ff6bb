"""A LAN of its own for tests: nodes in network namespaces that a bridge joins. Run inside `unshare -n`.

Nobody has to clean up: the namespaces are nameless and end with their processes, the cables with the namespaces, and
each process ends when its standard input does, which happens however the test dies. No packet leaves the machine.
"""

import json
import subprocess
import sys
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Final

import trio

MODES: Final = ("mdns", "late", "off", "loopback")  # what the nodes do; their numbers are the places here
MDNS_PORT: Final = f":{5353:04X} "  # as the kernel writes it in the table of a namespace's sockets
LOOK_S: Final = 0.5  # between two looks of a node at the addresses of its machine


def ip(*words: str, inside: int | None = None) -> None:
    """Run `ip` here, or in the namespace of a process."""
    where = [] if inside is None else ["nsenter", "-t", str(inside), "-n"]
    subprocess.run([*where, "ip", *words], check=True, capture_output=True, text=True)


def main() -> None:
    """Start the nodes, and lead a cable to each from one bridge."""
    ip("link", "add", "lan", "type", "bridge")
    ip("link", "set", "lan", "up")
    nodes: list[subprocess.Popen[str]] = []
    for number, mode in enumerate(MODES):
        command = ["unshare", "-n", sys.executable, "-m", "tests.integration.mdns_lan", mode]
        node = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        nodes.append(node)
        assert node.stdout is not None
        assert node.stdin is not None
        node.stdout.readline()  # it is in its namespace
        ip("link", "set", "lo", "up", inside=node.pid)
        ip("link", "add", f"cable{number}", "type", "veth", "peer", "name", "eth0", "netns", str(node.pid))
        ip("link", "set", f"cable{number}", "master", "lan", "up")
        ip("link", "set", "eth0", "up", inside=node.pid)
        if mode != "late":
            ip("addr", "add", f"10.77.0.{number + 1}/24", "dev", "eth0", inside=node.pid)
        node.stdin.write("go\n")
        node.stdin.flush()
    for place, node in enumerate(nodes):
        assert node.stdout is not None
        print(node.stdout.readline(), end="", flush=True)  # it is up
        if MODES[place] == "late":
            ip("addr", "add", f"10.77.0.{place + 1}/24", "dev", "eth0", inside=node.pid)
    print("up", flush=True)
    for _ in sys.stdin:  # asked again and again what they know
        for node in nodes:
            assert node.stdin is not None
            assert node.stdout is not None
            node.stdin.write("?\n")
            node.stdin.flush()
            print(node.stdout.readline(), end="", flush=True)
    for node in nodes:
        node.communicate()


async def serve(mode: str) -> None:
    """One node: says what it knows whenever it is asked."""
    from shoal.dht.mdns_service import find_neighbours
    from shoal.dht.service import open_dht
    from shoal.transport.host import open_host
    from tests.dht.peers import identity

    number = MODES.index(mode)
    me = identity(number)
    listen_on = "127.0.0.1" if mode == "loopback" else "0.0.0.0"
    async with AsyncExitStack() as stack:
        host = await stack.enter_async_context(open_host(me, [f"/ip4/{listen_on}/tcp/0"]))
        dht = await stack.enter_async_context(open_dht(host, me, seed=number))
        nursery = await stack.enter_async_context(trio.open_nursery())
        if mode != "off":
            await nursery.start(find_neighbours, host, dht.join, LOOK_S)
        print(json.dumps(host.addresses()), flush=True)
        while await trio.to_thread.run_sync(sys.stdin.readline):
            known = {each.peer: each.addresses for each in dht.contacts()}
            print(json.dumps({"known": known, "hears": hears()}), flush=True)
        nursery.cancel_scope.cancel()


def hears() -> bool:
    """Whether somebody listens for mDNS in this namespace."""
    return MDNS_PORT in Path("/proc/net/udp").read_text()


if __name__ == "__main__":
    if len(sys.argv) == 1:
        main()
    else:
        print("inside", flush=True)
        sys.stdin.readline()
        trio.run(serve, sys.argv[1])
