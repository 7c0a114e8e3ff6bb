"""What befalls the nodes of a testnet, and when: drawn from a seed alone, so that a run that failed can be repeated.

A pure core; node/befalling.py carries it out. Mostly more than half of the nodes are up and together, and rounds go on
closing. Now and then, briefly, they are not: then rounds must wait, and go on afterwards. Nothing befalls anybody in
the first tenth of the span, when the swarm finds itself, nor in the last fifth: all come back before the end.
"""

import enum
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

from blake3 import blake3

NODES_MIN: Final = 3  # fewer have no majority without each of them
SPAN_MIN_S: Final = 10.0
CALM_FIRST: Final = 0.1  # of the span
CALM_LAST: Final = 0.2
LONGEST_S: Final = 25.0  # twice as long as a connection takes to be taken for dead (transport.yamux.DEAD_S)
LONGEST: Final = 1 / 8  # of the span: so that each kind comes in the shortest span, too
SHORTEST: Final = 1 / 5  # of the longest
HARSH_EVERY: Final = 6  # of so many misfortunes one may take the majority away
HARSH: Final = 0.15  # of the span is the most that all of these last together

Item = TypeVar("Item")


class Kind(enum.Enum):
    """What can befall nodes."""

    KILL = "kill"  # kill -9, and a new start at the end
    FREEZE = "freeze"  # SIGSTOP, and SIGCONT at the end
    PARTITION = "partition"  # no packet passes between these nodes and the others


@dataclass(frozen=True, slots=True)
class Misfortune:
    """It befalls these nodes at the same time, and is over for all of them at the same time."""

    kind: Kind
    at_s: float  # since training began
    until_s: float
    nodes: tuple[int, ...]  # by index, sorted; of a partition those on one side


def misfortunes(seed: int, nodes: int, span_s: float) -> tuple[Misfortune, ...]:
    """All that befalls so many nodes in a span, in the order of their beginnings; each kind at least once.

    No node suffers two at a time, and no two partitions overlap.

    Raises:
        ValueError: there are fewer than NODES_MIN nodes, or the span is shorter than SPAN_MIN_S.
    """
    if nodes < NODES_MIN or span_s < SPAN_MIN_S:
        raise ValueError(f"expected {NODES_MIN} nodes and {SPAN_MIN_S} s at least, not {nodes} and {span_s}")
    dice = _Dice(seed)
    longest_s, last_s = min(LONGEST_S, span_s * LONGEST), span_s * (1 - CALM_LAST)
    found: list[Misfortune] = []
    kinds = list[Kind]()
    harsh_left_s, at_s = span_s * HARSH, span_s * CALM_FIRST
    while at_s + longest_s * SHORTEST < last_s:
        kinds = kinds or dice.shuffled(list(Kind))
        until_s = min(last_s, at_s + longest_s * dice.between(SHORTEST, 1.0))
        meanwhile = [each for each in found if each.until_s > at_s]
        is_harsh = len(found) % HARSH_EVERY == HARSH_EVERY - 1 and until_s - at_s <= harsh_left_s
        if is_harsh and meanwhile:
            at_s = max(each.until_s for each in meanwhile)  # it comes alone
            continue
        who = _choose(dice, nodes, meanwhile, kinds[-1], is_harsh=is_harsh)
        if who:
            found.append(Misfortune(kinds.pop(), at_s, until_s, who))
            harsh_left_s -= (until_s - at_s) if is_harsh else 0.0
        at_s += longest_s * dice.between(0.2, 0.6)
    return tuple(found)


def _choose(
    dice: "_Dice", nodes: int, meanwhile: Sequence[Misfortune], kind: Kind, *, is_harsh: bool
) -> tuple[int, ...]:
    """Whom it befalls; nobody if there is no room for it beside what befalls others meanwhile."""
    if kind is Kind.PARTITION and any(each.kind is Kind.PARTITION for each in meanwhile):
        return ()
    suffering = {node for each in meanwhile for node in each.nodes}
    spared = [node for node in range(nodes) if node not in suffering]
    most = (nodes - 1) // 2 - len(suffering)  # more than half of all are left
    if most < 1:
        return ()
    count = nodes // 2 + dice.below(nodes % 2 + 1) if is_harsh else 1 + dice.below(most)
    return tuple(sorted(dice.shuffled(spared)[:count]))


class _Dice:
    """Numbers that follow from a seed, the same in every version of Python."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._thrown = 0

    def between(self, least: float, most: float) -> float:
        """Evenly spread."""
        self._thrown += 1
        drawn = blake3(f"shoal/chaos/1/{self._seed}/{self._thrown}".encode()).digest(6)
        return least + (most - least) * int.from_bytes(drawn, "big") / 2**48

    def below(self, limit: int) -> int:
        """A whole number from 0."""
        return int(self.between(0, limit))

    def shuffled(self, items: Sequence[Item]) -> list[Item]:
        left = list(items)
        return [left.pop(self.below(len(left))) for _ in items]
