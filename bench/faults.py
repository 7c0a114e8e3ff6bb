"""What it costs when members die, freeze, come back or join: real nodes, real processes, real signals.

    python -m bench.faults

Four nodes train a small model. Each is killed once in the middle of a round (kill -9), its founder included, and
started again; two are frozen (SIGSTOP) and wake up (SIGCONT) three rounds later; all four are killed at once and
started again. Then a node joins a swarm of two whose state is about 100 MB. What is measured:

kill_s: from the kill, or from the last survivor's contribution if that is later, until the last survivor has applied
the next record. The worst of four.
freeze_s: from when a frozen member is no longer waited for (the round's deadline plus grace) until the last of the
others has applied the next record; nothing if they have it before. The worst of two.
thaw_rounds: how many rounds later than the newest one when it wakes a frozen member's contribution is in a record.
join_s: from when a newcomer's local API answers until its first round starts. It has processors of its own, all but
the first, which is left to the two that train.
equal: all states were equal in every round, and no round was lost. Last line:

    {"kill_s", "freeze_s", "thaw_rounds", "join_s", "equal"}
"""

import argparse
import json
import os
import signal
import tempfile
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import trio
from blake3 import blake3

from shoal.transport.identity import Identity

from .nodes import BenchNode, all_equal, until

NODES: Final = 4
INTO_ROUND_S: Final = 0.3  # after its start, when a round is in full swing
WITHOUT_ROUNDS: Final = 3  # that a frozen member misses
ROUND_S: Final = 6.0
GRACE_S: Final = 2.0
SPEC: Final[Mapping[str, object]] = {
    "model": "gpt-0.2m",
    "members_start": NODES,
    "members_min": NODES // 2 + 1,
    "round_s": ROUND_S,
    "grace_s": GRACE_S,
    "settings": {"steps": 30, "codec": "int8"},
}
LARGE: Final[Mapping[str, object]] = {
    "model": "gpt-11m",
    "members_start": 2,
    "round_s": 60.0,
    "payload_bytes_max": 100_000_000,
    "settings": {"steps": 1, "batch_size": 1, "context": 32, "validation_windows": 1, "codec": "int8"},
}
GOALS: Final = {"kill_s": 2.0, "freeze_s": 2.0, "thaw_rounds": 2, "join_s": 3.0}


class Bench:
    """Four nodes that train, and what befalls them."""

    def __init__(self, nodes: list[BenchNode], nursery: trio.Nursery) -> None:
        self.nodes = nodes
        self._nursery = nursery

    async def into_round(self, node: BenchNode) -> None:
        """Until a new round is under way at `node`."""
        now = trio.current_time()
        await until(lambda: bool(node.all_told("RoundStarted", now)), "a new round")
        await trio.sleep(INTO_ROUND_S)

    async def rounds(self, nodes: list[BenchNode], count: int) -> None:
        """Until these have closed so many more that took something."""
        now = trio.current_time()
        await until(lambda: all(len(node.records(now)) >= count for node in nodes), f"{count} more rounds")

    async def until_taken(self, node: BenchNode, others: list[BenchNode]) -> int:
        """The first record from now on that has a contribution of `node`: its round."""
        now = trio.current_time()

        def rounds() -> list[int]:
            return [told.round for told in others[0].records(now) if node.peer in told.fields["contributors"]]

        await until(lambda: bool(rounds()), "a contribution of who came back")
        return rounds()[0]

    async def kill(self, victim: BenchNode) -> float:
        """Seconds to the next record; the victim is back afterwards."""
        others = [node for node in self.nodes if node is not victim]
        await self.into_round(victim)
        killed_at = trio.current_time()
        await victim.kill()
        await until(lambda: all(node.records(killed_at) for node in others), "a record after a kill")
        span_s = _since_last_contribution(others, killed_at)
        await self.rounds(others, 1)
        await victim.start(self._nursery)
        await self.until_taken(victim, others)
        return span_s

    async def freeze(self, victim: BenchNode) -> tuple[float, int]:
        """Seconds beyond the round's time, and within how many rounds it is back after it woke up."""
        others = [node for node in self.nodes if node is not victim]
        await self.into_round(victim)
        frozen_at = trio.current_time()
        victim.signal(signal.SIGSTOP)
        await until(lambda: all(node.records(frozen_at) for node in others), "a record after a freeze")
        closed_at = max(node.records(frozen_at)[0].at for node in others)
        started = [told.at for node in others for told in node.all_told("RoundStarted") if told.at <= frozen_at]
        waited_until = max(started) + ROUND_S + GRACE_S
        print(
            f"  without who froze after {closed_at - frozen_at:.2f} s, {closed_at - waited_until:+.2f} s after its time"
        )
        await self.rounds(others, WITHOUT_ROUNDS - 1)
        newest = max(node.newest_round for node in others)
        victim.signal(signal.SIGCONT)
        back = await self.until_taken(victim, others)
        return max(0.0, closed_at - waited_until), back - newest

    async def kill_all(self) -> float:
        """Seconds from when all answer again to the next record; it follows the last one."""
        await self.into_round(self.nodes[0])
        newest = max(node.newest_round for node in self.nodes)
        for node in self.nodes:
            await node.kill()
        async with trio.open_nursery() as nursery:
            for node in self.nodes:
                nursery.start_soon(node.start, self._nursery)
        up_at = max(node.up_at for node in self.nodes)
        since = min(node.started_at for node in self.nodes)
        await until(lambda: all(node.records(since) for node in self.nodes), "a record after all were killed")
        first = {node.records(since)[0].round for node in self.nodes}
        if not all(newest <= round <= newest + 3 for round in first):
            raise SystemExit(f"after round {newest} all were killed, and went on with rounds {sorted(first)}")
        return max(node.records(since)[0].at for node in self.nodes) - up_at


