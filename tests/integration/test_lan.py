"""The LAN that can be torn: real namespaces, bridges and sockets."""

import subprocess
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Final

import pytest
import trio

from shoal.node.lan import Lan, host, obstacle, open_lan
from shoal.node.places import PORT

PATIENCE_S: Final = 30.0
SILENCE_S: Final = 1.0  # an undisturbed line answers within milliseconds
ECHO: Final = "import socket, sys; c, _ = socket.create_server((sys.argv[1], int(sys.argv[2]))).accept()\n" + (
    "while data := c.recv(99): c.sendall(data)"
)
ASK: Final = (
    "import socket, sys, time\n"
    "until = time.monotonic() + 20\n"
    "while time.monotonic() < until:\n"
    "    try: c = socket.create_connection((sys.argv[1], int(sys.argv[2]))); break\n"
    "    except ConnectionRefusedError: time.sleep(0.02)\n"
    "for line in sys.stdin:\n"
    "    c.sendall(line.encode()); print(c.recv(99).decode(), end='', flush=True)"
)


class Line:
    """A connection between two places of the LAN."""

    def __init__(self, asker: trio.Process) -> None:
        self._asker = asker

    async def ask(self) -> bool:
        """Send something and wait for the answer; whether it came in time."""
        assert self._asker.stdin is not None
        await self._asker.stdin.send_all(b"?\n")
        return await self.hears(SILENCE_S)

    async def hears(self, within_s: float) -> bool:
        assert self._asker.stdout is not None
        with trio.move_on_after(within_s):
            assert await self._asker.stdout.receive_some(), "the connection broke"
            return True
        return False


@asynccontextmanager
async def open_line(lan: Lan, here: int, there: int) -> AsyncGenerator[Line]:
    place = (host(there), str(PORT))
    echo = await trio.lowlevel.open_process([*lan.places[there].prefix, sys.executable, "-c", ECHO, *place])
    asker = await trio.lowlevel.open_process(
        [*lan.places[here].prefix, sys.executable, "-c", ASK, *place], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        yield Line(asker)
    finally:
        for process in (asker, echo):
            process.kill()
            await process.wait()
        assert asker.stdin is not None
        assert asker.stdout is not None
        await asker.stdin.aclose()
        await asker.stdout.aclose()


async def test_a_torn_lan_is_silent_and_the_same_connection_goes_on_when_it_is_mended() -> None:
    if reason := await obstacle():
        pytest.skip(f"NOT TESTED: {reason}")
    with trio.fail_after(PATIENCE_S):
        async with (
            open_lan(4) as lan,
            open_line(lan, 0, 1) as across,
            open_line(lan, 3, 2) as beside,
        ):
            for line in (across, beside):
                assert await line.ask() or await line.hears(PATIENCE_S)  # Python has started by then
            await lan.tear([1, 2, 3])
            assert not await across.ask()
            assert await beside.ask()
            await lan.mend()
            assert await across.hears(PATIENCE_S)
            assert await beside.ask()
            assert await across.ask()


async def test_nothing_is_left_of_a_lan() -> None:
    if reason := await obstacle():
        pytest.skip(f"NOT TESTED: {reason}")
    async with open_lan(3) as lan:
        holder = lan.places[2].prefix[2]
        assert (await trio.run_process([*lan.places[2].prefix, "true"])).returncode == 0
    gone = await trio.run_process(["kill", "-0", holder], check=False, capture_stderr=True)
    assert gone.returncode != 0
