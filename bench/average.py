"""Averaging a large vector among real processes, through the engine: from the last local step to equal digests.

    python -m bench.average [--members 4] [--parameters 25000000] [--rounds 9] [--rule median]

Each process is a member with a host, a blob store on disk and the round engine; its method is DiLoCo with a trainer
that moves the parameters by noise made beforehand. All local steps end at the same moment: they wait for the last. What
is timed is everything a round has left to do then: encode, store, offer, fetch from the others, check, agree, apply,
digest. A member keeps the payloads of some rounds; until there are as many, each round takes more of the disk and of
the page cache, and the first meets fresh connections, too. These rounds are shown and not counted: a swarm runs for
hundreds. Of the others the median is taken. `trusting` is the mean where nothing is looked for (attackers = 0). Last
line, MB for float32 and per round, CPU seconds of all members together in that time:

    {"float32_s", "int8_s", "equal", "mb_sent_per_peer", "cpu_s": {"float32", "int8"}}
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
import trio
from blake3 import blake3

from shoal.training.checkpoint import Local
from shoal.training.diloco import Diloco
from shoal.training.diloco_settings import parse_settings
from shoal.training.events import Event, Problem, RoundClosed
from shoal.training.local_trainer import Trained
from shoal.training.log import ROUNDS_SERVED
from shoal.training.method import Turn
from shoal.training.ports import Blobs
from shoal.training.rules import RULES
from shoal.training.service import Ports, SwarmService
from shoal.training.spec import AdmissionRule, Setting, Spec, sign_spec
from shoal.training.tensors import Layout, TensorShape
from shoal.transport.blob_store import BlobStore
from shoal.transport.bulk import BlobService
from shoal.transport.host import open_host
from shoal.transport.identity import Identity
from shoal.transport.limits import Limits
from shoal.transport.port import Address, PeerId

from .processes import BenchProcess, run_all, start, tell

if TYPE_CHECKING:
    from shoal.training.tensors import Vector

ROUND_S = 120.0
STORE_BYTES = 8 * 10**9
WARM_ROUNDS = ROUNDS_SERVED + 1  # from the next on, what a round stores takes the place of what an old one did


class Recipe(msgspec.Struct, frozen=True):
    """What one member process is told on its first line."""

    index: int
    members: int
    parameters: int
    rounds: int
    codec: str
    rule: str | None
    directory: str
    listen: str = "/ip4/127.0.0.1/tcp/0"
    round_s: float = ROUND_S


class NoiseTrainer:
    """A LocalTrainer without a model: one local step adds noise, all members' steps end together."""

    def __init__(self, recipe: Recipe) -> None:
        import numpy as np

        self._count = recipe.parameters
        noise = np.random.Generator(np.random.Philox(key=recipe.index)).standard_normal(recipe.parameters, np.float32)
        self._noise: Vector = (noise * np.float32(1e-3)).astype(np.float32, copy=False)
        self.ended_at = 0.0
        self.ended_cpu_s = 0.0

    @property
    def layout(self) -> Layout:
        return (TensorShape("parameters", (self._count,)),)

    def start(self) -> "Vector":
        import numpy as np

        return np.zeros(self._count, np.float32)

    def train(self, anchor: "Vector", local: Local, turn: Turn) -> Trained:
        parameters = anchor - self._noise
        tell({"ready": turn.round})
        if not sys.stdin.readline():
            raise SystemExit(1)  # the bench is gone
        self.ended_at, self.ended_cpu_s = time.monotonic(), time.process_time()
        return Trained(parameters, 1, None, None, {})

    def evaluate(self, parameters: "Vector") -> Mapping[str, float]:
        return {}

    def generate(self, parameters: "Vector", prompt: bytes, count: int, temperature: float, seed: int) -> bytes | str:
        return "this model is noise"


def identity_of(index: int) -> Identity:
    return Identity.from_seed(blake3(f"bench/average/{index}".encode()).digest())


def spec_of(recipe: Recipe) -> Spec:
    rules: dict[str | None, dict[str, Setting]] = {None: {}, "trusting": {"rule": "mean", "attackers": 0.0}}
    rule = rules.get(recipe.rule, {"rule": str(recipe.rule)})
    return Spec(
        creator=identity_of(0).peer_id,
        nonce=bytes(16),
        model="noise",
        members_start=recipe.members,
        members_min=recipe.members,
        round_s=recipe.round_s,
        payload_bytes_max=8 * recipe.parameters + 4096,
        rounds_max=recipe.rounds,
        settings=dict(sorted({"codec": recipe.codec, "steps": 1, **rule}.items())),
        admission=AdmissionRule.LIST,
        allowed=tuple(sorted(identity_of(index).peer_id for index in range(recipe.members))),
        stale_rounds_max=0,  # everybody is in every round
    )


