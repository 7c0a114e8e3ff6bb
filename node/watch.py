"""The node's recent events, kept in a ring for whoever watches: each reads at its own pace, none holds the node up.

An event is a JSON object with "event" (what happened), "sequence" (counts from 1), "time" (seconds since 1970) and,
where it has one, "swarm". A watcher too slow for the ring gets one {"event": "missed", "count": n} in place of what it
missed.
"""

import time
from collections import deque
from collections.abc import Callable, Mapping

import trio

EVENTS_KEPT_MAX = 4096  # about 1 MB


class EventRing:
    """Publish into it from the loop; watch it from any number of tasks."""

    def __init__(self, kept_max: int = EVENTS_KEPT_MAX, clock: Callable[[], float] = time.time) -> None:
        self._events: deque[dict[str, object]] = deque(maxlen=kept_max)
        self._clock = clock
        self._last = 0
        self._arrival = trio.Event()

    def publish(self, event: Mapping[str, object], swarm: str | None = None) -> None:
        """Add an event; wakes the watchers."""
        self._last += 1
        stamp: dict[str, object] = {"sequence": self._last, "time": round(self._clock(), 3)}
        if swarm is not None:
            stamp["swarm"] = swarm
        self._events.append({**stamp, **event})
        self._arrival.set()
        self._arrival = trio.Event()

    def watch(self, after: int | None = None) -> "Watcher":
        """Events behind sequence number `after`: 0 for all that are still kept, None for those to come."""
        return Watcher(self, self._last if after is None else after)

    async def next_after(self, sequence: int) -> dict[str, object]:
        """Wait for the first kept event behind `sequence`."""
        while self._last <= sequence:
            await self._arrival.wait()
        return self._events[-min(self._last - sequence, len(self._events))]


class Watcher:
    """One reader's place in the ring."""

    def __init__(self, ring: EventRing, after: int) -> None:
        self._ring = ring
        self._after = after

    async def next(self) -> dict[str, object]:
        """Wait for the next event."""
        event = await self._ring.next_after(self._after)
        sequence = int(str(event["sequence"]))
        missed = sequence - self._after - 1
        if missed > 0:
            self._after = sequence - 1
            return {"event": "missed", "count": missed, "sequence": sequence - 1}
        self._after = sequence
        return event
