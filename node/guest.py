"""A look into the DHT by somebody whose node does not run: with a key for the moment, listening nowhere."""

import logging
import secrets
from collections.abc import Awaitable, Callable
from typing import Any

import trio

from shoal.dht.service import DhtService, DhtSettings, open_dht
from shoal.transport.host import open_host
from shoal.transport.identity import Identity
from shoal.transport.port import Transport

from .finding import enter

Ask = Callable[[Transport, DhtService], Awaitable[Any]]


def ask_as_guest(via: str, ask: Ask) -> Any:
    """What `ask` finds, through the node at `via`. Blocks. Raises Complaint."""
    logging.getLogger("shoal").setLevel(logging.ERROR)

    async def run() -> Any:
        identity = Identity.from_seed(secrets.token_bytes(32))
        async with (
            open_host(identity, []) as transport,
            open_dht(transport, identity, DhtSettings(is_server=False)) as dht,
        ):
            await enter(dht, via)
            return await ask(transport, dht)

    return trio.run(run)