async def member(recipe: Recipe, reach: Callable[[BlobService], Blobs] = lambda blobs: blobs) -> None:
    """One process: reads everybody's addresses, then trains until the last round has closed; gets blobs by `reach`."""
    spec, identity, trainer = spec_of(recipe), identity_of(recipe.index), NoiseTrainer(recipe)
    settings = parse_settings(spec.settings)
    assert not isinstance(settings, str), settings
    signed = sign_spec(spec, identity_of(0))
    store = await trio.to_thread.run_sync(BlobStore, Path(recipe.directory) / "blobs", STORE_BYTES)
    async with (
        open_host(identity, (Address(recipe.listen),), Limits()) as transport,
        trio.open_nursery() as nursery,
    ):
        blobs = BlobService(transport, store)
        await nursery.start(blobs.run)
        tell({"addresses": list(transport.addresses())})
        everybody: list[list[str]] = json.loads(await trio.to_thread.run_sync(sys.stdin.readline))
        for addresses in everybody:
            peer = PeerId(addresses[0].rpartition("/p2p/")[2])
            if peer != identity.peer_id:
                transport.keep(peer, tuple(Address(address) for address in addresses))

        def observe(event: Event) -> None:
            if isinstance(event, RoundClosed):
                spans = {
                    "s": time.monotonic() - trainer.ended_at,
                    "cpu_s": time.process_time() - trainer.ended_cpu_s,
                }
                fields = {"closed": event.round, "digest": event.state_digest, "sent": event.bytes_sent}
                tell({**spans, **fields, "members": len(event.contributors), "phases": dict(event.phases)})
            elif isinstance(event, Problem):
                print(event.message, file=sys.stderr)

        method = Diloco(spec, settings, trainer)
        ports = Ports(transport, reach(blobs), identity)
        service = SwarmService(signed, method, ports, Path(recipe.directory) / "rounds", observe)
        await service.run()
        nursery.cancel_scope.cancel()


async def measure(codec: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """All rounds with one codec: {"s": median, "cpu_s": median, "equal", "mb": sent per peer and round}."""
    members: list[BenchProcess] = []
    with tempfile.TemporaryDirectory(prefix="shoal-bench-") as root:
        try:
            for index in range(arguments.members):
                folder = f"{root}/{index}"
                sizes = arguments.members, arguments.parameters, arguments.rounds
                recipe = Recipe(index, *sizes, codec, arguments.rule, folder)
                members.append(await start("bench.average"))
                await members[index].send(recipe)
            addresses = [(await each.receive("addresses"))["addresses"] for each in members]
            for each in members:
                await each.send(addresses)
            rounds = [await one_round(members) for _ in range(arguments.rounds)]
        finally:
            for each in members:
                await each.kill()
    for number, made in enumerate(rounds, 1):
        print(f"{codec} round {number}: {made.span_s:.2f} s, {made.cpu_s:.2f} s of CPU  {made.phases}", flush=True)
    counted = rounds[WARM_ROUNDS:] or rounds
    return {
        "s": statistics.median(made.span_s for made in counted),
        "cpu_s": statistics.median(made.cpu_s for made in counted),
        "equal": all(made.is_equal for made in counted),
        "mb": statistics.median(statistics.mean(made.mb_sent) for made in counted),
    }


class Round(NamedTuple):
    """What one was."""

    span_s: float  # until the last member had closed it
    cpu_s: float  # of all members, each until it had closed it
    is_equal: bool
    mb_sent: list[float]  # by each
    phases: dict[str, float]  # the longest of each


async def one_round(members: list[BenchProcess]) -> Round:
    for each in members:
        await each.receive("ready")
    for each in members:
        await each.send("go")
    closed = [await each.receive("closed") for each in members]
    names = sorted({name for line in closed for name in line["phases"]})
    phases = {name: round(max(line["phases"].get(name, 0.0) for line in closed), 3) for name in names}
    equal = len({line["digest"] for line in closed}) == 1 and {line["members"] for line in closed} == {len(members)}
    span_s, cpu_s = max(line["s"] for line in closed), sum(line["cpu_s"] for line in closed)
    return Round(span_s, cpu_s, equal, [line["sent"] / 1e6 for line in closed], phases)


async def bench(arguments: argparse.Namespace) -> dict[str, Any]:
    exact, small = await measure("float32", arguments), await measure("int8", arguments)
    return {
        "float32_s": round(exact["s"], 3),
        "int8_s": round(small["s"], 3),
        "equal": exact["equal"] and small["equal"],
        "mb_sent_per_peer": round(exact["mb"], 1),
        "cpu_s": {"float32": round(exact["cpu_s"], 2), "int8": round(small["cpu_s"], 2)},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--members", type=int, default=4)
    parser.add_argument("--parameters", type=int, default=25_000_000)
    parser.add_argument("--rounds", type=int, default=WARM_ROUNDS + 4)
    parser.add_argument("--rule", choices=["trusting", *RULES], help="else the one that specs have unless they say")
    run_all(parser, bench, member, Recipe)


if __name__ == "__main__":
    main()
