"""Hands on the laboratory's computers: an `agent` on each, told what to do by a test."""

import subprocess
import sys
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Final

import pytest
import trio

from shoal.node.laboratory import Home, Host, Internet, obstacle, open_internet

AGENT: Final = str(Path(__file__).with_name("agent.py"))
PATIENCE_S: Final = 120.0


class Hands:
    """What a test does on one computer."""

    def __init__(self, host: Host, process: trio.Process) -> None:
        self.host = host
        self._process = process
        self._heard = b""

    async def tell(self, command: str) -> None:
        """Let the agent begin something."""
        assert self._process.stdin is not None
        await self._process.stdin.send_all(f"{command}\n".encode())

    async def answer(self) -> str:
        """What it says of the oldest command that it has not answered yet."""
        assert self._process.stdout is not None
        while b"\n" not in self._heard:
            data = await self._process.stdout.receive_some()
            assert data, "the agent has ended"
            self._heard += data
        line, _, self._heard = self._heard.partition(b"\n")
        return line.decode()

    async def do(self, command: str) -> str:
        await self.tell(command)
        return await self.answer()


class World:
    """An internet with hands on its computers. Obtained from `open_world`."""

    def __init__(self, internet: Internet, stack: AsyncExitStack) -> None:
        self.internet = internet
        self._stack = stack

    async def hands_in(self, home: Home) -> Hands:
        """One more computer in a home."""
        host = await home.add_host()
        process = await trio.lowlevel.open_process(
            [*host.prefix, sys.executable, "-I", AGENT], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        self._stack.push_async_callback(end, process)
        return Hands(host, process)


@asynccontextmanager
async def open_world(*, ipv6: bool = False) -> AsyncGenerator[World]:
    """Skips the test, loudly, where there can be none, or none with IPv6."""
    if reason := await obstacle(ipv6=ipv6):
        pytest.skip(f"NOT TESTED: {reason}")
    with trio.fail_after(PATIENCE_S):
        async with open_internet() as internet, AsyncExitStack() as stack:
            yield World(internet, stack)


async def end(process: trio.Process) -> None:
    """kill -9, and nothing of it is left."""
    process.kill()
    with trio.CancelScope(shield=True):
        await process.wait()
        for pipe in (process.stdin, process.stdout):
            assert pipe is not None
            await pipe.aclose()
