"""Carries out on a testnet what node/chaos.py draws: kills, freezes and cuts off its nodes, and lets them come back."""

import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

import trio

from .chaos import Kind, Misfortune
from .complaint import Complaint
from .lan import Lan
from .report import DONE_TO, Trouble
from .report_html import duration, short
from .testnet import Testnet, TestnetNode

OVER: Mapping[Trouble, str] = {"kill": "up again", "freeze": "awake again", "partition": "connected again"}

Say = Callable[[str], None]


async def befall(testnet: Testnet, plan: Sequence[Misfortune], lan: Lan | None, say: Say) -> None:
    """All of the plan, from now on; returns when it is over, and everybody up and together again.

    Args:
        lan: where the nodes are; without one partitions are left out.

    Raises:
        Complaint: a node does not start again, or the network cannot be torn.
    """
    began_at = trio.current_time()
    locks = [trio.Lock() for _ in testnet.nodes]
    async with trio.open_nursery() as nursery:
        for each in plan:
            if lan is not None or each.kind is not Kind.PARTITION:
                nursery.start_soon(_befall, testnet, each, began_at, locks, lan, say)


async def _befall(
    testnet: Testnet, misfortune: Misfortune, began_at: float, locks: Sequence[trio.Lock], lan: Lan | None, say: Say
) -> None:
    """One misfortune. A node that still starts after being killed is let finish: that is what the locks are for."""
    nodes = [testnet.nodes[index] for index in misfortune.nodes]
    names = ", ".join(short(node.peer) for node in nodes)
    await trio.sleep_until(began_at + misfortune.at_s)
    async with AsyncExitStack() as held:
        for index in misfortune.nodes if misfortune.kind is not Kind.PARTITION else ():
            await held.enter_async_context(locks[index])
        number = testnet.tally.befell(misfortune.kind.value, [node.peer for node in nodes], time.monotonic())
        async with _doing(testnet, misfortune.kind, nodes, lan):
            lasting_s = misfortune.until_s - misfortune.at_s
            say(f"{DONE_TO[misfortune.kind.value]}: {names}, for {duration(lasting_s)}")
            await trio.sleep(lasting_s)
        testnet.tally.passed(number, time.monotonic())
        say(f"{OVER[misfortune.kind.value]}: {names}")


@asynccontextmanager
async def _doing(testnet: Testnet, kind: Kind, nodes: Sequence[TestnetNode], lan: Lan | None) -> AsyncGenerator[None]:
    """The misfortune lasts as long as the block."""
    match kind:
        case Kind.KILL:
            await _each(testnet.kill, nodes)
            yield
            await _each(testnet.start, nodes)
        case Kind.FREEZE:
            await _each(_freeze, nodes)
            yield
            await _each(_thaw, nodes)
        case Kind.PARTITION:
            assert lan is not None
            await lan.tear(node.index for node in nodes)
            yield
            await lan.mend()


async def _each(do: Callable[[TestnetNode], Awaitable[None]], nodes: Sequence[TestnetNode]) -> None:
    """To all at the same time."""
    async with trio.open_nursery() as nursery:
        for node in nodes:
            nursery.start_soon(do, node)


async def _freeze(node: TestnetNode) -> None:
    try:
        await node.process.freeze()
    except OSError as error:
        raise Complaint(f"cannot freeze node {node.index}: {error}") from error


async def _thaw(node: TestnetNode) -> None:
    await node.process.thaw()
