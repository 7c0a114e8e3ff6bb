"""How long bytes take through a simulated network: latency, jitter, loss and bandwidth, all drawn from one seed. Pure.

Each direction of each pair of nodes draws from a sequence of its own, so what happens on one path does not depend on
what happens on another, nor on the order in which nodes take their turns.
"""

from collections import deque
from dataclasses import dataclass
from hashlib import blake2b
from typing import Final, Generic, TypeVar

RETRANSMIT_S_MIN: Final = 0.2  # Linux's least retransmission timeout
LOSSES_MAX: Final = 8  # of one write in a row; TCP would give up after about 15

_MASK: Final = 2**64 - 1

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Conditions:
    """Of one direction between two nodes."""

    latency_s: float = 0.02
    jitter_s: float = 0.002  # up to this much more, evenly spread
    loss: float = 0.0  # probability; a gossip message is gone, a write to a stream comes later, as TCP repeats it


class Draws:
    """Numbers in [0, 1) from a seed and a name: SplitMix64 (Steele, Lea, Flood 2014), small: there are many."""

    __slots__ = ("_state",)

    def __init__(self, seed: int, name: str) -> None:
        self._state = int.from_bytes(blake2b(f"{seed}/{name}".encode(), digest_size=8).digest())

    def next(self) -> float:
        self._state = (self._state + 0x9E3779B97F4A7C15) & _MASK
        mixed = self._state
        mixed = ((mixed ^ (mixed >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
        mixed = ((mixed ^ (mixed >> 27)) * 0x94D049BB133111EB) & _MASK
        return ((mixed ^ (mixed >> 31)) >> 11) / 2**53


class Gate:
    """A node's line in one direction: what passes waits for what passed before."""

    __slots__ = ("_bytes_per_s", "_free_at")

    def __init__(self, bytes_per_s: float) -> None:
        self._bytes_per_s = bytes_per_s
        self._free_at = 0.0

    def passes_at(self, now: float, size: int) -> float:
        """When the last byte of `size` is through, if they come at `now`."""
        self._free_at = max(now, self._free_at) + size / self._bytes_per_s
        return self._free_at


class Path(Generic[T]):
    """One direction of a connection. Things on it arrive in the order in which they were sent."""

    def __init__(self, conditions: Conditions, draws: Draws) -> None:
        self._conditions, self._draws = conditions, draws
        self._queue: deque[tuple[float, T]] = deque()
        self._last_at = 0.0

    def send(self, departs_at: float, thing: T) -> float:
        """Put it on its way. Returns when it will arrive."""
        conditions = self._conditions
        delay = conditions.latency_s + conditions.jitter_s * self._draws.next()
        for _ in range(LOSSES_MAX):
            if not conditions.loss or self._draws.next() >= conditions.loss:
                break
            delay += max(RETRANSMIT_S_MIN, 2 * conditions.latency_s)
        self._last_at = max(self._last_at, departs_at + delay)
        self._queue.append((self._last_at, thing))
        return self._last_at

    def datagram(self, departs_at: float) -> float | None:
        """When something that may be overtaken and lost will arrive; None: never."""
        conditions = self._conditions
        delay = conditions.latency_s + conditions.jitter_s * self._draws.next()
        is_lost = conditions.loss > 0 and self._draws.next() < conditions.loss
        return None if is_lost else departs_at + delay

    def take(self, now: float) -> T | None:
        """What has arrived by now, one at a time; None: nothing."""
        return self._queue.popleft()[1] if self._queue and self._queue[0][0] <= now else None

    def resume(self, now: float) -> float:
        """The path was blocked and is free again: what waits is repeated. Returns when it will arrive."""
        at = now + max(RETRANSMIT_S_MIN, 2 * self._conditions.latency_s)
        self._queue = deque((max(at, arrives_at), thing) for arrives_at, thing in self._queue)
        self._last_at = max(self._last_at, at)
        return at
