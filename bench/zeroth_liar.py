"""One of four real nodes makes up its slopes while they fine-tune SmolLM2-135M: when it is gone, and what it costs.

    python -m bench.zeroth_liar [--rounds 24] [--attack ipm10] [--model smollm2-135m]

Two testnets of real processes: four nodes of which one lies (`shoal testnet --adversaries`), and its three honest ones
alone. Last line: one JSON object with the round in which it was banned and both final losses. Needs `make smollm`.
"""

import argparse
import json
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import trio

from shoal.node import testnet as nets
from shoal.node.adversaries import ON_SLOPES

NODES: Final = 4


async def trained(plan: nets.Plan) -> dict[str, Any]:
    """The founder's view of a run in the end."""
    with tempfile.TemporaryDirectory(prefix="shoal-liar-") as folder:
        async with nets.open_testnet(plan, Path(folder)) as testnet:
            await testnet.launch()
            founder, last = testnet.nodes[0], plan.rounds or 0
            banned_in: int | None = None
            gone = {node.peer for node in testnet.nodes if node.kind}
            while testnet.tally.newest_round(founder.peer) < last:
                round_ = testnet.tally.newest_round(founder.peer) + 1
                await testnet.until(lambda round_=round_: testnet.tally.newest_round(founder.peer) >= round_)  # type: ignore[misc]
                if banned_in is None and gone and gone <= (await testnet.outcasts())["banned"].keys():
                    banned_in = testnet.tally.newest_round(founder.peer)
            await testnet.until(lambda: testnet.tally.rounds_closed() >= last)
            digests = {testnet.tally.digest(node.peer, last) for node in testnet.nodes if not node.kind}
            return {"banned_in": banned_in, "equal": len(digests) == 1, **await testnet.evaluate()}


async def bench(plan: nets.Plan, attack: str) -> dict[str, Any]:
    with_liar = await trained(replace(plan, adversaries=(attack,)))
    print(f"with a liar: {json.dumps(with_liar)}", flush=True)
    alone = await trained(replace(plan, nodes=NODES - 1))
    print(f"honest alone: {json.dumps(alone)}", flush=True)
    ratio = with_liar["validation_loss"] / alone["validation_loss"]
    return {"attack": attack, "with_liar": with_liar, "alone": alone, "loss_ratio": ratio}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=24)
    parser.add_argument("--attack", default="ipm10", choices=sorted(ON_SLOPES))
    parser.add_argument("--model", default="smollm2-135m")
    arguments = parser.parse_args()
    data = "shakespeare" if arguments.model.startswith("gpt") else "sentiment"
    plan = nets.Plan(
        nodes=NODES,
        rounds=arguments.rounds,
        method="zeroth",
        model=arguments.model,
        data=data,
        settings={"evaluate_rounds": 1000},
    )
    print(json.dumps(trio.run(bench, plan, arguments.attack)))


if __name__ == "__main__":
    main()
