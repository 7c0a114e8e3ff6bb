"""Nodes behind home routers find relays by themselves, and others when one is gone."""

import sys
import tempfile
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Final

import pytest
import trio

from shoal.node.async_client import connect
from shoal.node.complaint import Complaint
from shoal.node.laboratory import Home, obstacle, open_internet
from shoal.node.routers import Router

ROOT: Final = Path(__file__).resolve().parent.parent.parent
PORT: Final = 4011
PATIENCE_S: Final = 90.0


class Running:
    """A `shoal node` on a computer of the laboratory's."""

    def __init__(self, data_dir: Path, process: trio.Process) -> None:
        self.data_dir, self.process = data_dir, process

    async def ask(self, method: str) -> Any:
        with trio.fail_after(PATIENCE_S):
            while True:
                try:
                    async with connect(self.data_dir) as client:
                        return await client.call(method)
                except Complaint:
                    assert self.process.returncode is None, self.data_dir.with_suffix(".log").read_text()
                    await trio.sleep(0.1)

    async def until(self, method: str, condition: Callable[[Any], bool]) -> Any:
        """What it answers once that fulfills the condition."""
        answer: Any = None
        with trio.move_on_after(PATIENCE_S):
            while not condition(answer := await self.ask(method)):  # noqa: ASYNC110  (no event tells of it)
                await trio.sleep(0.1)
            return answer
        raise AssertionError(f"{answer}\n{self.data_dir.with_suffix('.log').read_text()}")


async def run(stack: AsyncExitStack, home: Home, data_dir: Path, *flags: str) -> Running:
    host = await home.add_host()
    log = stack.enter_context(data_dir.with_suffix(".log").open("w"))
    listen = f"/ip4/{host.address}/tcp/{PORT}"
    command = [*host.prefix, sys.executable, "-m", "shoal", "node", "--data-dir", str(data_dir), "--listen", listen]
    process = await trio.lowlevel.open_process([*command, "--nice", "0", *flags], cwd=ROOT, stdout=log, stderr=log)
    stack.push_async_callback(end, process)
    return Running(data_dir, process)


async def end(process: trio.Process) -> None:
    process.kill()
    with trio.CancelScope(shield=True):
        await process.wait()


def relays_in(status: dict[str, Any]) -> set[str]:
    return {each.split("/")[2] for each in status["addresses"] if "p2p-circuit" in each}


async def test_a_node_behind_a_router_holds_two_reservations_and_replaces_one_that_is_gone() -> None:
    if reason := await obstacle():
        pytest.skip(f"NOT TESTED: {reason}")
    with tempfile.TemporaryDirectory(prefix="shoal-") as folder:
        async with open_internet() as internet, AsyncExitStack() as stack:
            first = await run(stack, await internet.add_home(Router.PUBLIC), Path(folder) / "0")
            entrance = next(each for each in (await first.ask("status"))["addresses"] if "/5." in each)
            known = ("--stay-connected-to", entrance)
            others = [
                await run(stack, await internet.add_home(Router.PUBLIC), Path(folder) / f"{n}", *known) for n in (1, 2)
            ]
            for other in others:
                await other.ask("status")
            hidden = await run(stack, await internet.add_home(Router.PORT_RESTRICTED), Path(folder) / "hidden", *known)
            held = relays_in(await hidden.until("status", lambda status: len(relays_in(status)) == 2))
            where = {where_is(await each.ask("status")): each for each in (first, *others)}
            gone = min(held)
            where[gone].process.kill()
            status = await hidden.until(
                "status", lambda status: len(relays_in(status)) == 2 and gone not in relays_in(status)
            )
            assert len(relays_in(status) - held) == 1


def where_is(status: dict[str, Any]) -> str:
    """Where a public node is."""
    return next(str(each).split("/")[2] for each in status["addresses"] if "/5." in each)
