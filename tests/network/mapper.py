"""A computer's port mapping in the laboratory: a line of JSON for each change, until standard input ends.

Each line of standard input says that the network has changed.
"""

import json
import sys

import trio

from shoal.transport.port_mapping import Mapping, Protocol
from shoal.transport.port_mapping_service import PortMappingService


def say(mapping: Mapping | None, reason: str) -> None:
    place = None if mapping is None else [mapping.host, mapping.port, mapping.protocol.value]
    print(json.dumps({"mapping": place, "reason": reason}), flush=True)


async def main(*arguments: str) -> None:
    port, lease_s, *protocols = arguments
    service = PortMappingService(
        int(port), 5, say, lease_s=int(lease_s), protocols=[Protocol[name] for name in protocols]
    )
    async with trio.open_nursery() as nursery:
        await nursery.start(service.run)
        while await trio.to_thread.run_sync(sys.stdin.readline):
            service.network_changed()
        nursery.cancel_scope.cancel()


if __name__ == "__main__":
    trio.run(main, *sys.argv[1:])
