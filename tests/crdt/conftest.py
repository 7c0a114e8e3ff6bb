"""What the tests of the store share."""

from collections.abc import AsyncGenerator
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from shoal.transport.memory import Network

from .nodes import World


@pytest.fixture
async def world(tmp_path: Path, autojump_clock: MockClock) -> AsyncGenerator[World, None]:
    network = Network(0, is_full=True)
    async with trio.open_nursery() as nursery:
        await nursery.start(network.run)
        yield World(network, nursery, tmp_path)
        nursery.cancel_scope.cancel()
