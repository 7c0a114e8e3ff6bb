"""Processes that a benchmark starts, tells what to do in lines of JSON, and hears in lines of JSON."""

import argparse
import json
import subprocess
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final, TypeVar

import msgspec
import trio

from shoal.node.processes import kill_group, own_group

BE_STARTED: Final = "--be-started"

Recipe = TypeVar("Recipe")


def tell(value: Mapping[str, object]) -> None:
    """One line to the bench, from any thread."""
    sys.stdout.write(json.dumps(value) + "\n")  # in one piece, which print does not promise
    sys.stdout.flush()


class BenchProcess:
    """One process as the bench sees it. Obtained from `start`."""

    def __init__(self, process: trio.Process) -> None:
        self._process = process
        self._unread = b""
        self._lines: list[dict[str, Any]] = []  # that nobody has asked for yet
        self._turn = trio.Lock()
        self._has_read: trio.Event | None = None  # while somebody reads, and others wait for what comes

    async def send(self, value: object) -> None:
        assert self._process.stdin is not None
        async with self._turn:
            await self._process.stdin.send_all(msgspec.json.encode(value) + b"\n")

    async def receive(self, key: str) -> dict[str, Any]:
        """The next line that has `key`; others wait until they are asked for."""
        while True:
            for line in self._lines:
                if key in line:
                    self._lines.remove(line)
                    return line
            if self._has_read is not None:
                await self._has_read.wait()
                continue
            has_read = self._has_read = trio.Event()
            try:
                await self._read()
            finally:
                self._has_read = None
                has_read.set()

    async def _read(self) -> None:
        assert self._process.stdout is not None
        data = await self._process.stdout.receive_some()
        if not data:
            raise SystemExit(f"a member ended with status {await self._process.wait()}")
        *lines, self._unread = (self._unread + data).split(b"\n")
        self._lines += map(json.loads, lines)

    async def kill(self) -> None:
        """kill -9, to its whole group."""
        kill_group(self._process)
        await self._process.wait()


async def start(module: str, prefix: Sequence[str] = ()) -> BenchProcess:
    """A process of `module` whose `run_all` waits to be sent a recipe; `prefix` is put before its command."""
    command = [*prefix, sys.executable, "-m", module, BE_STARTED]
    process = await trio.lowlevel.open_process(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, **own_group())
    return BenchProcess(process)


def run_all(
    parser: argparse.ArgumentParser,
    bench: Callable[[argparse.Namespace], Awaitable[object]],
    started: Callable[[Recipe], Awaitable[object]],
    recipe: type[Recipe],
) -> None:
    """Run the bench, and print what it returns as JSON; or, in a process that it started, what that one has to do."""
    parser.add_argument(BE_STARTED, dest="is_started", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.is_started:
        trio.run(started, msgspec.json.decode(sys.stdin.readline(), type=recipe))
    else:
        print(json.dumps(trio.run(bench, arguments)))
