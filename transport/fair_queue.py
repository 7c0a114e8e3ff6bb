"""Whose piece a relay passes on next: groups share its rate equally, and the flows of a group what their group has.

Start-time fair queueing (Goyal, Vin, Cheng 1996) at two levels. A group's virtual time runs by the bytes that it was
granted; of the groups that wait the one that is furthest behind goes first, and in it the flow that is. Who comes back
after a pause starts where the others are: nobody saves up.

Nothing waits here while the rate allows more: then the line and its TCP decide. Order has a meaning only where this is
the narrowest place, so `bytes_per_s` must be below what the line carries (`line_rate`).

A state machine without I/O. What a malicious peer may do: open many circuits, send fast, read slowly or never. What it
achieves: its group's share, however many they are, and one waiting piece for each flow. Who does not take its pieces
gets no more than UNSENT_MAX, and holds nobody up.
"""

import math
from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Final

UNSENT_MAX: Final = 2  # pieces of one flow that its connection has not sent; fewer: it runs dry; more: memory, delay
BURST_S: Final = 0.02  # of the rate that may go out at once; shorter: late timers cost rate; longer: queues at the line
BUSY_S: Final = 2.0  # after its last piece a group counts as one that wants a share


@dataclass(slots=True)
class _Flow:
    virtual: float = 0.0
    waiting: int = 0  # bytes of the piece that waits; 0: none does
    unsent: int = 0  # pieces granted, and not sent yet


@dataclass(slots=True)
class _Group:
    virtual: float = 0.0
    latest: float = 0.0  # the virtual time of the flow that was granted last
    asked_at: float = -math.inf
    waiting_count: int = 0
    flows: dict[Hashable, _Flow] = field(default_factory=dict[Hashable, _Flow])
    ready: dict[Hashable, _Flow] = field(default_factory=dict[Hashable, _Flow])  # of these, who may go


class FairQueue:
    """One line's. Groups and flows may be anything hashable."""

    def __init__(self) -> None:
        self.bytes_per_s = math.inf
        self._passed_bytes = 0  # since the last look
        self._asked_count, self._held_back_count = 0, 0  # likewise
        self._clear_at = -math.inf  # when what was granted has gone out, at this rate
        self._latest = 0.0  # the virtual time of the group that was granted last
        self._groups: dict[Hashable, _Group] = {}
        self._ready: dict[Hashable, _Group] = {}  # of these, who may go

    def ask(self, group: Hashable, flow: Hashable, size: int, now: float) -> None:
        """A piece of `flow` wants to go; the one before it has been granted."""
        there = self._groups.setdefault(group, _Group())
        each = there.flows.setdefault(flow, _Flow())
        assert not each.waiting, "one piece of a flow waits at a time"
        if not there.waiting_count:
            there.virtual = max(there.virtual, self._latest)
        there.waiting_count += 1
        there.asked_at = now
        each.virtual = max(each.virtual, there.latest)
        each.waiting = size
        self._asked_count += 1
        self._held_back_count += each.unsent >= UNSENT_MAX
        self._look_at(group, flow)

    def due(self, now: float) -> list[Hashable]:
        """The flows whose pieces go now, in order."""
        granted: list[Hashable] = []
        while now >= self.deadline:
            name, group = min(self._ready.items(), key=lambda each: each[1].virtual)
            flow_name, flow = min(group.ready.items(), key=lambda each: each[1].virtual)
            self._latest, group.latest = group.virtual, flow.virtual
            size, flow.waiting = flow.waiting, 0
            flow.unsent += 1
            group.waiting_count -= 1
            group.virtual += size
            flow.virtual += size
            self._look_at(name, flow_name)
            self._passed_bytes += size
            self._clear_at = max(self._clear_at, now - BURST_S) + size / self.bytes_per_s
            granted.append(flow_name)
        return granted

    @property
    def deadline(self) -> float:
        """When to ask for what is due; infinite while nothing could go."""
        return self._clear_at if self._ready else math.inf

    def sent(self, group: Hashable, flow: Hashable) -> None:
        """The connection has sent a piece of `flow`."""
        there = self._groups.get(group)
        if there is not None and flow in there.flows:
            there.flows[flow].unsent -= 1
            self._look_at(group, flow)

    def ended(self, group: Hashable, flow: Hashable) -> None:
        """There is no such flow any more."""
        there = self._groups.get(group)
        if there is not None and flow in there.flows:
            there.waiting_count -= there.flows[flow].waiting > 0
            there.flows[flow].waiting = 0
            self._look_at(group, flow)
            del there.flows[flow]
            if not there.flows:
                del self._groups[group]

    def passed(self) -> tuple[int, float]:
        """Bytes granted since this was asked last, and the part of pieces that had to wait for their connections."""
        passed = self._passed_bytes, self._held_back_count / max(1, self._asked_count)
        self._passed_bytes = self._asked_count = self._held_back_count = 0
        return passed

    def busy_count(self, now: float) -> int:
        """How many groups want a share."""
        return sum(each.waiting_count > 0 or each.asked_at > now - BUSY_S for each in self._groups.values())

    def _look_at(self, group: Hashable, flow: Hashable) -> None:
        """Whether a flow may go has changed."""
        there = self._groups[group]
        each = there.flows[flow]
        if each.waiting and each.unsent < UNSENT_MAX:
            there.ready[flow] = each
            self._ready[group] = there
        else:
            there.ready.pop(flow, None)
            if not there.ready:
                self._ready.pop(group, None)
