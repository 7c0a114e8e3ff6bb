"""One of four real nodes makes up its slopes while they fine-tune SmolLM2-135M: when it is gone, and what it costs.

    python -m bench.zeroth_liar [--rounds 24] [--attack -10x] [--model smollm2-135m]

Two testnets of real processes: four nodes of which one lies, and its three honest ones alone. The liar is a node like
the others whose method forges what it sends (only this benchmark starts one, on loopback, in a swarm of its own). Last
line: one JSON object with the round in which it was banned and both final losses. Needs `make smollm`.
"""

import argparse
import json
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import trio
from blake3 import blake3

from shoal.node import testnet as nets
from shoal.node.async_client import connect
from shoal.node.places import LOOPBACK, Place
from shoal.training import methods
from shoal.training.checkpoint import Local
from shoal.training.method import Turn, Work
from shoal.training.zeroth import Zeroth
from shoal.training.zeroth_state import State

from .zeroth_bans import ATTACKS

NODES: Final = 4
BEHIND: Final = "--behind"  # then an attack, and the command of a node, which runs in this process


class Liar(Zeroth):
    """Forges what it sends."""

    attack = ""
    first = b""

    def contribute(self, state: State, local: Local, turn: Turn) -> Work[Local]:
        work = super().contribute(state, local, turn)
        codes = bytes(work.payload[0])
        Liar.first = Liar.first or codes
        random = blake3(turn.seed.to_bytes(8, "big")).digest(len(codes))
        return Work((ATTACKS[self.attack](codes, Liar.first, random),), work.samples, work.local, work.metrics)


def behind(attack: str, command: list[str]) -> None:
    """Be the node of this command, with another method."""
    from shoal.node.cli import main as shoal

    Liar.attack = attack
    setattr(methods, "Zeroth", Liar)  # noqa: B010  # what builds methods takes it by this name
    sys.argv = ["shoal", *command[command.index("shoal") + 1 :]]
    sys.exit(shoal())


async def trained(plan: nets.Plan, liars: int, attack: str) -> dict[str, Any]:
    """The founder's view of a run in the end; the last nodes lie."""
    lying = Place((sys.executable, "-m", "bench.zeroth_liar", BEHIND, attack), LOOPBACK.listen)
    places = [LOOPBACK] * (plan.nodes - liars) + [lying] * liars
    with tempfile.TemporaryDirectory(prefix="shoal-liar-") as folder:
        async with nets.open_testnet(plan, Path(folder), places) as testnet:
            await testnet.launch()
            founder, last = testnet.nodes[0], plan.rounds or 0
            banned_in: int | None = None
            gone = {node.peer for node in testnet.nodes[plan.nodes - liars :]}
            while testnet.tally.newest_round(founder.peer) < last:
                round_ = testnet.tally.newest_round(founder.peer) + 1
                await testnet.until(lambda round_=round_: testnet.tally.newest_round(founder.peer) >= round_)  # type: ignore[misc]
                async with connect(founder.data_dir) as client:
                    agreement = (await client.call("swarm.show"))["agreement"]
                if (
                    banned_in is None
                    and gone
                    and gone <= {member["peer_id"] for member in agreement["members"] if member["banned_until"]}
                ):
                    banned_in = testnet.tally.newest_round(founder.peer)
            honest = testnet.nodes[: plan.nodes - liars]
            digests = {testnet.tally.digest(node.peer, last) for node in honest}
            return {"banned_in": banned_in, "equal": len(digests) == 1, **await testnet.evaluate()}


async def bench(plan: nets.Plan, attack: str) -> dict[str, Any]:
    rules = {"members_start": NODES}
    with_liar = await trained(replace(plan, rules=rules), 1, attack)
    print(f"with a liar: {json.dumps(with_liar)}", flush=True)
    alone = await trained(replace(plan, nodes=NODES - 1, rules={"members_start": NODES - 1}), 0, attack)
    print(f"honest alone: {json.dumps(alone)}", flush=True)
    ratio = with_liar["validation_loss"] / alone["validation_loss"]
    return {"attack": attack, "with_liar": with_liar, "alone": alone, "loss_ratio": ratio}


def main() -> None:
    if sys.argv[1:2] == [BEHIND]:
        behind(sys.argv[2], sys.argv[3:])
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=24)
    parser.add_argument("--attack", default="-10x", choices=sorted(ATTACKS))
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
