"""A swarm of home connections: how long a round takes, beside what the lines allow.

    python -m bench.homes [--model gpt-3m] [--rounds 4]

Four nodes train in network namespaces: one with a public address, two behind port-restricted routers, one behind a
symmetric one; each home's line has 20 Mbit/s up, 100 down, 60 ms from home to home and back, and loses 1% of packets
in each direction. Nobody is told of a relay. `floor_s` is what the slowest home needs to send the bytes that it did
send in a round, at the rate of its line; `exchange_s` is what a round took beyond its training. Medians over rounds
after the first; the last line is JSON:

    {"rounds", "whole", "equal", "round_s", "exchange_s", "floor_s", "ratio"}

`whole` counts rounds with everybody's contribution; `equal` says whether all states' digests agree in every round.
"""

import argparse
import json
import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import trio

from shoal.node import testnet as nets
from shoal.node.laboratory import Line, obstacle, open_internet
from shoal.node.places import PORT, Place
from shoal.node.report import Report
from shoal.node.routers import Router

HOME: Final = Line(up_mbit=20, down_mbit=100, delay_ms=15, loss=0.01)
HOMES: Final = (Router.PORT_RESTRICTED, Router.PORT_RESTRICTED, Router.SYMMETRIC)
PATIENCE_S: Final = 900.0


async def bench(options: argparse.Namespace) -> dict[str, Any]:
    """The figures of the last line."""
    if reason := await obstacle():
        raise SystemExit(f"NOT MEASURED: {reason}")
    settings: dict[str, Any] = {"steps": 5, "codec": "int8", "validation_windows": 4}
    plan = nets.Plan(nodes=1 + len(HOMES), rounds=options.rounds, model=options.model, seed=5, settings=settings)
    with tempfile.TemporaryDirectory(prefix="shoal-") as folder, trio.fail_after(PATIENCE_S):
        async with open_internet() as internet:
            places: list[Place] = []
            for kind in (Router.PUBLIC, *HOMES):
                home = await internet.add_home(kind, Line() if kind is Router.PUBLIC else HOME)
                places.append(Place((await home.add_host()).prefix, f"/ip4/0.0.0.0/tcp/{PORT}"))
            async with nets.open_testnet(plan, Path(folder), places) as testnet:
                await testnet.launch()
                await testnet.until(lambda: testnet.tally.has_finished)
                at_home = [node.peer for node in testnet.nodes[1:]]
                return figures(testnet.tally.report(plan.method), at_home)


def figures(report: Report, at_home: Sequence[str]) -> dict[str, Any]:
    assert HOME.up_mbit is not None
    took: list[tuple[float, float, float]] = []
    for each in report.rounds:
        train_s = max(phases["train"] for phases in each.phases.values())
        floor_s = max(each.bytes_sent[peer] for peer in at_home) * 8 / HOME.up_mbit / 1e6
        took.append((each.seconds, each.seconds - train_s, floor_s))
        print(f"round {each.round}: {each.seconds:.1f} s, {took[-1][1]:.1f} s beyond training; floor {floor_s:.1f} s")
    round_s, exchange_s, floor_s = (statistics.median(column) for column in zip(*took[1:], strict=True))
    return {
        "rounds": len(report.rounds),
        "whole": sum(len(each.contributors) == 1 + len(at_home) for each in report.rounds),
        "equal": all(len(set(each.state_digest.values())) == 1 for each in report.rounds),
        "round_s": round(round_s, 2),
        "exchange_s": round(exchange_s, 2),
        "floor_s": round(floor_s, 2),
        "ratio": round(exchange_s / floor_s, 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="gpt-3m")
    parser.add_argument("--rounds", type=int, default=4)
    print(json.dumps(trio.run(bench, parser.parse_args())))


if __name__ == "__main__":
    main()
