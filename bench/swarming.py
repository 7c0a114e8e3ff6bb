"""Members with uplinks of different speed exchange payloads: how long a round takes, beside what the lines allow.

    python -m bench.swarming [--rounds 4] [--direct 2] [--parameters 2500000]

Eight real members, as in bench/average.py, in network namespaces: UPLINKS, 200 Mbit/s down, 60 ms between any two. All
contribute at the same moment. `round_s` is from then until the last has closed the round; `exchange_s` is the part of
it until the last had everybody's payload and all agreed. `floor_s` is what swarming needs at least: everybody's uplink
carries its own payload once, and all uplinks together carry every payload to everybody else; bytes of payload only,
without headers, which take 5%. `direct` is the same with everybody fetching each payload from its author alone, whose
floor is that the slowest uplink carries its payload to all others. A first round meets fresh connections: it is shown
and not counted. Medians; the last line is JSON:

    {"round_s", "exchange_s", "floor_s", "ratio", "equal", "mb_sent": [...], "direct": {the same}}
"""

import argparse
import statistics
import tempfile
from collections.abc import Callable, Iterable
from contextlib import AsyncExitStack
from typing import Any, Final

import msgspec

from shoal.node.laboratory import Host, Line, obstacle, open_internet
from shoal.transport.blobs import BlobRef
from shoal.transport.bulk import BlobService
from shoal.transport.port import PeerId, Refusal

from . import average
from .lines import at, host_on
from .processes import BenchProcess, run_all, start

UPLINKS: Final = (5, 5, 10, 10, 20, 20, 100, 100)  # Mbit/s
DOWN_MBIT: Final = 200
DELAY_MS: Final = 15  # each line, both ways: 60 ms
ROUND_S: Final = 900.0  # direct sending takes 120 s


class Recipe(msgspec.Struct, frozen=True):
    """What one member process is told on its first line."""

    member: average.Recipe
    is_direct: bool


class Direct:
    """Blobs that come from the first of their holders alone, which is a payload's author."""

    def __init__(self, blobs: BlobService) -> None:
        self._blobs = blobs
        self.put, self.open, self.unpin = blobs.put, blobs.open, blobs.unpin

    async def fetch(self, ref: BlobRef, holders: Callable[[], Iterable[PeerId]], **options: Any) -> Refusal | None:
        return await self._blobs.fetch(ref, lambda: list(holders())[:1], **options)


async def play(recipe: Recipe) -> None:
    """One member."""
    await average.member(recipe.member, Direct if recipe.is_direct else lambda blobs: blobs)


async def bench(options: argparse.Namespace) -> dict[str, Any]:
    """The figures of the last line."""
    if reason := await obstacle():
        raise SystemExit(f"NOT MEASURED: {reason}")
    payload_mbit, others = options.parameters * 4 * 8 / 1e6, len(UPLINKS) - 1
    all_mbit = payload_mbit * len(UPLINKS) * others
    figures: dict[str, Any] = {}
    if options.rounds:
        floor_s = max(payload_mbit / min(UPLINKS), all_mbit / sum(UPLINKS))
        figures = await measure("swarming", options.parameters, options.rounds, floor_s)
    if options.direct:
        floor_s = payload_mbit * others / min(UPLINKS)
        figures["direct"] = await measure("direct", options.parameters, options.direct, floor_s)
    return figures


async def measure(way: str, parameters: int, rounds: int, floor_s: float) -> dict[str, Any]:
    """Rounds in one way."""
    async with AsyncExitStack() as stack:
        root = stack.enter_context(tempfile.TemporaryDirectory(prefix="shoal-bench-"))
        internet = await stack.enter_async_context(open_internet())
        lines = [Line(up_mbit=rate, down_mbit=DOWN_MBIT, delay_ms=DELAY_MS) for rate in UPLINKS]
        hosts = [await host_on(internet, line) for line in lines]
        members: list[BenchProcess] = []
        for index, host in enumerate(hosts):
            listen = f"/ip4/{host.address}/tcp/0"
            folder = f"{root}/{index}"
            told = average.Recipe(index, len(UPLINKS), parameters, rounds, "float32", None, folder, listen, ROUND_S)
            members.append(await begin(stack, host, Recipe(told, way == "direct")))
        addresses = [[at(await each.receive("addresses"), host)] for each, host in zip(members, hosts, strict=True)]
        for each in members:
            await each.send(addresses)
        made: list[average.Round] = []
        for number in range(1, rounds + 1):
            latest = await average.one_round(members)
            made.append(latest)
            mb_sent = [round(each, 1) for each in latest.mb_sent]
            print(
                f"{way}, round {number}: {latest.span_s:.1f} s, {latest.span_s / floor_s:.2f} times the floor, "
                f"{latest.phases}, {'equal' if latest.is_equal else 'NOT EQUAL'}; MB sent {mb_sent}",
                flush=True,
            )
    counted = made[1:] or made
    round_s = statistics.median(each.span_s for each in counted)
    return {
        "round_s": round(round_s, 2),
        "exchange_s": round(statistics.median(each.phases["exchange"] for each in counted), 2),
        "floor_s": round(floor_s, 2),
        "ratio": round(round_s / floor_s, 2),
        "equal": all(each.is_equal for each in counted),
        "mb_sent": [round(statistics.median(one), 1) for one in zip(*(each.mb_sent for each in counted), strict=True)],
    }


async def begin(stack: AsyncExitStack, host: Host, recipe: Recipe) -> BenchProcess:
    process = await start("bench.swarming", host.prefix)
    stack.push_async_callback(process.kill)
    await process.send(recipe)
    return process


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=4, help="by swarming; 0: none")
    parser.add_argument("--direct", type=int, default=2, help="rounds of direct sending; 0: none")
    parser.add_argument("--parameters", type=int, default=2_500_000)
    run_all(parser, bench, play, Recipe)


if __name__ == "__main__":
    main()
