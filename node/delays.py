"""The core's queues, in which packets wait: a `delay_line` in its namespace, and what leads packets into its queues.

A packet's mark is the number of its queue, which is its delay in milliseconds. `routers.core_rules` marks them.
"""

import subprocess
import sys
from collections.abc import AsyncGenerator, Collection
from contextlib import asynccontextmanager, suppress
from itertools import product
from typing import Final

import trio

from . import delay_line
from .complaint import Complaint
from .namespaces import Namespace
from .processes import own_group

QUEUE: Final = ("-t", "mangle", "-A", "FORWARD", "-m", "mark")


class Delays:
    """Obtained from `open_delays`."""

    def __init__(self, core: Namespace, process: trio.Process) -> None:
        self._core = core
        self._process = process
        self._opened: set[int] = set()
        self._led: set[tuple[str, int]] = set()

    async def hold(self, delays_ms: Collection[int], *, ipv6: bool) -> None:
        """Let packets with these marks wait so long, those of IPv6 too if there are any. Raises Complaint."""
        for delay_ms in sorted(set(delays_ms) - self._opened):
            await self._open(delay_ms)
        commands = ("iptables", "ip6tables") if ipv6 else ("iptables",)
        for command, delay_ms in sorted(set(product(commands, delays_ms)) - self._led):
            mark = str(delay_ms)
            await self._core.run(command, *QUEUE, "--mark", mark, "-j", "NFQUEUE", "--queue-num", mark)
            self._led.add((command, delay_ms))

    async def _open(self, delay_ms: int) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with suppress(trio.BrokenResourceError):
            await self._process.stdin.send_all(f"{delay_ms}\n".encode())
        if not await self._process.stdout.receive_some():
            raise Complaint("the program that delays packets has ended")
        self._opened.add(delay_ms)


@asynccontextmanager
async def open_delays(core: Namespace) -> AsyncGenerator[Delays]:
    """No queue yet, in the core's namespace."""
    process = await trio.lowlevel.open_process(
        [*core.prefix, sys.executable, "-I", delay_line.__file__],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        **own_group(),
    )
    try:
        yield Delays(core, process)
    finally:
        with trio.CancelScope(shield=True):
            process.kill()
            await process.wait()
            for pipe in (process.stdin, process.stdout):
                assert pipe is not None
                await pipe.aclose()