def _since_last_contribution(others: list[BenchNode], killed_at: float) -> float:
    closed = [node.records(killed_at)[0] for node in others]
    done = [told.at for node in others for told in node.all_told("LocalDone") if told.at <= min(c.at for c in closed)]
    from_at = max(killed_at, *done)
    span_s = max(each.at for each in closed) - from_at
    attempt = max(each.fields["attempt"] for each in closed)
    print(f"  record {closed[0].round} {span_s:.2f} s later, in attempt {attempt}", flush=True)
    return span_s


@asynccontextmanager
async def running(
    root: Path, count: int, spec: Mapping[str, object], nursery: trio.Nursery
) -> AsyncGenerator[tuple[list[BenchNode], str], None]:
    """So many nodes in one swarm, and its invite. Ended at the end, whatever happens."""
    nodes = [BenchNode(identity_of(index), root / f"node-{index}") for index in range(count)]
    try:
        async with trio.open_nursery() as starting:
            for node in nodes:
                starting.start_soon(node.start, nursery)
        created = await nodes[0].call("swarm.create", spec=spec)
        for node in nodes[1:]:
            await node.call("swarm.join", invite=created["invite"])
        yield nodes, str(created["invite"])
    finally:
        with trio.CancelScope(shield=True):
            for node in nodes:
                await node.stop()


def identity_of(index: int) -> Identity:
    return Identity.from_seed(blake3(f"bench/faults/{index}".encode()).digest())


async def befall(root: Path) -> dict[str, Any]:
    """What happens to four."""
    async with trio.open_nursery() as nursery, running(root, NODES, SPEC, nursery) as (nodes, _):
        bench = Bench(nodes, nursery)
        await bench.rounds(nodes, 3)  # in the first ones the members are let in
        kills: list[float] = []
        for victim in (nodes[1], nodes[2], nodes[3], nodes[0]):
            print(f"kill -9 of node {nodes.index(victim)}", flush=True)
            kills.append(await bench.kill(victim))
        frozen: list[tuple[float, int]] = []
        for victim in (nodes[1], nodes[0]):
            print(f"SIGSTOP of node {nodes.index(victim)}", flush=True)
            frozen.append(await bench.freeze(victim))
            print(f"  {frozen[-1][1]} rounds after SIGCONT", flush=True)
        print(f"all killed: a record {await bench.kill_all():.2f} s after all answer", flush=True)
        await bench.rounds(nodes, 2)
        figures = {
            "kill_s": round(max(kills), 2),
            "freeze_s": round(max(span_s for span_s, _ in frozen), 2),
            "thaw_rounds": max(rounds for _, rounds in frozen),
            "equal": all_equal(nodes),
        }
        nursery.cancel_scope.cancel()
    return figures


async def join(root: Path) -> dict[str, Any]:
    """A newcomer to a large state."""
    async with trio.open_nursery() as nursery, running(root, 2, LARGE, nursery) as (nodes, _):
        await until(lambda: all(len(node.records()) >= 2 for node in nodes), "two rounds of a large model")
        newcomer = BenchNode(identity_of(len(nodes)), root / "newcomer")
        first, *others = range(os.cpu_count() or 1)
        try:
            await newcomer.start(nursery)
            if others:
                for node in nodes:
                    node.keep_to({first})
                newcomer.keep_to(set(others))
            invite = (await nodes[0].call("swarm.invite"))["invite"]
            await newcomer.call("swarm.join", invite=invite)
            joined_at = trio.current_time()
            await until(lambda: bool(newcomer.all_told("RoundStarted")), "a newcomer's first round")
            span_s = newcomer.all_told("RoundStarted")[0].at - newcomer.up_at
            await until(lambda: bool(newcomer.all_told("LocalDone")), "a newcomer's first work")
            done_s = newcomer.all_told("LocalDone")[0].at - newcomer.up_at
            for told in newcomer.told:
                print(f"  {told.at - newcomer.up_at:.2f} s: {told.fields['event']} {told.round or ''}", flush=True)
            print(f"a newcomer trains after {span_s:.2f} s; swarm.join took {joined_at - newcomer.up_at:.2f} s of it")
            print(f"its first work, of one step, is done after {done_s:.2f} s")  # torch may be loaded only then
            await until(lambda: bool(newcomer.records()), "a newcomer's first record")
            is_equal = all_equal([*nodes, newcomer])
        finally:
            await newcomer.stop()
        nursery.cancel_scope.cancel()
    return {"join_s": round(span_s, 2), "equal": is_equal}


async def bench() -> dict[str, Any]:
    print(f"load {os.getloadavg()[0]:.1f}", flush=True)
    with tempfile.TemporaryDirectory(prefix="shoal-bench-") as root:
        befallen = await befall(Path(root) / "four")
        joined = await join(Path(root) / "large")
    return {**befallen, **joined, "equal": befallen["equal"] and joined["equal"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.parse_args()
    figures = trio.run(bench)
    print(f"{'':12} {'goal':>8} {'measured':>8}")
    for name, goal in GOALS.items():
        print(f"{name:12} {goal:>8} {figures[name]:>8}")
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
