"""What lookups cost in simulated networks of growing size, and what dead, frozen and lying peers change about it.

    python -m bench.dht_sim [--nodes 1000] [--lookups 200]

The cores of dht/ on a virtual clock, messages of 1 to 50 ms one way, one seed. Hops and messages per lookup of the 20
closest peers for an eighth, a quarter, half and all of the nodes, and the straight line over log2 of their number. Then
gets of records in the largest network, by peers that do not hold them: with nobody, 30% frozen, 30% killed, 10% lying.
The last line is JSON.
"""

import argparse
import json
import math
import statistics
from dataclasses import asdict, dataclass
from typing import TypeVar

from shoal.dht.keys import position_of
from shoal.dht.lookup import LookupSettings
from shoal.dht.messages import MessageKind
from shoal.dht.records import Record
from shoal.dht.routing import TableSettings
from shoal.dht.search import Goal
from tests.sim.dht_network import EPOCH_S, Fate, Network, Node

K = 20
Number = TypeVar("Number", int, float)


@dataclass(frozen=True)
class Cost:
    nodes: int
    hops: float
    hops_p99: int
    messages: float
    found: float  # of the K that are closest in truth


@dataclass(frozen=True)
class Gets:
    ok: float
    p50_ms: float
    p99_ms: float
    messages: float


def cost(network: Network, count: int) -> Cost:
    """Of `count` lookups of random keys."""
    hops: list[int] = []
    messages: list[int] = []
    found: list[float] = []
    for number in range(count):
        key = f"target {number}".encode()
        asker = network.any_sound()
        search, _ = network.search(asker, Goal(MessageKind.FIND_NODE, key))
        network.run()
        hops.append(search.hop_count)
        messages.append(search.asked_count)
        closest = set(network.closest_sound(position_of(key), K)) - {asker.identity.peer_id}
        found.append(len(closest & {each.peer for each in search.closest}) / len(closest))
    rounded = (round(statistics.mean(each), 2) for each in (messages, found))
    return Cost(len(network.nodes), round(statistics.mean(hops), 2), percentile(hops, 0.99), *rounded)


def stranger(network: Network, record: Record) -> Node:
    """Somebody who neither wrote nor holds the record."""
    while True:
        node = network.any_sound()
        if node.held.get(record.key, network.now, network.now + EPOCH_S) is None:
            return node


def gets(network: Network, records: list[Record]) -> Gets:
    spans_s: list[float] = []
    messages: list[int] = []
    ok = 0
    for record in records:
        search, span_s = network.get(stranger(network, record), record.key)
        network.run()
        ok += search.record == record
        spans_s.append(span_s)
        messages.append(search.asked_count)
    return Gets(
        ok / len(records),
        round(percentile(spans_s, 0.5) * 1000, 1),
        round(percentile(spans_s, 0.99) * 1000, 1),
        round(statistics.mean(messages), 2),
    )


def percentile(values: list[Number], share: float) -> Number:
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


def line(costs: list[Cost], values: list[float]) -> str:
    """The straight line through values over log2 of the number of nodes."""
    slope, intercept = statistics.linear_regression([math.log2(cost.nodes) for cost in costs], values)
    return f"{intercept:.2f} + {slope:.2f} log2 n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nodes", type=int, default=1000)
    parser.add_argument("--lookups", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    # Joining one after another takes hours of simulated time, in which nothing is to be refreshed.
    table = TableSettings(bucket_size=K, refresh_s=86_400.0)
    network = Network(arguments.seed, LookupSettings(wanted=K), table)
    costs: list[Cost] = []
    for share in (8, 4, 2, 1):
        network.grow(arguments.nodes // share - len(network.nodes))
        costs.append(cost(network, arguments.lookups))
        print(costs[-1])
    records = [network.store(network.any_sound(), f"n{number}") for number in range(arguments.lookups)]
    results = {"sound": gets(network, records)}
    strikes = [("frozen", 0.3, Fate.FROZEN), ("killed", 0.3, Fate.KILLED), ("liars", 0.1, Fate.LIAR)]
    for name, share_struck, fate in strikes:
        network.strike(share_struck, fate)
        results[name] = gets(network, records)
        print(name, results[name])
        for node in network.nodes.values():
            node.fate = Fate.SOUND
    report = {
        "costs": [asdict(each) for each in costs],
        "hops_law": line(costs, [each.hops for each in costs]),
        "messages_law": line(costs, [each.messages for each in costs]),
        **{f"get_{name}": asdict(result) for name, result in results.items()},
    }
    print(json.dumps(report))


if __name__ == "__main__":
    main()
